-- What `mqtt-service doctor` cannot see through the API, and the version of this schema.

-- The version of the newest of these files. Each later migration replaces this function with its own version.
create or replace function mqtt_private.fn_schema_version() returns text
language sql immutable parallel safe set search_path = '' as $$
  select '20261128012911'
$$;
call mqtt_private.grant_execute('mqtt_private.fn_schema_version', 'service_role');

-- The same for a worker that starts: it compares it with the newest file that it carries.
create or replace function public.fn_mqtt_service_schema() returns text
language sql stable security invoker set search_path = '' as $$
  select mqtt_private.fn_schema_version()
$$;
call mqtt_private.grant_execute('public.fn_mqtt_service_schema()', 'service_role');

-- Triggers on the tables that the worker writes: ours (their names begin with mqtt_), and those of the project.
create or replace function mqtt_private.fn_triggers()
returns table (trigger_name text, is_ours boolean, is_enabled boolean)
language sql stable set search_path = '' as $$
  select c.relname || '.' || t.tgname, t.tgname like 'mqtt\_%', t.tgenabled not in ('D', 'R')
  from pg_catalog.pg_trigger t
  join pg_catalog.pg_class c on c.oid = t.tgrelid and c.relnamespace = 'public'::regnamespace
  where not t.tgisinternal and c.relname in ('devices', 'device_commands', 'device_history', 'device_images',
    'device_telemetry', 'device_site_assignments', 'device_program_assignments')
$$;
call mqtt_private.grant_execute('mqtt_private.fn_triggers', 'service_role');

-- What of the queue waits for longer than it should; each is counted to 1,000 at most.
create or replace function mqtt_private.fn_examine_queue() returns jsonb
language sql stable set search_path = public, extensions as $$
  select jsonb_build_object(
    'overdue', (select count(*) from (
      select from public.device_commands where in_queue and due_at < now() - interval '2 minutes' limit 1000) few),
    'oldest_overdue', (select extract(epoch from now() - min(due_at)) from public.device_commands where in_queue and due_at < now()),
    'unanswered', (select count(*) from (
      select from public.device_commands
      where in_queue and status::text = 'sent' and delivered_at < now() - interval '1 hour' limit 1000) few),
    'given_up', (select count(*) from (
      select from public.device_commands
      where in_queue and status::text = 'failed' and due_at is null and issued_at > now() - interval '1 day' limit 1000) few),
    'welcomes_due', (select count(*) from (
      select from public.devices where welcome_due and is_active and mapped_at < now() - interval '2 minutes' limit 1000) few))
$$;
call mqtt_private.grant_execute('mqtt_private.fn_examine_queue', 'service_role');

-- Looks at the project. p_functions and p_triggers (<table>.<trigger>): what the caller's files make. Returns
--   version, now        of this schema; the database's clock
--   missing_functions, forbidden_functions    of p_functions, and what service_role may not execute of them
--   missing_triggers, disabled_triggers       of p_triggers
--   foreign_triggers    the project's own on these tables, enabled
--   forbidden_tables    which service_role may not read and write
--   unpublished         of devices and device_commands, what supabase_realtime lacks
--   workers             [{client_id, worker, version, seen_ago, overtaken, overtaken_ago, overtakings}], times in seconds
--   queue               see fn_examine_queue
create or replace function public.fn_examine_project(p_functions text[], p_triggers text[]) returns jsonb
language sql stable security invoker set search_path = '' as $$
  select jsonb_build_object(
    'version', mqtt_private.fn_schema_version(),
    'now', clock_timestamp(),
    'missing_functions', array(
      select name from unnest(p_functions) as f (name)
      where not exists (
        select from pg_catalog.pg_proc p where p.pronamespace = 'public'::regnamespace and p.proname = name)),
    'forbidden_functions', array(
      select distinct p.proname::text from pg_catalog.pg_proc p
      where p.pronamespace = 'public'::regnamespace and p.proname = any (p_functions)
        and p.prorettype <> 'trigger'::regtype and not has_function_privilege(p.oid, 'execute') order by 1),
    'missing_triggers', array(
      select name from unnest(p_triggers) as t (name)
      where name not in (select trigger_name from mqtt_private.fn_triggers())),
    'disabled_triggers', array(
      select trigger_name from mqtt_private.fn_triggers() where is_ours and not is_enabled order by 1),
    'foreign_triggers', array(
      select trigger_name from mqtt_private.fn_triggers() where is_enabled and not is_ours order by 1),
    'forbidden_tables', array(
      select name from unnest(array['devices', 'device_commands', 'device_history', 'device_images', 'device_telemetry',
        'device_site_assignments', 'device_program_assignments']) as t (name)
      where not (has_table_privilege('public.' || name, 'select') and has_table_privilege('public.' || name, 'insert')
        and has_table_privilege('public.' || name, 'update'))),
    'unpublished', array(
      select name from unnest(array['devices', 'device_commands']) as t (name)
      where not exists (
        select from pg_catalog.pg_publication_tables
        where pubname = 'supabase_realtime' and schemaname = 'public' and tablename = name)),
    'workers', coalesce((
      select jsonb_agg(jsonb_build_object(
        'client_id', client_id, 'worker', worker, 'version', version,
        'seen_ago', extract(epoch from now() - seen_at),
        'overtaken', overtaken, 'overtaken_ago', extract(epoch from now() - overtaken_at), 'overtakings', overtakings)
        order by client_id)
      from mqtt_private.worker_instances where seen_at > now() - interval '1 hour'), '[]'),
    'queue', mqtt_private.fn_examine_queue())
$$;
call mqtt_private.grant_execute('public.fn_examine_project(text[], text[])', 'service_role');
