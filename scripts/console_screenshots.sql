-- What the pictures of the console show beside the made-up fleet: the day of one device, schedules, releases, rollouts.
-- Within a transaction without triggers, so that no worker acts on it.

update devices set last_wake_at = now() - interval '12 minutes', last_seen_at = now() - interval '12 minutes',
  next_wake_at = now() + interval '3 hours', battery_voltage = 3.91, wifi_rssi = -61
where device_id = 'f1ee7000-0000-4000-8000-000000000007';

insert into device_telemetry (device_id, captured_at, temperature, humidity, battery_voltage)
select 'f1ee7000-0000-4000-8000-000000000007', now() - n * interval '1 hour' - interval '12 minutes',
  17 + 6 * sin(n / 4.0), 62 - 14 * sin(n / 4.0), 3.91 + n * 0.002
from generate_series(0, 23) n;

insert into device_wakes (device_id, at, hello, worker, pending_count)
select 'f1ee7000-0000-4000-8000-000000000007', now() - n * interval '1 hour' - interval '12 minutes', true, 'web-1', n % 2
from generate_series(0, 23) n;

insert into device_images
  (device_id, image_name, status, storage_path, image_size, captured_at, created_at, updated_at, completed_at)
select 'f1ee7000-0000-4000-8000-000000000007', format('image_%s.jpg', 19 - n), 'complete', format('a0000000-0000-4000-8000-000000000001/%s.jpg', n),
  30000, at, at, at, at
from generate_series(0, 5) n cross join lateral (select now() - n * interval '4 hours' - interval '12 minutes' as at) t;

insert into device_tags (device_id, tag)
select device_id, 'greenhouse' from devices where device_name like 'Greenhouse%';

insert into command_schedules
  (company_id, name, target, command_type, cron, timezone, enabled, next_run_at, last_run_at, last_result)
select 'a0000000-0000-4000-8000-000000000001', name, target::jsonb, kind, cron, 'Europe/Berlin', enabled,
  case when enabled then date_trunc('hour', now()) + ahead * interval '1 hour' end,
  case when said is not null then date_trunc('hour', now()) - (24 - ahead) * interval '1 hour' end, said
from (values
  ('a picture at noon', '{"tags": ["greenhouse"]}', 'capture_image', '0 12 * * *', true, 5, 'queued for 5 devices'),
  ('a ping each morning', '{"site": "a0000000-0000-4000-8000-000000000021"}', 'ping', '0 6 * * *', true, 11,
   'queued for 20 devices'),
  ('restart on Sundays', '{"firmware": {"<": "1.4.0"}}', 'reboot', '0 3 * * SUN', true, 20, null),
  ('brightness for the winter', '{"tags": ["greenhouse"]}', 'update_config', '0 6 1 12 *', false, 1, null)
) s (name, target, kind, cron, enabled, ahead, said);

insert into firmware_releases (release_id, company_id, version, sha256, size_bytes, path, notes, created_at)
select ('f1ee7000-0000-4000-8000-00000000f10' || n)::uuid, 'a0000000-0000-4000-8000-000000000001', version,
  repeat(n::text, 64), 1220000 + n * 4096, 'a0000000-0000-4000-8000-000000000001/' || n || '.bin', notes,
  now() - ago * interval '1 day'
from (values (1, '1.3.2', 'Answers ping', 61), (2, '1.4.0', 'Sleeps deeper', 23), (3, '1.4.1', 'Keeps pictures longer', 1)
) r (n, version, notes, ago);

insert into command_rollouts (rollout_id, company_id, name, target, command_type, command_payload, release_id,
  rate_per_minute, current_rate, growth_factor, status, started_at, finished_at, created_at, last_result, next_release_at)
select ('f1ee7000-0000-4000-8000-00000000a10' || n)::uuid, 'a0000000-0000-4000-8000-000000000001', name, target::jsonb, kind,
  payload::jsonb, release_id::uuid, 5, rate, 2, status, now() - ago * interval '1 hour',
  case status when 'finished' then now() - (ago - 1) * interval '1 hour' end, now() - ago * interval '1 hour', said,
  case status when 'running' then now() + interval '1 day' end
from (values
  (1, 'firmware 1.4.1', '{"company": "a0000000-0000-4000-8000-000000000001"}', 'update_firmware', '{}',
   'f1ee7000-0000-4000-8000-00000000f103', 20, 'running', 1, null),
  (2, 'night pictures', '{"tags": ["greenhouse"]}', 'update_config', '{"brightness": 2}', null, 5, 'stopped', 26,
   'stopped: 2 of 5 that ended have failed'),
  (3, 'restart the south', '{"site": "a0000000-0000-4000-8000-000000000022"}', 'reboot', '{}', null, 5,
   'awaiting_approval', 2, null),
  (4, 'firmware 1.4.0', '{"company": "a0000000-0000-4000-8000-000000000001"}', 'update_firmware', '{}',
   'f1ee7000-0000-4000-8000-00000000f102', 80, 'finished', 550, 'finished: 40 devices, 1 of them failed')
) r (n, name, target, kind, payload, release_id, rate, status, ago, said);

insert into rollout_devices (rollout_id, device_id, state, reason, updated_at)
select ('f1ee7000-0000-4000-8000-00000000a10' || n)::uuid, ('f1ee7000-0000-4000-8000-' || lpad(d::text, 12, '0'))::uuid,
  state, case state when 'failed' then 'the device said: no space for the firmware' end, now() - d * interval '1 minute'
from generate_series(1, 40) d cross join (values (1), (2), (4)) r (n)
cross join lateral (select case n
    when 4 then case when d = 9 then 'failed' else 'succeeded' end
    when 2 then case when d in (9, 17) then 'failed' else 'succeeded' end
    else case when d = 9 then 'failed' when d <= 21 then 'succeeded' when d <= 24 then 'unverified'
      when d <= 30 then 'sent' when d <= 33 then 'pending' end end as state) s
where state is not null and (n <> 2 or d % 8 = 1);

insert into rollout_counts (rollout_id, total, pending, sent, unverified, succeeded, failed)
select rollout_id, case when max(rollout_id::text) like '%a102' then 5 else 40 end, count(*) filter (where state = 'pending'),
  count(*) filter (where state = 'sent'), count(*) filter (where state = 'unverified'),
  count(*) filter (where state = 'succeeded'), count(*) filter (where state = 'failed')
from rollout_devices group by rollout_id
union all select 'f1ee7000-0000-4000-8000-00000000a103', 21, 0, 0, 0, 0, 0
on conflict (rollout_id) do nothing;
