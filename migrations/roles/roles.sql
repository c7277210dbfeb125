-- The rights of a Tidemark store. Run it after the migrations, as the owner of the schema, and again
-- after each of them; running it twice does no harm. The function migrations.CreateRoles does the same
-- for another schema or other names of roles.
--
--   tidemark_app        for services: it can append through the functions, read everything, and keep
--                       the state of its projections and snapshots. It cannot write, change
--                       or delete an event, not even the one it has just appended.
--   tidemark_operator   for people and their tools: the same, purge idempotency keys, and begin and end to
--                       keep projections inline.
--
-- Neither can log in. Give them to those who do: grant tidemark_app to orders_service;
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

-- Whatever they were given before is taken away first.
revoke all on all tables in schema tidemark from tidemark_app, tidemark_operator;
revoke all on all sequences in schema tidemark from tidemark_app, tidemark_operator;
revoke all on all functions in schema tidemark from tidemark_app, tidemark_operator;

grant execute on all functions in schema tidemark to tidemark_app, tidemark_operator;
grant select on all tables in schema tidemark to tidemark_app, tidemark_operator;

-- To see who holds the tidemark back; it does not allow nextval() or setval().
grant select on sequence tidemark.events_position_seq to tidemark_app, tidemark_operator;

-- Working state that belongs to the application: losing it costs a rebuild, not the truth.
grant insert, update, delete
   on tidemark.projection_partitions, tidemark.projection_members,
      tidemark.projection_batches, tidemark.dead_letters,
      tidemark.inbox, tidemark.snapshots
   to tidemark_app, tidemark_operator;

-- The column inline is for operators: while it is set, appends of every writer are refused that does not keep
-- that projection.
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

-- What was done stays written down. The actor is what the application says; the role that was logged in, the
-- time and the number are Postgres's own.
grant insert (projection, version, action, actor, details) on tidemark.projection_audit to tidemark_app, tidemark_operator;

grant delete on tidemark.append_keys to tidemark_operator;
