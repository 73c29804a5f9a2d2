-- Mapping a device to a site: an active row in device_site_assignments makes the device active, ending or deleting it
-- makes the device inactive, and each mapping is due one welcome command.
--
-- The trigger does it, whoever writes the row. devices.welcome_due says that a welcome is owed;
-- fn_queue_welcome_commands (a later migration) pays it, exactly once. A device that is active on its site already is
-- owed none, so applying this to a project that has active devices welcomes nobody.

-- Schedules ----------------------------------------------------------------------------------------------------

-- A device's schedule goes before its site's; where neither has one, 8 and 16 o'clock. A schedule that does not parse
-- gives 12 hours from now, and fault says why.
create or replace function mqtt_private.fn_next_wake_of_device(
  p_device_id uuid, p_now timestamptz, out cron text, out timezone text, out next_wake_at timestamptz, out fault text)
language plpgsql stable set search_path = ''
as $$
begin
  select coalesce(nullif(trim(d.wake_schedule_cron), ''), nullif(trim(s.wake_schedule_cron), ''), '0 8,16 * * *'),
    coalesce(nullif(trim(s.timezone), ''), 'UTC')
  into cron, timezone
  from public.devices d left join public.sites s on s.site_id = d.site_id
  where d.device_id = p_device_id;
  next_wake_at := public.fn_calculate_next_wake(cron, p_now, timezone);
exception when others then
  next_wake_at := p_now + interval '12 hours';
  fault := sqlerrm;
end
$$;

-- History ------------------------------------------------------------------------------------------------------

-- A history table that was there before can ask for more than we know; that must not stop a mapping.
create or replace function mqtt_private.fn_log_event(
  p_device_id uuid, p_event text, p_severity text, p_text text, p_data jsonb) returns void
language plpgsql volatile set search_path = ''
as $$
begin
  insert into public.device_history (device_id, event_type, severity, description, event_data, created_by_user_id)
  values (p_device_id, p_event, p_severity, p_text, p_data, auth.uid());
exception when integrity_constraint_violation then
  raise warning 'device_history refused "%" of device %: %', p_event, p_device_id, sqlerrm;
end
$$;

-- Mapping ------------------------------------------------------------------------------------------------------

-- Raises 23514 with the reason if this device must not be at this site of this program.
create or replace function mqtt_private.fn_check_mapping(
  p_device public.devices, p_site public.sites, p_program_id uuid, p_company_id uuid) returns void
language plpgsql stable set search_path = ''
as $$
declare
  v_reason text;
  v_hint text;
begin
  if p_program_id is null then
    v_reason := format('site "%s" belongs to no program', p_site.name);
    v_hint := 'Set program_id of the site first.';
  elsif p_site.program_id <> p_program_id then
    v_reason := format('site "%s" belongs to another program than %s', p_site.name, p_program_id);
    v_hint := 'Choose a site of that program, or leave program_id out.';
  elsif p_company_id is null then
    v_reason := format('site "%s" belongs to no company', p_site.name);
    v_hint := 'Set company_id of the site first.';
  elsif exists (select from public.pilot_programs where program_id = p_program_id and company_id <> p_company_id) then
    v_reason := format('site "%s" belongs to another company than program %s', p_site.name, p_program_id);
    v_hint := 'Choose a site and a program of one company.';
  elsif p_device.company_id <> p_company_id then
    v_reason := format('device %s belongs to another company than site "%s"',
      coalesce(p_device.device_code, p_device.device_mac), p_site.name);
    v_hint := 'Choose a site of its company; to hand the device over, clear company_id of the device first.';
  else
    return;
  end if;
  raise exception 'mapping refused: %', v_reason using errcode = 'check_violation', hint = v_hint;
end
$$;

-- One active row in device_program_assignments: that of p_program_id (null: none).
create or replace function mqtt_private.fn_keep_program_assignment(p_device_id uuid, p_program_id uuid) returns void
language sql volatile set search_path = ''
as $$
  update public.device_program_assignments
  set is_active = false, unassigned_at = now(), unassigned_by_user_id = auth.uid()
  where device_id = p_device_id and is_active and program_id is distinct from p_program_id;

  insert into public.device_program_assignments (device_id, program_id, assigned_by_user_id)
  select p_device_id, p_program_id, auth.uid()
  where p_program_id is not null and not exists (
    select from public.device_program_assignments
    where device_id = p_device_id and is_active and program_id = p_program_id);
$$;

-- A welcome is owed to a new mapping; to one that was there before (p_is_new false: a repair) only if the device was
-- given no schedule since.
create or replace function mqtt_private.fn_owes_welcome(p_device_id uuid, p_assigned_at timestamptz, p_is_new boolean)
returns boolean
language sql stable set search_path = ''
as $$
  select p_is_new or not exists (
    select from public.device_commands
    where device_id = p_device_id and command_type = 'set_wake_schedule' and issued_at >= p_assigned_at)
$$;

-- Makes the device agree with this row of device_site_assignments, if the row is there and active. Idempotent.
-- Security definer: a device that waits for its mapping belongs to no company, so row-level security hides it from
-- the admin who maps it. It does nothing that the assignment row, which the admin was allowed to write, does not say.
create or replace function mqtt_private.fn_apply_assignment(p_assignment_id uuid, p_is_new boolean) returns void
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_assignment public.device_site_assignments;
  v_device public.devices;
  v_site public.sites;
  v_program_id uuid;
  v_company_id uuid;
  v_was_here boolean;
begin
  select d.* into v_device
  from public.device_site_assignments a join public.devices d on d.device_id = a.device_id
  where a.assignment_id = p_assignment_id for no key update of d;
  select * into v_assignment from public.device_site_assignments
  where assignment_id = p_assignment_id and device_id = v_device.device_id and is_active;
  if not found then
    return; -- ended or deleted meanwhile
  end if;

  select * into v_site from public.sites where site_id = v_assignment.site_id;
  v_program_id := coalesce(v_assignment.program_id, v_site.program_id);
  v_company_id := coalesce(v_site.company_id,
    (select company_id from public.pilot_programs where program_id = v_program_id));
  perform mqtt_private.fn_check_mapping(v_device, v_site, v_program_id, v_company_id);

  update public.device_site_assignments
  set is_active = false, unassigned_at = now(), unassigned_by_user_id = auth.uid()
  where device_id = v_device.device_id and is_active and assignment_id <> p_assignment_id;
  perform mqtt_private.fn_keep_program_assignment(v_device.device_id, v_program_id);

  v_was_here := v_device.is_active and v_device.site_id is not distinct from v_site.site_id;
  update public.devices
  set site_id = v_site.site_id, program_id = v_program_id, company_id = v_company_id,
      is_active = true, provisioning_status = 'active',
      mapped_at = case when v_was_here then coalesce(mapped_at, v_assignment.assigned_at) else now() end,
      welcome_due = welcome_due or (not v_was_here
        and mqtt_private.fn_owes_welcome(device_id, v_assignment.assigned_at, p_is_new))
  where device_id = v_device.device_id
    and (not v_was_here or (program_id, company_id, provisioning_status)
      is distinct from (v_program_id, v_company_id, 'active'));
  perform mqtt_private.fn_plan_next_wake(v_device.device_id, p_afresh => not v_was_here);

  if not v_was_here then
    perform mqtt_private.fn_log_event(v_device.device_id, 'mapped', 'info',
      format('mapped to site "%s"', v_site.name),
      jsonb_build_object('assignment_id', p_assignment_id, 'site_id', v_site.site_id, 'program_id', v_program_id,
        'company_id', v_company_id, 'previous_site_id', v_device.site_id));
  end if;
end
$$;

-- Sets next_wake_at where there is none, or anyhow (p_afresh). A schedule that does not parse does not stop a mapping.
create or replace function mqtt_private.fn_plan_next_wake(p_device_id uuid, p_afresh boolean) returns void
language plpgsql volatile set search_path = ''
as $$
declare
  v_wake record;
begin
  if not p_afresh
    and exists (select from public.devices where device_id = p_device_id and next_wake_at is not null)
  then
    return;
  end if;
  select * into v_wake from mqtt_private.fn_next_wake_of_device(p_device_id, now());
  update public.devices set next_wake_at = v_wake.next_wake_at where device_id = p_device_id;
  if v_wake.fault is not null then
    perform mqtt_private.fn_log_event(p_device_id, 'wake_schedule_invalid', 'warning',
      'the wake schedule does not parse, so the device wakes in 12 hours: ' || v_wake.fault,
      jsonb_build_object('wake_schedule_cron', v_wake.cron, 'timezone', v_wake.timezone, 'error', v_wake.fault,
        'next_wake_at', v_wake.next_wake_at));
  end if;
end
$$;

-- Makes a device inactive if no assignment of it is active any more. Idempotent. company_id stays, so that its company
-- still sees it and no other takes it.
-- Security definer, as fn_apply_assignment: who may end an assignment need not be allowed to write the device.
create or replace function mqtt_private.fn_end_mapping(p_device_id uuid) returns void
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_device public.devices;
begin
  select * into v_device from public.devices where device_id = p_device_id for no key update;
  if not found or v_device.provisioning_status in ('pending_mapping', 'inactive') and not v_device.is_active
    or exists (select from public.device_site_assignments where device_id = p_device_id and is_active)
  then
    return; -- the device is deleted, inactive, or mapped elsewhere
  end if;
  update public.devices
  set is_active = false, provisioning_status = 'inactive', site_id = null, program_id = null, next_wake_at = null,
      mapped_at = null, welcome_due = false
  where device_id = p_device_id;
  perform mqtt_private.fn_keep_program_assignment(p_device_id, null);
  perform mqtt_private.fn_log_event(p_device_id, 'unmapped', 'info', 'unmapped from its site',
    jsonb_build_object('site_id', v_device.site_id, 'program_id', v_device.program_id));
end
$$;

-- Triggers -----------------------------------------------------------------------------------------------------

-- Fills in what the writer of an assignment left out. A row that maps anew begins anew.
create or replace function mqtt_private.fn_stamp_assignment() returns trigger
language plpgsql set search_path = ''
as $$
begin
  new.program_id := coalesce(new.program_id, (select program_id from public.sites where site_id = new.site_id));
  if tg_op = 'INSERT' then
    new.assigned_by_user_id := coalesce(new.assigned_by_user_id, auth.uid());
  elsif new.is_active and (old.is_active is not true
    or (new.device_id, new.site_id) is distinct from (old.device_id, old.site_id))
  then
    if new.assigned_at = old.assigned_at then
      new.assigned_at := clock_timestamp();
    end if;
    new.unassigned_at := null;
    new.unassigned_by_user_id := null;
  elsif old.is_active and new.is_active is not true then
    new.unassigned_at := coalesce(new.unassigned_at, now());
    new.unassigned_by_user_id := coalesce(new.unassigned_by_user_id, auth.uid());
  end if;
  return new;
end
$$;

create or replace function public.fn_trigger_device_lineage_update() returns trigger
language plpgsql security invoker set search_path = ''
as $$
begin
  if tg_op <> 'INSERT' and old.is_active
    and (tg_op = 'DELETE' or new.is_active is not true or new.device_id <> old.device_id)
  then
    perform mqtt_private.fn_end_mapping(old.device_id);
  end if;
  if tg_op = 'DELETE' then
    return old;
  end if;
  if new.is_active and (tg_op = 'INSERT' or old.is_active is not true
    or (new.device_id, new.site_id, new.program_id) is distinct from (old.device_id, old.site_id, old.program_id))
  then
    perform mqtt_private.fn_apply_assignment(new.assignment_id, p_is_new => true);
  end if;
  return new;
end
$$;

drop trigger if exists mqtt_stamp_assignment on public.device_site_assignments;
create trigger mqtt_stamp_assignment before insert or update on public.device_site_assignments
  for each row execute function mqtt_private.fn_stamp_assignment();

drop trigger if exists mqtt_device_lineage_update on public.device_site_assignments;
create trigger mqtt_device_lineage_update after insert or update or delete on public.device_site_assignments
  for each row execute function public.fn_trigger_device_lineage_update();

-- For scripts --------------------------------------------------------------------------------------------------

-- Maps a device, or completes what is missing of its mapping; a new mapping is recorded as an assignment.
-- p_program_id null: the site's. Never raises for what it is given: error says why it was not done.
-- Returns {success, error?, message, device_id, device_code, site_id, program_id, company_id, next_wake_at,
-- welcome_due}.
drop function if exists public.fn_initialize_device_after_mapping(uuid, uuid, uuid); -- an older one may return a table
create function public.fn_initialize_device_after_mapping(p_device_id uuid, p_site_id uuid, p_program_id uuid)
returns jsonb
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_assignment_id uuid;
  v_answer jsonb;
begin
  perform from public.devices where device_id = p_device_id for no key update;
  select assignment_id into v_assignment_id from public.device_site_assignments
  where device_id = p_device_id and is_active and site_id = p_site_id
    and (p_program_id is null or program_id is null or program_id = p_program_id)
  order by assigned_at desc limit 1;
  if found then
    perform mqtt_private.fn_apply_assignment(v_assignment_id, p_is_new => false);
  else
    insert into public.device_site_assignments (device_id, site_id, program_id)
    values (p_device_id, p_site_id, p_program_id);
  end if;
  select jsonb_build_object('success', true, 'message', 'the device is active', 'device_id', device_id,
    'device_code', device_code, 'site_id', site_id, 'program_id', program_id, 'company_id', company_id,
    'next_wake_at', next_wake_at, 'welcome_due', welcome_due) into v_answer
  from public.devices where device_id = p_device_id;
  return v_answer;
exception
  when integrity_constraint_violation then
    return jsonb_build_object('success', false, 'error', sqlerrm, 'message', 'the device was not mapped: ' || sqlerrm,
      'device_id', p_device_id, 'site_id', p_site_id, 'program_id', p_program_id, 'welcome_due', false);
end
$$;

-- Grants -------------------------------------------------------------------------------------------------------
-- Trigger functions need none. Whoever may write an assignment runs the two definer functions through the trigger.

do $$
declare
  v_function regprocedure;
begin
  foreach v_function in array array[
    'mqtt_private.fn_next_wake_of_device(uuid, timestamptz)',
    'mqtt_private.fn_log_event(uuid, text, text, text, jsonb)',
    'mqtt_private.fn_check_mapping(public.devices, public.sites, uuid, uuid)',
    'mqtt_private.fn_keep_program_assignment(uuid, uuid)',
    'mqtt_private.fn_owes_welcome(uuid, timestamptz, boolean)',
    'mqtt_private.fn_apply_assignment(uuid, boolean)',
    'mqtt_private.fn_plan_next_wake(uuid, boolean)',
    'mqtt_private.fn_end_mapping(uuid)',
    'mqtt_private.fn_stamp_assignment()',
    'public.fn_trigger_device_lineage_update()',
    'public.fn_initialize_device_after_mapping(uuid, uuid, uuid)'
  ]::regprocedure[] loop
    execute format('revoke all on function %s from public, anon, authenticated', v_function);
  end loop;
end
$$;

grant usage on schema mqtt_private to authenticated, service_role;
grant execute on function mqtt_private.fn_apply_assignment(uuid, boolean) to authenticated, service_role;
grant execute on function mqtt_private.fn_end_mapping(uuid) to authenticated, service_role;
grant execute on function mqtt_private.fn_next_wake_of_device(uuid, timestamptz) to service_role;
grant execute on function public.fn_initialize_device_after_mapping(uuid, uuid, uuid) to service_role;
