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
    stream      text        not null collate "C" check (strpos(stream, '-') between 2 and length(stream) - 1
                                                        and octet_length(stream) <= 250),
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

-- is_stream() tells whether a stream and an expected version can be ones.
create function tidemark.is_stream(stream text, expected bigint) returns boolean
language sql immutable
as $$
    select coalesce(strpos(stream, '-') between 2 and length(stream) - 1
                    and octet_length(stream) <= 250 and expected >= -2, false)
$$;

-- append_group() stores events at the end of streams for several callers in one transaction. Each
-- of them, a request, is stored as a whole or not at all, whatever becomes of the others.
--
-- requests is parallel to streams and expected: the number of the request that a stream belongs
-- to, from 1, ascending; and the version the stream must be at: 0 or more exactly, -1 any, -2 at
-- least one event. The arrays from ids on have one element per event: changes[i] is the index into
-- streams that event i belongs to, and a stream's events are numbered in the order given. keys and
-- contents have one element per request, null where it has no idempotency key; both are empty when
-- none has. A key stands there once.
--
-- When several requests are about the same stream, slots has for each element of streams the index
-- at which that stream stands first; otherwise it is empty. Of those that expect an exact version
-- only the first one in the group is stored; the others are a conflict, even at the version they
-- expect: send them again. Streams in ascending order (of bytes) keep groups from waiting for each
-- other in a circle; append() does not need that.
--
-- It returns, per stream and in the order of streams, what has become of its request:
--   stored    version and position of the last event written to the stream
--   repeated  the same of the first time: it was stored before, under its key, or with the same
--             event ids at the same expected versions
--   conflict  nothing is stored; version is the one the stream is at
--   reused    nothing is stored; the key was used before with other content
--
-- patience is how many milliseconds another transaction may be in the way; null means forever.
--
-- SQLSTATEs: TM002 invalid argument, 23505 on events_stream_version_key when a concurrent append
-- was faster, 55P03 when patience has ended. Then nothing is stored of any request.
-- +goose StatementBegin
create function tidemark.append_group(
    requests int[],
    streams  text[],
    expected bigint[],
    changes  int[],
    ids      uuid[],
    types    text[],
    schemas  smallint[],
    payloads json[],
    metas    json[],
    slots    int[] default '{}',
    keys     text[] default '{}',
    contents bytea[] default '{}',
    patience int default null
) returns table (outcome text, version bigint, "position" bigint)
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
    actual    bigint[];       -- the version each stream is at
    repeated  int[] := '{}';  -- requests that were stored before
    reused    int[] := '{}';  -- requests whose key belongs to something else
    conflicts int[] := '{}';  -- requests with a stream at another version
    refused   int[] := '{}';  -- all of these
    fence     bigint;
begin
    if cardinality(streams) = 0 or cardinality(ids) = 0
       or array[cardinality(requests), cardinality(expected)] <> array_fill(cardinality(streams), array[2])
       or array[cardinality(changes), cardinality(types), cardinality(schemas),
                cardinality(payloads), cardinality(metas)] <> array_fill(cardinality(ids), array[5])
       or cardinality(keys) <> cardinality(contents) then
        raise exception using errcode = 'TM002',
            message = 'append: there must be a stream and an event, and parallel arrays must have one length';
    end if;
    if patience is not null then
        perform set_config('lock_timeout', patience || 'ms', true);
    end if;

    if cardinality(keys) > 0 then
        -- Waits for calls in flight under the same keys, and then finds what they have stored. In
        -- the order of keys, so that two groups cannot deadlock.
        with added as (
            insert into tidemark.append_keys (key, content)
            select u.key, coalesce(u.content, '')
              from unnest(keys, contents) as u (key, content)
             where u.key is not null
             order by u.key collate "C"
                on conflict (key) do nothing
            returning key
        )
        select coalesce(array_agg(u.request), '{}')
          into refused
          from unnest(keys) with ordinality as u (key, request)
         where u.key is not null
           and not exists (select from added where added.key = u.key);
        if cardinality(refused) > 0 then
            select coalesce(array_agg(u.request) filter (where k.content = coalesce(u.content, '')), '{}'),
                   coalesce(array_agg(u.request) filter (where k.content <> coalesce(u.content, '')), '{}')
              into repeated, reused
              from unnest(keys, contents) with ordinality as u (key, content, request)
              join tidemark.append_keys k on k.key = u.key
             where u.request = any (refused);
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
                   from unnest(requests, streams, expected) as u (request, stream, expected)
                  where u.expected < 0
                    and u.request <> all (refused)
                  order by 1) s;
    end if;

    -- The version check comes before the first position is taken: whoever sees version n
    -- committed gets a higher position for n+1. The unique index has the last word.
    actual := array(select coalesce((select max(e.version) from tidemark.events e where e.stream = u.stream), 0)
                      from unnest(streams) as u (stream));
    if expected <> actual or cardinality(slots) > 0 or cardinality(refused) > 0 then
        select coalesce(array_agg(u.request), '{}')
          into conflicts
          from unnest(requests, expected, actual, slots) with ordinality as u (request, expected, version, slot, n)
         where u.request <> all (refused)
           and not (u.expected = u.version and coalesce(u.slot, u.n) = u.n or u.expected = -1
                    or u.expected = -2 and u.version > 0);
    end if;

    if cardinality(conflicts) > 0 then
        -- It is none if all of it is there already.
        select coalesce(array_agg(s.request), '{}')
          into repeated
          from (select unnest(repeated)
                union all
                select u.request
                  from (select requests[e.change] as request, streams[e.change] as stream, e.id,
                               case when expected[e.change] >= 0
                                    then expected[e.change] + row_number() over (partition by e.change order by e.n)
                                end as version
                          from unnest(changes, ids) with ordinality as e (change, id, n)
                         where requests[e.change] = any (conflicts)) u
                  left join tidemark.events e
                         on e.stream = u.stream and e.version = u.version and e.id = u.id
                 group by u.request
                having count(*) = count(e.id)) s (request);
        select coalesce(array_agg(distinct c), '{}')
          into conflicts
          from unnest(conflicts) c
         where c <> all (repeated);
        refused := repeated || reused || conflicts;
        -- Nothing is stored under their keys.
        if cardinality(keys) > 0 then
            delete from tidemark.append_keys k
             using unnest(keys) with ordinality as u (key, request)
             where k.key = u.key
               and k.versions is null
               and u.request = any (refused);
        end if;
    end if;

    if cardinality(refused) < requests[cardinality(requests)] then
        -- The fence: while this transaction is open, no reader passes the position the sequence
        -- has here. See tidemark(). Only the low 32 bits fit into the key of an advisory lock. The
        -- sequence must be read by this function, which locks it: a plain SELECT can see the value
        -- that nextval() writes ahead for crash recovery, up to 32 too high.
        fence := coalesce(pg_sequence_last_value('tidemark.events_position_seq'), 0);
        perform pg_advisory_xact_lock_shared(
            hashtext('tidemark.events'),
            (((fence + 2147483648) & 4294967295) - 2147483648)::int);
    end if;
    if cardinality(refused) + cardinality(slots) = 0 and changes = requests
       and requests[cardinality(requests)] = cardinality(requests) then
        -- One event for each request: what follows, without counting.
        return query
        insert into tidemark.events
               (position, stream, version, id, type, schema, data, metadata, recorded_at)
        select nextval('tidemark.events_position_seq'), e.stream, e.version + 1,
               e.id, e.type, e.schema, e.data, e.metadata, clock_timestamp()
          from unnest(streams, actual, ids, types, schemas, payloads, metas)
               as e (stream, version, id, type, schema, data, metadata)
        returning 'stored', version, position;
    else
        if exists (select from unnest(changes) c where (c between 1 and cardinality(streams)) is not true) then
            raise exception using errcode = 'TM002',
                message = format('append: an event belongs to a stream from 1 to %s, not to one of %s', cardinality(streams), changes);
        end if;
        return query
        with numbered as materialized (
            -- Positions follow the caller's order of events ...
            select nextval('tidemark.events_position_seq') as position, e.*
              from unnest(changes, ids, types, schemas, payloads, metas) with ordinality
                   as e (change, id, type, schema, data, metadata, n)
             where requests[e.change] <> all (refused)
        ), ranked as materialized (
            select *, row_number() over (partition by coalesce(slots[change], change) order by n) as nth
              from numbered
        ), inserted as (
            -- ... but rows are written in the order of streams: two appends to the same streams
            -- wait for each other at the first one, and never deadlock.
            insert into tidemark.events
                   (position, stream, version, id, type, schema, data, metadata, recorded_at)
            select r.position, u.stream, actual[r.change] + r.nth,
                   r.id, r.type, r.schema, r.data, r.metadata, clock_timestamp()
              from ranked r
              join unnest(streams) with ordinality as u (stream, n) on u.n = r.change
             order by u.stream collate "C", r.n
        ), ends as (
            select change, max(nth) as nth, max(position) as position
              from ranked
             group by change
        ), each as (
            select u.request, u.stream, u.expected, u.n,
                   row_number() over (partition by u.request order by u.n) as nth
              from unnest(requests, streams, expected) with ordinality as u (request, stream, expected, n)
        )
        select case when u.request = any (conflicts) then 'conflict'
                    when u.request = any (reused) then 'reused'
                    when u.request = any (repeated) then 'repeated'
                    else 'stored'
               end,
               coalesce(actual[u.n] + ends.nth, before.version, actual[u.n]),
               coalesce(ends.position, before.position, 0)
          from each u
          left join ends on ends.change = u.n
          left join lateral (
               select k.versions[u.nth] as version, k.positions[u.nth] as position
                 from tidemark.append_keys k
                where k.key = keys[u.request]
                  and u.request = any (repeated)
               union all
               select e.version, e.position
                 from tidemark.events e
                where e.stream = u.stream
                  and e.version = u.expected + (select count(*) from unnest(changes) c where c = u.n)
                  and u.request = any (repeated)
                limit 1) before on true
         order by u.n;
    end if;

    if cardinality(keys) > 0 then
        update tidemark.append_keys k
           set versions = s.versions, positions = s.positions
          from (select u.request,
                       array_agg(e.version order by u.n) as versions,
                       array_agg(e.position order by u.n) as positions
                  from unnest(requests, streams) with ordinality as u (request, stream, n)
                 cross join lateral (
                       select version, position
                         from tidemark.events
                        where stream = u.stream
                        order by version desc
                        limit 1) e
                 where u.request <> all (refused)
                 group by u.request) s
         where k.key = keys[s.request];
    end if;
end
$$;
-- +goose StatementEnd

-- append_one() is append_group() for the request of one event without an idempotency key: the short
-- path of somebody who is alone. It returns the version and the position, or no row if the stream is
-- not at the expected version: then ask append_group(), which also finds out about repeats.
-- +goose StatementBegin
create function tidemark.append_one(
    stream   text,
    expected bigint,
    id       uuid,
    type     text,
    schema   smallint,
    payload  json,
    meta     json,
    patience int default null
) returns table (version bigint, "position" bigint)
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
as $$
#variable_conflict use_column
declare
    actual bigint;
    fence  bigint;
begin
    if patience is not null then
        perform set_config('lock_timeout', patience || 'ms', true);
    end if;
    -- All of this as in append_group(), which says why.
    if current_setting('synchronous_commit') = 'off' then
        perform set_config('synchronous_commit', 'local', true);
    end if;
    if expected < 0 then
        perform pg_advisory_xact_lock(hashtext('tidemark.streams'), hashtext(append_one.stream));
    end if;
    actual := coalesce((select max(e.version) from tidemark.events e where e.stream = append_one.stream), 0);
    if not (expected = actual or expected = -1 or expected = -2 and actual > 0) then
        return;
    end if;
    fence := coalesce(pg_sequence_last_value('tidemark.events_position_seq'), 0);
    perform pg_advisory_xact_lock_shared(
        hashtext('tidemark.events'),
        (((fence + 2147483648) & 4294967295) - 2147483648)::int);
    return query
    insert into tidemark.events
           (position, stream, version, id, type, schema, data, metadata, recorded_at)
    values (nextval('tidemark.events_position_seq'), append_one.stream, actual + 1, append_one.id,
            append_one.type, append_one.schema, payload, meta, clock_timestamp())
    returning version, position;
end
$$;
-- +goose StatementEnd

-- append() stores the events of one commit: all of them or none. The arguments and the answer are
-- those of append_group(), for one request.
--
-- SQLSTATEs: TM001 version conflict (the detail is JSON), TM004 key reused, and those of
-- append_group().
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
security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    outcomes  text[];
    versions  bigint[];
    positions bigint[];
begin
    for n in 1 .. cardinality(streams) loop
        if not tidemark.is_stream(streams[n], expected[n]) then
            raise exception using errcode = 'TM002',
                message = format('append: stream %L is not of the form category-key with at most 250 bytes, or expected version %L is none',
                                 streams[n], expected[n]);
        end if;
    end loop;
    select array_agg(g.outcome order by g.n), array_agg(g.version order by g.n), array_agg(g.position order by g.n)
      into outcomes, versions, positions
      from tidemark.append_group(
               array_fill(1, array[cardinality(streams)]), streams, expected,
               changes, ids, types, schemas, payloads, metas, '{}',
               array_remove(array[append.key], null),
               case when append.key is null then '{}' else array[append.content] end)
           with ordinality as g (outcome, version, position, n);
    if outcomes[1] = 'reused' then
        raise exception using errcode = 'TM004',
            message = format('append: key %L was used before with other content', append.key),
            detail = append.key;
    end if;
    for n in 1 .. cardinality(streams) loop
        if outcomes[n] = 'conflict'
           and not (expected[n] = versions[n] or expected[n] = -1 or expected[n] = -2 and versions[n] > 0) then
            raise exception using errcode = 'TM001',
                message = format('stream %s is at version %s, expected %s', streams[n], versions[n], expected[n]),
                detail = json_build_object('stream', streams[n], 'expected', expected[n], 'actual', versions[n]);
        end if;
    end loop;
    return query select * from unnest(versions, positions);
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
revoke all on function tidemark.is_stream(text, bigint) from public;
revoke all on function tidemark.append_one(text, bigint, uuid, text, smallint, json, json, int) from public;
revoke all on function tidemark.append_group(int[], text[], bigint[], int[], uuid[], text[], smallint[], json[], json[], int[], text[], bytea[], int) from public;
revoke all on function tidemark.append(text[], bigint[], int[], uuid[], text[], smallint[], json[], json[], text, bytea) from public;
revoke all on function tidemark.tidemark() from public;

---- create above / drop below ----

-- +goose Down
drop function tidemark.tidemark();
drop function tidemark.append(text[], bigint[], int[], uuid[], text[], smallint[], json[], json[], text, bytea);
drop function tidemark.append_one(text, bigint, uuid, text, smallint, json, json, int);
drop function tidemark.append_group(int[], text[], bigint[], int[], uuid[], text[], smallint[], json[], json[], int[], text[], bytea[], int);
drop function tidemark.is_stream(text, bigint);
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
