-- Viewers see their company, all of it, and change nothing.
\ir include/setup.psql
select plan(25);

insert into device_commands (device_id, command_type)
select device_id, 'reboot' from devices where company_id is not null;
insert into device_command_types (command_type) values ('water_plants');
insert into device_history (device_id) select device_id from devices where company_id is not null;
insert into device_images (device_id, image_name) select device_id, 'image_001.jpg' from devices where company_id is not null;
insert into device_telemetry (device_id, temperature) select device_id, 20.5 from devices where company_id is not null;

select pg_temp.become('viewer.a');
select results_eq('select name from companies', $$values ('Alder Farms')$$, 'A sees its company');
select results_eq('select role from company_members order by role', $$values ('admin'), ('operator'), ('viewer')$$, '… its members');
select results_eq('select name from pilot_programs', $$values ('Alder Pilot')$$, '… its programs');
select results_eq('select name from sites order by name', $$values ('Alder North'), ('Alder South')$$, '… its sites');
select results_eq('select device_code from devices', $$values ('DEVICE-ESP32S3-001')$$, '… its devices, and not the unclaimed one');
select results_eq('select distinct device_id from device_commands', $$values ('a0000000-0000-4000-8000-000000000031'::uuid)$$, '… its commands');
select results_eq('select command_type from device_command_types', $$values ('water_plants')$$, '… the further types of commands');
select results_eq('select distinct device_id from device_history', $$values ('a0000000-0000-4000-8000-000000000031'::uuid)$$, '… its history');
select results_eq('select device_id from device_images', $$values ('a0000000-0000-4000-8000-000000000031'::uuid)$$, '… its pictures');
select lives_ok('select status, storage_path, upload_path, listed_at, received_at from device_images', '… every column of them');
select lives_ok('select reported_location, self_registered_at, redelivery_count from devices join device_commands using (device_id)',
  '… what its devices say, and how often they were told');
select results_eq('select device_id from device_telemetry', $$values ('a0000000-0000-4000-8000-000000000031'::uuid)$$, '… its readings');
select results_eq('select device_id from device_site_assignments', $$values ('a0000000-0000-4000-8000-000000000031'::uuid)$$, '… its assignments');
select results_eq('select device_id from device_program_assignments', $$values ('a0000000-0000-4000-8000-000000000031'::uuid)$$, '… to programs too');

select throws_ok(
  $$insert into device_commands (device_id, command_type) values ('a0000000-0000-4000-8000-000000000031', 'reboot')$$,
  '42501', null, 'a viewer queues nothing');
select is(pg_temp.touched($$update device_commands set status = 'cancelled'$$), 0::bigint, '… cancels nothing');
select throws_ok(
  $$insert into device_site_assignments (device_id, site_id)
    values ('a0000000-0000-4000-8000-000000000031', 'a0000000-0000-4000-8000-000000000022')$$,
  '42501', null, '… maps nothing');
select is(pg_temp.touched('update device_site_assignments set is_active = false'), 0::bigint, '… unmaps nothing');
select throws_ok($$insert into device_command_types (command_type) values ('x')$$, '42501', null, '… lists no type of command');
select throws_ok($$update devices set is_active = false$$, '42501', null, '… edits no device');
select throws_ok($$update company_members set role = 'admin'$$, '42501', null, '… and does not promote herself');

select pg_temp.become('viewer.b');
select results_eq('select device_code from devices', $$values ('DEVICE-ESP32S3-003')$$, 'B sees its own');
select results_eq('select distinct device_id from device_commands', $$values ('b0000000-0000-4000-8000-000000000031'::uuid)$$, '… and its own alone');

select set_config('request.jwt.claims', '{"role": "authenticated", "sub": "c0000000-0000-4000-8000-0000000000e1"}', true);
select is_empty('select * from devices', 'who is in no company sees no device');
select is_empty('select * from companies', '… and no company');

select finish();
rollback;
