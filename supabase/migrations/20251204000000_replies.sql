-- Replies: what a device was told without a row of device_commands, in answer to its HELLO or about its pictures. A
-- device that answers without a command_id acknowledges them like commands, and every worker hears that, not only the
-- one that spoke. So they are noted here before they are said, and an answer without an id is for what the device was
-- sent last, be it a command or a reply (PROTOCOL.md, "Acknowledgement"). The next migration puts that into use.

create table if not exists mqtt_private.replies (
  reply_id uuid primary key,                  -- the command_id under which it is said
  device_id uuid not null references public.devices (device_id) on delete cascade,
  reply_type text not null,                   -- as a command_type
  said_at timestamptz not null default clock_timestamp()
);
create index if not exists replies_device_idx on mqtt_private.replies (device_id, said_at);
create index if not exists device_commands_delivered_idx
  on public.device_commands (device_id, delivered_at desc) where delivered_at is not null;
alter table mqtt_private.replies enable row level security;
revoke all on table mqtt_private.replies from public, anon, authenticated;
grant select, insert, update, delete on table mqtt_private.replies to service_role;

-- The command that an answer without an id means, of the type that is named, if one is: the one delivered last, also
-- where it is due again or expired meanwhile; once that has had its answer, the one before it that waits for one.
create or replace function mqtt_private.fn_find_command_sent_last(p_device_id uuid, p_type text)
returns public.device_commands
language plpgsql stable set search_path = ''
as $$
declare
  v_last public.device_commands;
  v_command public.device_commands;
begin
  select * into v_last from public.device_commands
  where device_id = p_device_id and delivered_at is not null and (p_type is null or command_type = p_type)
  order by delivered_at desc, priority, issued_at desc, issue_number desc limit 1;
  if v_last.status in ('sent', 'pending', 'expired', 'cancelled') then
    return v_last;
  end if;

  select * into v_command from public.device_commands
  where device_id = p_device_id and delivered_at is not null and status in ('sent', 'pending')
    and (p_type is null or command_type = p_type)
  order by delivered_at desc, priority, issued_at desc, issue_number desc limit 1;
  if found then
    return v_command;
  end if;

  -- Being sent this moment, or given back because the broker's word did not come: the device may have it.
  select * into v_command from public.device_commands
  where device_id = p_device_id and status = 'pending' and due_at is not null and attempt > 0
    and (p_type is null or command_type = p_type)
  order by lease_until desc nulls last, priority, issued_at desc, issue_number desc limit 1;
  if found then
    return v_command;
  end if;
  return case when v_last.status = 'failed' then v_last end;
end
$$;

-- The command an answer means; no row if there is none.
create or replace function mqtt_private.fn_find_acknowledged_command(p_ack jsonb, p_device_id uuid)
returns public.device_commands
language plpgsql stable set search_path = ''
as $$
declare
  v_command public.device_commands;
  v_id constant text := p_ack ->> 'command_id';
begin
  if v_id is null then
    return mqtt_private.fn_find_command_sent_last(p_device_id, p_ack ->> 'command_type');
  end if;
  if v_id ~* '^[0-9a-f]{8}-?([0-9a-f]{4}-?){3}[0-9a-f]{12}$' then
    select * into v_command from public.device_commands where command_id = v_id::uuid;
  end if;
  return v_command;
end
$$;

-- When an answer was heard: received_seconds_ago seconds ago, as its worker says.
create or replace function mqtt_private.fn_heard_at(p_ack jsonb) returns timestamptz
language sql volatile set search_path = ''
as $$
  select clock_timestamp() - make_interval(secs => coalesce((p_ack ->> 'received_seconds_ago')::double precision, 0))
$$;

-- The reply that an answer without an id means: one said after p_command was sent, and not long before it was heard,
-- since a broker keeps a reply for a minute. Where the command is being sent this moment, the device may not have it
-- yet: then a reply of the last seconds goes before it.
create or replace function mqtt_private.fn_find_acknowledged_reply(
  p_ack jsonb, p_device_id uuid, p_command public.device_commands) returns mqtt_private.replies
language sql volatile set search_path = ''
as $$
  select r.*
  from mqtt_private.replies r
  where r.device_id = p_device_id and p_ack ->> 'command_id' is null
    and (p_ack ->> 'command_type' is null or r.reply_type = p_ack ->> 'command_type')
    and r.said_at between mqtt_private.fn_heard_at(p_ack) - interval '90 s' and mqtt_private.fn_heard_at(p_ack)
    and r.said_at > case when (p_command).status = 'pending' then mqtt_private.fn_heard_at(p_ack) - interval '5 s'
      else coalesce((p_command).delivered_at, '-infinity') end
  order by r.said_at desc limit 1
$$;

-- Takes an answer for this reply, which takes no other; the device's row is locked. Returns what
-- fn_acknowledge_command does, with the result `reply`.
create or replace function mqtt_private.fn_acknowledge_reply(p_ack jsonb, p_reply mqtt_private.replies) returns jsonb
language plpgsql volatile set search_path = ''
as $$
begin
  delete from mqtt_private.replies where reply_id = p_reply.reply_id;
  return jsonb_build_object(
    'ref', p_ack ->> 'ref', 'result', 'reply', 'command_id', null, 'command_type', p_reply.reply_type,
    'device_id', p_reply.device_id,
    'device_code', (select device_code from public.devices where device_id = p_reply.device_id),
    'status', null, 'retry_count', null);
end
$$;

-- Notes what devices are about to be told. p_replies: [{reply_id, device_id, reply_type, unsaid?}]; unsaid: it was
-- noted before, and not said, or nobody listened. A device that is gone is passed over. May be sent again: a reply_id
-- is noted once. Returns {noted: n}.
create or replace function public.fn_record_replies(p_worker text, p_replies jsonb) returns jsonb
language plpgsql volatile security invoker set search_path = '' set lock_timeout = '2s'
as $$
declare
  v_noted int;
begin
  perform mqtt_private.fn_require_worker(p_worker);
  insert into mqtt_private.replies (reply_id, device_id, reply_type)
  select r.reply_id, r.device_id, r.reply_type
  from jsonb_to_recordset(p_replies) as r (reply_id uuid, device_id uuid, reply_type text, unsaid boolean)
  where r.unsaid is not true and exists (select from public.devices d where d.device_id = r.device_id)
  order by r.device_id, r.reply_id
  on conflict (reply_id) do nothing;
  get diagnostics v_noted = row_count;
  delete from mqtt_private.replies where reply_id in (
    select r.reply_id from jsonb_to_recordset(p_replies) as r (reply_id uuid, unsaid boolean) where r.unsaid);
  -- What nobody answered: most devices answer with an id, or do not answer replies.
  delete from mqtt_private.replies where reply_id = any (array(
    select reply_id from mqtt_private.replies
    where device_id in (select r.device_id from jsonb_to_recordset(p_replies) as r (device_id uuid))
      and said_at < clock_timestamp() - interval '70 minutes'
    for update skip locked));
  return jsonb_build_object('noted', v_noted);
end
$$;

-- Grants -------------------------------------------------------------------------------------------------------

do $$
declare
  v_function regprocedure;
begin
  foreach v_function in array array[
    'mqtt_private.fn_find_command_sent_last(uuid, text)',
    'mqtt_private.fn_find_acknowledged_command(jsonb, uuid)',
    'mqtt_private.fn_heard_at(jsonb)',
    'mqtt_private.fn_find_acknowledged_reply(jsonb, uuid, public.device_commands)',
    'mqtt_private.fn_acknowledge_reply(jsonb, mqtt_private.replies)',
    'public.fn_record_replies(text, jsonb)'
  ]::regprocedure[] loop
    execute format('revoke all on function %s from public, anon, authenticated', v_function);
    execute format('grant execute on function %s to service_role', v_function);
  end loop;
end
$$;
