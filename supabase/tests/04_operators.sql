-- Operators queue and cancel commands of their company's devices.
\ir include/setup.psql
select plan(23);

insert into device_commands (command_id, device_id, command_type, scheduled_for) values
  ('a0000000-0000-4000-8000-0000000000c1', 'a0000000-0000-4000-8000-000000000031', 'reboot', null),
  ('a0000000-0000-4000-8000-0000000000c2', 'a0000000-0000-4000-8000-000000000031', 'reboot', null),
  ('a0000000-0000-4000-8000-0000000000c3', 'a0000000-0000-4000-8000-000000000031', 'reboot', null),
  ('b0000000-0000-4000-8000-0000000000c1', 'b0000000-0000-4000-8000-000000000031', 'reboot', null);
update device_commands set status = 'failed', retry_count = 3, due_at = null
where command_id = 'a0000000-0000-4000-8000-0000000000c2';
update device_commands set status = 'sent', delivered_at = now() where command_id = 'a0000000-0000-4000-8000-0000000000c3';

select pg_temp.become('operator.a');
select lives_ok(
  $$insert into device_commands (device_id, command_type, command_payload, status, created_by_user_id)
    values ('a0000000-0000-4000-8000-000000000031', 'capture_image', '{"capture_image": true}', 'pending',
      'b0000000-0000-4000-8000-0000000000e2')$$,
  'an operator queues a command as the front end does');
select results_eq(
  $$select status, created_by_user_id, retry_count, attempt, due_at = issued_at from device_commands where command_type = 'capture_image'$$,
  $$values ('pending', 'a0000000-0000-4000-8000-0000000000e2'::uuid, 0, 0::bigint, true)$$,
  '… it waits, is due, and is hers whatever the client wrote');
select lives_ok(
  $$insert into device_commands (device_id, command_type, scheduled_for, expires_at, priority)
    values ('a0000000-0000-4000-8000-000000000031', 'update_config', now() + interval '1 hour', now() + interval '2 hours', 5)$$,
  'she may say when, until when, and how urgently');
select results_eq(
  $$select due_at = scheduled_for from device_commands where command_type = 'update_config'$$, 'values (true)',
  '… and it is not due before');
select lives_ok(
  $$insert into device_commands (device_id, command_type, command_payload)
    values ('a0000000-0000-4000-8000-000000000031', 'set_wake_schedule', '{"wake_schedule_cron": "0 8,16 * * *"}')$$,
  'she sets a schedule');
select throws_ok(
  $$insert into device_commands (device_id, command_type, command_payload)
    values ('a0000000-0000-4000-8000-000000000031', 'set_wake_schedule', '{"wake_schedule_cron": "99 * * * *"}')$$,
  '23514', null, '… but none that does not parse');
select throws_ok(
  $$insert into device_commands (device_id, command_type, status)
    values ('a0000000-0000-4000-8000-000000000031', 'reboot', 'acknowledged')$$,
  '23514', null, 'a new command is pending and nothing else');
select throws_ok(
  $$insert into device_commands (device_id, command_type) values ('b0000000-0000-4000-8000-000000000031', 'reboot')$$,
  '42501', null, 'she queues nothing for a device of B');
select throws_ok(
  $$insert into device_commands (device_id, command_type) values ('a0000000-0000-4000-8000-000000000032', 'reboot')$$,
  '42501', null, '… nor for an unclaimed one');
select throws_ok(
  $$insert into device_commands (device_id, command_type, due_at) values ('a0000000-0000-4000-8000-000000000031', 'reboot', now())$$,
  '42501', null, '… and does not write what is the queue''s');

select is_empty(
  $$select from device_commands where device_id = 'b0000000-0000-4000-8000-000000000031'$$, 'she does not see commands of B');
select is(
  pg_temp.touched($$update device_commands set status = 'cancelled' where command_id = 'b0000000-0000-4000-8000-0000000000c1'$$),
  0::bigint, '… and cancels none');

select is(
  pg_temp.touched($$update device_commands set status = 'cancelled' where command_id = 'a0000000-0000-4000-8000-0000000000c1'$$),
  1::bigint, 'she cancels what waits');
select results_eq(
  $$select status, due_at from device_commands where command_id = 'a0000000-0000-4000-8000-0000000000c1'$$,
  $$values ('cancelled', null::timestamptz)$$, '… and it is never due again');
select throws_ok(
  $$update device_commands set status = 'pending' where command_id = 'a0000000-0000-4000-8000-0000000000c1'$$,
  '23514', 'a command that is cancelled cannot become pending', '… for good');
select is(
  pg_temp.touched($$update device_commands set status = 'pending' where command_id = 'a0000000-0000-4000-8000-0000000000c2'$$),
  1::bigint, 'she tries again what failed');
select results_eq(
  $$select status, due_at = now() from device_commands where command_id = 'a0000000-0000-4000-8000-0000000000c2'$$,
  $$values ('pending', true)$$, '… now');
select throws_ok(
  $$update device_commands set status = 'acknowledged' where command_id = 'a0000000-0000-4000-8000-0000000000c3'$$,
  '23514', 'only the worker moves a command from sent to acknowledged', 'she does not answer for the device');
select throws_ok(
  $$update device_commands set status = 'cancelled' where command_id = 'a0000000-0000-4000-8000-0000000000c3'$$,
  '23514', null, '… and cannot cancel what is on its way');
select throws_ok($$update device_commands set retry_count = 0$$, '42501', null, '… nor edit anything but the status');
select throws_ok('delete from device_commands', '42501', null, '… nor delete');
select throws_ok(
  $$insert into device_site_assignments (device_id, site_id)
    values ('a0000000-0000-4000-8000-000000000031', 'a0000000-0000-4000-8000-000000000022')$$,
  '42501', null, 'an operator maps nothing');
select is_empty(
  $$select from devices where company_id is null$$, '… and does not see the pool');

select finish();
rollback;
