-- What is refused when a command is inserted, and which moves its status may make.
\ir include/setup.psql
select plan(49);

create function pg_temp.queue(p_type text, p_payload text) returns text
language sql
as $$
  select format('insert into public.device_commands (device_id, command_type, command_payload) '
    'values (''a0000000-0000-4000-8000-000000000031'', %L, %L)', p_type, p_payload)
$$;

select pg_temp.become_role('service_role');

select lives_ok(pg_temp.queue(type, payload), format('%s %s is taken', type, payload))
from (values
  ('capture_image', '{"capture_image": true}'),
  ('reboot', '{}'),
  ('ping', '{}'),
  ('ping', '{"timestamp": "2030-01-31T16:00:00Z"}'),
  ('set_wake_schedule', '{"cron": "0 8 * * *"}'),
  ('update_config', '{"anything": [1, 2]}'),
  ('send_image', '{"image_name": "image_001.jpg"}'),
  ('send_image', '{"image_name": "Bild ä.jpg"}'),
  ('set_wake_schedule', '{"next_wake_time": "2030-01-31T16:00:00Z"}'),
  ('set_wake_schedule', '{"next_wake_time": "2030-01-31T16:00:00.123+02:00"}'),
  ('set_wake_schedule', '{"wake_schedule_cron": "@daily"}'),
  ('update_firmware', '{"firmware_url": "https://files.example.com/firmware.bin?v=2", "version": "1.2"}')
) as good (type, payload);

select throws_ok(pg_temp.queue(type, payload), '23514', null, format('%s %s is refused', type, payload))
from (values
  ('send_image', '{}'),
  ('send_image', '{"image_name": ""}'),
  ('send_image', '{"image_name": null}'),
  ('send_image', '{"image_name": 7}'),
  ('send_image', '{"image_name": "a\u001bb"}'),
  ('set_wake_schedule', '{}'),
  ('set_wake_schedule', '{"next_wake_time": "5:30PM"}'),
  ('set_wake_schedule', '{"next_wake_time": "infinity"}'),
  ('set_wake_schedule', '{"next_wake_time": "2030-02-31T16:00:00Z"}'),
  ('set_wake_schedule', '{"wake_schedule_cron": ""}'),
  ('set_wake_schedule', '{"wake_schedule_cron": "every day"}'),
  ('set_wake_schedule', '{"cron": "every day"}'),
  ('set_wake_schedule', '{"wake_schedule_cron": 8, "next_wake_time": "2030-01-31T16:00:00Z"}'),
  ('update_firmware', '{}'),
  ('update_firmware', '{"firmware_url": "http://files.example.com/firmware.bin"}'),
  ('update_firmware', '{"firmware_url": "https://"}'),
  ('update_firmware', '{"firmware_url": "https://a b"}'),
  ('capture_image', '[]'),
  ('capture_image', '"x"'),
  ('self_destruct', '{}')
) as bad (type, payload);

select throws_ok(
  pg_temp.queue('update_config', json_build_object('blob', repeat('x', 131072))::text), '23514', null, 'more than 128 KiB is refused');
select throws_ok(
  pg_temp.queue('send_image', json_build_object('image_name', repeat('x', 256))::text), '23514', null, '256 characters are no image_name');
select throws_ok(
  pg_temp.queue('send_image', '{}'), '23514', 'send_image needs image_name: 1 to 255 characters, no control characters',
  'the message says what is wrong');
select throws_ok(
  $$insert into device_commands (device_id, command_type, status) values
    ('a0000000-0000-4000-8000-000000000031', 'reboot', 'lost')$$, '23514', null, 'status has seven words');
select throws_ok(
  $$update device_commands set command_payload = '{}' where command_type = 'send_image'$$, '23514', null,
  'a command cannot be edited into one that cannot work');

insert into device_command_types (command_type, description) values ('water_plants', 'litres: how much');
select lives_ok(pg_temp.queue('water_plants', '{"litres": 2}'), 'a type that is listed is taken');
select throws_ok(
  pg_temp.queue('water_plants', '[]'), '23514', null, 'its payload is an object, too');
select throws_ok(
  $$insert into device_command_types (command_type) values ('reboot')$$, '23514', null, 'a built-in type cannot be listed');
delete from device_command_types;
select throws_ok(pg_temp.queue('water_plants', '{}'), '23514', null, 'a type that is listed no more is refused');
select is_empty('select * from mqtt_private.unknown_command_types', 'on a table of ours nothing is left alone');

-- Every move there is: from, and all it may become.
create temporary table moves as
select old, new, new = any (allowed) as legal
from (values
  ('pending', '{sent, failed, expired, cancelled, acknowledged, rejected}'::text[]),
  ('sent', '{acknowledged, failed, rejected, expired, pending}'),
  ('failed', '{pending, sent, acknowledged, expired, cancelled, rejected}'),
  ('acknowledged', '{failed}'),
  ('rejected', '{}'),
  ('expired', '{acknowledged}'),
  ('cancelled', '{}')
) as t (old, allowed),
  unnest('{pending, sent, failed, acknowledged, rejected, expired, cancelled}'::text[]) as new
where old <> new;
grant all on moves to public;

create function pg_temp.can_move(p_old text, p_new text) returns boolean
language plpgsql
as $$
declare
  v_id uuid;
begin
  insert into public.device_commands (device_id, command_type, status)
  values ('a0000000-0000-4000-8000-000000000031', 'reboot', p_old) returning command_id into v_id;
  update public.device_commands set status = p_new where command_id = v_id;
  return true;
exception when check_violation then
  return false;
end
$$;

select is_empty(
  'select old, new, legal from moves where pg_temp.can_move(old, new) <> legal', 'a status moves as the drawing says');

insert into device_commands (command_id, device_id, command_type)
values ('a0000000-0000-4000-8000-0000000000d1', 'a0000000-0000-4000-8000-000000000031', 'reboot');
update device_commands set lease_worker = 'w', lease_until = now() + interval '30 s', due_at = now() + interval '30 s', attempt = 1
where command_id = 'a0000000-0000-4000-8000-0000000000d1';
update device_commands set status = 'sent' where command_id = 'a0000000-0000-4000-8000-0000000000d1';
select results_eq(
  $$select due_at, lease_worker, lease_until, attempt from device_commands where command_id = 'a0000000-0000-4000-8000-0000000000d1'$$,
  $$values (null::timestamptz, null::text, null::timestamptz, 1::bigint)$$, 'what was sent is neither due nor leased');
update device_commands set status = 'pending' where command_id = 'a0000000-0000-4000-8000-0000000000d1';
select results_eq(
  $$select due_at from device_commands where command_id = 'a0000000-0000-4000-8000-0000000000d1'$$,
  $$values (now())$$, 'what is to be delivered again is due now');

insert into device_commands (device_id, command_type, idempotency_key)
values ('a0000000-0000-4000-8000-000000000031', 'reboot', 'once');
select throws_ok(
  $$insert into device_commands (device_id, command_type, idempotency_key)
    values ('a0000000-0000-4000-8000-000000000031', 'reboot', 'once')$$, '23505', null, 'an idempotency_key is used once');
select ok(
  (select bool_and(issue_number is not null) from device_commands), 'every command has its place in the order of issue');
select lives_ok($$delete from device_commands$$, 'a back end may clear the queue');
select is(current_user::text, 'service_role', 'all of this as service_role');

select finish();
rollback;
