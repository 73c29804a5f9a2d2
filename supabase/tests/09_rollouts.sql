-- Rollouts and windows: viewers read, operators pause and cancel, admins start, resume and approve; other companies see and
-- touch nothing.
\ir include/setup.psql
select plan(47);

insert into auth.users (id, email) values ('a0000000-0000-4000-8000-0000000000e4', 'second@a.example') on conflict do nothing;
insert into company_members (company_id, user_id, role)
values ('a0000000-0000-4000-8000-000000000001', 'a0000000-0000-4000-8000-0000000000e4', 'admin');
insert into command_rollouts (rollout_id, company_id, name, target, command_type) values
  ('a0000000-0000-4000-8000-000000000061', 'a0000000-0000-4000-8000-000000000001', 'ping A',
   '{"company": "a0000000-0000-4000-8000-000000000001"}', 'ping'),
  ('b0000000-0000-4000-8000-000000000061', 'b0000000-0000-4000-8000-000000000001', 'ping B',
   '{"company": "b0000000-0000-4000-8000-000000000001"}', 'ping');
insert into maintenance_windows (window_id, site_id, cron, duration) values
  ('a0000000-0000-4000-8000-000000000071', 'a0000000-0000-4000-8000-000000000021', '0 2 * * *', '2 hours'),
  ('b0000000-0000-4000-8000-000000000071', 'b0000000-0000-4000-8000-000000000021', '0 2 * * *', '2 hours');
select fn_claim_commands('pgtap');

select pg_temp.become('viewer.a');
select results_eq('select name from command_rollouts', $$values ('ping A')$$, 'a viewer sees her company''s rollouts');
select results_eq('select name, total, pending from rollout_progress', $$values ('ping A', 1, 1)$$, '… their progress');
select results_eq('select rollout_id from rollout_counts', $$values ('a0000000-0000-4000-8000-000000000061'::uuid)$$, '… their counts');
select results_eq('select device_id from rollout_devices', $$values ('a0000000-0000-4000-8000-000000000031'::uuid)$$, '… their devices');
select results_eq('select window_id from maintenance_windows', $$values ('a0000000-0000-4000-8000-000000000071'::uuid)$$, '… and its windows');
select throws_ok(
  $$insert into command_rollouts (name, target, command_type)
    values ('x', '{"company": "a0000000-0000-4000-8000-000000000001"}', 'ping')$$, '42501', null, 'she starts no rollout');
select is(pg_temp.touched($$update command_rollouts set status = 'paused'$$), 0::bigint, '… pauses none');
select is(pg_temp.touched('delete from command_rollouts'), 0::bigint, '… removes none');
select throws_ok(
  $$insert into maintenance_windows (site_id, cron, duration)
    values ('a0000000-0000-4000-8000-000000000021', '0 3 * * *', '1 hour')$$, '42501', null, '… adds no window');
select is(pg_temp.touched('update maintenance_windows set enabled = false'), 0::bigint, '… disables none');
select is(pg_temp.touched('delete from maintenance_windows'), 0::bigint, '… and removes none');

select pg_temp.become('operator.a');
select throws_ok(
  $$insert into command_rollouts (name, target, command_type)
    values ('x', '{"company": "a0000000-0000-4000-8000-000000000001"}', 'ping')$$, '42501', null, 'an operator starts no rollout');
select throws_ok('update command_rollouts set rate_per_minute = 9', '42501', null, '… changes no rate');
select is(pg_temp.touched($$update command_rollouts set status = 'paused'$$), 1::bigint, '… pauses her company''s');
select throws_ok($$update command_rollouts set status = 'running'$$, '42501', null, '… resumes none');
select throws_ok($$update command_rollouts set status = 'finished'$$, '23514', null, '… finishes none');
select throws_ok($$update command_rollouts set company_id = 'b0000000-0000-4000-8000-000000000001'$$, '42501', null,
  '… moves none to another company');
select throws_ok($$update command_rollouts set next_release_at = now()$$, '42501', null, '… does not write what is the queue''s');
select is(pg_temp.touched($$update command_rollouts set status = 'cancelled'$$), 1::bigint, '… and cancels it');
select results_eq('select status from device_commands where rollout_id is not null', $$values ('cancelled')$$, '… with its commands');
select throws_ok($$insert into rollout_devices (rollout_id, device_id)
  values ('a0000000-0000-4000-8000-000000000061', gen_random_uuid())$$, '42501', null, 'she writes no device of a rollout');
select throws_ok('update rollout_counts set succeeded = 1', '42501', null, '… and no counts');
select is(pg_temp.touched('delete from command_rollouts'), 0::bigint, '… removes no rollout');
select throws_ok($$insert into device_commands (device_id, command_type, rollout_id)
  values ('a0000000-0000-4000-8000-000000000031', 'ping', 'a0000000-0000-4000-8000-000000000061')$$, '42501', null,
  '… puts no command into one');
select is(pg_temp.touched('update maintenance_windows set enabled = false'), 0::bigint, '… disables no window');
select is(pg_temp.touched('delete from maintenance_windows'), 0::bigint, '… and removes none');

select pg_temp.become('admin.a');
select lives_ok(
  $$insert into command_rollouts (rollout_id, name, target, command_type, needs_approval) values
    ('a0000000-0000-4000-8000-000000000062', 'second', '{"site": "a0000000-0000-4000-8000-000000000021"}', 'reboot', true)$$,
  'an admin starts a rollout');
select results_eq(
  $$select company_id, created_by_user_id, status from command_rollouts where name = 'second'$$,
  $$values ('a0000000-0000-4000-8000-000000000001'::uuid, 'a0000000-0000-4000-8000-0000000000e3'::uuid, 'awaiting_approval')$$,
  '… it is her company''s and hers, and waits for approval');
select throws_ok($$update command_rollouts set status = 'running' where name = 'second'$$, '23514', null,
  '… she cannot approve it herself');
select throws_ok(
  $$insert into command_rollouts (company_id, name, target, command_type) values ('b0000000-0000-4000-8000-000000000001',
    'x', '{"company": "b0000000-0000-4000-8000-000000000001"}', 'ping')$$, '42501', null, '… she starts none of B');
select throws_ok(
  $$insert into command_rollouts (company_id, name, target, command_type) values ('a0000000-0000-4000-8000-000000000001',
    'x', '{"site": "b0000000-0000-4000-8000-000000000021"}', 'ping')$$, '23514', null, '… none for a site of B');
select throws_ok(
  $$insert into command_rollouts (name, target, command_type, status)
    values ('x', '{"company": "a0000000-0000-4000-8000-000000000001"}', 'ping', 'running')$$, '42501', null,
  '… and does not write what is the queue''s');
select throws_ok($$update command_rollouts set target = '{}'$$, '42501', null, '… changes no target');
select is(pg_temp.touched($$delete from command_rollouts where name = 'second'$$), 0::bigint, '… removes none that goes on');
select lives_ok(
  $$insert into maintenance_windows (site_id, cron, duration)
    values ('a0000000-0000-4000-8000-000000000021', '0 3 * * *', '1 hour')$$, '… adds a window');
select throws_ok(
  $$insert into maintenance_windows (company_id, site_id, cron, duration)
    values ('a0000000-0000-4000-8000-000000000001', 'b0000000-0000-4000-8000-000000000021', '0 3 * * *', '1 hour')$$,
  '23514', null, '… none for a site of B');
select throws_ok(
  $$insert into maintenance_windows (company_id, rollout_id, cron, duration)
    values ('a0000000-0000-4000-8000-000000000001', 'b0000000-0000-4000-8000-000000000061', '0 3 * * *', '1 hour')$$,
  '23514', null, '… none for a rollout of B');
select is(pg_temp.touched('update maintenance_windows set enabled = false'), 2::bigint, '… disables those of her company alone');
select is(pg_temp.touched('delete from maintenance_windows'), 2::bigint, '… and removes them');
select is(pg_temp.touched($$delete from command_rollouts where name = 'ping A'$$), 1::bigint, '… removes a rollout that is over');

select set_config('request.jwt.claims',
  '{"role": "authenticated", "sub": "a0000000-0000-4000-8000-0000000000e4"}', true);
select is(pg_temp.touched($$update command_rollouts set status = 'running' where name = 'second'$$), 1::bigint,
  'another admin approves it');
select results_eq(
  $$select status, approved_by_user_id, started_at is not null from command_rollouts$$,
  $$values ('running', 'a0000000-0000-4000-8000-0000000000e4'::uuid, true)$$, '… which says who did, and starts it');

select pg_temp.become('viewer.b');
select results_eq('select name, status from command_rollouts', $$values ('ping B', 'running')$$, 'B''s rollout is as it was');
select results_eq('select enabled from maintenance_windows', $$values (true)$$, '… and so is its window');

select pg_temp.become_role('anon');
select throws_ok('select * from command_rollouts', '42501', null, 'anon reads no rollout');
select throws_ok('select * from rollout_progress', '42501', null, '… no progress');
select throws_ok('select * from maintenance_windows', '42501', null, '… and no window');

select finish();
rollback;
