-- What no worker can take out of the claim's answer must not get into it: one such row would keep every other from
-- being sent. Payloads that are too large, nested too deep, or hold a number that is no double are refused when they are
-- inserted; those that were there before, or came past the guards, fail when they are claimed. So does what expired
-- while more waited to expire than one claim looks at.

-- Why a payload cannot be sent; null: it can.
create or replace function mqtt_private.fn_problem_of_payload(p_payload jsonb) returns text
language plpgsql stable set search_path = ''
as $$
declare
  v_bytes constant int := octet_length(p_payload::text);
begin
  if v_bytes > 131072 then
    return format('command_payload has %s bytes, more than 131072', v_bytes);
  elsif jsonb_path_exists(p_payload, 'strict $.**{33}') then
    return 'command_payload is nested deeper than 32';
  elsif jsonb_path_exists(
    p_payload, 'strict $.** ? (@.type() == "number" && (@ > 1e308 || @ < -1e308))', silent => true)
  then
    return 'command_payload holds a number beyond 1e308';
  end if;
  return null;
end
$$;

-- Raises 23514 where a command of this type and payload can never work.
create or replace function mqtt_private.fn_check_command(p_type text, p_payload jsonb) returns void
language plpgsql stable set search_path = ''
as $$
declare
  v_problem text;
begin
  if p_payload is null or jsonb_typeof(p_payload) <> 'object' then
    perform mqtt_private.fn_refuse(
      'command_payload is not an object', 'Write {} where a command has no parameters.');
  end if;
  v_problem := mqtt_private.fn_problem_of_payload(p_payload);
  if v_problem is not null then
    perform mqtt_private.fn_refuse(v_problem, 'Put large content behind a URL and send the URL.');
  end if;
  case p_type
    when 'capture_image', 'reboot', 'update_config' then null;
    when 'send_image' then perform mqtt_private.fn_check_send_image(p_payload);
    when 'set_wake_schedule' then perform mqtt_private.fn_check_wake_schedule(p_payload);
    when 'update_firmware' then perform mqtt_private.fn_check_firmware(p_payload);
    else perform mqtt_private.fn_refuse(
      format('command_type %s is not known', coalesce(quote_literal(p_type), 'null')),
      'Use capture_image, send_image, set_wake_schedule, update_config, reboot or update_firmware.');
  end case;
end
$$;

-- The leased rows as the worker publishes them, in that order. A row that cannot be sent fails for good with the
-- reason, one whose time is over expires, and neither keeps anybody else.
create or replace function mqtt_private.fn_hand_out_commands(
  p_ids uuid[], p_now timestamptz, p_ttl interval, out commands jsonb, out broken jsonb)
language plpgsql volatile set search_path = ''
as $$
begin
  with rows as materialized (
    select c.command_id, c.device_id, c.command_type, c.command_payload, c.attempt, c.retry_count, c.priority,
      c.issued_at, c.issue_number, d.device_code, d.device_name, d.device_mac,
      coalesce(d.mqtt_root, 'device') as topic_root, coalesce(d.mqtt_id, d.device_mac) as topic_id,
      wake.next_wake_at, time.is_over,
      case when time.is_over then 'expired: it could not be delivered in time'
        else coalesce(mqtt_private.fn_problem_of_payload(c.command_payload), wake.fault) end as fault,
      extract(epoch from case when not time.is_over then time.deadline - p_now end) as seconds_to_expiry
    from public.device_commands c
    join public.devices d on d.device_id = c.device_id
    left join public.sites s on s.site_id = d.site_id
    left join lateral mqtt_private.fn_next_wake_of_command(c.command_payload, p_now, s.timezone) wake
      on c.command_type = 'set_wake_schedule'
    cross join lateral (
      select least(coalesce(c.expires_at, greatest(c.issued_at, c.scheduled_for) + p_ttl), p_now + interval '100 years')
        as deadline) lives
    cross join lateral (select lives.deadline, lives.deadline <= p_now as is_over) time
    where c.command_id = any (p_ids)
  ), refused as (
    update public.device_commands c
    set status = case when r.is_over then 'expired' else 'failed' end,
        retry_count = c.retry_count + case when r.is_over then 0 else 1 end,
        last_error = r.fault, due_at = null, lease_worker = null, lease_until = null
    from rows r where r.fault is not null and c.command_id = r.command_id
    returning c.command_id, c.device_id, r.device_code, c.command_type, c.retry_count, c.last_error
  )
  select
    (select coalesce(jsonb_agg(jsonb_build_object(
       'command_id', command_id, 'device_id', device_id, 'device_code', device_code, 'device_name', device_name,
       'device_mac', device_mac, 'topic_root', topic_root, 'topic_id', topic_id,
       'command_type', command_type, 'command_payload', command_payload, 'attempt', attempt,
       'retry_count', retry_count, 'issued_at', issued_at, 'next_wake_at', next_wake_at,
       'seconds_to_expiry', seconds_to_expiry
       ) order by priority desc, issued_at, issue_number), '[]')
     from rows where fault is null),
    (select coalesce(jsonb_agg(jsonb_build_object(
       'command_id', command_id, 'device_id', device_id, 'device_code', device_code, 'command_type', command_type,
       'retry_count', retry_count, 'final', true, 'error', last_error)), '[]')
     from refused)
  into commands, broken;
end
$$;

do $$
declare
  v_function text;
begin
  foreach v_function in array array['fn_problem_of_payload(jsonb)', 'fn_check_command(text, jsonb)'] loop
    execute format('revoke all on function mqtt_private.%s from public, anon, authenticated', v_function);
    execute format('grant execute on function mqtt_private.%s to authenticated, service_role', v_function);
  end loop;
end
$$;
revoke all on function mqtt_private.fn_hand_out_commands(uuid[], timestamptz, interval)
  from public, anon, authenticated;
grant execute on function mqtt_private.fn_hand_out_commands(uuid[], timestamptz, interval) to service_role;
