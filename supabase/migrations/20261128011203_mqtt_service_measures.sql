-- What a worker measures: how long commands waited for an answer, and how many commands wait now.

-- Applies an answer to its command, or to none. The device's row is locked. As in …_acknowledgements.sql, and also says
-- how long ago the command was sent.
create or replace function mqtt_private.fn_acknowledge_command(
  p_ack jsonb, p_device public.devices, p_command public.device_commands, p_max_retries int, p_delay interval)
returns jsonb
language plpgsql volatile set search_path = public, extensions as $$
declare
  v_command public.device_commands := p_command;
  v_message constant text := left(nullif(trim(p_ack ->> 'message'), ''), 1000);
  v_result text := case
    when p_device.device_id is null then 'unknown_device'
    when p_command.command_id is null then 'unknown_command'
    when p_command.device_id <> p_device.device_id then 'wrong_device' end;
begin
  if v_result is null then
    -- A cancel or a settle may be under way: decide on what the row says once it is ours.
    select * into v_command from public.device_commands where command_id = p_command.command_id for update;
    v_result := coalesce(
      mqtt_private.fn_effect_of_acknowledgement(p_ack ->> 'outcome', v_command.status, v_command.attempt), 'ignored');
  end if;

  if v_result in ('acknowledged', 'failed', 'rejected') then
    update public.device_commands
    set status = v_result, response = p_ack -> 'response', lease_worker = null, lease_until = null,
        delivered_at = coalesce(delivered_at, now()),
        acknowledged_at = case v_result when 'acknowledged' then now() else acknowledged_at end,
        retry_count = retry_count + case v_result when 'failed' then 1 else 0 end,
        last_error = case v_result
          when 'failed' then 'the device reports failure' || coalesce(': ' || v_message, '')
          when 'rejected' then 'the device refuses' || coalesce(': ' || v_message, '') end,
        due_at = case when v_result = 'failed' and retry_count + 1 < p_max_retries then now() + p_delay end
    where command_id = v_command.command_id
    returning * into v_command;
  end if;

  if v_result in ('unknown_device', 'wrong_device') then
    v_command := null; -- the answer tells nothing about another device's command
  end if;
  return jsonb_build_object(
    'ref', p_ack ->> 'ref', 'result', v_result, 'command_id', v_command.command_id,
    'command_type', v_command.command_type, 'device_id', p_device.device_id, 'device_code', p_device.device_code,
    'status', v_command.status, 'retry_count', v_command.retry_count,
    'seconds_since_sent', greatest(extract(epoch from now() - v_command.delivered_at), 0));
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_acknowledge_command', 'service_role');

-- How many commands wait, by what they wait for, each counted up to p_most; and for how long the oldest that is due has
-- been so. Reads the indexes of what waits, so finished commands cost nothing.
--   due        to be sent now, by any worker
--   scheduled  to be sent later
--   leased     in the hands of a worker
--   retry      failed, to be tried again
--   sent       the device has not answered yet
-- Returns {due, scheduled, leased, retry, sent, oldest_due_seconds}; oldest_due_seconds is 0 where nothing is due.
create or replace function public.fn_measure_queue(p_most int default 100000) returns jsonb
language sql stable security invoker set search_path = public, extensions
set enable_seqscan = off set jit = off as $$
  select jsonb_build_object(
    'due', count(*) filter (where state = 'due'), 'scheduled', count(*) filter (where state = 'scheduled'),
    'leased', count(*) filter (where state = 'leased'), 'retry', count(*) filter (where state = 'retry'),
    'sent', (select count(*) from (
      select from public.device_commands where in_queue and status = 'sent' limit p_most) answers),
    'oldest_due_seconds', coalesce(greatest(extract(epoch from clock_timestamp() - min(due_at)), 0), 0))
  from (
    select due_at, case
      when lease_until > clock_timestamp() then 'leased'
      when due_at > clock_timestamp() then case when status = 'failed' then 'retry' else 'scheduled' end
      else 'due' end as state
    from public.device_commands where due_at is not null order by due_at limit p_most) waiting
$$;
call mqtt_private.grant_execute('public.fn_measure_queue(int)', 'service_role');
