-- What the console asks: members count and queue within their company alone, viewers queue nothing, anon asks nothing.
\ir include/setup.psql
select plan(16);

insert into device_commands (device_id, command_type) values
  ('a0000000-0000-4000-8000-000000000031', 'ping'), ('b0000000-0000-4000-8000-000000000031', 'ping');
insert into mqtt_private.worker_instances (client_id, worker, version, seen_at) values ('w', 'w:1', '0.1.0', now());
insert into mqtt_private.visits (device_id, lease_worker, lease_until, began_at) values
  ('b0000000-0000-4000-8000-000000000031', 'w:1', now() + interval '1 minute', now());

select pg_temp.become('viewer.a');
select is(fn_count_commands(now() - interval '1 day'), '{"pending": 1}', 'a viewer counts her company''s commands');
select is((select commands from fn_command_numbers() where dimension = 'all'), 1::bigint, '… by day, type and site too');
select is((fn_fleet_overview() ->> 'awake')::int, 0, '… and sees no visit of B');
select is((fn_fleet_overview() -> 'depth' ->> 'due')::int, 1, '… what is due in her company');
select results_eq('select client_id, version from mqtt_workers', $$values ('w', '0.1.0')$$, '… and that workers run');
select throws_ok(
  $$select fn_queue_for_target('c0000000-0000-4000-8000-000000000001', '{"site": "a0000000-0000-4000-8000-000000000021"}', 'ping')$$,
  '42501', null, '… queues nothing for a target');
select throws_ok('select received_by from mqtt_private.visits', '42501', null, '… reads no more of visits than she needs');
select throws_ok('delete from mqtt_private.worker_instances', '42501', null, '… and removes no worker');

select pg_temp.become('operator.a');
select is(
  fn_queue_for_target('c0000000-0000-4000-8000-000000000001', '{"site": "a0000000-0000-4000-8000-000000000021"}', 'ping'),
  '{"queued": 1, "not_active": 0}', 'an operator queues for a site');
select is(
  fn_queue_for_target('c0000000-0000-4000-8000-000000000001', '{"site": "a0000000-0000-4000-8000-000000000021"}', 'ping') ->> 'queued',
  '1', '… may say so again');
select is(fn_count_commands(now() - interval '1 day'), '{"pending": 2}', '… and it is queued once');
select is((fn_queue_for_target('c0000000-0000-4000-8000-000000000002', '{"company": "b0000000-0000-4000-8000-000000000001"}', 'ping')
  ->> 'queued')::int, 0, '… reaches nobody of B');

select pg_temp.become('viewer.b');
select is((fn_fleet_overview() ->> 'awake')::int, 1, 'a viewer of B sees her company''s visit');
select is(fn_count_commands(now() - interval '1 day'), '{"pending": 1}', '… and her company''s commands');

select pg_temp.become_role('anon');
select throws_ok('select fn_count_commands(now())', '42501', null, 'anon counts nothing');
select throws_ok('select fn_command_numbers()', '42501', null, '… neither by day');

select * from finish();
rollback;
