-- The doorbell: a statement that makes commands due rings the workers once, however many rows it writes.
--
-- It rings by Supabase's Broadcast from Database: realtime.send adds a message to realtime.messages, and Realtime hands
-- it to those who have joined the private topic mqtt-service:commands. The message says nothing but "look now". There
-- is no policy for the topic: service_role passes row-level security, and nobody else may join it, unless a project's
-- own policies on realtime.messages let people into every topic.
--
-- A ring only saves time: the poll finds the same commands. So nothing here fails a statement. Where realtime.send is
-- not there, or Realtime has no partition of realtime.messages for the day, nobody is rung, and workers, which try the
-- bell when they connect, listen to each new row instead (…_storage_and_realtime.sql).

-- Rings; p_event is due, or test for a ring that a worker asks for. Returns whether the message was handed over: false
-- where realtime.send is not there, or not ours to call. What fails inside of realtime.send is a warning.
-- Security definer: whoever queues a command need not be able to write a message, and the owner of the migrations, on
-- Supabase postgres, passes the row-level security of realtime.messages.
create or replace function mqtt_private.fn_ring(p_event text) returns boolean
language plpgsql volatile security definer set search_path = '' as $$
begin
  perform realtime.send('{}'::jsonb, p_event, 'mqtt-service:commands', true);
  return true;
exception when others then
  return false;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_ring', 'service_role');

-- Rings once a transaction: all that it makes due can be seen from the same moment on. The setting ends with the
-- transaction, and a savepoint that is rolled back takes it back together with the message.
-- Security definer, since people who queue commands may not ring without one.
create or replace function mqtt_private.fn_ring_for_statement() returns trigger
language plpgsql volatile security definer set search_path = '' as $$
declare
  v_transaction constant text := pg_current_xact_id()::text;
begin
  if current_setting('mqtt_service.rung_in', true) = v_transaction then
    return null;
  elsif tg_op = 'INSERT' then
    if not exists (
      select from new_rows where in_queue and status::text = 'pending' and due_at <= now() + interval '1 hour')
    then
      return null;
    end if;
  elsif new.status::text is distinct from 'pending' or old.status::text = 'sent' then
    return null;
  end if;
  perform mqtt_private.fn_ring('due');
  perform set_config('mqtt_service.rung_in', v_transaction, true);
  return null;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_ring_for_statement');

-- New commands. A worker learns at each poll when the next command is due, so one that is due before its next poll must
-- ring as well: within the hour. Commands for later ring nobody.
create or replace trigger mqtt_ring_insert after insert on public.device_commands
  referencing new table as new_rows
  for each statement execute function mqtt_private.fn_ring_for_statement();

-- Commands that somebody makes due: tried again, or scheduled for an earlier time. What workers do themselves rings
-- nobody (leases, results, giving back, delivering again): they look by themselves, and a worker that gives commands
-- back since it cannot send them must not wake itself.
-- For each row, with a condition on columns of ours alone: Postgres asks it before anything is called or kept, and a
-- project can still change the type of its own columns.
create or replace trigger mqtt_ring_update after update on public.device_commands
  for each row
  when (
    new.due_at <= now() + interval '1 hour' and (old.due_at is null or new.due_at < old.due_at)
    and new.lease_until is null and old.lease_until is null
  )
  execute function mqtt_private.fn_ring_for_statement();

-- For a worker that connects: does the bell work? Rings as a test, which wakes no queue. Returns whether the message
-- was handed over; only its arrival shows that the rest works too.
create or replace function public.fn_ring_workers() returns boolean
language sql volatile security invoker set search_path = '' as $$
  select mqtt_private.fn_ring('test')
$$;
call mqtt_private.grant_execute('public.fn_ring_workers()', 'service_role');
