-- The rights of a Tidemark store. Run it after the migrations, as the owner of the schema, and again
-- after each of them; running it twice does no harm. The function migrations.CreateRoles does the same
-- for another schema or other names of roles.
--
--   tidemark_app        for services: it can append through the functions, read everything, and keep
--                       the state of its projections, snapshots and sagas. It cannot write, change
--                       or delete an event, not even the one it has just appended.
--   tidemark_operator   for people and their tools: the same, and purge idempotency keys.
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
   on tidemark.projections, tidemark.projection_partitions, tidemark.projection_members,
      tidemark.projection_batches, tidemark.dead_letters,
      tidemark.inbox, tidemark.snapshots, tidemark.sagas, tidemark.timers
   to tidemark_app, tidemark_operator;

grant usage on sequence tidemark.inline_starts to tidemark_app, tidemark_operator;

-- What was done stays written down.
grant insert on tidemark.projection_audit to tidemark_app, tidemark_operator;

grant delete on tidemark.append_keys to tidemark_operator;
