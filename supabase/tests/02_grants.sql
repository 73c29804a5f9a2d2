-- Who may execute and read anything at all.
\ir include/setup.psql
select plan(17);

select is_empty(
  $$select name from our_functions where has_function_privilege('anon', oid, 'execute')$$,
  'anon executes no function');
select results_eq(
  $$select name from our_functions where schema = 'public' and has_function_privilege('authenticated', oid, 'execute')
    order by name$$,
  $$values ('fn_calculate_next_wake(text,timestamp with time zone,text)'),
    ('fn_cancel_commands(jsonb,uuid,text,uuid,boolean)'),
    ('fn_command_numbers(integer,text,text,uuid,uuid,uuid)'), ('fn_count_commands(timestamp with time zone)'),
    ('fn_explain_command(uuid)'), ('fn_fleet_overview(double precision,integer)'),
    ('fn_preview_schedule(text,text,integer,timestamp with time zone)'),
    ('fn_preview_target(jsonb,integer,uuid)'),
    ('fn_queue_for_target(uuid,jsonb,text,jsonb,integer,timestamp with time zone,timestamp with time zone,uuid)'),
    ('fn_set_desired_config(jsonb,uuid,jsonb,uuid,boolean)'),
    ('fn_set_device_schedule(uuid,text)'), ('fn_set_site_schedule(uuid,text,text)')$$,
  'signed-in users preview, count, queue, cancel, set and ask for stories, and execute nothing else of the API');
select is_empty(
  $$select name from our_functions where has_function_privilege('public', oid, 'execute')$$,
  'public executes no function');
select is_empty(
  $$select name from our_functions where schema = 'public' and prosecdef$$, 'no function of the API is security definer');
select is_empty(
  $$select name from our_functions where not coalesce(proconfig && array[
      'search_path=""', 'search_path=public, extensions', 'search_path=public, extensions, pg_temp'], false)$$,
  'every function has a search_path: an empty one, or that of an API request where it touches shared tables');
select is_empty(
  $$select name, privilege from our_tables, unnest(array['select', 'insert', 'update', 'delete', 'truncate', 'references', 'trigger']) privilege
    where has_table_privilege('anon', oid, privilege) or has_table_privilege('public', oid, privilege)$$,
  'anon may do nothing with any table');
select is_empty(
  $$select name, attname from our_tables join pg_attribute on attrelid = oid and attnum > 0
    where has_any_column_privilege('anon', oid, 'select, insert, update, references')$$,
  'nor with any column');
select is_empty(
  $$select name, privilege from our_tables, unnest(array['insert', 'update', 'delete', 'truncate', 'references', 'trigger']) privilege
    where has_table_privilege('authenticated', oid, privilege)
      and (name, privilege) not in (('device_tags', 'delete'), ('command_schedules', 'delete'),
        ('firmware_releases', 'delete'), ('command_rollouts', 'delete'), ('maintenance_windows', 'delete'))$$,
  'signed-in users write no whole row and delete nothing but tags, schedules, releases, rollouts and windows');
select is_empty(
  $$select name, privilege from our_tables, unnest(array['select', 'insert', 'update', 'delete']) privilege
    where not has_table_privilege('service_role', oid, privilege)$$,
  'service_role reads and writes every table');
select is_empty(
  $$select name, role, privilege from unnest(array['anon', 'authenticated', 'service_role']) role,
      unnest(array['acknowledgements', 'visits', 'duplicate_images', 'replies', 'worker_instances',
        'unknown_command_types', 'turns', 'alerts']) name,
      unnest(array['select', 'insert', 'update', 'delete']) privilege
    where has_table_privilege(role, format('mqtt_private.%I', name), privilege) <> (role = 'service_role')$$,
  'the worker''s own tables are for service_role alone');
select is_empty(
  $$select role from unnest(array['anon', 'authenticated', 'service_role']) role
    where has_table_privilege(role, 'mqtt_private.adoption', 'insert, update, delete, truncate')
      or has_table_privilege(role, 'mqtt_private.adoption', 'select') <> (role = 'service_role')$$,
  'what was there before is written by the migrations alone');
select is_empty(
  $$select c.relname from pg_class c
    where c.relnamespace = 'mqtt_private'::regnamespace and c.relkind = 'r' and not c.relrowsecurity$$,
  'row-level security is on for them too');
select set_has(
  $$select split_part(name, '(', 1) from our_functions where has_function_privilege('service_role', oid, 'execute')$$,
  $$values ('fn_claim_commands'), ('fn_settle_commands'), ('fn_acknowledge_commands'), ('fn_queue_welcome_commands'),
    ('fn_record_heartbeats'), ('fn_renew_visits'), ('fn_take_over_visits'), ('fn_end_visits'), ('fn_record_images'),
    ('fn_settle_images'), ('fn_record_replies'), ('fn_announce_worker'), ('fn_inspect_project'),
    ('fn_remove_old_rows'), ('fn_list_old_images'), ('fn_remove_images'), ('fn_sweep_own_tables'),
    ('fn_measure_queue'), ('fn_watch_for_alerts'), ('fn_note_alerts_told'),
    ('fn_ring_workers'), ('fn_record_lone_readings'), ('fn_set_wake_spread'), ('fn_fleet_overview'),
    ('fn_mqtt_service_schema'), ('fn_examine_project')$$,
  'service_role executes every call of the worker and of the command line');
select ok(not has_schema_privilege('anon', 'mqtt_private', 'usage'), 'anon cannot look into mqtt_private');
select is_empty(
  $$select name from our_functions
    where name like '%fn_ring%' and has_function_privilege('authenticated', oid, 'execute')$$,
  'signed-in users ring by queuing commands alone');

select pg_temp.become_role('anon');
select throws_ok('select * from devices', '42501', null, 'anon reads no device');
select throws_ok(
  $$insert into device_commands (device_id, command_type)
    values ('a0000000-0000-4000-8000-000000000031', 'reboot')$$, '42501', null, 'anon queues nothing');

select finish();
rollback;
