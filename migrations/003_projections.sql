-- +goose Up
insert into tidemark.schema_migrations (version, name)
values (3, '003_projections.sql');

-- One row per projection and version of its read model. Readers see the live version. A building version is on the way
-- to take its place. A retired version is kept for the way back.
create table tidemark.projections (
    name       text        not null collate "C" check (name <> ''),
    version    int         not null check (version > 0),
    log        uuid        not null,                 -- the id of the log that the checkpoints are positions of
    phase      text        not null check (phase in ('live', 'building', 'retired')),
    state      text        not null default 'running' check (state in ('running', 'paused', 'stopped')),
    reason     text,                                 -- why it is not running
    partitions int         not null check (partitions > 0),
    types      text[]      not null,                 -- the event types that are handled
    added      json        not null default '{}',    -- types added later; their events up to this are missing
    tables     text[]      not null default '{}',    -- the names that readers use for the tables of the read model
    definition text        not null default '',      -- the statements that made the tables, as tokens
    kind       text        not null default '',      -- what handles the events: handlers, folds or effects
    total      bigint      not null default 0,       -- about how many events there were when the version was made
    total_at   bigint      not null default 0,       -- where the log ended when the version was made
    held_until timestamptz,                          -- until then it does not move: another version takes its place
    inline     bigint,                               -- appends keep it after this position; -1: soon; null: they do not
    created_at timestamptz not null default clock_timestamp(),
    updated_at timestamptz not null default clock_timestamp(),
    primary key (name, version)
);

create unique index projections_live on tidemark.projections (name) where phase = 'live';
create index projections_inline on tidemark.projections (name) where inline is not null;

-- The sequence has a value once RunnerOperator.StartInline was called for any projection. The value shows in any
-- snapshot.
create sequence tidemark.inline_starts;

-- One row per partition of a projection, with its checkpoint and its owner. What the owner remembers of the partition
-- is valid while the fencing token is the same. Every other process that changes the partition adds one to the token.
create table tidemark.projection_partitions (
    projection    text        not null collate "C",
    version       int         not null,
    partition     int         not null,
    checkpoint    bigint      not null default 0,
    seen          bigint      not null default 0,     -- the position of the last event whose id is known: seen_id
    seen_id       uuid,
    handled       bigint      not null default 0,     -- events
    rate          real        not null default 0,     -- events per second, lately
    parked        int         not null default 0,     -- rows in dead_letters
    lease_owner   text,
    lease_expires timestamptz,
    lease_length  interval    not null default '10 s', -- more time left: from before the clock was put back
    fencing_token bigint      not null default 0,
    error         text,                               -- why it makes no progress
    error_at      bigint,                             -- the position of the event that failed, null if there is none
    failing_since timestamptz,
    advanced_at   timestamptz not null default clock_timestamp(),
    primary key (projection, version, partition),
    foreign key (projection, version) references tidemark.projections (name, version) on delete cascade
) with (fillfactor = 50);

-- One row per batch under way. The runner deletes the row before it commits the batch. A handler that commits in the
-- middle of a batch would store half of the batch: the row makes its commit fail.
create unlogged table tidemark.projection_batches (
    id uuid not null primary key
);

-- +goose StatementBegin
create function tidemark.refuse_half_batch() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    if exists (select from tidemark.projection_batches b where b.id = new.id) then
        raise exception using
            errcode = 'TM007',
            message = 'a projection handler has committed the transaction of a batch that is not finished',
            hint = 'Leave commit and rollback to the runner.';
    end if;
    return null;
end
$$;
-- +goose StatementEnd

create constraint trigger projection_batches_finished
    after insert on tidemark.projection_batches
    deferrable initially deferred
    for each row execute function tidemark.refuse_half_batch();

-- The trigger function of the views that show readers the tables of the live version. A handler that writes to a view
-- would write into the live version while it builds the next version.
-- +goose StatementBegin
create function tidemark.refuse_view_change() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    raise exception using
        errcode = 'TM009',
        message = format('%s on %I.%I is refused: it is the view for readers', tg_op, tg_table_schema, tg_table_name),
        hint = 'Name the table in braces, as in Options.DDL: {name} is the table of the version that is written.';
end
$$;
-- +goose StatementEnd

-- advance_partition() moves a checkpoint. The caller must have the fencing token and know where the checkpoint was. Any
-- other caller gets SQLSTATE TM006. An owner that has read another log gets TM012. If a handler has ended the
-- transaction of the batch, the owner gets TM007. After an error nothing of the transaction remains.
-- +goose StatementBegin
create function tidemark.advance_partition(
    projection text,
    version    int,
    partition  int,
    token      bigint,
    before     bigint,
    after      bigint,
    after_id   uuid,             -- the id of the event at after, null if the owner does not know it
    events     int,
    parked     int,
    rate       real,
    batch      uuid default null, -- the batch that this call ends
    proof      bigint default 0, -- the position and the id of an event, at after or later, that the owner has read
    proof_id   uuid default null
) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
begin
    update tidemark.projection_partitions p
       set checkpoint = after, seen = case when after_id is null then p.seen else after end, seen_id = coalesce(after_id, p.seen_id),
           handled = p.handled + events, parked = p.parked + advance_partition.parked,
           rate = advance_partition.rate, error = null, error_at = null, failing_since = null,
           advanced_at = clock_timestamp()
     where p.projection = advance_partition.projection
       and p.version = advance_partition.version
       and p.partition = advance_partition.partition
       and p.fencing_token = token
       and p.checkpoint = before
       and after >= before;
    if not found then
        raise exception using
            errcode = 'TM006',
            message = format('projection %s: partition %s of version %s has another owner, or was changed by an operator',
                             advance_partition.projection, advance_partition.partition, advance_partition.version);
    end if;
    -- The log that the owner has read, perhaps from a server that is gone, must be the log of this database.
    perform tidemark.proven(proof, proof_id);
    if batch is not null then
        delete from tidemark.projection_batches b where b.id = batch;
        if not found then -- the row is gone with the transaction that the batch began in
            raise exception using
                errcode = 'TM007',
                message = 'a projection handler has ended the transaction of a batch and begun another one',
                hint = 'Leave commit and rollback to the runner.';
        end if;
    end if;
end
$$;
-- +goose StatementEnd

-- The processes that run a projection. Each of them takes its share of the partitions.
create table tidemark.projection_members (
    projection text        not null collate "C",
    version    int         not null,
    owner      text        not null,
    expires    timestamptz not null,
    length     interval    not null default '10 min', -- more time left: from before the clock was put back
    primary key (projection, version, owner),
    foreign key (projection, version) references tidemark.projections (name, version) on delete cascade
);

-- The dead letters: events that a projection could not handle, with an error, and events of the same key that wait
-- behind them, without an error.
create table tidemark.dead_letters (
    projection  text        not null collate "C",
    version     int         not null,
    partition   int         not null,
    key         text        not null collate "C",
    position    bigint      not null,
    stream      text        not null collate "C",     -- of the event, as is type
    type        text        not null collate "C",
    error       text,
    attempts    int         not null default 0,
    edited      json,                                 -- the payload to use instead of the event's
    recorded_at timestamptz not null default clock_timestamp(),
    primary key (projection, version, position, key),
    foreign key (projection, version) references tidemark.projections (name, version) on delete cascade
);

create index dead_letters_key on tidemark.dead_letters (projection, version, key, position);

-- The events whose effects have happened: see projection.Once.
create table tidemark.inbox (
    projection  text        not null collate "C",
    position    bigint      not null,
    part        text        not null default '' collate "C",
    recorded_at timestamptz not null default clock_timestamp(),
    primary key (projection, position, part)
);

-- The changes that operators have made to projections, and those that projections have made to themselves.
create table tidemark.projection_audit (
    id          bigint      not null generated always as identity primary key,
    projection  text        not null collate "C",
    version     int         not null,
    action      text        not null,
    actor       text        not null default session_user, -- the name that the application gives
    role        text        not null default session_user, -- the logged-in role; only the owner may write another
    details     json        not null default '{}',
    recorded_at timestamptz not null default clock_timestamp()
);

create index projection_audit_projection on tidemark.projection_audit (projection, id);

---- create above / drop below ----

-- +goose Down
drop table tidemark.projection_audit;
drop table tidemark.inbox;
drop table tidemark.dead_letters;
drop table tidemark.projection_members;
drop function tidemark.advance_partition(text, int, int, bigint, bigint, bigint, uuid, int, int, real, uuid, bigint, uuid);
drop table tidemark.projection_batches;
drop function tidemark.refuse_half_batch();
drop function tidemark.refuse_view_change() cascade; -- drops its triggers too; their views stay
drop table tidemark.projection_partitions;
drop sequence tidemark.inline_starts;
drop table tidemark.projections;

delete from tidemark.schema_migrations
 where version = 3;
