-- Cancelling many commands in one statement: those of a target, or those that a recurring command has queued.

-- Cancels what waits: pending, or failed and to be tried again. What failed for good stays as it is.
--   p_target       for these devices (…_targets.sql)
--   p_schedule_id  queued by this recurring command; it need not be there any more
--   p_type         of this type alone
--   p_company_id   the target's company, where it does not say
--   p_count_only   cancel nothing, and say how many it would be
-- One of target and schedule must be given; of both, what fits both. Row-level security decides which commands whoever asks
-- may cancel. A worker may be publishing some of them this moment: a device that does one all the same says so in its row
-- (done_after_cancel_at). Raises 23514 for what is no target.
-- Returns {found, cancelled}.
create or replace function public.fn_cancel_commands(
  p_target jsonb default null, p_schedule_id uuid default null, p_type text default null,
  p_company_id uuid default null, p_count_only boolean default false) returns jsonb
language plpgsql volatile security invoker set search_path = public, extensions as $$
declare
  v_devices uuid[];
  v_key constant text := 'schedule:' || p_schedule_id || ':';
  v_ids uuid[];
  v_cancelled int := 0;
begin
  if p_target is null and p_schedule_id is null then
    perform mqtt_private.fn_raise_check_violation(
      'it is not said which commands to cancel', 'Name a target (p_target) or a recurring command (p_schedule_id).');
  end if;
  if p_target is not null then
    perform mqtt_private.fn_check_target(p_target);
    v_devices := (mqtt_private.fn_find_target(
      p_target, coalesce(p_company_id, mqtt_private.fn_company_of_target(p_target)))).ids;
  end if;
  v_ids := array(
    select command_id from public.device_commands
    where in_queue and (due_at is not null or held_until is not null) and status in ('pending', 'failed')
      and (p_target is null or device_id = any (v_devices))
      and (p_schedule_id is null or starts_with(idempotency_key, v_key))
      and (p_type is null or command_type::text = p_type));
  if not p_count_only then
    -- Devices' commands are locked in one order, so that two who cancel do not wait for each other.
    with locked as materialized (
      select command_id from public.device_commands
      where command_id = any (v_ids) and (due_at is not null or held_until is not null)
        and status in ('pending', 'failed')
      order by device_id, command_id for update
    ), changed as (
      update public.device_commands set status = 'cancelled'
      where command_id = any (array(select command_id from locked))
      returning command_id
    )
    select count(*) from changed into v_cancelled;
  end if;
  return jsonb_build_object('found', cardinality(v_ids), 'cancelled', v_cancelled);
end
$$;
call mqtt_private.grant_execute(
  'public.fn_cancel_commands(jsonb, uuid, text, uuid, boolean)', 'authenticated', 'service_role');

comment on function public.fn_cancel_commands(jsonb, uuid, text, uuid, boolean) is
  'Cancels the commands that wait for a target''s devices, or that a recurring command has queued.';
