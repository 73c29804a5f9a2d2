-- A fleet of company A that only the database knows, with commands of 30 days: see made_up_fleet.py.

insert into sites (site_id, company_id, program_id, name, timezone)
select ('f1ee7000-0000-4000-8000-0000000051' || lpad(n::text, 2, '0'))::uuid, 'a0000000-0000-4000-8000-000000000001',
  'a0000000-0000-4000-8000-000000000011', 'Field ' || n, 'Europe/Berlin'
from generate_series(1, current_setting('fleet.sites')::int) n;

insert into devices (device_id, device_mac, device_code, device_name, company_id, program_id, site_id,
  provisioning_status, is_active, firmware_version, battery_voltage, wifi_rssi, last_wake_at, last_seen_at, next_wake_at)
select ('f1ee7000-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid,
  'F1:EE:00:' || substr(digits, 1, 2) || ':' || substr(digits, 3, 2) || ':' || substr(digits, 5, 2), 'FIELD-' || digits,
  (array['North gate', 'Greenhouse', 'Orchard', 'Barn', 'Pond', 'Silo', 'Lane', 'Meadow'])[1 + n % 8] || ' ' || (1 + n / 8),
  s.company_id, s.program_id, s.site_id, 'active', true, case when n % 4 = 3 then '1.3.2' else '1.4.0' end,
  round((3.38 + 0.8 * random())::numeric, 2), (-50 - 38 * random())::int, heard, heard,
  now() + case when n % 23 = 0 then interval '-3 hours' else random() * interval '7 hours' end
from generate_series(1, current_setting('fleet.devices')::int) n
cross join lateral (select lpad(n::text, 6, '0') as digits,
  now() - case when n % 23 = 0 then interval '1 day' else random() * interval '8 hours' end as heard) h
join (select *, row_number() over (order by site_id) - 1 as number, count(*) over () as of_all
  from sites where company_id = 'a0000000-0000-4000-8000-000000000001') s on s.number = n % s.of_all;

insert into device_commands (device_id, command_type, command_payload, status, issued_at, delivered_at, acknowledged_at,
  due_at, scheduled_for, last_error, in_queue)
select ('f1ee7000-0000-4000-8000-' || lpad((1 + n % current_setting('fleet.devices')::int)::text, 12, '0'))::uuid, kind,
  case kind when 'update_config' then '{"brightness": 3}' else '{}' end::jsonb, status, at,
  case when status in ('acknowledged', 'sent', 'expired') then at + interval '2 s' end,
  case status when 'acknowledged' then at + interval '2 s' + (0.3 + 9 * random() ^ 4) * interval '1 s' end,
  case status when 'pending' then now() + interval '6 hours' end, case status when 'pending' then now() + interval '6 hours' end,
  case status when 'failed' then 'the device said: the camera is covered' end, true
from generate_series(1, current_setting('fleet.commands')::int) n
cross join lateral (select
  (array['capture_image', 'capture_image', 'capture_image', 'ping', 'ping', 'update_config', 'reboot'])[1 + n % 7] as kind,
  case when n % 97 = 0 then 'failed' when n % 61 = 0 then 'expired' when n % 211 = 0 then 'rejected' when n % 307 = 0 then 'cancelled'
    when n % 401 = 0 then 'pending' when n % 503 = 0 then 'sent' else 'acknowledged' end as status) k
cross join lateral (select now() - case when status in ('pending', 'sent') then random() * interval '4 hours'
  else random() ^ 1.2 * interval '30 days' end as at) t;
