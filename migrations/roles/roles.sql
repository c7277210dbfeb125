-- The rights of a Tidemark store. Run this file as the owner of the schema, after the migrations, and again after each
-- new migration. Running it twice does no harm. The function migrations.CreateRoles does the same for another schema or
-- other names of roles.
--
--   tidemark_app        for services. It can append through the functions, read everything, and write the state of
--                       its projections and snapshots. It cannot write events in another way, and cannot change or
--                       delete an event, not even one that it has just appended.
--   tidemark_operator   for operators and their tools. It can do the same, purge idempotency keys, and start and stop
--                       keeping projections inline.
--
-- Neither role can log in. Grant them to roles that can: grant tidemark_app to orders_service;
do $$
begin
    if to_regrole('tidemark_app') is null then
        create role tidemark_app nologin;
    end if;
    if to_regrole('tidemark_operator') is null then
        create role tidemark_operator nologin;
    end if;
end
$$;

grant usage on schema tidemark to tidemark_app, tidemark_operator;

-- All rights that they were given before on tables, sequences and functions are revoked first.
revoke all on all tables in schema tidemark from tidemark_app, tidemark_operator;
revoke all on all sequences in schema tidemark from tidemark_app, tidemark_operator;
revoke all on all functions in schema tidemark from tidemark_app, tidemark_operator;

grant execute on all functions in schema tidemark to tidemark_app, tidemark_operator;
grant select on all tables in schema tidemark to tidemark_app, tidemark_operator;

-- For tidemark_holders(). The right does not allow nextval() or setval().
grant select on sequence tidemark.events_position_seq to tidemark_app, tidemark_operator;

-- Working state that belongs to the application. Losing it costs a rebuild. No event is lost with it.
grant insert, update, delete
   on tidemark.projection_partitions, tidemark.projection_members,
      tidemark.projection_batches, tidemark.dead_letters,
      tidemark.inbox, tidemark.snapshots
   to tidemark_app, tidemark_operator;

-- Only operators may write the column inline. While it is set, the appends of every writer that does not keep this
-- projection are refused.
grant delete on tidemark.projections to tidemark_app, tidemark_operator;
do $$
declare
    others text;
begin
    select string_agg(quote_ident(a.attname), ', ') into others
      from pg_attribute a
     where a.attrelid = 'tidemark.projections'::regclass
       and a.attnum > 0
       and not a.attisdropped
       and a.attname <> 'inline';
    execute 'grant insert (' || others || '), update (' || others || ') on tidemark.projections to tidemark_app';
end
$$;
grant insert, update on tidemark.projections to tidemark_operator;
grant usage on sequence tidemark.inline_starts to tidemark_operator;

-- Rows of the audit can be added, and not changed or deleted. The application gives the actor. Postgres gives the role
-- that was logged in, the time and the id.
grant insert (projection, version, action, actor, details) on tidemark.projection_audit to tidemark_app, tidemark_operator;

grant delete on tidemark.append_keys to tidemark_operator;
