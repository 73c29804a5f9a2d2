-- Firmware and configuration: viewers read, operators send and configure, admins publish; others see and touch nothing.
\ir include/setup.psql
select plan(36);

insert into firmware_releases (release_id, company_id, version, sha256, size_bytes, path)
select (c || '0000000-0000-4000-8000-000000000061')::uuid, (c || '0000000-0000-4000-8000-000000000001')::uuid, '1.4.0',
  repeat('a', 64), 10, c || '0000000-0000-4000-8000-000000000001/a.bin'
from unnest(array['a', 'b']) c;
insert into storage.objects (bucket_id, name)
select 'firmware', path from firmware_releases;

select pg_temp.become('viewer.a');
select results_eq('select release_id from firmware_releases', $$values ('a0000000-0000-4000-8000-000000000061'::uuid)$$, 'a viewer sees her company''s releases');
select is((select count(*) from storage.objects where bucket_id = 'firmware'), 1::bigint, '… and their files');
select throws_ok(
  $$insert into firmware_releases (company_id, version, sha256, size_bytes, path) values ('a0000000-0000-4000-8000-000000000001',
    '2.0', repeat('a', 64), 1, 'a0000000-0000-4000-8000-000000000001/x')$$, '42501', null, '… publishes none');
select is(pg_temp.touched('update firmware_releases set notes = $n$x$n$'), 0::bigint, '… notes nothing');
select is(pg_temp.touched('delete from firmware_releases'), 0::bigint, '… removes none');
select throws_ok(
  $$insert into storage.objects (bucket_id, name) values ('firmware', 'a0000000-0000-4000-8000-000000000001/x')$$, '42501', null,
  '… uploads nothing');
select is(pg_temp.touched($$update devices set desired_config = '{"x": 1}'$$), 0::bigint, '… configures no device');
select throws_ok(
  $$select fn_set_desired_config('{"x": 1}', 'a0000000-0000-4000-8000-000000000031')$$, '23514', null, '… nor by the function');
select is(
  fn_set_desired_config('{"x": 1}', p_target => '{"company": "a0000000-0000-4000-8000-000000000001"}') ->> 'matched', '0',
  '… nor by a target');

select pg_temp.become('operator.a');
select lives_ok(
  $$insert into device_commands (device_id, command_type, release_id)
    values ('a0000000-0000-4000-8000-000000000031', 'update_firmware', 'a0000000-0000-4000-8000-000000000061')$$,
  'an operator sends a release');
select is(
  (select command_payload ->> 'version' from device_commands where release_id is not null), '1.4.0', '… which says what it is');
select throws_ok(
  $$insert into device_commands (device_id, command_type, release_id)
    values ('a0000000-0000-4000-8000-000000000031', 'update_firmware', 'b0000000-0000-4000-8000-000000000061')$$,
  '23514', null, '… none of B');
select throws_ok(
  $$insert into device_commands (device_id, command_type, release_id, verified_at)
    values ('a0000000-0000-4000-8000-000000000031', 'update_firmware', 'a0000000-0000-4000-8000-000000000061', now())$$,
  '42501', null, '… and verifies nothing herself');
select throws_ok($$update device_commands set release_id = null$$, '42501', null, '… nor changes which release a command names');
select throws_ok(
  $$insert into firmware_releases (company_id, version, sha256, size_bytes, path) values ('a0000000-0000-4000-8000-000000000001',
    '2.0', repeat('a', 64), 1, 'a0000000-0000-4000-8000-000000000001/x')$$, '42501', null, '… publishes none');
select is(pg_temp.touched('delete from firmware_releases'), 0::bigint, '… removes none');
select throws_ok(
  $$insert into storage.objects (bucket_id, name) values ('firmware', 'a0000000-0000-4000-8000-000000000001/x')$$, '42501', null,
  '… uploads nothing');
select is(
  pg_temp.touched($$update devices set desired_config = '{"x": 1}' where device_id = 'a0000000-0000-4000-8000-000000000031'$$),
  1::bigint, 'she configures a device');
select results_eq(
  $$select desired_config_version, config_due from devices where device_id = 'a0000000-0000-4000-8000-000000000031'$$,
  $$values (1::bigint, true)$$, '… and its version grows');
select throws_ok($$update devices set reported_config = '{"x": 1}'$$, '42501', null, '… reports nothing for it');
select throws_ok($$update devices set desired_config_version = 7$$, '42501', null, '… writes no version');
select throws_ok($$update devices set is_active = true$$, '42501', null, '… and nothing else of it');
select throws_ok(
  $$update devices set desired_config = '[]' where device_id = 'a0000000-0000-4000-8000-000000000031'$$, '23514', null,
  '… nor what can be no configuration');
select is(pg_temp.touched($$update devices set desired_config = '{"x": 1}'
  where device_id = 'b0000000-0000-4000-8000-000000000031'$$), 0::bigint, '… no device of B');
select is(
  fn_set_desired_config('{"y": 2}', 'a0000000-0000-4000-8000-000000000031') ->> 'changed', '1', 'the function merges keys');
select throws_ok(
  $$select fn_set_desired_config('{"x": 1}', 'b0000000-0000-4000-8000-000000000031')$$, '23514', null, '… for none of B');
select is(
  fn_set_desired_config('{"x": 1}', p_target => '{"company": "b0000000-0000-4000-8000-000000000001"}') ->> 'matched', '0',
  '… nor by a target');

select pg_temp.become('admin.a');
select lives_ok(
  $$insert into firmware_releases (company_id, version, sha256, size_bytes, path) values ('a0000000-0000-4000-8000-000000000001',
    '2.0', repeat('a', 64), 1, 'a0000000-0000-4000-8000-000000000001/x')$$, 'an admin publishes');
select is(
  (select created_by_user_id from firmware_releases where version = '2.0'), 'a0000000-0000-4000-8000-0000000000e3'::uuid,
  '… and it says who did');
select lives_ok(
  $$insert into storage.objects (bucket_id, name) values ('firmware', 'a0000000-0000-4000-8000-000000000001/x')$$, '… uploads');
select throws_ok(
  $$insert into firmware_releases (company_id, version, sha256, size_bytes, path) values ('b0000000-0000-4000-8000-000000000001',
    '2.0', repeat('a', 64), 1, 'b0000000-0000-4000-8000-000000000001/x')$$, '42501', null, '… nothing for B');
select throws_ok(
  $$insert into storage.objects (bucket_id, name) values ('firmware', 'b0000000-0000-4000-8000-000000000001/x')$$, '42501', null,
  '… nor into its folder');
select is(pg_temp.touched('delete from firmware_releases'), 2::bigint, '… removes those of her company alone');
select is(
  (select last_error from device_commands where command_type = 'update_firmware'), 'firmware release 1.4.0 was removed',
  '… and what waited for them says so');

select pg_temp.become('viewer.b');
select results_eq('select version from firmware_releases', $$values ('1.4.0')$$, 'B''s release is as it was');

select pg_temp.become_role('anon');
select throws_ok('select * from firmware_releases', '42501', null, 'anon reads no release');

select finish();
rollback;
