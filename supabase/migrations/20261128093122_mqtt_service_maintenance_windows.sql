-- Maintenance windows: when commands that change devices may go out. Outside of them they wait.
--
-- A window opens at each time of its cron, in its time zone (null: the site's, else UTC), for its duration. It belongs to
--   a site      it holds the commands of its command_types for the site's devices. By default those that change what a
--               device does: update_firmware, update_config and reboot. Pictures and pings go on. set_wake_schedule cannot be
--               held: a device that is not told when to wake would not be there when the window opens
--   a rollout   the rollout releases inside of it alone, and what it has released and was not sent waits as well
-- Of several windows of one site (or rollout) one that is open suffices. A command of a rollout with windows, for a site with
-- windows, waits for both.
--
-- opens_at and closes_at are the opening that lasts, or else the next one; claims move them on. A claim that comes to a
-- command whose windows are closed takes it off the queue: due_at becomes null, and held_until says when the next opening is
-- (…_rollout_runs.sql). So held commands cost later claims nothing. They expire as others do: let them live long enough.

call mqtt_private.create_table('public.maintenance_windows', 'window_id', $$
  window_id uuid primary key default gen_random_uuid(),
  company_id uuid not null references public.companies (company_id) on delete cascade,
  cron text not null,
  duration interval not null check (duration between interval '1 minute' and interval '7 days')
$$);

alter table public.maintenance_windows
  add column if not exists site_id uuid references public.sites (site_id) on delete cascade,
  add column if not exists rollout_id uuid references public.command_rollouts (rollout_id) on delete cascade,
  add column if not exists timezone text,  -- an IANA name; null: the site's, else UTC
  add column if not exists command_types text[] not null default '{update_firmware,update_config,reboot}',
  add column if not exists enabled boolean not null default true,
  add column if not exists opens_at timestamptz,   -- null: not in force
  add column if not exists closes_at timestamptz,
  add column if not exists problem text,           -- why it is not in force, though enabled
  add column if not exists created_by_user_id uuid,
  add column if not exists created_at timestamptz not null default now(),
  add column if not exists updated_at timestamptz not null default now();

create index if not exists maintenance_windows_company_id_idx on public.maintenance_windows (company_id);
create index if not exists maintenance_windows_site_id_idx on public.maintenance_windows (site_id) where site_id is not null;
create index if not exists maintenance_windows_rollout_id_idx on public.maintenance_windows (rollout_id)
  where rollout_id is not null;
-- the claim: which are over
create index if not exists maintenance_windows_closes_at_idx on public.maintenance_windows (closes_at)
  where closes_at is not null;

-- Held commands: whose window opens; page by page, where a window was changed.
create index if not exists device_commands_held_until_idx on public.device_commands (held_until)
  where held_until is not null;
create index if not exists device_commands_held_page_idx on public.device_commands (command_id)
  where held_until is not null;

-- Windows that were changed: claims look at the commands that they may hold, page by page.
call mqtt_private.create_table('mqtt_private.window_changes', null, $$
  change_id bigint generated always as identity primary key,
  site_id uuid,
  rollout_id uuid,
  last_command_id uuid not null default '00000000-0000-0000-0000-000000000000'
$$);
grant select, insert, update, delete on table mqtt_private.window_changes to service_role;

call mqtt_private.grant_table('maintenance_windows',
  'window_id, company_id, site_id, rollout_id, cron, duration, timezone, command_types, enabled',
  'cron, duration, timezone, command_types, enabled', true);

drop policy if exists mqtt_members_read on public.maintenance_windows;
create policy mqtt_members_read on public.maintenance_windows for select to authenticated
  using (company_id in (select mqtt_private.fn_my_companies('viewer')));

drop policy if exists mqtt_admins_add on public.maintenance_windows;
create policy mqtt_admins_add on public.maintenance_windows for insert to authenticated
  with check (company_id in (select mqtt_private.fn_my_companies('admin')));

drop policy if exists mqtt_admins_change on public.maintenance_windows;
create policy mqtt_admins_change on public.maintenance_windows for update to authenticated
  using (company_id in (select mqtt_private.fn_my_companies('admin')));

drop policy if exists mqtt_admins_remove on public.maintenance_windows;
create policy mqtt_admins_remove on public.maintenance_windows for delete to authenticated
  using (company_id in (select mqtt_private.fn_my_companies('admin')));

-- When it opens ------------------------------------------------------------------------------------------------

-- The opening of a window that lasts at p_now, or else the first one after it. Raises 22023 for a cron or a zone that cannot
-- be read.
create or replace function mqtt_private.fn_find_opening(
  p_window public.maintenance_windows, p_now timestamptz, out opens_at timestamptz, out closes_at timestamptz)
language plpgsql stable set search_path = '' as $$
declare
  v_seconds constant double precision := extract(epoch from p_window.duration);
begin
  opens_at := mqtt_private.fn_next_occurrence(p_window.cron, p_window.timezone,
    jsonb_build_object('site', p_window.site_id), p_now - make_interval(secs => v_seconds));
  closes_at := opens_at + make_interval(secs => v_seconds);
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_find_opening', 'authenticated', 'service_role');

-- Until when the windows of a site and of a rollout hold a command of this type; null: they do not.
create or replace function mqtt_private.fn_hold_until(
  p_site_id uuid, p_rollout_id uuid, p_type text, p_now timestamptz) returns timestamptz
language plpgsql stable set search_path = public, extensions as $$
begin
  return greatest(
    (select case when not bool_or(opens_at <= p_now and p_now < closes_at)
        then min(case when opens_at > p_now then opens_at else p_now + interval '1 minute' end) end
     from public.maintenance_windows
     where site_id = p_site_id and closes_at is not null and p_type = any (command_types)),
    (select case when not bool_or(opens_at <= p_now and p_now < closes_at)
        then min(case when opens_at > p_now then opens_at else p_now + interval '1 minute' end) end
     from public.maintenance_windows
     where rollout_id = p_rollout_id and closes_at is not null));
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_hold_until', 'authenticated', 'service_role');

-- Whether there is any window in force: else nothing is held.
create or replace function mqtt_private.fn_are_windows_in_force() returns boolean
language sql stable set search_path = public, extensions as $$
  select exists (select from public.maintenance_windows where closes_at is not null)
$$;
call mqtt_private.grant_execute('mqtt_private.fn_are_windows_in_force', 'service_role');

-- Moves on the windows that have closed; up to 100, which nobody else holds. One that can be read no more is in force no
-- more, and says why.
create or replace function mqtt_private.fn_move_windows_on(p_now timestamptz) returns void
language plpgsql volatile set search_path = public, extensions as $$
declare
  v_window public.maintenance_windows;
  v_next record;
begin
  for v_window in
    select * from public.maintenance_windows
    where closes_at <= p_now order by closes_at limit 100 for no key update skip locked
  loop
    begin
      v_next := mqtt_private.fn_find_opening(v_window, p_now);
      update public.maintenance_windows set opens_at = v_next.opens_at, closes_at = v_next.closes_at
      where window_id = v_window.window_id;
    exception when data_exception or integrity_constraint_violation then
      update public.maintenance_windows
      set opens_at = null, closes_at = null, problem = left('not in force, until its times can be read: ' || sqlerrm, 1000)
      where window_id = v_window.window_id;
    end;
  end loop;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_move_windows_on', 'service_role');

-- Guards -------------------------------------------------------------------------------------------------------

-- Raises 23514 where a window cannot work.
create or replace function mqtt_private.fn_check_window(p_window public.maintenance_windows) returns void
language plpgsql stable set search_path = public, extensions as $$
declare
  v_type text;
begin
  if num_nonnulls(p_window.site_id, p_window.rollout_id) <> 1 then
    perform mqtt_private.fn_raise_check_violation('a window belongs to a site or to a rollout',
      'Write one of site_id and rollout_id.');
  elsif p_window.company_id is null then
    perform mqtt_private.fn_raise_check_violation('the window''s site or rollout is not there', 'Write its id.');
  elsif p_window.site_id is not null then
    perform mqtt_private.fn_check_target_company(jsonb_build_object('site', p_window.site_id), p_window.company_id);
  elsif not exists (select from public.command_rollouts
    where rollout_id = p_window.rollout_id and company_id = p_window.company_id) then
    perform mqtt_private.fn_raise_check_violation(
      format('rollout %s is not of the company', p_window.rollout_id), 'Write a rollout of the row''s company_id.');
  end if;
  if p_window.cron !~ '\S' then
    perform mqtt_private.fn_raise_check_violation('cron is empty', 'Write when it opens, e.g. "0 2 * * SUN".');
  elsif cardinality(p_window.command_types) not between 1 and 50 then
    perform mqtt_private.fn_raise_check_violation('command_types is empty or too long',
      'List the types that the window holds, or disable it.');
  elsif 'set_wake_schedule' = any (p_window.command_types) then
    perform mqtt_private.fn_raise_check_violation('a window cannot hold set_wake_schedule',
      'A device that is not told when to wake would not be awake when the window opens.');
  end if;
  foreach v_type in array p_window.command_types loop
    if mqtt_private.fn_knows_command_type(v_type) is not true then
      perform mqtt_private.fn_raise_check_violation(format('command_types holds %s, which is not known',
        coalesce(quote_literal(v_type), 'null')), 'List a type of your own in device_command_types first.');
    end if;
  end loop;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_check_window', 'authenticated', 'service_role');

create or replace function mqtt_private.fn_guard_window() returns trigger
language plpgsql set search_path = public, extensions as $$
begin
  if tg_op = 'INSERT' then
    new.company_id := coalesce(new.company_id,
      (select company_id from public.command_rollouts where rollout_id = new.rollout_id),
      (select coalesce(s.company_id, p.company_id) from public.sites s
       left join public.pilot_programs p on p.program_id = s.program_id where s.site_id = new.site_id));
    if current_user = 'authenticated' or new.created_by_user_id is null then
      new.created_by_user_id := auth.uid();
    end if;
  end if;
  new.updated_at := now();
  if tg_op = 'INSERT' or new.enabled then -- what can be read no more can be disabled all the same
    perform mqtt_private.fn_check_window(new);
    select o.opens_at, o.closes_at into new.opens_at, new.closes_at
    from mqtt_private.fn_find_opening(new, clock_timestamp()) o;
  end if;
  new.problem := null;
  if not new.enabled then
    new.opens_at := null;
    new.closes_at := null;
  end if;
  return new;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_guard_window');

-- "of" these columns: the queue writes others.
create or replace trigger mqtt_guard_window before insert or update of
    company_id, site_id, rollout_id, cron, duration, timezone, command_types, enabled
  on public.maintenance_windows for each row execute function mqtt_private.fn_guard_window();

-- Has the next claims look at what a window may hold, and wakes them. Security definer: people may do neither.
create or replace function mqtt_private.fn_note_window_change(p_site_id uuid, p_rollout_id uuid) returns void
language plpgsql volatile security definer set search_path = public, extensions, pg_temp as $$
declare
  v_transaction constant text := pg_current_xact_id()::text;
begin
  insert into mqtt_private.window_changes (site_id, rollout_id) values (p_site_id, p_rollout_id);
  update public.command_rollouts
  set next_release_at = greatest(now(), minute_began_at + interval '1 minute') -- the rate holds all the same
  where rollout_id = p_rollout_id and status = 'running' and next_release_at > now();
  if current_setting('mqtt_service.rung_in', true) is distinct from v_transaction then
    perform mqtt_private.fn_ring('due');
    perform set_config('mqtt_service.rung_in', v_transaction, true);
  end if;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_note_window_change');

-- Security definer: who changes a window can neither note that nor ring.
create or replace function mqtt_private.fn_follow_window() returns trigger
language plpgsql volatile security definer set search_path = '' as $$
begin
  if tg_op = 'DELETE' then
    perform mqtt_private.fn_note_window_change(old.site_id, old.rollout_id);
  elsif tg_op = 'INSERT' or (new.site_id, new.rollout_id, new.cron, new.duration, new.timezone, new.command_types, new.enabled)
    is distinct from
    (old.site_id, old.rollout_id, old.cron, old.duration, old.timezone, old.command_types, old.enabled)
  then
    perform mqtt_private.fn_note_window_change(new.site_id, new.rollout_id);
  end if;
  return null;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_follow_window');

create or replace trigger mqtt_follow_window
  after insert or delete or update of site_id, rollout_id, cron, duration, timezone, command_types, enabled
  on public.maintenance_windows for each row execute function mqtt_private.fn_follow_window();

-- A site's zone changes: so do its windows that follow it, at the next claim. Security definer: who may change a site need
-- not be able to change windows.
create or replace function mqtt_private.fn_follow_zone_of_windows() returns trigger
language plpgsql volatile security definer set search_path = public, extensions, pg_temp as $$
begin
  if new.timezone is not distinct from old.timezone then return null; end if;
  update public.maintenance_windows set opens_at = '-infinity', closes_at = '-infinity', problem = null
  where site_id = new.site_id and timezone is null and enabled;
  if found then
    perform mqtt_private.fn_note_window_change(new.site_id, null);
  end if;
  return null;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_follow_zone_of_windows');

create or replace trigger mqtt_follow_zone_of_windows after update on public.sites
  for each row execute function mqtt_private.fn_follow_zone_of_windows();
