-- Tags and recurring commands: viewers read, operators write, other companies see and touch nothing.
\ir include/setup.psql
select plan(29);

insert into device_tags (device_id, tag) values
  ('a0000000-0000-4000-8000-000000000031', 'indoor'), ('b0000000-0000-4000-8000-000000000031', 'indoor');
insert into command_schedules (schedule_id, company_id, name, target, command_type, cron) values
  ('a0000000-0000-4000-8000-000000000051', 'a0000000-0000-4000-8000-000000000001', 'ping A',
   '{"company": "a0000000-0000-4000-8000-000000000001"}', 'ping', '0 6 * * *'),
  ('b0000000-0000-4000-8000-000000000051', 'b0000000-0000-4000-8000-000000000001', 'ping B',
   '{"company": "b0000000-0000-4000-8000-000000000001"}', 'ping', '0 6 * * *');
insert into command_schedule_runs (schedule_id, occurrence)
select schedule_id, '2026-01-01' from command_schedules;

select pg_temp.become('viewer.a');
select results_eq('select device_id from device_tags', $$values ('a0000000-0000-4000-8000-000000000031'::uuid)$$, 'a viewer sees her company''s tags');
select results_eq('select name from command_schedules', $$values ('ping A')$$, '… its schedules');
select results_eq('select schedule_id from command_schedule_runs', $$values ('a0000000-0000-4000-8000-000000000051'::uuid)$$, '… and their runs');
select is((fn_preview_target('{"tags": ["indoor"]}') ->> 'matched')::int, 1, '… previews a target');
select is((fn_preview_target('{"company": "b0000000-0000-4000-8000-000000000001"}') ->> 'matched')::int, 0, '… within her company alone');
select throws_ok(
  $$insert into device_tags (device_id, tag) values ('a0000000-0000-4000-8000-000000000031', 'x')$$, '42501', null, 'she tags nothing');
select is(pg_temp.touched('delete from device_tags'), 0::bigint, '… takes no tag off');
select throws_ok(
  $$insert into command_schedules (name, target, command_type, cron)
    values ('x', '{"company": "a0000000-0000-4000-8000-000000000001"}', 'ping', '0 6 * * *')$$, '42501', null, '… adds no schedule');
select is(pg_temp.touched('update command_schedules set enabled = false'), 0::bigint, '… pauses none');
select is(pg_temp.touched('delete from command_schedules'), 0::bigint, '… and removes none');

select pg_temp.become('operator.a');
select lives_ok(
  $$insert into device_tags (device_id, tag) values ('a0000000-0000-4000-8000-000000000031', 'tall')$$, 'an operator tags');
select throws_ok(
  $$insert into device_tags (device_id, tag) values ('b0000000-0000-4000-8000-000000000031', 'x')$$, '42501', null, '… no device of B');
select throws_ok($$update device_tags set tag = 'y'$$, '42501', null, '… changes no tag');
select is(pg_temp.touched('delete from device_tags'), 2::bigint, '… and takes off those of her company alone');
select lives_ok(
  $$insert into command_schedules (name, target, command_type) values
    ('wakes', '{"site": "a0000000-0000-4000-8000-000000000021"}', 'capture_image')$$, 'an operator adds a schedule at the wakes of a site');
select results_eq(
  $$select company_id, created_by_user_id, next_run_at > now() from command_schedules where name = 'wakes'$$,
  $$values ('a0000000-0000-4000-8000-000000000001'::uuid, 'a0000000-0000-4000-8000-0000000000e2'::uuid, true)$$,
  '… it is her company''s and hers, and its time is worked out');
select throws_ok(
  $$insert into command_schedules (company_id, name, target, command_type, cron) values ('b0000000-0000-4000-8000-000000000001',
    'x', '{"company": "b0000000-0000-4000-8000-000000000001"}', 'ping', '0 6 * * *')$$, '42501', null, '… none of B');
select throws_ok(
  $$insert into command_schedules (company_id, name, target, command_type) values ('a0000000-0000-4000-8000-000000000001',
    'x', '{"site": "b0000000-0000-4000-8000-000000000021"}', 'ping')$$, '23514', null, '… none at the wakes of a site of B');
select throws_ok(
  $$insert into command_schedules (name, target, command_type, cron, next_run_at)
    values ('x', '{"company": "a0000000-0000-4000-8000-000000000001"}', 'ping', '0 6 * * *', now())$$, '42501', null,
  '… and does not write what is the queue''s');
select is(pg_temp.touched('update command_schedules set enabled = false'), 2::bigint, 'she pauses her company''s schedules');
select results_eq('select distinct next_run_at from command_schedules', $$values (null::timestamptz)$$, '… and they are never due');
select results_eq(
  $$select result from command_schedule_runs$$, $$values ('stopped: the schedule was changed')$$, '… what was under way ends');
select throws_ok($$insert into command_schedule_runs (schedule_id, occurrence)
  values ('a0000000-0000-4000-8000-000000000051', now())$$, '42501', null, '… she writes no run');
select throws_ok($$update command_schedules set company_id = 'b0000000-0000-4000-8000-000000000001'$$, '42501', null,
  '… moves none to another company');
select is(pg_temp.touched('delete from command_schedules'), 2::bigint, '… and removes those of her company alone');

select pg_temp.become('viewer.b');
select results_eq('select name, enabled from command_schedules', $$values ('ping B', true)$$, 'B''s schedule is as it was');
select results_eq('select tag from device_tags', $$values ('indoor')$$, '… and so is its tag');

select pg_temp.become_role('anon');
select throws_ok('select * from command_schedules', '42501', null, 'anon reads no schedule');
select throws_ok($$select fn_preview_target('{"tags": ["x"]}')$$, '42501', null, '… and previews nothing');

select finish();
rollback;
