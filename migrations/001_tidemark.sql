-- +goose Up
-- The schema of a Tidemark store. The word before each dot is the schema's name; the migrator
-- of this package puts a custom one in its place, goose and tern run the file as it is.
-- +goose StatementBegin
do $$
begin
    -- Not "if not exists", which wants the right to create schemas even where there is nothing
    -- to create.
    if to_regnamespace('tidemark') is null then
        create schema tidemark;
    end if;
end
$$;
-- +goose StatementEnd

-- What has been applied, by whichever tool: each file adds and removes its own row.
create table tidemark.schema_migrations (
    version    int         not null primary key,
    name       text        not null,
    applied_at timestamptz not null default clock_timestamp()
);

insert into tidemark.schema_migrations (version, name)
values (1, '001_tidemark.sql');

-- The log. Written only through append(), below.
create sequence tidemark.events_position_seq as bigint cache 1;

create table tidemark.events (
    position    bigint      not null primary key,
    stream      text        not null collate "C",
    version     bigint      not null,
    id          uuid        not null,
    type        text        not null collate "C" check (type <> ''),
    schema      smallint    not null check (schema > 0),
    data        json        not null,
    metadata    json,
    recorded_at timestamptz not null,
    constraint events_stream_version_key unique (stream, version)
);

alter sequence tidemark.events_position_seq owned by tidemark.events.position;

-- +goose StatementBegin
create function tidemark.refuse_change() returns trigger
language plpgsql as $$
begin
    raise exception using
        errcode = 'TM003',
        message = format('%s on %I.%I is refused: events never change',
                         tg_op, tg_table_schema, tg_table_name),
        hint = 'Append an event that corrects the earlier one.';
end
$$;
-- +goose StatementEnd

create trigger events_immutable
    before update or delete or truncate on tidemark.events
    for each statement execute function tidemark.refuse_change();

-- One row per idempotency key a caller gave: what was appended under it.
create table tidemark.append_keys (
    key         text        not null collate "C" primary key,
    content     bytea       not null,
    versions    bigint[],
    positions   bigint[],
    recorded_at timestamptz not null default clock_timestamp()
);

-- Saved aggregate state: opaque, of one stream at one version.
create table tidemark.snapshots (
    stream      text        not null collate "C",
    version     bigint      not null,
    schema      int         not null,
    position    bigint      not null,
    data        bytea       not null,
    recorded_at timestamptz not null default clock_timestamp(),
    primary key (stream, version)
);

-- One row per projection: how far it is, and who may move it.
create table tidemark.projections (
    name          text        not null collate "C" primary key,
    checkpoint    bigint      not null default 0,
    lease_owner   text,
    lease_expires timestamptz,
    fencing_token bigint      not null default 0,
    state         text        not null default 'running',
    updated_at    timestamptz not null default clock_timestamp()
);

-- Events a projection could not handle, and those of the same key waiting behind them.
create table tidemark.dead_letters (
    projection  text        not null collate "C" references tidemark.projections (name) on delete cascade,
    position    bigint      not null,
    key         text        not null collate "C",
    error       text,
    attempts    int         not null default 0,
    recorded_at timestamptz not null default clock_timestamp(),
    primary key (projection, position)
);

create index dead_letters_key on tidemark.dead_letters (projection, key, position);

-- Long-running processes and what they wait for.
create table tidemark.sagas (
    name       text        not null collate "C",
    key        text        not null collate "C",
    version    bigint      not null,
    state      json        not null,
    done       boolean     not null default false,
    updated_at timestamptz not null default clock_timestamp(),
    primary key (name, key)
);

create table tidemark.timers (
    id       uuid        not null primary key,
    saga     text        not null collate "C",
    key      text        not null collate "C",
    type     text        not null,
    data     json        not null,
    due_at   timestamptz not null,
    fired_at timestamptz
);

create index timers_due on tidemark.timers (due_at) where fired_at is null;

-- append() stores events at the end of streams: all of them or none.
--
-- streams and expected are parallel: a stream, and the version it must be at for the append to
-- happen: 0 or more exactly, -1 any, -2 at least one event. The other arrays are parallel too,
-- one element per event: changes[i] is the index into streams that event i belongs to, and a
-- stream's events are numbered in the order given. It returns, per stream and in the order of
-- streams, the version and the position of the last event written.
--
-- With a key, a repeat of the call stores nothing and answers as the first call did; the same
-- key with other content is refused.
--
-- SQLSTATEs: TM001 version conflict (the detail is JSON), TM002 invalid argument, TM004 key
-- reused, and 23505 on events_stream_version_key when a concurrent append was faster.
-- +goose StatementBegin
create function tidemark.append(
    streams  text[],
    expected bigint[],
    changes  int[],
    ids      uuid[],
    types    text[],
    schemas  smallint[],
    payloads json[],
    metas    json[],
    key      text default null,
    content  bytea default null
) returns table (version bigint, "position" bigint)
language plpgsql
-- A role that may execute the function needs no right on the tables. Whatever search_path the
-- caller has, names mean what they mean here.
security definer
set search_path = pg_catalog, pg_temp
-- Planning, not work, is the cost of a small append: always reuse the cached plans, and let none
-- of them remember that the table was small once.
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
as $$
#variable_conflict use_column
declare
    actual bigint[];
    fence  bigint;
    known  tidemark.append_keys;
begin
    if cardinality(streams) = 0 or cardinality(streams) <> cardinality(expected)
       or cardinality(ids) = 0
       or array[cardinality(changes), cardinality(types), cardinality(schemas),
                cardinality(payloads), cardinality(metas)] <> array_fill(cardinality(ids), array[5]) then
        raise exception using errcode = 'TM002',
            message = 'append: there must be a stream and an event, and parallel arrays must have one length';
    end if;

    if append.key is not null then
        -- Waits for a call in flight under the same key, then finds what that call stored.
        insert into tidemark.append_keys as k (key, content)
        values (append.key, coalesce(append.content, ''))
        on conflict (key) do nothing;
        if not found then
            select k.* into known from tidemark.append_keys k where k.key = append.key;
            if known.content is distinct from coalesce(append.content, '') then
                raise exception using errcode = 'TM004',
                    message = format('append: key %L was used before with other content', append.key);
            end if;
            return query select * from unnest(known.versions, known.positions);
            return;
        end if;
    end if;

    -- A commit that is not flushed could be lost in a crash after somebody has read its events,
    -- and their positions be given out again: what readers have passed must be durable.
    if current_setting('synchronous_commit') = 'off' then
        perform set_config('synchronous_commit', 'local', true);
    end if;

    -- Appends that accept any version queue per stream, so that they succeed one after the other
    -- instead of colliding. In the order of the hash, so that two of them cannot deadlock.
    if -1 = any (expected) or -2 = any (expected) then
        perform pg_advisory_xact_lock(hashtext('tidemark.streams'), s.hash)
           from (select distinct hashtext(u.stream) as hash
                   from unnest(streams, expected) as u (stream, expected)
                  where u.expected < 0
                  order by 1) s;
    end if;

    -- The version check comes before the first position is taken: whoever sees version n
    -- committed gets a higher position for n+1. The unique index has the last word.
    select array_agg(coalesce(e.version, 0) order by s.n)
      into actual
      from unnest(streams) with ordinality as s (stream, n)
     cross join lateral (
           select max(version) as version
             from tidemark.events
            where stream = s.stream) e;

    for n in 1 .. cardinality(streams) loop
        if streams[n] is null or strpos(streams[n], '-') < 2 or strpos(streams[n], '-') = length(streams[n])
           or octet_length(streams[n]) > 250 then
            raise exception using errcode = 'TM002',
                message = format('append: stream %L is not of the form category-key with at most 250 bytes', streams[n]);
        end if;
        if expected[n] is null or expected[n] < -2 then
            raise exception using errcode = 'TM002',
                message = format('append: expected version %L of stream %s is none', expected[n], streams[n]);
        end if;
        if not (expected[n] = actual[n] or expected[n] = -1 or expected[n] = -2 and actual[n] > 0) then
            raise exception using errcode = 'TM001',
                message = format('stream %s is at version %s, expected %s', streams[n], actual[n], expected[n]),
                detail = json_build_object('stream', streams[n], 'expected', expected[n], 'actual', actual[n]);
        end if;
    end loop;

    -- The fence: while this transaction is open, no reader passes the position the sequence
    -- has here. See tidemark(). Only the low 32 bits fit into the key of an advisory lock. The
    -- sequence must be read by this function, which locks it: a plain SELECT can see the value
    -- that nextval() writes ahead for crash recovery, up to 32 too high.
    fence := coalesce(pg_sequence_last_value('tidemark.events_position_seq'), 0);
    perform pg_advisory_xact_lock_shared(
        hashtext('tidemark.events'),
        (((fence + 2147483648) & 4294967295) - 2147483648)::int);

    return query
    with numbered as materialized (
        -- Positions follow the caller's order of events ...
        select nextval('tidemark.events_position_seq') as position, e.*
          from unnest(changes, ids, types, schemas, payloads, metas) with ordinality
               as e (change, id, type, schema, data, metadata, n)
    ), inserted as (
        -- ... but rows are written in the order of streams: two appends to the same streams
        -- wait for each other at the first one, and never deadlock.
        insert into tidemark.events
               (position, stream, version, id, type, schema, data, metadata, recorded_at)
        select position, streams[change],
               actual[change] + row_number() over (partition by change order by n),
               id, type, schema, data, metadata, clock_timestamp()
          from numbered
         order by streams[change] collate "C", n
    )
    select actual[change] + count(*), max(position)
      from numbered
     group by change
     order by change;

    if append.key is not null then
        update tidemark.append_keys k
           set versions = s.versions, positions = s.positions
          from (select array_agg(e.version order by c.n) as versions,
                       array_agg(e.position order by c.n) as positions
                  from unnest(streams) with ordinality as c (stream, n)
                 cross join lateral (
                       select version, position
                         from tidemark.events
                        where stream = c.stream
                        order by version desc
                        limit 1) e) s
         where k.key = append.key;
    end if;
end
$$;
-- +goose StatementEnd

-- tidemark() is how far a reader may read: the position of the last event that has no open
-- append before it. Every event at or below it is visible to any statement that starts later.
--
-- Why: an event at a position up to `reached` got it before the sequence was read here, so its
-- fence was already held. Either it is still found in pg_locks, or its transaction has ended,
-- and Postgres makes a transaction visible before it releases its locks. Hence the order of the
-- statements below, and hence read committed: the reader's next statement needs a new snapshot.
--
-- The answer is always the position of a committed event, never one in a gap: positions that no
-- committed transaction used may be given out again after a crash.
--
-- SQLSTATE TM005: on a standby, in a transaction that is not read committed, or with a sequence
-- that is behind the log.
-- +goose StatementBegin
create function tidemark.tidemark() returns bigint
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
as $$
declare
    stored  bigint;
    reached bigint;
    locks   bigint[];
    latest  bigint;
begin
    if pg_is_in_recovery() then
        raise exception using errcode = 'TM005',
            message = 'the tidemark is not known on a standby: locks are not replicated',
            hint = 'Read from the primary.';
    end if;
    if current_setting('transaction_isolation') not in ('read committed', 'read uncommitted') then
        raise exception using errcode = 'TM005',
            message = 'the tidemark is of no use in a transaction that keeps its first snapshot',
            hint = 'Read the log at isolation level read committed; see also default_transaction_isolation.';
    end if;

    select max(position) into stored from tidemark.events;

    reached := coalesce(pg_sequence_last_value('tidemark.events_position_seq'), 0);

    select array_agg(l.objid::bigint)
      into locks
      from pg_locks l
     where l.locktype = 'advisory'
       and l.database = (select d.oid from pg_database d where d.datname = current_database())
       and l.classid = hashtext('tidemark.events')::oid
       and l.objsubid = 2
       and l.granted;

    -- A fence holds the low 32 bits of a position that is at most `latest`, read after it.
    latest := coalesce(pg_sequence_last_value('tidemark.events_position_seq'), 0);

    if stored > latest then
        raise exception using errcode = 'TM005',
            message = format('the sequence is at %s, behind position %s of the log: was the database restored without it?', latest, stored),
            hint = format('Set it before anything is appended: select setval(''%s'', %s)', 'tidemark.events_position_seq', stored);
    end if;

    return coalesce(
        (select e.position
           from tidemark.events e
          where e.position <= least(reached, (select min(latest - ((latest - l) & 4294967295))
                                                from unnest(locks) l))
          order by e.position desc
          limit 1),
        0);
end
$$;
-- +goose StatementEnd

-- Nobody may append or read but the owner and those who are given the right.
revoke all on function tidemark.append(text[], bigint[], int[], uuid[], text[], smallint[], json[], json[], text, bytea) from public;
revoke all on function tidemark.tidemark() from public;

---- create above / drop below ----

-- +goose Down
drop function tidemark.tidemark();
drop function tidemark.append(text[], bigint[], int[], uuid[], text[], smallint[], json[], json[], text, bytea);
drop table tidemark.timers;
drop table tidemark.sagas;
drop table tidemark.dead_letters;
drop table tidemark.projections;
drop table tidemark.snapshots;
drop table tidemark.append_keys;
drop table tidemark.events;
drop function tidemark.refuse_change();
drop table tidemark.schema_migrations;

-- +goose StatementBegin
do $$
begin
    drop schema tidemark;
exception when dependent_objects_still_exist then
    null; -- somebody else has tables here
end
$$;
-- +goose StatementEnd
