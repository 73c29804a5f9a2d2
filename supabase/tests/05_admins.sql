-- Admins map devices of their company and of the pool, to sites of their company.
\ir include/setup.psql
select plan(18);

select pg_temp.become('admin.a');
select results_eq(
  $$select device_code from devices order by device_code$$,
  $$values ('DEVICE-ESP32S3-001'), ('DEVICE-ESP32S3-002')$$, 'an admin sees her devices and the pool');
select throws_ok(
  $$insert into device_site_assignments (device_id, site_id)
    values ('b0000000-0000-4000-8000-000000000031', 'a0000000-0000-4000-8000-000000000021')$$,
  '42501', null, 'she does not take a device of B');
select throws_ok(
  $$insert into device_site_assignments (device_id, site_id)
    values ('a0000000-0000-4000-8000-000000000032', 'b0000000-0000-4000-8000-000000000021')$$,
  '42501', null, '… and gives B none');
select throws_ok(
  $$insert into device_site_assignments (device_id, site_id, assigned_by_user_id)
    values ('a0000000-0000-4000-8000-000000000032', 'a0000000-0000-4000-8000-000000000021',
      'b0000000-0000-4000-8000-0000000000e3')$$,
  '42501', null, '… and signs for nobody else');
select results_eq(
  $$insert into device_site_assignments (device_id, site_id)
    values ('a0000000-0000-4000-8000-000000000032', 'a0000000-0000-4000-8000-000000000021')
    returning is_active, assigned_by_user_id$$,
  $$values (true, 'a0000000-0000-4000-8000-0000000000e3'::uuid)$$, 'she maps a device of the pool, and gets the row back');
select results_eq(
  $$select provisioning_status, is_active, company_id, next_wake_at > now(), welcome_due from devices
    where device_id = 'a0000000-0000-4000-8000-000000000032'$$,
  $$values ('active', true, 'a0000000-0000-4000-8000-000000000001'::uuid, true, true)$$, '… which makes it active and hers');
select isnt_empty(
  $$select from device_history where device_id = 'a0000000-0000-4000-8000-000000000032' and event_type = 'mapped'$$,
  '… and is in its history');
select lives_ok(
  $$insert into device_site_assignments (device_id, site_id)
    values ('a0000000-0000-4000-8000-000000000031', 'a0000000-0000-4000-8000-000000000022')$$,
  'she remaps a device');
select results_eq(
  $$select site_id from devices where device_id = 'a0000000-0000-4000-8000-000000000031'$$,
  $$values ('a0000000-0000-4000-8000-000000000022'::uuid)$$, '… to the new site');
select is(
  pg_temp.touched($$update device_site_assignments set is_active = false
    where device_id = 'a0000000-0000-4000-8000-000000000031' and is_active$$), 1::bigint, 'she unmaps a device');
select results_eq(
  $$select is_active, company_id from devices where device_id = 'a0000000-0000-4000-8000-000000000031'$$,
  $$values (false, 'a0000000-0000-4000-8000-000000000001'::uuid)$$, '… which stays her company''s');
select throws_ok(
  $$update device_site_assignments set site_id = 'b0000000-0000-4000-8000-000000000021'
    where device_id = 'a0000000-0000-4000-8000-000000000032'$$, '42501', null, 'she moves no device to B');
select is(
  pg_temp.touched($$update device_site_assignments set is_active = false
    where device_id = 'b0000000-0000-4000-8000-000000000031'$$), 0::bigint, 'she unmaps no device of B');
select throws_ok('delete from device_site_assignments', '42501', null, 'the past cannot be deleted');
select throws_ok($$update devices set company_id = null$$, '42501', null, 'devices are written by mapping alone');
select lives_ok(
  $$insert into device_commands (device_id, command_type) values ('a0000000-0000-4000-8000-000000000032', 'reboot')$$,
  'an admin queues commands too');

select pg_temp.become('admin.b');
select is_empty(
  $$select from devices where device_id = 'a0000000-0000-4000-8000-000000000032'$$, 'B no longer sees what was claimed');
select throws_ok(
  $$insert into device_site_assignments (device_id, site_id)
    values ('a0000000-0000-4000-8000-000000000032', 'b0000000-0000-4000-8000-000000000021')$$,
  '42501', null, '… and cannot claim it');

select finish();
rollback;
