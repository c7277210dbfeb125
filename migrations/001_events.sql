-- +goose Up
-- The log of a Tidemark store: the events, the functions that append them, and the tidemark, up to which readers may
-- read. The word before each dot is the schema's name. The migrator of this package can replace it by another name.
-- goose and tern run the file unchanged.
-- +goose StatementBegin
do $$
begin
    -- "create schema if not exists" would need the right to create schemas even if the schema exists.
    if to_regnamespace('tidemark') is null then
        create schema tidemark;
    end if;
end
$$;
-- +goose StatementEnd

-- One row per migration that was applied, by any tool. Each file adds and removes its own row.
create table tidemark.schema_migrations (
    version    int         not null primary key,
    name       text        not null,
    applied_at timestamptz not null default clock_timestamp()
);

insert into tidemark.schema_migrations (version, name)
values (1, '001_events.sql');

-- The identity of this store. The row is copied together with the log: in a dump, in a copy of the files, to a standby.
create table tidemark.store (
    id         uuid        not null default gen_random_uuid(),
    created_at timestamptz not null default clock_timestamp(),
    one        boolean     not null default true primary key check (one)
);

insert into tidemark.store default values;

-- The log. Only the append functions below write to it.
create sequence tidemark.events_position_seq as bigint cache 1;

create table tidemark.events (
    position    bigint      not null primary key,
    stream      text        not null collate "C"
                check (strpos(stream, '-') between 2 and length(stream) - 1 and octet_length(stream) <= 250),
    version     bigint      not null,
    id          uuid        not null,
    type        text        not null collate "C" check (type <> ''),
    schema      smallint    not null check (schema > 0),
    data        json        not null,
    metadata    json,
    recorded_at timestamptz not null,
    constraint events_stream_version_key unique (stream, version)
);

-- Only events with a correlation id are in this index. Other events cost nothing.
create index events_correlation on tidemark.events ((metadata ->> 'correlation_id'), position)
 where metadata ->> 'correlation_id' is not null;

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

-- One row per idempotency key of a caller: the content of the request, and the versions and positions of its append.
create table tidemark.append_keys (
    key         text        not null collate "C" primary key,
    content     bytea       not null,
    versions    bigint[]    not null,
    positions   bigint[]    not null,
    recorded_at timestamptz not null default clock_timestamp()
);

-- proven() returns true if the statement that calls it sees everything that was committed to the store before, and
-- raises an error otherwise. Readers need this proof. A reader may ask one server for the end of the log, and read the
-- events from another server, or as another role. It must not take hidden events for events that do not exist.
-- proven() uses the rights and the snapshot of the statement. As a condition in a sub-select it is evaluated once, even
-- if there is no row:
--
--   select … from events where … and (select proven(…))
--
-- last is the position of an event that the caller was told of. A visible event alone proves little: 5 and 6 may be
-- committed in the order 6, 5, and a standby then shows 6 before 5.
-- seen and seen_id are the position and the id of the last event that the caller has read, if there is one. This event
-- is still there unless the log went back, after a failover to a standby that was behind, or after a restore.
-- stale means that the caller accepts the past of a standby.
--
-- SQLSTATEs:
--   TM011  stored events may be hidden. The detail is one of standby, row-level-security, snapshot
--   TM012  the log went back. The detail is JSON
-- +goose StatementBegin
create function tidemark.proven(
    seen    bigint default 0,
    seen_id uuid default null,
    last    bigint default 0,
    stale   boolean default false
) returns boolean
-- A stable function uses the snapshot of the statement that calls it.
language plpgsql stable parallel safe
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
as $$
declare
    stored_id uuid;
begin
    if not stale and pg_catalog.pg_is_in_recovery() then
        raise exception using errcode = 'TM011', detail = 'standby',
            message = 'this server is a standby, which may be behind the primary',
            hint = 'Read from the primary: add target_session_attrs=read-write to the connection string.';
    end if;
    if pg_catalog.row_security_active('tidemark.events'::regclass)
       or pg_catalog.row_security_active('tidemark.append_keys'::regclass) then
        raise exception using errcode = 'TM011', detail = 'row-level-security',
            message = pg_catalog.format('row level security may hide events from role %s', current_user),
            hint = 'Give the role bypassrls, or disable row level security on the tables of the store.';
    end if;
    if last > 0 and not exists (select from tidemark.events e where e.position = last) then
        raise exception using errcode = 'TM011', detail = 'snapshot',
            message = pg_catalog.format('the event at position %s was committed and is not visible here', last),
            hint = 'The statement ran on another server than the one before, or on an older snapshot: read again.';
    end if;
    if seen_id is not null then
        select e.id into stored_id from tidemark.events e where e.position = seen;
        if stored_id is distinct from seen_id then
            raise exception using errcode = 'TM012',
                message = pg_catalog.format('the log went back: event %s, which was read at position %s, is not there', seen_id, seen),
                detail = pg_catalog.json_build_object('position', seen, 'seen', seen_id, 'stored', stored_id),
                hint = 'After a failover that lost events, or a restore: read again from an earlier position.';
        end if;
    end if;
    return true;
end
$$;
-- +goose StatementEnd

-- next_position() returns the next position of the log. It is after every stored position. fence is the value of the
-- sequence that the caller's fence holds. A restore, a logical replication or an ALTER SEQUENCE can leave the sequence
-- behind the log, or make it return values out of order. Then next_position() raises TM010, and nothing can be
-- appended.
-- +goose StatementBegin
create function tidemark.next_position(fence bigint) returns bigint
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    taken bigint := nextval('tidemark.events_position_seq');
begin
    if taken <= fence then
        perform tidemark.refuse_sequence(taken, fence);
    end if;
    return taken;
end
$$;
-- +goose StatementEnd

-- refuse_sequence() raises TM010: the value of the sequence is at or before the end of the log.
-- +goose StatementBegin
create function tidemark.refuse_sequence(at bigint, stored bigint) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    last bigint := greatest(stored, (select max(position) from tidemark.events));
begin
    raise exception using errcode = 'TM010',
        message = format('the sequence is at %s, behind position %s of the log: was the database restored or replicated without it?', at, last),
        detail = json_build_object('sequence', at, 'last', last),
        hint = format('Set it: alter sequence %1$s increment 1 cache 1 no cycle; select setval(''%1$s'', %2$s)',
                      'tidemark.events_position_seq', last);
end
$$;
-- +goose StatementEnd

-- refuse_inline() raises TM008. The append would leave its events out of a projection that is kept inline. Or, with
-- old_snapshot, the append cannot know which projections are kept inline.
-- +goose StatementBegin
create function tidemark.refuse_inline(old_snapshot boolean) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    if old_snapshot then
        raise exception using errcode = 'TM008',
            message = format('append: isolation level %s does not show which projections are kept inline',
                             current_setting('transaction_isolation')),
            hint = 'RunnerOperator.StartInline was called in this schema: append at isolation level read committed.';
    end if;
    raise exception using errcode = 'TM008',
        message = 'append: a projection of these events is kept inline, and this writer does not know it',
        hint = 'Deploy the projection to every writer before RunnerOperator.StartInline, or call RunnerOperator.StopInline.';
end
$$;
-- +goose StatementEnd

-- refuse_loss() raises an error: not all events of an append were stored.
-- +goose StatementBegin
create function tidemark.refuse_loss() returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    raise exception 'append: a trigger or a rule of the table events has kept an event from being stored, so nothing was stored';
end
$$;
-- +goose StatementEnd

-- The functions below read the table projections, because appends must know which projections are kept inline. The file
-- 003_projections.sql creates the table.

-- append_group() stores events at the end of streams for several callers in one transaction. The commit of one caller
-- is a request. A request is stored as a whole or not at all, whatever the outcome of the other requests.
--
-- The arguments are parallel arrays of three kinds.
-- One element per change. A change is the part of a request that concerns one stream:
--   requests  the number of the request, from 1, ascending
--   streams   the stream
--   expected  the version that the stream must be at: 0 or more exactly, -1 any, -2 at least one event
--   seen      the id of the event at the expected version, null if the caller does not know it. The array is empty if
--             no caller knows an id. If another event is there, the log went back since the caller read it: that is a
--             conflict at the expected version
-- One element per event:
--   changes   the index of the change that the event belongs to
--   offsets   1 for the first event that the stream gets, 2 for the second, …
--   ids, types, schemas, payloads, metas: the values that are stored
-- One element per request. Both arrays are empty if no request has an idempotency key:
--   keys      the idempotency key, null if the request has none
--   contents  the content that a repeat under the key must have
--
-- A stream may appear in several requests if each of them expects any version (-1), changes only this stream, and has
-- no key. The offsets of the stream then continue from request to request. A key may appear only once.
--
-- append_group() returns one row per change, in the order of the changes: the outcome of the change's request.
--   stored    version and position are those of the last event written to the stream
--   repeated  events with these ids were stored before, at the expected versions. version and position are those of
--             the first time
--   conflict  nothing is stored. version is the version that the stream is at
--   known     nothing is stored. The key was used before, see append_keys
--   busy      nothing is stored. Another open transaction is appending to one of the streams, or under the key
--
-- patience is in milliseconds. With patience, append_group() does not wait for other appends: a request that would have
-- to wait is busy. append_group() still waits, up to patience, for a table that another transaction has locked. If
-- patience is null, it waits without a limit.
--
-- SQLSTATEs, after which nothing is stored of any request:
--   TM002  invalid argument
--   TM008  the transaction does not know a projection that is kept inline, or cannot see which ones are
--   TM010  the sequence is behind the log
--   55P03  patience has ended
--   23505  on events_stream_version_key: another append was faster. The locks below prevent this at isolation level
--          read committed, except with more than 1000 streams
-- +goose StatementBegin
create function tidemark.append_group(
    requests int[],
    streams  text[],
    expected bigint[],
    changes  int[],
    offsets  int[],
    ids      uuid[],
    types    text[],
    schemas  smallint[],
    payloads json[],
    metas    json[],
    keys     text[] default '{}',
    contents bytea[] default '{}',
    patience int default null,
    seen     uuid[] default '{}'
) returns table (outcome text, version bigint, "position" bigint)
language plpgsql
-- A role that may execute the function needs no rights on the tables. The search_path of the caller does not change
-- which objects the names mean.
security definer
set search_path = pg_catalog, pg_temp
-- Planning would cost a small append more than its work. So cached plans are always reused. Sequential scans are off:
-- a cached plan must not depend on the table having been small when it was made.
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
as $$
#variable_conflict use_column
declare
    contended         text[];   -- streams that another transaction is appending to
    busy_requests     int[];    -- requests that would have to wait
    known_requests    int[];    -- requests whose key was used before
    conflicting       int[];    -- requests with a stream at another version than expected
    repeated_requests int[];    -- conflicting requests that were stored before
    refused_requests  int[];    -- busy, known and conflicting requests: nothing is stored of them
    actual_versions   bigint[]; -- of each change: the version its stream is at
    last_versions     bigint[]; -- of each change: the version and the position of the last event stored
    last_positions    bigint[];
    log_end           bigint;   -- the last position of the log
    fence             bigint;   -- the sequence's value that the fence holds
    inserted_rows     int;
    due_rows          int;
begin
    -- Step 1: the arguments.
    if (cardinality(streams) > 0 and cardinality(ids) > 0
        and cardinality(requests) = cardinality(streams) and cardinality(expected) = cardinality(streams)
        and cardinality(changes) = cardinality(ids) and cardinality(offsets) = cardinality(ids)
        and cardinality(types) = cardinality(ids) and cardinality(schemas) = cardinality(ids)
        and cardinality(payloads) = cardinality(ids) and cardinality(metas) = cardinality(ids)
        and cardinality(keys) = cardinality(contents)) is not true then
        raise exception using errcode = 'TM002',
            message = 'append: there must be a stream and an event, and parallel arrays must have the same length';
    end if;

    -- Step 2: durability.
    -- Every append is flushed to disk. Otherwise a crash could lose events that readers have read already, and the
    -- sequence would give their positions to other events.
    if current_setting('synchronous_commit') = 'off' then
        perform set_config('synchronous_commit', 'local', true);
    end if;

    -- Step 3: locks of streams and keys.
    --
    -- The locks allow one open append per stream. The next append then finds the version that this one leaves.
    -- Without them an append would wait on the unique index, and a transaction that concerns one request would hold up
    -- the whole group. Locks that are waited for are taken in the order of their hashes, so that two appends cannot
    -- deadlock. The lock table has room for some thousands of locks. So with more than 1000 streams, a change that
    -- expects an exact version takes no lock and relies on the index.
    if patience is not null then
        perform set_config('lock_timeout', patience || 'ms', true);
        select array_agg(chg.stream)
          into contended
          from unnest(streams, expected) as chg (stream, expected)
         where (chg.expected < 0 or cardinality(streams) <= 1000)
           and not pg_try_advisory_xact_lock(hashtext('tidemark.streams'), hashtext(chg.stream));
        if contended is not null then
            -- A request is busy even if it got the lock of the stream a moment later: requests that share a stream
            -- continue each other's offsets.
            select array_agg(chg.request)
              into busy_requests
              from unnest(requests, streams) as chg (request, stream)
             where chg.stream = any (contended);
        end if;
    else
        perform pg_advisory_xact_lock(hashtext('tidemark.streams'), s.hash)
           from (select distinct hashtext(chg.stream) as hash
                   from unnest(streams, expected) as chg (stream, expected)
                  where chg.expected < 0 or cardinality(streams) <= 1000
                  order by 1) s;
    end if;
    if cardinality(keys) > 0 then
        if patience is not null then
            select busy_requests || array_agg(req.request::int)
              into busy_requests
              from unnest(keys) with ordinality as req (key, request)
             where req.key is not null
               and not pg_try_advisory_xact_lock(hashtext('tidemark.keys'), hashtext(req.key));
        else
            perform pg_advisory_xact_lock(hashtext('tidemark.keys'), s.hash)
               from (select distinct hashtext(req.key) as hash
                       from unnest(keys) as req (key)
                      where req.key is not null
                      order by 1) s;
        end if;
        select array_agg(req.request::int)
          into known_requests
          from unnest(keys) with ordinality as req (key, request)
          join tidemark.append_keys k on k.key = req.key;
    end if;

    -- Step 4: versions.
    --
    -- The version check comes before the first position is taken. So an append that sees version n committed gets a
    -- higher position for version n+1. The unique index has the last word. The end of the log is read before the
    -- sequence: the value of the sequence, read later, must be at or after that end.
    select array(select coalesce((select max(e.version) from tidemark.events e where e.stream = chg.stream), 0)
                   from unnest(streams) as chg (stream)),
           (select max(e.position) from tidemark.events e)
      into actual_versions, log_end;
    if expected <> actual_versions then
        select array_agg(chg.request)
          into conflicting
          from unnest(requests, expected, actual_versions) as chg (request, expected, version)
         where (chg.expected = chg.version or chg.expected = -1 or chg.expected = -2 and chg.version > 0) is not true;
    end if;
    if cardinality(seen) > 0 then
        select conflicting || array_agg(chg.request)
          into conflicting
          from unnest(requests, streams, expected, seen) as chg (request, stream, version, id)
         where chg.version > 0
           and chg.id is not null
           and not exists (select from tidemark.events e where e.stream = chg.stream and e.version = chg.version and e.id = chg.id);
    end if;
    refused_requests := busy_requests || known_requests || conflicting;

    -- Step 5: the fence.
    if refused_requests is null or not requests <@ refused_requests then -- something will be stored
        -- While this transaction is open, no reader passes the position that the sequence has here. See tidemark().
        -- Only the low 32 bits fit into the key of an advisory lock. The sequence must be read with
        -- pg_sequence_last_value(), because that function locks the sequence. A plain SELECT can see the value that
        -- nextval() writes ahead for crash recovery, up to 32 too high.
        fence := coalesce(pg_sequence_last_value('tidemark.events_position_seq'), 0);
        if log_end > fence then
            perform tidemark.refuse_sequence(fence, log_end);
        end if;
        perform pg_advisory_xact_lock_shared(
            hashtext('tidemark.events'),
            (((fence + 2147483648) & 4294967295) - 2147483648)::int);
        -- An append that does not know an inline projection would leave its events out of the projection. The check
        -- comes after the fence, so that a process that starts to keep a projection inline can see which appends it
        -- must wait for. A transaction that keeps its first snapshot may see old rows of the table. A sequence
        -- shows its present value in any snapshot.
        if current_setting('transaction_isolation') not in ('read committed', 'read uncommitted')
           and pg_sequence_last_value('tidemark.inline_starts') is not null then
            perform tidemark.refuse_inline(old_snapshot => true);
        end if;
        if exists (select
                     from tidemark.projections p
                    where p.inline is not null
                      and p.types && append_group.types
                      and p.name || ':' || p.version <> all (coalesce(nullif(current_setting(
                          'tidemark_inline.s' || 'tidemark.projections'::regclass::oid, true), '')::text[], '{}'))) then
            perform tidemark.refuse_inline(old_snapshot => false);
        end if;
    end if;

    -- Step 6: events are stored.
    if refused_requests is null and cardinality(keys) = 0 and changes = requests
       and cardinality(requests) = requests[cardinality(requests)] then
        -- The usual case: one event per request, and no request is refused. This does the same as the general case
        -- below, without joins.
        last_positions := array(select nextval('tidemark.events_position_seq') from unnest(ids));
        if fence >= any (last_positions) then -- as in next_position()
            perform tidemark.refuse_sequence(last_positions[cardinality(last_positions)], fence);
        end if;
        return query
        insert into tidemark.events
               (position, stream, version, id, type, schema, data, metadata, recorded_at)
        select e.position, e.stream, e.version + e.nth,
               e.id, e.type, e.schema, e.data, e.metadata, clock_timestamp()
          from unnest(last_positions, streams, actual_versions, offsets, ids, types, schemas, payloads, metas)
               as e (position, stream, version, nth, id, type, schema, data, metadata)
        returning 'stored', version, position;
        get diagnostics inserted_rows = row_count;
        if inserted_rows <> cardinality(ids) then
            perform tidemark.refuse_loss();
        end if;
        return;
    end if;

    if exists (select from unnest(changes) c where (c between 1 and cardinality(streams)) is not true) then
        raise exception using errcode = 'TM002',
            message = format('append: each index in changes must be from 1 to %s, changes is %s', cardinality(streams), changes);
    end if;
    with events as materialized (
        -- Positions follow the order of the events.
        select tidemark.next_position(fence) as position, e.*
          from unnest(changes, offsets, ids, types, schemas, payloads, metas)
               as e (change, nth, id, type, schema, data, metadata)
         where refused_requests is null or requests[e.change] <> all (refused_requests)
    ), inserted as (
        insert into tidemark.events
               (position, stream, version, id, type, schema, data, metadata, recorded_at)
        select e.position, chg.stream, chg.version + e.nth,
               e.id, e.type, e.schema, e.data, e.metadata, clock_timestamp()
          from events e
          join unnest(streams, actual_versions) with ordinality as chg (stream, version, n) on chg.n = e.change
        returning 1
    ), ends as (
        select change, max(nth) as nth, max(position) as position
          from events
         group by change
    )
    select array_agg(chg.version + ends.nth order by chg.n), array_agg(ends.position order by chg.n),
           (select count(*) from inserted), (select count(*) from events)
      into last_versions, last_positions, inserted_rows, due_rows
      from unnest(actual_versions) with ordinality as chg (version, n)
      left join ends on ends.change = chg.n;
    if inserted_rows <> due_rows then
        perform tidemark.refuse_loss();
    end if;

    -- Step 7: repeats and keys.
    if conflicting is not null then
        -- A conflicting request is a repeat if all its events are stored already.
        select array_agg(s.request)
          into repeated_requests
          from (select requests[chg.change] as request
                  from unnest(changes, offsets, ids) as chg (change, nth, id)
                  left join tidemark.events e
                         on e.stream = streams[chg.change]
                        and e.version = expected[chg.change] + chg.nth
                        and e.id = chg.id
                        and expected[chg.change] >= 0
                 where requests[chg.change] = any (conflicting)
                 group by requests[chg.change]
                having count(*) = count(e.id)) s;
        if repeated_requests is not null then
            select array_agg(coalesce(chg.version, e.version) order by chg.n), array_agg(coalesce(chg.position, e.position) order by chg.n)
              into last_versions, last_positions
              from unnest(requests, streams, expected, last_versions, last_positions) with ordinality
                   as chg (request, stream, expected, version, position, n)
              left join lateral (
                   select version, position
                     from tidemark.events
                    where chg.request = any (repeated_requests)
                      and stream = chg.stream
                      and version = chg.expected + (select max(c.nth) from unnest(changes, offsets) as c (change, nth) where c.change = chg.n)) e on true;
        end if;
    end if;

    if cardinality(keys) > 0 then -- also for requests that were stored before without the key
        insert into tidemark.append_keys (key, content, versions, positions)
        select k.key, coalesce(k.content, ''), array_agg(chg.version order by chg.n), array_agg(chg.position order by chg.n)
          from unnest(keys, contents) with ordinality as k (key, content, request)
          join unnest(requests, last_versions, last_positions) with ordinality as chg (request, version, position, n)
            on chg.request = k.request
         where k.key is not null
           and chg.position is not null
           and (k.request = any (busy_requests || known_requests)) is not true
         group by k.key, k.content;
    end if;

    if known_requests is not null or repeated_requests is not null then
        -- Events that were stored before may be on this server only: the session of their append may have ended while
        -- it waited for a synchronous standby. So this transaction writes a message, and its commit waits for the
        -- standby.
        perform pg_logical_emit_message(true, 'tidemark', '');
    end if;

    -- Step 8: the outcome of each change.
    return query
    select case when chg.request = any (known_requests) then 'known'
                when chg.request = any (repeated_requests) then 'repeated'
                when chg.position is not null then 'stored'
                when chg.request = any (busy_requests) then 'busy'
                else 'conflict'
           end,
           coalesce(chg.version, chg.actual),
           coalesce(chg.position, 0)
      from unnest(requests, actual_versions, last_versions, last_positions) with ordinality as chg (request, actual, version, position, n)
     order by chg.n;
end
$$;
-- +goose StatementEnd

-- append_one() is the short path of append_group(): for a single request of one event without an idempotency key. It
-- returns the version and the position of the event, and 1 if commits wait for synchronous standbys, else 0. It returns
-- null if the event could not be stored in this way. The caller then calls append_group(), which says why. The arguments
-- are those of append_group().
--
-- One statement does everything that needs no other order, because each statement of a function costs as much as
-- looking at an index. An assignment costs less than PERFORM.
-- +goose StatementBegin
create function tidemark.append_one(
    stream   text,
    expected bigint,
    id       uuid,
    type     text,
    schema   smallint,
    payload  json,
    meta     json,
    patience int,
    seen     uuid default null
) returns bigint[]
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
as $$
#variable_conflict use_column
declare
    written bigint; -- the version of the event
    fence   bigint;
    taken   bigint;
    done    text;
begin
    -- The comments of append_group() say why each step is needed.
    if current_setting('synchronous_commit') = 'off' then
        done := set_config('synchronous_commit', 'local', true);
    end if;
    done := set_config('lock_timeout', patience || 'ms', true);
    if not pg_try_advisory_xact_lock(hashtext('tidemark.streams'), hashtext(append_one.stream)) then
        return null;
    end if;
    fence := coalesce(pg_sequence_last_value('tidemark.events_position_seq'), 0);
    done := pg_advisory_xact_lock_shared(
        hashtext('tidemark.events'),
        (((fence + 2147483648) & 4294967295) - 2147483648)::int);
    if current_setting('transaction_isolation') not in ('read committed', 'read uncommitted') then
        return null; -- the statement below would not see what was committed while it waited
    end if;
    insert into tidemark.events as stored
           (position, stream, version, id, type, schema, data, metadata, recorded_at)
    select nextval('tidemark.events_position_seq'), append_one.stream, coalesce(last.version, 0) + 1, append_one.id,
           append_one.type, append_one.schema, payload, meta, clock_timestamp()
      from (values (1)) one
      left join lateral (
               select e.version, e.id
                 from tidemark.events e
                where e.stream = append_one.stream
                order by e.version desc
                limit 1) last on true
     where (expected = coalesce(last.version, 0) or expected = -1 or expected = -2 and last.version > 0)
       and (seen is null or expected <= 0 or last.id = seen)
       -- If there is such an event, the sequence may be behind the log, or another append was faster.
       and not exists (select from tidemark.events e where e.position > fence)
       -- As in append_group(), the check for inline projections comes after the fence.
       and not exists (
               select
                 from tidemark.projections p
                where p.inline is not null
                  and append_one.type = any (p.types)
                  and p.name || ':' || p.version <> all (coalesce(nullif(current_setting(
                      'tidemark_inline.s' || 'tidemark.projections'::regclass::oid, true), '')::text[], '{}')))
    returning stored.version, stored.position into written, taken;
    if written is null then
        return null;
    end if;
    if taken <= fence then
        perform tidemark.refuse_sequence(taken, fence);
    end if;
    return array[written, taken, (current_setting('synchronous_standby_names') <> '')::int];
end
$$;
-- +goose StatementEnd

-- append() stores the events of one commit, all of them or none. It is append_group() for people and for other clients.
-- streams and expected are parallel arrays. The arrays from changes to metas are parallel too: changes[i] is the index
-- into streams of the stream that event i belongs to. The events of a stream are numbered in the order given. append()
-- waits for other transactions that are appending to the streams or under the key. It returns one row per stream, in
-- the order of streams: the version and the position of the last event written.
--
-- With a key, a repeat of the call stores nothing and returns what the first call returned. The same key with other
-- content is refused. A repeat with the same event ids at the same exact versions also stores nothing and returns what
-- the first call returned.
--
-- SQLSTATEs: TM001 version conflict (the detail is JSON), TM002 invalid argument, TM004 key reused, TM008 and TM010 as
-- above, 23505 on events_stream_version_key when a concurrent append was faster.
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
    known     tidemark.append_keys;
begin
    for n in 1 .. cardinality(streams) loop
        if streams[n] is null or strpos(streams[n], '-') < 2 or strpos(streams[n], '-') = length(streams[n])
           or octet_length(streams[n]) > 250 then
            raise exception using errcode = 'TM002',
                message = format('append: stream %L is not of the form category-key with at most 250 bytes', streams[n]);
        end if;
        if expected[n] is null or expected[n] < -2 then
            raise exception using errcode = 'TM002',
                message = format('append: expected version %L of stream %s is invalid: it must be -2 or more', expected[n], streams[n]);
        end if;
    end loop;
    select array_agg(g.outcome order by g.n), array_agg(g.version order by g.n), array_agg(g.position order by g.n)
      into outcomes, versions, positions
      from tidemark.append_group(
               array_fill(1, array[cardinality(streams)]), streams, expected,
               changes,
               array(select row_number() over (partition by c.change order by c.n)
                       from unnest(changes) with ordinality as c (change, n)
                      order by c.n)::int[],
               ids, types, schemas, payloads, metas,
               array_remove(array[append.key], null),
               case when append.key is null then '{}' else array[append.content] end)
           with ordinality as g (outcome, version, position, n);
    if outcomes[1] = 'known' then
        select k.* into strict known from tidemark.append_keys k where k.key = append.key;
        if known.content <> coalesce(append.content, '') then
            raise exception using errcode = 'TM004',
                message = format('append: key %L was used before with other content', append.key);
        end if;
        return query select * from unnest(known.versions, known.positions);
        return;
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

-- tidemark() returns the position up to which a reader may read: that of the last event that no open append can still
-- be before. Every event at or below this position is visible to any statement that starts later.
--
-- Why this is right: an event at a position up to `reached` got its position before the sequence was read here, so its
-- append already held its fence. Either the fence is still found in pg_locks, or the append's transaction has ended.
-- Postgres makes a transaction visible before it releases its locks. This is why the statements below have this order.
-- It is also why the transaction must be read committed: the reader's next statement needs a new snapshot.
--
-- The result is the position of a committed event, or 0 if there is none. It is never a position in a gap, because
-- positions that no committed transaction used may be given out again after a crash.
--
-- SQLSTATEs: TM005 on a standby, in a transaction that is not read committed, or if row level security is forced on the
-- owner. TM010 if the sequence is behind the log.
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
        raise exception using errcode = 'TM005', detail = 'standby',
            message = 'the tidemark is not known on a standby: locks are not replicated',
            hint = 'Read from the primary.';
    end if;
    if current_setting('transaction_isolation') not in ('read committed', 'read uncommitted') then
        raise exception using errcode = 'TM005', detail = 'isolation',
            message = 'the tidemark is not known in a transaction that keeps its first snapshot',
            hint = 'Read the log at isolation level read committed; see also default_transaction_isolation.';
    end if;
    if row_security_active('tidemark.events'::regclass) then -- forced on the owner
        raise exception using errcode = 'TM005', detail = 'row-level-security',
            message = 'row level security hides events from the owner of the schema',
            hint = 'Execute: alter table ' || 'tidemark.events'::regclass || ' no force row level security';
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

    -- A fence holds the low 32 bits of a position. This position is at most `latest`, because `latest` is read after
    -- the fences.
    latest := coalesce(pg_sequence_last_value('tidemark.events_position_seq'), 0);

    if stored > latest then
        perform tidemark.refuse_sequence(latest, stored);
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

-- appending() returns the open transactions that have appended, or are about to.
-- +goose StatementBegin
create function tidemark.appending() returns setof text
language sql volatile
set search_path = pg_catalog, pg_temp
as $$
    select l.virtualtransaction
      from pg_locks l
     where l.locktype = 'advisory'
       and l.database = (select d.oid from pg_database d where d.datname = current_database())
       and l.classid = hashtext('tidemark.events')::oid
       and l.objsubid = 2
       and l.granted
$$;
-- +goose StatementEnd

-- tidemark_holders() lists the open transactions that hold the tidemark back. The one that holds it back most is
-- first. A row has the position where the transaction holds the tidemark, its backend, the name of the client's
-- application, and since when the transaction is open. since is null if the caller has no right to see the
-- backends of other roles.
--
-- A prepared transaction has no backend. It has an owner and a gid, and ends with rollback prepared 'gid' or commit
-- prepared 'gid'. In pg_locks its locks have the number of the transaction only after a restart of the server. Before a
-- restart they have the virtual transaction of the session. The lock on the number has it too, and so leads to the
-- number.
--
-- The function runs with the rights of its caller, because a caller may see more backends than the owner. The caller
-- needs select on the sequence.
-- +goose StatementBegin
create function tidemark.tidemark_holders()
returns table ("position" bigint, pid int, application_name text, since timestamptz, gid text, owner name)
language sql volatile
set search_path = pg_catalog, pg_temp
as $$
    with latest as (select coalesce(pg_sequence_last_value('tidemark.events_position_seq'), 0) as position)
    select h.position - ((h.position - l.objid::bigint) & 4294967295), l.pid,
           -- A backend may have ended since its lock was seen.
           coalesce(a.application_name, ''), coalesce(a.xact_start, p.prepared), p.gid, p.owner
      from latest h,
           pg_locks l
      left join pg_stat_activity a on a.pid = l.pid
      left join pg_locks number on l.pid is null and number.pid is null and number.locktype = 'transactionid'
            and number.virtualtransaction = l.virtualtransaction
      left join pg_prepared_xacts p on p.transaction = number.transactionid
     where l.locktype = 'advisory'
       and l.database = (select d.oid from pg_database d where d.datname = current_database())
       and l.classid = hashtext('tidemark.events')::oid
       and l.objsubid = 2
       and l.granted
     order by 1, 4
$$;
-- +goose StatementEnd

-- Only the owner, and roles that are given the right, may append or ask for the tidemark.
revoke all on function tidemark.append_one(text, bigint, uuid, text, smallint, json, json, int, uuid) from public;
revoke all on function tidemark.append_group(int[], text[], bigint[], int[], int[], uuid[], text[], smallint[], json[], json[], text[], bytea[], int, uuid[]) from public;
revoke all on function tidemark.append(text[], bigint[], int[], uuid[], text[], smallint[], json[], json[], text, bytea) from public;
revoke all on function tidemark.tidemark() from public;
revoke all on function tidemark.next_position(bigint) from public;
revoke all on function tidemark.refuse_sequence(bigint, bigint) from public;
revoke all on function tidemark.refuse_inline(boolean) from public;
revoke all on function tidemark.refuse_loss() from public;

---- create above / drop below ----

-- +goose Down
drop function tidemark.tidemark_holders();
drop function tidemark.appending();
drop function tidemark.tidemark();
drop function tidemark.append(text[], bigint[], int[], uuid[], text[], smallint[], json[], json[], text, bytea);
drop function tidemark.append_one(text, bigint, uuid, text, smallint, json, json, int, uuid);
drop function tidemark.append_group(int[], text[], bigint[], int[], int[], uuid[], text[], smallint[], json[], json[], text[], bytea[], int, uuid[]);
drop function tidemark.refuse_loss();
drop function tidemark.refuse_inline(boolean);
drop function tidemark.next_position(bigint);
drop function tidemark.refuse_sequence(bigint, bigint);
drop function tidemark.proven(bigint, uuid, bigint, boolean);
drop table tidemark.append_keys;
drop table tidemark.events;
drop function tidemark.refuse_change();
drop table tidemark.store;
drop table tidemark.schema_migrations;

-- +goose StatementBegin
do $$
begin
    drop schema tidemark;
exception when dependent_objects_still_exist then
    null; -- the schema has other objects: it stays
end
$$;
-- +goose StatementEnd
