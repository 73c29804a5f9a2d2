-- A device's day, replayed; and how the fleet's commands do, in numbers.

-- Timeline -----------------------------------------------------------------------------------------------------
-- Each part of it is read by an index on the device and, but for a command's columns from before changes were written,
-- on the time: one device and a span cost what they hold.

-- A change of a command in words. Null-safe: p_detail may be null.
create or replace function mqtt_private.fn_describe_change(
  p_type text, p_from text, p_to text, p_by text, p_who text, p_detail jsonb) returns text
language sql immutable parallel safe set search_path = '' as $$
  select concat_ws(' ', coalesce(p_type, 'a command that is gone'), case
    when p_detail ? 'given_back' then 'given back by ' || p_who
    when p_detail ? 'taken_over_from' then format('taken over by %s from %s', p_who, p_detail ->> 'taken_over_from')
    when p_detail ? 'done_after_cancel_at' then 'done all the same after it was cancelled'
    when p_detail ? 'verified_at' then 'verified: the device woke with the new version'
    when p_detail ? 'redelivery' then 'to be sent again, since the device woke'
    when p_to = 'sent' then 'sent' || coalesce(' by ' || p_who, '')
      || case when p_detail ? 'no_listener' then '; nobody was listening' else '' end
    when p_to = 'pending' then 'tried again' || case p_by when 'worker' then ' by ' || p_who when 'user' then ' by a person' else '' end
    when p_to = 'cancelled' then 'cancelled' || case p_by when 'user' then ' by a person' when 'service' then ' by ' || p_who else '' end
    else p_to || coalesce(': ' || (p_detail ->> 'error'), '') end)
$$;
call mqtt_private.grant_execute('mqtt_private.fn_describe_change', 'authenticated', 'service_role');

-- Readings in words, from a row as JSON: a view that names the columns would keep the project from changing their types.
create or replace function mqtt_private.fn_describe_reading(p_row jsonb) returns text
language sql immutable parallel safe set search_path = '' as $$
  select coalesce(nullif(concat_ws(', ', p_row ->> 'temperature' || ' °C', p_row ->> 'humidity' || ' %RH',
    p_row ->> 'pressure' || ' hPa', p_row ->> 'gas_resistance' || ' kΩ', p_row ->> 'battery_voltage' || ' V',
    p_row ->> 'wifi_rssi' || ' dBm'), ''), 'no readings')
$$;
call mqtt_private.grant_execute('mqtt_private.fn_describe_reading', 'authenticated', 'service_role');

call mqtt_private.create_view('device_timeline',
  'What happened to a device: its commands with each change, wakes, pictures, readings and events, mappings among them. Filter by device_id and happened_at, order by happened_at.', $$
  select device_id, issued_at as happened_at, 'command' as kind, command_type::text || ' issued' as what,
    command_payload as details, command_id as about
  from public.device_commands
  union all
  select h.device_id, h.at, 'command',
    mqtt_private.fn_describe_change(c.command_type::text, h.from_status, h.to_status, h.changed_by, h.who, h.detail),
    coalesce(h.detail, '{}') || jsonb_build_object('from', h.from_status, 'to', h.to_status, 'by', h.changed_by,
      'who', h.who), h.command_id
  from public.device_command_changes h left join public.device_commands c on c.command_id = h.command_id
  union all
  -- from before changes were written
  select device_id, delivered_at, 'command', command_type::text || ' sent', null, command_id
  from public.device_commands
  where in_queue and delivered_at is not null and delivered_at < (select mqtt_private.fn_changes_since())
  union all
  select device_id, acknowledged_at, 'command', command_type::text || ' acknowledged', to_jsonb(response), command_id
  from public.device_commands
  where acknowledged_at is not null and acknowledged_at < (select mqtt_private.fn_changes_since())
  union all
  select device_id, updated_at, 'command', command_type::text || ' ' || status::text,
    jsonb_build_object('error', last_error, 'retries', retry_count), command_id
  from public.device_commands
  where status in ('failed', 'rejected', 'expired', 'cancelled') and updated_at < (select mqtt_private.fn_changes_since())
  union all
  select device_id, created_at, 'event', event_type::text || coalesce(': ' || nullif(description::text, ''), ''),
    to_jsonb(event_data), null
  from public.device_history
  union all
  select device_id, updated_at, 'picture',
    image_name::text || ' ' || status::text || coalesce(': ' || case when status = 'failed' then last_error::text end, ''),
    jsonb_build_object('error', last_error, 'bytes', image_size, 'captured_at', captured_at), image_id
  from public.device_images where status in ('complete', 'failed')
  union all
  select w.device_id, w.at, 'wake', case when w.hello then 'said HELLO' else 'woke with a picture' end
    || case when w.pending_count > 0 then ', pictures to send: ' || w.pending_count else '' end,
    jsonb_build_object('worker', w.worker, 'pictures', w.pending_count), null
  from public.device_wakes w
  union all
  select t.device_id, t.captured_at, 'reading', mqtt_private.fn_describe_reading(to_jsonb(t)),
    jsonb_strip_nulls(to_jsonb(t)) - array['device_id', 'captured_at', 'created_at', 'site_id', 'program_id',
      'company_id', 'metadata'], null
  from public.device_telemetry t
$$);

-- Numbers ------------------------------------------------------------------------------------------------------

-- The last 30 days, device by device over device_commands_device_id_idx: older commands are not read. A row for each value
-- of a dimension: device, type, site, firmware (that the device has now), or day (UTC, of issue). Ask for one dimension at
-- a time: the others are not worked out then. A firmware command has succeeded when its device woke with the version.
do $numbers$
declare
  v_succeeded constant text := case when exists (
      select from pg_catalog.pg_attribute
      where attrelid = 'public.device_commands'::regclass and attname = 'release_id' and not attisdropped)
    then $$(x.status = 'acknowledged' and (x.release_id is null or x.verified_at is not null))$$
    else $$(x.status = 'acknowledged')$$ end;
  v_part constant text := $$
    select %1$L::text as dimension, %2$s as value, %3$s as name, d.company_id,
      count(*) as commands,
      count(*) filter (where c.succeeded) as succeeded,
      count(*) filter (where c.status = 'failed' and c.due_at is null) as failed,
      count(*) filter (where c.status = 'rejected') as rejected,
      count(*) filter (where c.status = 'expired') as expired,
      count(*) filter (where c.status = 'cancelled') as cancelled,
      count(*) filter (where c.succeeded)::double precision / nullif(count(*) filter (where c.succeeded
        or c.status in ('rejected', 'expired') or c.status = 'failed' and c.due_at is null), 0) as success_rate,
      percentile_cont(0.5) within group (order by c.seconds_to_answer) as median_seconds_to_answer,
      percentile_cont(0.95) within group (order by c.seconds_to_answer) as p95_seconds_to_answer
    from public.devices d %6$s cross join lateral (
      select x.command_type, x.status, x.due_at, x.issued_at, %4$s as succeeded,
        case when x.acknowledged_at is not null and x.delivered_at is not null
          then greatest(extract(epoch from x.acknowledged_at - x.delivered_at), 0)::double precision end
          as seconds_to_answer
      from public.device_commands x
      where x.device_id = d.device_id and x.issued_at > now() - interval '30 days' and x.in_queue
      offset 0) c
    group by %5$s$$;
begin
  call mqtt_private.create_view('device_command_numbers',
    'Success, failures and response time of the last 30 days by device, type, site, firmware or day: filter by dimension.',
    concat_ws(' union all ',
      format(v_part, 'device', 'd.device_id::text', 'coalesce(d.device_code, d.device_name, d.device_mac)::text',
        v_succeeded, 'd.device_id, d.device_code, d.device_name, d.device_mac, d.company_id', ''),
      format(v_part, 'type', 'c.command_type::text', 'c.command_type::text', v_succeeded, 'c.command_type, d.company_id', ''),
      format(v_part, 'site', 'd.site_id::text', 's.name::text', v_succeeded, 'd.site_id, s.name, d.company_id',
        'left join public.sites s on s.site_id = d.site_id'),
      format(v_part, 'firmware', 'd.firmware_version::text', 'd.firmware_version::text', v_succeeded,
        'd.firmware_version, d.company_id', ''),
      format(v_part, 'day', $$(c.issued_at at time zone 'UTC')::date::text$$, $$(c.issued_at at time zone 'UTC')::date::text$$,
        v_succeeded, $$(c.issued_at at time zone 'UTC')::date, d.company_id$$, '')));
end
$numbers$;
