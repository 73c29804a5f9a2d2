-- Views for people who watch: commands with how long each took, a device's timeline, statistics by type, site and day,
-- devices that are overdue for their wake, commands that failed for good.
--
-- Each runs with the rights of whoever reads it (security_invoker), so row-level security decides: a member of a company
-- sees the company's rows. A relation of the same name that was there before stays, and a warning says so.

-- Creates or replaces one of these views. p_query: its select; p_about: what it shows.
create or replace procedure mqtt_private.create_view(p_name text, p_about text, p_query text)
language plpgsql set search_path = '' as $$
begin
  if to_regclass(format('public.%I', p_name)) is not null and coalesce(
    pg_catalog.obj_description(to_regclass(format('public.%I', p_name)), 'pg_class'), '') not like '%(mqtt_service)'
  then
    raise warning 'public.% was there before and stays: the view of that name is missing', p_name
      using hint = format('Rename yours, then apply …_mqtt_service_views.sql again: alter … %I rename to …;', p_name);
    return;
  end if;
  execute format('create or replace view public.%I with (security_invoker = true) as %s', p_name, p_query);
  execute format('comment on view public.%I is %L', p_name, p_about || ' (mqtt_service)');
  execute format('revoke all on table public.%I from public, anon, authenticated, service_role', p_name);
  execute format('grant select on table public.%I to authenticated, service_role', p_name);
end
$$;
call mqtt_private.grant_execute('mqtt_private.create_view');

-- When a schedule says to wake next after a time; null where the schedule or the zone cannot be read.
create or replace function mqtt_private.fn_wake_after(p_cron text, p_after timestamptz, p_timezone text)
returns timestamptz
language plpgsql stable set search_path = '' as $$
begin
  return public.fn_calculate_next_wake(p_cron, p_after, p_timezone);
exception when data_exception or integrity_constraint_violation or invalid_parameter_value then
  return null;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_wake_after', 'authenticated', 'service_role');

call mqtt_private.create_view('device_command_history',
  'Commands with their device, whether each is done, and how long it took; seconds are null where it did not happen.', $$
  select c.command_id, c.device_id, d.device_code, d.device_name, d.company_id, d.site_id, c.command_type::text,
    c.command_payload, c.status::text,
    -- nothing more happens to it
    coalesce(c.due_at is null and c.status::text not in ('pending', 'sent'), false) as final,
    c.issued_at, c.scheduled_for, c.delivered_at, c.acknowledged_at,
    extract(epoch from c.delivered_at - greatest(c.issued_at, c.scheduled_for))::double precision as seconds_to_send,
    extract(epoch from c.acknowledged_at - c.delivered_at)::double precision as seconds_to_answer,
    c.retry_count, c.redelivery_count, c.last_error, c.response, c.in_queue
  from public.device_commands c join public.devices d on d.device_id = c.device_id
$$);

call mqtt_private.create_view('device_command_success',
  'Each device''s commands, and which share of those that ended succeeded; cancelled ones do not count.', $$
  select d.device_id, d.device_code, d.device_name, d.company_id, d.site_id,
    count(c.command_id) as commands,
    count(*) filter (where c.status = 'acknowledged') as acknowledged,
    count(*) filter (where c.final and c.status in ('failed', 'rejected')) as failed,
    count(*) filter (where c.status = 'expired') as expired,
    count(*) filter (where not c.final) as open,
    count(*) filter (where c.status = 'acknowledged')::double precision
      / nullif(count(*) filter (where c.final and c.status <> 'cancelled'), 0) as success_rate,
    percentile_cont(0.5) within group (order by c.seconds_to_answer) as median_seconds_to_answer,
    max(c.acknowledged_at) as last_acknowledged_at
  from public.devices d
  left join public.device_command_history c on c.device_id = d.device_id and c.in_queue
  group by d.device_id, d.device_code, d.device_name, d.company_id, d.site_id
$$);

call mqtt_private.create_view('device_command_statistics',
  'Success, failure and response time by type, site and day (UTC) of issue.', $$
  select (c.issued_at at time zone 'UTC')::date as day, c.command_type, c.company_id, c.site_id,
    count(*) as commands,
    count(*) filter (where c.status = 'acknowledged') as acknowledged,
    count(*) filter (where c.final and c.status = 'failed') as failed,
    count(*) filter (where c.status = 'rejected') as rejected,
    count(*) filter (where c.status = 'expired') as expired,
    count(*) filter (where c.status = 'cancelled') as cancelled,
    count(*) filter (where not c.final) as open,
    sum(c.retry_count) as retries,
    count(*) filter (where c.status = 'acknowledged')::double precision
      / nullif(count(*) filter (where c.final and c.status <> 'cancelled'), 0) as success_rate,
    percentile_cont(0.5) within group (order by c.seconds_to_send) as median_seconds_to_send,
    percentile_cont(0.5) within group (order by c.seconds_to_answer) as median_seconds_to_answer,
    percentile_cont(0.95) within group (order by c.seconds_to_answer) as p95_seconds_to_answer
  from public.device_command_history c where c.in_queue
  group by 1, 2, 3, 4
$$);

call mqtt_private.create_view('device_commands_failed',
  'Commands that failed for good, were refused by their device, or expired: nothing more happens to them.', $$
  select command_id, device_id, device_code, device_name, company_id, site_id, command_type, command_payload, status,
    last_error, retry_count, redelivery_count, issued_at, delivered_at
  from public.device_command_history
  where in_queue and final and status in ('failed', 'rejected', 'expired')
$$);

call mqtt_private.create_view('device_timeline',
  'What happened to a device: its commands, events and pictures. Filter by device_id, order by happened_at.', $$
  select device_id, issued_at as happened_at, 'command' as kind, command_type::text || ' issued' as what,
    command_payload as details, command_id as about
  from public.device_commands
  union all
  select device_id, delivered_at, 'command', command_type::text || ' sent', null, command_id
  from public.device_commands where delivered_at is not null
  union all
  select device_id, acknowledged_at, 'command', command_type::text || ' acknowledged', to_jsonb(response), command_id
  from public.device_commands where acknowledged_at is not null
  union all
  select device_id, updated_at, 'command', command_type::text || ' ' || status::text,
    jsonb_build_object('error', last_error, 'retries', retry_count), command_id
  from public.device_commands where status in ('failed', 'rejected', 'expired', 'cancelled')
  union all
  select device_id, created_at, 'event', event_type::text, to_jsonb(event_data), null from public.device_history
  union all
  select device_id, coalesce(completed_at, updated_at), 'picture', image_name || ' ' || status::text,
    jsonb_build_object('error', last_error, 'bytes', image_size), image_id
  from public.device_images where status in ('complete', 'failed')
$$);

call mqtt_private.create_view('devices_overdue',
  'Active devices that did not wake when they should have, ten minutes ago or earlier; by two wakes, where the second is past too.', $$
  select d.device_id, d.device_code, d.device_name, d.company_id, d.site_id, d.last_seen_at, d.next_wake_at,
    extract(epoch from now() - d.next_wake_at)::double precision as overdue_seconds,
    coalesce(mqtt_private.fn_wake_after(
      coalesce(nullif(trim(d.wake_schedule_cron), ''), nullif(trim(s.wake_schedule_cron), ''), '0 8,16 * * *'),
      d.next_wake_at, coalesce(nullif(trim(s.timezone), ''), 'UTC')) < now() - interval '10 minutes', false)
      as by_two_wakes
  from public.devices d left join public.sites s on s.site_id = d.site_id
  where d.is_active and d.next_wake_at < now() - interval '10 minutes'
    and (d.last_seen_at is null or d.last_seen_at < d.next_wake_at - interval '10 minutes')
$$);
-- the devices whose wake is past
create index if not exists devices_next_wake_at_idx on public.devices (next_wake_at) where is_active;
