-- Tables, row-level security, keys and the publication.
\ir include/setup.psql
select plan(12);

select is((select count(*) from our_tables), 20::bigint, 'all tables are there');
select is_empty(
  $$select name from our_tables where not relrowsecurity$$, 'row-level security is on for every table');
select is_empty(
  $$select name from our_tables t where not exists (select from pg_index i where i.indrelid = t.oid and i.indisprimary)$$,
  'every table has a primary key');
select is_empty(
  $$select conname from pg_constraint c join our_tables t on t.oid = c.conrelid
    where c.contype = 'f' and not exists (
      select from pg_index i where i.indrelid = c.conrelid and i.indkey[0] = c.conkey[1])$$,
  'every foreign key is indexed');
select is_empty(
  $$select tablename, cmd, roles from pg_policies where schemaname = 'public' and permissive = 'PERMISSIVE'
    group by 1, 2, 3 having count(*) > 1$$,
  'one permissive policy a table, action and role');
select is_empty(
  $$select tablename, policyname from pg_policies where schemaname = 'public' and roles <> '{authenticated}'$$,
  'policies are for signed-in users alone');
select set_has(
  $$select tablename::text from pg_publication_tables where pubname = 'supabase_realtime' and schemaname = 'public'$$,
  $$values ('devices'), ('device_commands')$$, 'devices and device_commands are published');
select is(
  array(select mqtt_private.fn_device_key(id) from unnest(array[
    'AA:BB:CC:DD:EE:FF', 'aabbccddeeff', 'aa-bb-cc-dd-ee-ff', 'aabb.ccdd.eeff', 'esp32-cam-01', 'AA:BB:CC:DD:EE']) id),
  array['AABBCCDDEEFF', 'AABBCCDDEEFF', 'AABBCCDDEEFF', 'AABBCCDDEEFF', 'esp32-cam-01', 'AA:BB:CC:DD:EE'],
  'twelve hex digits are one device however they are spelled, and a name stays a name');
select throws_ok(
  $$insert into devices (device_mac) values ('aabbccddeeff')$$, '23505', null, 'a device cannot be there twice');
select throws_ok(
  $$insert into devices (device_mac, provisioning_status) values ('x', 'lost')$$, '23514', null,
  'provisioning_status has four words');
select throws_ok(
  $$insert into device_images (device_id, image_name, status) values
    ('a0000000-0000-4000-8000-000000000031', 'a.jpg', 'lost')$$, '23514', null, 'a picture''s status has four words');
select throws_ok(
  $$insert into device_images (device_id, image_name, captured_at)
    select 'a0000000-0000-4000-8000-000000000031', 'a.jpg', '2025-08-29' from generate_series(1, 2)$$, '23505', null,
  'a picture cannot be there twice');

select finish();
rollback;
