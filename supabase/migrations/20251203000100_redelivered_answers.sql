-- A broker that got no acknowledgement for a message delivers it again, to the next process that takes the session. The
-- process before it may have recorded the answer and died a moment later. Within a minute the same words are known for
-- one answer; later, or once the device was sent another command, they would count for that one.
--
-- So an answer carries its delivery: the session, the packet id under which the broker delivers the message (the same
-- each time), and a digest of its bytes. One that the broker marks as delivered again, and whose delivery was recorded
-- within the last hour, is that answer. The worker leaves the delivery out where a broker may use a packet id again at
-- once. Which command is meant, and how an answer is used once, stands in the migration of the acknowledgements.

alter table mqtt_private.command_answers add column if not exists delivery text;
create index if not exists command_answers_delivery_idx
  on mqtt_private.command_answers (delivery, answered_at) where delivery is not null;

-- The record of the same delivery; no row: it was not recorded.
create or replace function mqtt_private.fn_find_redelivered_acknowledgement(p_ack jsonb) returns mqtt_private.command_answers
language sql volatile set search_path = ''
as $$
  select *
  from mqtt_private.command_answers
  where delivery = p_ack ->> 'delivery' and p_ack -> 'redelivered' = 'true'::jsonb
    and answered_at > clock_timestamp() - interval '1 hour'
  order by answered_at desc limit 1
$$;

-- One answer, used once. Its device's row is locked, so two workers take turns here.
create or replace function mqtt_private.fn_acknowledge_once(
  p_ack jsonb, p_worker text, p_max_retries int, p_delay interval) returns jsonb
language plpgsql volatile set search_path = ''
as $$
declare
  v_result jsonb;
  v_same mqtt_private.command_answers;
  v_command public.device_commands;
  v_ref constant text := p_ack ->> 'ref';
  v_device_id constant uuid := mqtt_private.fn_find_device(p_ack ->> 'topic_id');
  v_digest constant text := case
    when p_ack ->> 'command_id' is null and p_worker is not null
      and (p_ack -> 'shared') is distinct from 'true'::jsonb -- one worker alone hears what is shared
    then md5(mqtt_private.fn_device_key(p_ack ->> 'topic_id') || (p_ack -> 'response')::text) end;
begin
  select result into v_result from mqtt_private.command_answers where ref = v_ref;
  if found then
    return v_result;
  end if;
  v_same := mqtt_private.fn_find_redelivered_acknowledgement(p_ack);
  if v_same.ref is null and v_digest is not null then
    v_command := mqtt_private.fn_find_acknowledged_command(p_ack, v_device_id);
    v_same := mqtt_private.fn_find_duplicate_acknowledgement(p_worker, v_device_id, v_digest, case
      when v_command.command_id is null then '-infinity'
      else coalesce(v_command.delivered_at, clock_timestamp()) end);
  end if;
  if v_same.ref is not null then
    v_result := v_same.result || jsonb_build_object('ref', v_ref, 'result', 'duplicate');
  else
    v_result := mqtt_private.fn_acknowledge_command(p_ack, p_max_retries, p_delay);
  end if;
  if v_ref is not null then
    insert into mqtt_private.command_answers (ref, worker, device_id, digest, answered_at, result, repeats, delivery)
    values (v_ref, coalesce(p_worker, ''), v_device_id, v_digest, clock_timestamp(), v_result,
      coalesce(v_same.repeats, v_same.ref), p_ack ->> 'delivery')
    on conflict (ref) do nothing;
  end if;
  return v_result;
end
$$;

revoke all on function mqtt_private.fn_find_redelivered_acknowledgement(jsonb) from public, anon, authenticated;
grant execute on function mqtt_private.fn_find_redelivered_acknowledgement(jsonb) to service_role;
revoke all on function mqtt_private.fn_acknowledge_once(jsonb, text, int, interval) from public, anon, authenticated;
grant execute on function mqtt_private.fn_acknowledge_once(jsonb, text, int, interval) to service_role;
