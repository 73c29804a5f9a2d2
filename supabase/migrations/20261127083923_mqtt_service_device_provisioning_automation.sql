-- Mapping a device to a site, its welcome, and the checks that find devices whose mapping is incomplete.
--
-- An active row in device_site_assignments makes the device active; ending or deleting the row makes the device
-- inactive. A trigger does it, whoever writes the row. Each mapping gets one welcome command: devices.welcome_due says
-- that it is not queued yet, and fn_queue_welcome_commands queues it, exactly once. A device that is active on its site
-- already gets none, so adopting a project that has active devices welcomes nobody.
--
-- Locks. The device's row comes first; its assignments are written under that lock.

-- Mapping ------------------------------------------------------------------------------------------------------

-- Raises 23514 with the reason if this device must not be at this site of this program.
create or replace function mqtt_private.fn_check_mapping(
  p_device public.devices, p_site public.sites, p_program_id uuid, p_company_id uuid) returns void
language plpgsql stable set search_path = public, extensions as $$
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
call mqtt_private.grant_execute('mqtt_private.fn_check_mapping');

-- Leaves one active row in device_program_assignments: that of p_program_id (null: none).
create or replace function mqtt_private.fn_keep_program_assignment(p_device_id uuid, p_program_id uuid) returns void
language sql volatile set search_path = public, extensions as $$
  update public.device_program_assignments
  set is_active = false, unassigned_at = now(), unassigned_by_user_id = auth.uid()
  where device_id = p_device_id and is_active and program_id is distinct from p_program_id;

  insert into public.device_program_assignments (device_id, program_id, assigned_by_user_id)
  select p_device_id, p_program_id, auth.uid()
  where p_program_id is not null and not exists (
    select from public.device_program_assignments
    where device_id = p_device_id and is_active and program_id = p_program_id);
$$;
call mqtt_private.grant_execute('mqtt_private.fn_keep_program_assignment');

-- Makes the device agree with this row of device_site_assignments, if the row is there and active. Idempotent.
-- A new mapping gets a welcome; one that was there before (p_is_new false: a repair) only if the device was given no
-- schedule since.
-- Security definer: a device that waits for its mapping belongs to no company, so row-level security hides it from
-- the admin who maps it. It does nothing that the assignment row, which the admin was allowed to write, does not say.
-- It writes to shared tables, so its path is that of an API request, with nobody's temporary tables before it.
create or replace function mqtt_private.fn_apply_assignment(p_assignment_id uuid, p_is_new boolean) returns void
language plpgsql volatile security definer set search_path = public, extensions, pg_temp as $$
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
  if not found then return; end if; -- ended or deleted meanwhile

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
      welcome_due = welcome_due or (not v_was_here and (p_is_new or not exists (
        select from public.device_commands c
        where c.device_id = v_device.device_id and c.command_type = 'set_wake_schedule'
          and c.issued_at >= v_assignment.assigned_at)))
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
-- whoever may write an assignment runs this through the trigger; so with fn_end_mapping
call mqtt_private.grant_execute('mqtt_private.fn_apply_assignment', 'authenticated', 'service_role');

-- Sets next_wake_at where there is none, or anyhow (p_afresh). A schedule that does not parse does not stop a mapping.
create or replace function mqtt_private.fn_plan_next_wake(p_device_id uuid, p_afresh boolean) returns void
language plpgsql volatile set search_path = public, extensions as $$
declare
  v_wake record;
begin
  if not p_afresh and (select next_wake_at from public.devices where device_id = p_device_id) is not null then
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
call mqtt_private.grant_execute('mqtt_private.fn_plan_next_wake');

-- Makes a device inactive if no assignment of it is active any more. Idempotent. company_id stays, so that its company
-- still sees it and no other takes it.
-- Security definer, as fn_apply_assignment: who may end an assignment need not be allowed to write the device.
-- Its path is as there.
create or replace function mqtt_private.fn_end_mapping(p_device_id uuid) returns void
language plpgsql volatile security definer set search_path = public, extensions, pg_temp as $$
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
call mqtt_private.grant_execute('mqtt_private.fn_end_mapping', 'authenticated', 'service_role');

-- Triggers -----------------------------------------------------------------------------------------------------
-- Trigger functions need no grant.

-- Fills in what the writer of an assignment left out. A row that becomes a mapping again starts afresh.
create or replace function mqtt_private.fn_stamp_assignment() returns trigger
language plpgsql set search_path = public, extensions as $$
begin
  new.program_id := coalesce(new.program_id, (select program_id from public.sites where site_id = new.site_id));
  if tg_op = 'INSERT' then
    if new.assigned_by_user_id is null then -- no coalesce: an older table may have a text there
      new.assigned_by_user_id := auth.uid();
    end if;
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
    if new.unassigned_by_user_id is null then
      new.unassigned_by_user_id := auth.uid();
    end if;
  end if;
  return new;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_stamp_assignment');

create or replace function public.fn_trigger_device_lineage_update() returns trigger
language plpgsql security invoker set search_path = '' as $$
begin
  if tg_op <> 'INSERT' and old.is_active
    and (tg_op = 'DELETE' or new.is_active is not true or new.device_id <> old.device_id)
  then
    perform mqtt_private.fn_end_mapping(old.device_id);
  end if;
  if tg_op = 'DELETE' then return old; end if;
  if new.is_active and (tg_op = 'INSERT' or old.is_active is not true
    or (new.device_id, new.site_id, new.program_id) is distinct from (old.device_id, old.site_id, old.program_id))
  then
    perform mqtt_private.fn_apply_assignment(new.assignment_id, p_is_new => true);
  end if;
  return new;
end
$$;
call mqtt_private.grant_execute('public.fn_trigger_device_lineage_update()');

create or replace trigger mqtt_stamp_assignment before insert or update on public.device_site_assignments
  for each row execute function mqtt_private.fn_stamp_assignment();

create or replace trigger mqtt_device_lineage_update after insert or update or delete on public.device_site_assignments
  for each row execute function public.fn_trigger_device_lineage_update();

-- For scripts --------------------------------------------------------------------------------------------------

-- Maps a device, or completes what is missing of its mapping; a new mapping is recorded as an assignment.
-- p_program_id null: the site's. Never raises for what it is given: error says why it was not done.
-- Returns {success, error?, message, device_id, device_code, site_id, program_id, company_id, next_wake_at,
-- welcome_due}.
drop function if exists public.fn_initialize_device_after_mapping(uuid, uuid, uuid); -- an older one may return a table
create function public.fn_initialize_device_after_mapping(p_device_id uuid, p_site_id uuid, p_program_id uuid)
returns jsonb
language plpgsql volatile security invoker set search_path = public, extensions as $$
declare
  v_assignment_id uuid;
  v_answer jsonb;
  v_fault mqtt_private.fault;
  v_error text;
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
  perform mqtt_private.fn_check_deferred_constraints();
  return v_answer;
exception when others then
  get stacked diagnostics v_fault.code = returned_sqlstate, v_fault.message = message_text,
    v_fault.context = pg_exception_context, v_fault.constraint_name = constraint_name,
    v_fault.column_name = column_name;
  v_error := mqtt_private.fn_explain_refusal(v_fault, 'devices');
  if v_error is null then raise; end if;
  return jsonb_build_object('success', false, 'error', v_error, 'message', 'the device was not mapped: ' || v_error,
    'device_id', p_device_id, 'site_id', p_site_id, 'program_id', p_program_id, 'welcome_due', false);
end
$$;
call mqtt_private.grant_execute('public.fn_initialize_device_after_mapping(uuid, uuid, uuid)', 'service_role');

-- The welcome --------------------------------------------------------------------------------------------------

-- Queues the welcome of mapped devices, all in one statement. As fn_queue_welcome_commands.
create or replace function mqtt_private.fn_queue_welcomes(
  p_device_ids uuid[], p_limit int, p_standby_seconds double precision) returns jsonb
language sql volatile set search_path = public, extensions as $$
  with due as materialized (
    select d.device_id, others.welcomed from public.devices d
    cross join lateral (
      select exists (
        select from public.device_commands c
        where c.device_id = d.device_id and c.command_type = 'set_wake_schedule' and c.issued_at > d.mapped_at
          and c.status in ('pending', 'sent', 'acknowledged')) as welcomed) others
    where d.welcome_due and d.is_active and (p_device_ids is null or d.device_id = any (p_device_ids))
      and (others.welcomed or coalesce(d.mapped_at, '-infinity') <= now() - make_interval(secs => p_standby_seconds))
    order by d.device_id limit greatest(p_limit, 0)
    for no key update of d skip locked
  ), welcome as materialized (
    select d.device_id, d.device_code, d.site_id, wake.next_wake_at,
      -- One mapping, one key: an assignment that is ended and begun again begins a new mapping.
      format('welcome:%s:%s', coalesce(a.assignment_id, d.device_id),
        to_char(coalesce(a.assigned_at, d.mapped_at) at time zone 'UTC', 'YYYYMMDDHH24MISSUS')) as idempotency_key,
      jsonb_strip_nulls(jsonb_build_object(
        'welcome', true,
        'wake_schedule_cron', case when wake.fault is null then wake.cron end,
        'next_wake_time', to_char(wake.next_wake_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'),
        'timezone', wake.timezone,
        'site_id', d.site_id, 'site_name', s.name,
        'program_id', d.program_id, 'program_name', p.name,
        'company_id', d.company_id)) as payload
    from due
    join public.devices d on d.device_id = due.device_id and not due.welcomed
    left join public.sites s on s.site_id = d.site_id
    left join public.pilot_programs p on p.program_id = d.program_id
    left join lateral (
      select x.assignment_id, x.assigned_at from public.device_site_assignments x
      where x.device_id = d.device_id and x.is_active order by x.assigned_at desc limit 1) a on true
    cross join lateral mqtt_private.fn_next_wake_of_device(d.device_id, now()) wake
  ), cleared as (
    update public.devices d set welcome_due = false, next_wake_at = coalesce(w.next_wake_at, d.next_wake_at)
    from due left join welcome w on w.device_id = due.device_id
    where d.device_id = due.device_id
  ), queued as (
    insert into public.device_commands (device_id, command_type, command_payload, idempotency_key)
    select device_id, 'set_wake_schedule', payload, idempotency_key from welcome order by device_id
    on conflict (idempotency_key) where idempotency_key is not null do nothing
    returning command_id, device_id
  )
  select coalesce(jsonb_agg(jsonb_build_object(
    'command_id', q.command_id, 'device_id', w.device_id, 'device_code', w.device_code, 'site_id', w.site_id,
    'next_wake_at', w.next_wake_at) order by w.device_id), '[]')
  from queued q join welcome w on w.device_id = q.device_id
$$;
call mqtt_private.grant_execute('mqtt_private.fn_queue_welcomes', 'service_role');

-- The same past what the project refuses: then the device awaits its welcome still, and its element has the key error.
create or replace function mqtt_private.fn_queue_welcomes_or_pass_over(
  p_device_ids uuid[], p_limit int, p_standby_seconds double precision) returns jsonb
language plpgsql volatile set search_path = public, extensions as $$
declare
  v_answer jsonb;
  v_due uuid[];
  v_fault mqtt_private.fault;
  v_error text;
begin
  v_answer := mqtt_private.fn_queue_welcomes(p_device_ids, p_limit, p_standby_seconds);
  perform mqtt_private.fn_check_deferred_constraints();
  return v_answer;
exception when others then
  get stacked diagnostics v_fault.code = returned_sqlstate, v_fault.message = message_text,
    v_fault.context = pg_exception_context, v_fault.constraint_name = constraint_name,
    v_fault.column_name = column_name;
  v_error := mqtt_private.fn_explain_refusal(v_fault, 'device_commands');
  if v_error is null then raise; end if;
  -- at random: those that are refused each time leave room for the others
  v_due := array(
    select device_id from (
      select device_id from public.devices
      where welcome_due and is_active and (p_device_ids is null or device_id = any (p_device_ids))
      order by random() limit greatest(p_limit, 0)) chosen
    order by device_id);
  if cardinality(v_due) > 1 then
    return (
      select coalesce(jsonb_agg(element), '[]')
      from unnest(v_due) as d (device_id),
        jsonb_array_elements(
          mqtt_private.fn_queue_welcomes_or_pass_over(array[device_id], 1, p_standby_seconds)) as e (element));
  end if;
  return coalesce((
    select jsonb_agg(jsonb_build_object('command_id', null, 'device_id', device_id, 'device_code', device_code,
      'site_id', site_id, 'next_wake_at', null, 'error', v_error))
    from public.devices where device_id = any (v_due)), '[]');
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_queue_welcomes_or_pass_over', 'service_role');

-- Queues the welcome, a set_wake_schedule command with the schedule and where the device belongs, of every active
-- device that has none yet (or of those named), up to p_limit. welcome_due is cleared in the transaction that inserts
-- the command, under a lock on the device; so each mapping is welcomed exactly once, however many workers call, and
-- however often. A device that another call holds is left to that call. A schedule that does not parse is left out, and
-- next_wake_time is 12 hours from now.
-- A set_wake_schedule that somebody else queued since the mapping is the device's welcome: then none is added. Beside
-- another service that welcomes devices, p_standby_seconds is how long it gets to do so.
-- Returns [{command_id, device_id, device_code, site_id, next_wake_at, error?}] of the devices welcomed by this call,
-- and of those whose welcome the project refuses: command_id is null then, and error says why.
create or replace function public.fn_queue_welcome_commands(
  p_device_ids uuid[] default null, p_limit int default 500, p_standby_seconds double precision default 0)
returns jsonb
language sql volatile security invoker set search_path = '' as $$
  select mqtt_private.fn_queue_welcomes_or_pass_over(p_device_ids, p_limit, p_standby_seconds)
$$;
call mqtt_private.grant_execute('public.fn_queue_welcome_commands(uuid[], int, double precision)', 'service_role');

-- Checks -------------------------------------------------------------------------------------------------------

-- What each device lacks of its lineage (company, program, site, schedule): the rows behind the two functions below.
-- fixable: fn_initialize_device_after_mapping can mend it. p_device_id null: all devices.
create or replace function mqtt_private.fn_check_lineage(p_device_id uuid)
returns table (
  device_id uuid, assignment_id uuid, assigned_site_id uuid, assigned_program_id uuid, issues text[], fixable boolean)
language sql stable set search_path = public, extensions as $$
  select d.device_id, a.assignment_id, a.site_id, target.program_id,
    case when a.assignment_id is null then array['no_active_assignment'] else array_remove(array[
      case when d.company_id is null then 'missing_company' end,
      case when d.program_id is null then 'missing_program' end,
      case when d.site_id is null then 'missing_site' end,
      case when d.is_active is not true or d.provisioning_status::text is distinct from 'active' then 'not_active' end,
      case when d.next_wake_at is null then 'missing_next_wake' end,
      case when d.site_id <> a.site_id then 'site_mismatch' end,
      case when d.program_id <> target.program_id then 'program_mismatch' end,
      case when d.company_id <> target.company_id then 'company_mismatch' end], null) end,
    target.program_id is not null and target.company_id is not null
      and coalesce(d.company_id = target.company_id, true)
  from public.devices d
  left join lateral (
    select x.assignment_id, x.site_id, x.program_id from public.device_site_assignments x
    where x.device_id = d.device_id and x.is_active order by x.assigned_at desc limit 1) a on true
  left join public.sites s on s.site_id = a.site_id
  left join public.pilot_programs p on p.program_id = coalesce(a.program_id, s.program_id)
  cross join lateral (
    select coalesce(a.program_id, s.program_id) as program_id,
      coalesce(s.company_id, p.company_id) as company_id) target
  where p_device_id is null or d.device_id = p_device_id
$$;
call mqtt_private.grant_execute('mqtt_private.fn_check_lineage', 'service_role');

-- Devices that are, or wait to be, mapped and lack something; issue names the first thing. In the order of device_id,
-- for paging. A device that was made inactive on purpose is not listed.
drop function if exists public.fn_find_devices_with_incomplete_lineage(); -- an older one may return other columns
create function public.fn_find_devices_with_incomplete_lineage()
returns table (
  device_id uuid, device_code text, device_name text, device_mac text, provisioning_status text, is_active boolean,
  site_id uuid, program_id uuid, company_id uuid,
  assignment_id uuid, assigned_site_id uuid, assigned_program_id uuid, issue text, fixable boolean)
language sql stable security invoker set search_path = public, extensions as $$
  select d.device_id, d.device_code::text, d.device_name::text, d.device_mac::text, d.provisioning_status::text,
    d.is_active, d.site_id, d.program_id, d.company_id,
    l.assignment_id, l.assigned_site_id, l.assigned_program_id, l.issues[1], l.fixable
  from mqtt_private.fn_check_lineage(null) l join public.devices d on d.device_id = l.device_id
  where l.issues <> '{}' and d.provisioning_status::text <> 'inactive'
  order by d.device_id
$$;
call mqtt_private.grant_execute('public.fn_find_devices_with_incomplete_lineage()', 'service_role');

-- Returns {valid, device_id, issues: [text]}: everything that keeps this device from being provisioned.
drop function if exists public.fn_validate_device_provisioning(uuid); -- an older one may return something else
create function public.fn_validate_device_provisioning(p_device_id uuid) returns jsonb
language sql stable security invoker set search_path = '' as $$
  select jsonb_build_object('device_id', p_device_id, 'valid', coalesce(l.issues = '{}', false),
    'issues', coalesce(to_jsonb(l.issues), '["unknown_device"]'))
  from (select p_device_id) given left join mqtt_private.fn_check_lineage(p_device_id) l on true
$$;
call mqtt_private.grant_execute('public.fn_validate_device_provisioning(uuid)', 'service_role');
