-- +goose Up
insert into tidemark.schema_migrations (version, name)
values (2, '002_snapshots.sql');

-- Saved aggregate state: opaque, of one stream at one version. What it is, type, shape and schema say;
-- the event it was taken after proves that it belongs to the stream.
create table tidemark.snapshots (
    stream      text        not null collate "C",
    version     bigint      not null,
    event_id    uuid        not null,
    recorded_at timestamptz not null,
    type        text        not null collate "C",
    shape       text        not null collate "C",
    schema      int         not null,
    data        bytea       not null,
    primary key (stream, version)
);

---- create above / drop below ----

-- +goose Down
drop table tidemark.snapshots;

delete from tidemark.schema_migrations
 where version = 2;
