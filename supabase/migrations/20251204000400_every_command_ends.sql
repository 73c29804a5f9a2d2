-- Rows that would wait for ever, or come at the wrong time.
--
-- A command without an end is one that expires after its time to live: expires_at is never infinite. A word that is
-- not ours (a table that was there before may have some) takes a command out of the queue, so that it keeps back none
-- of its device. Who moves scheduled_for of a command that waits, moves the command.
--
-- And what is delivered again on wake never undoes something newer: a schedule none that is on its way or done, a
-- configuration none that the device has acknowledged and that names one of its keys.

create or replace function mqtt_private.fn_guard_command_insert() returns trigger
language plpgsql set search_path = ''
as $$
begin
  new.command_payload := coalesce(new.command_payload, '{}');
  perform mqtt_private.fn_check_command(new.command_type, new.command_payload);
  new.status := coalesce(new.status, 'pending');
  new.issued_at := coalesce(nullif(new.issued_at, 'infinity'), now());
  new.expires_at := nullif(new.expires_at, 'infinity');
  new.retry_count := coalesce(new.retry_count, 0);
  if current_user = 'authenticated' then
    if new.status <> 'pending' then
      perform mqtt_private.fn_refuse(
        format('a new command cannot be %s', new.status), 'Leave status out, or write ''pending''.');
    end if;
    new.created_by_user_id := auth.uid();  -- who is signed in, whatever the client says
  end if;
  new.created_by_user_id := coalesce(new.created_by_user_id, auth.uid());
  if new.status = 'pending' then
    new.due_at := coalesce(new.due_at, new.scheduled_for, new.issued_at);
  elsif new.status <> 'failed' then
    new.due_at := null;
  end if;
  return new;
end
$$;

create or replace function mqtt_private.fn_guard_command_update() returns trigger
language plpgsql set search_path = ''
as $$
declare
  v_moved boolean := new.status is distinct from old.status;
begin
  new.updated_at := now();
  new.expires_at := nullif(new.expires_at, 'infinity');
  new.retry_count := coalesce(new.retry_count, 0);
  if new.command_type is distinct from old.command_type
    or new.command_payload is distinct from old.command_payload
  then
    perform mqtt_private.fn_check_command(new.command_type, new.command_payload);
  end if;
  if v_moved then
    perform mqtt_private.fn_check_command_move(old.status, new.status);
  end if;
  if new.status is null or new.status not in ('pending', 'failed') then
    new.due_at := null;
    new.lease_worker := null;
    new.lease_until := null;
  elsif v_moved and new.status = 'pending' and new.due_at is not distinct from old.due_at then
    -- a person's "retry now" names no time
    new.due_at := now();
    new.lease_worker := null;
    new.lease_until := null;
  elsif new.status = 'pending' and new.lease_worker is null and new.scheduled_for is distinct from old.scheduled_for
    and new.due_at is not distinct from old.due_at
  then
    new.due_at := coalesce(new.scheduled_for, new.issued_at);
  end if;
  return new;
end
$$;

-- Whether delivering this command again would undo what the device was told later.
create or replace function mqtt_private.fn_is_outdated(p_command public.device_commands) returns boolean
language plpgsql stable set search_path = ''
as $$
begin
  return p_command.command_type in ('set_wake_schedule', 'update_config') and exists (
    select from public.device_commands newer
    where newer.device_id = p_command.device_id and newer.command_type = p_command.command_type
      and (newer.issued_at, newer.issue_number) > (p_command.issued_at, p_command.issue_number)
      and case p_command.command_type
        when 'set_wake_schedule' then newer.status in ('pending', 'sent', 'acknowledged')
        else newer.status = 'acknowledged' and jsonb_typeof(p_command.command_payload) = 'object'
          and newer.command_payload ?| array(select jsonb_object_keys(p_command.command_payload)) end);
end
$$;

-- Commands that were sent and never answered are due again, in their old place and under the same command_id: those
-- that can be repeated without harm, and any of which the broker had said that nobody was listening.
create or replace function mqtt_private.fn_redeliver_commands(p_device_id uuid, p_limit int, p_now timestamptz) returns void
language plpgsql volatile set search_path = ''
as $$
begin
  update public.device_commands
  set status = 'pending', due_at = p_now, redelivery_count = redelivery_count + 1
  where command_id = any (array(
    select c.command_id from public.device_commands c
    where c.device_id = p_device_id and c.status = 'sent' and c.redelivery_count < p_limit
      and (c.no_listener
        or c.command_type in ('send_image', 'set_wake_schedule', 'update_config')
          and coalesce(c.delivered_at, '-infinity') < p_now - interval '10 seconds')
      and not mqtt_private.fn_is_outdated(c)
    for update of c skip locked));
end
$$;

revoke all on function mqtt_private.fn_guard_command_insert() from public, anon, authenticated;
revoke all on function mqtt_private.fn_guard_command_update() from public, anon, authenticated;
revoke all on function mqtt_private.fn_is_outdated(public.device_commands) from public, anon, authenticated;
grant execute on function mqtt_private.fn_is_outdated(public.device_commands) to service_role;
revoke all on function mqtt_private.fn_redeliver_commands(uuid, int, timestamptz) from public, anon, authenticated;
grant execute on function mqtt_private.fn_redeliver_commands(uuid, int, timestamptz) to service_role;
