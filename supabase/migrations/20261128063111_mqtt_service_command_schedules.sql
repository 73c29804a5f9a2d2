-- Recurring commands: a row of public.command_schedules queues a command for the devices of a target, again and again.
--
-- cron and timezone say when (…_wake_schedules.sql says how they are read). Without a cron, the command goes out at the
-- wakes of the target's site: at each run of the site's own schedule, for each device at its share of the spread. Without
-- a timezone, the site's holds where the target names one, else UTC.
--
-- next_run_at is the occurrence that is due next, or is being queued; null: none. Triggers work it out when a schedule is
-- written, and when the site on which it depends changes its schedule or zone; claims move it on (…_schedule_runs.sql).
--
-- What can never work is refused when it is written (23514, and 22023 for a cron or zone), with what to write instead.

-- Tables -------------------------------------------------------------------------------------------------------

call mqtt_private.create_table('public.command_schedules', 'schedule_id', $$
  schedule_id uuid primary key default gen_random_uuid(),
  company_id uuid not null references public.companies (company_id) on delete cascade,
  name text not null check (length(btrim(name)) between 1 and 100),
  target jsonb not null,
  command_type text not null
$$);

alter table public.command_schedules
  add column if not exists cron text,             -- null: the wakes of the target's site
  add column if not exists timezone text,         -- an IANA name; null: the site's, else UTC
  add column if not exists command_payload jsonb not null default '{}',
  add column if not exists priority smallint not null default 0,
  add column if not exists validity interval      -- how long each command lives; null: COMMAND_TTL
    check (validity between interval '1 second' and interval '10 years'),
  add column if not exists enabled boolean not null default true,
  -- what becomes of occurrences that nobody saw to within five minutes: run_once queues one for all, skip none
  add column if not exists missed text not null default 'run_once' check (missed in ('run_once', 'skip')),
  add column if not exists next_run_at timestamptz,
  add column if not exists last_run_at timestamptz,  -- the last occurrence that was queued
  add column if not exists last_result text,         -- what became of it, for a person
  add column if not exists created_by_user_id uuid,
  add column if not exists created_at timestamptz not null default now(),
  add column if not exists updated_at timestamptz not null default now();

-- a company's schedules; the claim: which are due; the site's trigger: whose times depend on it
create index if not exists command_schedules_company_id_idx on public.command_schedules (company_id);
create index if not exists command_schedules_next_run_at_idx on public.command_schedules (next_run_at)
  where next_run_at is not null;
create index if not exists command_schedules_site_idx on public.command_schedules ((target ->> 'site'))
  where cron is null or timezone is null;

-- The occurrences of a schedule: what was queued of each. The last 20 of each schedule are kept.
call mqtt_private.create_table('public.command_schedule_runs', null, $$
  schedule_id uuid not null references public.command_schedules (schedule_id) on delete cascade,
  occurrence timestamptz not null,
  primary key (schedule_id, occurrence)
$$);

alter table public.command_schedule_runs
  add column if not exists started_at timestamptz not null default now(),
  add column if not exists finished_at timestamptz,         -- null: it goes on at the next claim
  add column if not exists last_device_id uuid,             -- it has come this far, in the order of device_id
  add column if not exists queued integer not null default 0,
  add column if not exists not_active integer not null default 0,  -- devices that were passed over
  add column if not exists not_found integer not null default 0,   -- listed, and not a device of the company
  add column if not exists refused integer not null default 0,     -- the project's own rules refused the command
  add column if not exists result text;

-- Access -------------------------------------------------------------------------------------------------------

call mqtt_private.grant_table('command_schedules',
  'schedule_id, company_id, name, target, command_type, command_payload, cron, timezone, priority, validity, enabled, missed',
  'name, target, command_type, command_payload, cron, timezone, priority, validity, enabled, missed', true);
call mqtt_private.grant_table('command_schedule_runs', '', '', false);

drop policy if exists mqtt_members_read on public.command_schedules;
create policy mqtt_members_read on public.command_schedules for select to authenticated
  using (company_id in (select mqtt_private.fn_my_companies('viewer')));

drop policy if exists mqtt_operators_add on public.command_schedules;
create policy mqtt_operators_add on public.command_schedules for insert to authenticated
  with check (company_id in (select mqtt_private.fn_my_companies('operator')));

drop policy if exists mqtt_operators_change on public.command_schedules;
create policy mqtt_operators_change on public.command_schedules for update to authenticated
  using (company_id in (select mqtt_private.fn_my_companies('operator')));

drop policy if exists mqtt_operators_remove on public.command_schedules;
create policy mqtt_operators_remove on public.command_schedules for delete to authenticated
  using (company_id in (select mqtt_private.fn_my_companies('operator')));

drop policy if exists mqtt_members_read on public.command_schedule_runs;
create policy mqtt_members_read on public.command_schedule_runs for select to authenticated
  using (exists (select from public.command_schedules s where s.schedule_id = command_schedule_runs.schedule_id
    and s.company_id in (select mqtt_private.fn_my_companies('viewer'))));

-- When it runs -------------------------------------------------------------------------------------------------

-- The first occurrence of a schedule after a time. Raises 22023 for a cron or a zone that cannot be read.
create or replace function mqtt_private.fn_next_occurrence(
  p_cron text, p_timezone text, p_target jsonb, p_after timestamptz) returns timestamptz
language plpgsql stable set search_path = public, extensions as $$
declare
  v_cron text := p_cron;
  v_timezone text := p_timezone;
begin
  if v_cron is null or v_timezone is null then
    select coalesce(v_cron, nullif(trim(s.wake_schedule_cron), '')), coalesce(v_timezone, nullif(trim(s.timezone), ''))
    into v_cron, v_timezone
    from (select (p_target ->> 'site')::uuid as site_id) wanted left join public.sites s on s.site_id = wanted.site_id;
  end if;
  return public.fn_calculate_next_wake(coalesce(v_cron, '0 8,16 * * *'), p_after, coalesce(v_timezone, 'UTC'));
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_next_occurrence', 'authenticated', 'service_role');

-- Raises 23514 where the site, the program or the company that a target names is not this company's.
create or replace function mqtt_private.fn_check_target_company(p_target jsonb, p_company_id uuid) returns void
language plpgsql stable set search_path = public, extensions as $$
declare
  v_part text := case
    when p_target ? 'company' and (p_target ->> 'company')::uuid <> p_company_id then 'company'
    when p_target ? 'program' and not exists (
      select from public.pilot_programs
      where program_id = (p_target ->> 'program')::uuid and company_id = p_company_id) then 'program'
    when p_target ? 'site' and not exists (
      select from public.sites s left join public.pilot_programs p on p.program_id = s.program_id
      where s.site_id = (p_target ->> 'site')::uuid and coalesce(s.company_id, p.company_id) = p_company_id) then 'site'
  end;
begin
  if v_part is not null then
    perform mqtt_private.fn_raise_target_fault(format('%s %s is not of the company', v_part, p_target ->> v_part),
      'A target lies within one company: that of the row''s company_id.');
  end if;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_check_target_company', 'authenticated', 'service_role');

-- Guards -------------------------------------------------------------------------------------------------------

-- Checks what a person writes, and works out when the schedule runs next: always after now, so that what was due while
-- it was paused is not made up. Security invoker: current_user tells people from the secret key.
create or replace function mqtt_private.fn_guard_schedule() returns trigger
language plpgsql set search_path = '' as $$
begin
  if tg_op = 'UPDATE' and not new.enabled and (new.company_id, new.target, new.command_type, new.command_payload, new.cron,
    new.timezone) is not distinct from (old.company_id, old.target, old.command_type, old.command_payload, old.cron,
    old.timezone)
  then -- what can be read no more, since its site changed or went, can be paused all the same
    new.updated_at := now();
    new.next_run_at := null;
    return new;
  end if;
  perform mqtt_private.fn_check_target(new.target);
  new.company_id := coalesce(new.company_id, mqtt_private.fn_company_of_target(new.target));
  perform mqtt_private.fn_check_target_company(new.target, new.company_id);
  perform mqtt_private.fn_check_command(new.command_type, new.command_payload);
  if new.cron is null and not new.target ? 'site' then
    perform mqtt_private.fn_raise_check_violation('cron is null, and the target names no site whose wakes it means',
      'Write a cron, e.g. "0 6 * * *", or a target with a site: {"site": "<site_id>"}.');
  elsif new.cron is null and new.timezone is not null then
    perform mqtt_private.fn_raise_check_violation('timezone does not go with the wakes of a site',
      'The site''s zone holds for its wakes: leave timezone null, or write a cron.');
  elsif new.cron !~ '\S' then
    perform mqtt_private.fn_raise_check_violation('cron is empty',
      'Write a cron, e.g. "0 6 * * *", or null for the wakes of the target''s site.');
  end if;
  if tg_op = 'INSERT' then
    if current_user = 'authenticated' or new.created_by_user_id is null then
      new.created_by_user_id := auth.uid();
    end if;
  else
    new.updated_at := now();
    if (new.enabled, new.cron, new.timezone, new.target) is not distinct from
      (old.enabled, old.cron, old.timezone, old.target) and new.next_run_at is not null -- null: the queue stopped it
    then
      return new;
    end if;
  end if;
  -- worked out for a paused one too, so that what cannot be read is refused now
  new.next_run_at := mqtt_private.fn_next_occurrence(new.cron, new.timezone, new.target, clock_timestamp());
  if not new.enabled then
    new.next_run_at := null;
  end if;
  return new;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_guard_schedule');

-- "of" these columns: the queue writes others.
create or replace trigger mqtt_guard_schedule before insert or update of
    company_id, name, target, command_type, command_payload, cron, timezone, priority, validity, enabled, missed
  on public.command_schedules for each row execute function mqtt_private.fn_guard_schedule();

-- What else a new time means: a run that is under way ends here, and workers that sleep for longer wake (…_doorbell.sql).
-- Security definer, since people neither write runs nor ring.
create or replace function mqtt_private.fn_follow_schedule() returns trigger
language plpgsql volatile security definer set search_path = public, extensions, pg_temp as $$
declare
  v_transaction constant text := pg_current_xact_id()::text;
begin
  if tg_op = 'UPDATE' and (new.enabled, new.cron, new.timezone, new.target, new.next_run_at) is not distinct from
    (old.enabled, old.cron, old.timezone, old.target, old.next_run_at)
  then -- forms save all their columns
    return null;
  end if;
  update public.command_schedule_runs
  set finished_at = now(), result = concat_ws(', ', result, 'stopped: the schedule was changed')
  where schedule_id = new.schedule_id and finished_at is null;
  if new.next_run_at <= now() + interval '1 hour'
    and current_setting('mqtt_service.rung_in', true) is distinct from v_transaction
  then
    perform mqtt_private.fn_ring('due');
    perform set_config('mqtt_service.rung_in', v_transaction, true);
  end if;
  return null;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_follow_schedule');

create or replace trigger mqtt_follow_schedule after insert or update of target, cron, timezone, enabled
  on public.command_schedules for each row execute function mqtt_private.fn_follow_schedule();

-- A site's own schedule or zone changes: so do the schedules that follow it, but for one that is being queued now. What
-- cannot be read stops them, and stops nothing else.
-- Security definer: who may change a site need not be able to change schedules.
create or replace function mqtt_private.fn_follow_site() returns trigger
language plpgsql volatile security definer set search_path = public, extensions, pg_temp as $$
declare
  v_schedule public.command_schedules;
begin
  if new.wake_schedule_cron is not distinct from old.wake_schedule_cron
    and new.timezone is not distinct from old.timezone
  then
    return null;
  end if;
  for v_schedule in
    select * from public.command_schedules
    where target ->> 'site' = new.site_id::text and (cron is null or timezone is null) and enabled
      and (next_run_at is null or next_run_at > clock_timestamp())
    for no key update -- a claim or a person may be at it: what they leave is what counts
  loop
    begin
      update public.command_schedules
      set next_run_at = mqtt_private.fn_next_occurrence(cron, timezone, target, clock_timestamp())
      where schedule_id = v_schedule.schedule_id;
    exception when data_exception or integrity_constraint_violation then
      update public.command_schedules
      set next_run_at = null, last_result = left('stopped, until the site''s schedule can be read: ' || sqlerrm, 1000)
      where schedule_id = v_schedule.schedule_id;
    end;
  end loop;
  return null;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_follow_site');

create or replace trigger mqtt_follow_site after update on public.sites
  for each row execute function mqtt_private.fn_follow_site();
