-- +goose Up
insert into tidemark.schema_migrations (version, name)
values (2, '002_snapshots.sql');

-- Saved states of aggregates. A row is the state of one stream at one version, as opaque bytes. type, shape and schema
-- say what the bytes are. event_id is the event at the version: it proves that the state belongs to the stream.
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
