-- Rollouts: a row of public.command_rollouts sends a command to the devices of a target, so many a minute, and stops by
-- itself where too many fail.
--
--   awaiting_approval ──▶ running ◀──▶ paused      people pause and resume; what was released goes on
--           │              │ │ ▲
--           │              │ │ └────▶ stopped      the failures passed the threshold; an admin may resume it
--           │              │ └──────▶ finished     all devices of its snapshot were released, and their commands ended
--           └──────────────┴────────▶ cancelled    from any but finished; cancels its pending commands too
--
-- Released: claims make the rows of device_commands, minute by minute (…_rollout_runs.sql), so 100,000 devices never mean
-- as many pending rows. At the beginning of each minute as many devices are released as the rate in force says
-- (current_rate, at first rate_per_minute). Each time as many devices as one minute's rate have succeeded, the rate is
-- multiplied by growth_factor, up to max_rate_per_minute.
--
-- A device has succeeded when its command is acknowledged and, if it names a firmware release, verified. It has failed when
-- the command is rejected, expired, cancelled or failed for good, or the project's own rules refused it. Once
-- failure_minimum devices have ended, a share of failures above failure_threshold stops the rollout. Resumed, it counts
-- anew.
--
-- A snapshot is the devices that fit the target when the rollout starts. A continuous rollout looks again every five
-- minutes for devices that have come to fit, until it is cancelled. Target and command are fixed when the row is written.

-- Tables -------------------------------------------------------------------------------------------------------

call mqtt_private.create_table('public.command_rollouts', 'rollout_id', $$
  rollout_id uuid primary key default gen_random_uuid(),
  company_id uuid not null references public.companies (company_id) on delete cascade,
  name text not null check (length(btrim(name)) between 1 and 100),
  target jsonb not null,
  command_type text not null
$$);

alter table public.command_rollouts
  add column if not exists continuous boolean not null default false,
  add column if not exists command_payload jsonb not null default '{}',
  -- stays as long as a rollout names it
  add column if not exists release_id uuid references public.firmware_releases (release_id),
  add column if not exists priority smallint not null default 0,
  add column if not exists validity interval          -- how long each command lives; null: COMMAND_TTL
    check (validity between interval '1 second' and interval '10 years'),
  add column if not exists execution_timeout interval
    check (execution_timeout between interval '1 second' and interval '10 years'),
  add column if not exists rate_per_minute integer not null default 50 check (rate_per_minute between 1 and 10000),
  add column if not exists growth_factor numeric not null default 1 check (growth_factor between 1 and 10),
  add column if not exists max_rate_per_minute integer not null default 1000
    check (max_rate_per_minute between 1 and 10000),
  -- the share of failures above which it stops (1: never), once so many devices have ended
  add column if not exists failure_threshold numeric not null default 0.1 check (failure_threshold between 0 and 1),
  add column if not exists failure_minimum integer not null default 10 check (failure_minimum >= 1),
  add column if not exists needs_approval boolean not null default false,
  add column if not exists status text not null default 'running'
    check (status in ('awaiting_approval', 'running', 'paused', 'stopped', 'finished', 'cancelled')),
  add column if not exists created_by_user_id uuid,
  add column if not exists approved_by_user_id uuid,
  add column if not exists created_at timestamptz not null default now(),
  add column if not exists updated_at timestamptz not null default now(),
  add column if not exists started_at timestamptz,
  add column if not exists finished_at timestamptz,     -- finished or cancelled
  add column if not exists last_result text,            -- for a person: why it stopped, or what became of it
  -- the queue's own
  add column if not exists next_release_at timestamptz, -- when a claim looks at it next; null: at a change of its commands
  add column if not exists current_rate numeric not null default 1,
  add column if not exists grown_at integer not null default 0,  -- succeeded when the rate grew last
  add column if not exists minute_began_at timestamptz,
  add column if not exists minute_left integer not null default 0, -- still to be released in this minute
  add column if not exists last_device_id uuid,         -- it has come this far, in the order of device_id
  add column if not exists all_released boolean not null default false,
  add column if not exists ended_before integer not null default 0,    -- when it was resumed after it had stopped
  add column if not exists failures_before integer not null default 0;

-- a company's rollouts; the claim: which are due
create index if not exists command_rollouts_company_id_idx on public.command_rollouts (company_id);
create index if not exists command_rollouts_release_id_idx on public.command_rollouts (release_id)
  where release_id is not null;
create index if not exists command_rollouts_next_release_at_idx on public.command_rollouts (next_release_at)
  where next_release_at is not null;

-- Devices by state. Written by claims alone, so that no person's transaction waits for a claim, or it for one.
call mqtt_private.create_table('public.rollout_counts', 'rollout_id', $$
  rollout_id uuid primary key references public.command_rollouts (rollout_id) on delete cascade
$$);

alter table public.rollout_counts
  add column if not exists total integer,                       -- of the snapshot; null: continuous
  add column if not exists pending integer not null default 0,
  add column if not exists sent integer not null default 0,
  add column if not exists unverified integer not null default 0, -- acknowledged; the new firmware was not seen yet
  add column if not exists succeeded integer not null default 0,
  add column if not exists failed integer not null default 0,
  add column if not exists cancelled integer not null default 0,
  add column if not exists skipped integer not null default 0,
  add column if not exists refused integer not null default 0,
  add column if not exists unseen boolean not null default false; -- they changed since a claim looked at the rollout

create index if not exists rollout_counts_unseen_idx on public.rollout_counts (rollout_id) where unseen;

-- Each device that a rollout has come to. Without a reference to the device: one that is removed stays named.
call mqtt_private.create_table('public.rollout_devices', null, $$
  rollout_id uuid not null references public.command_rollouts (rollout_id) on delete cascade,
  device_id uuid not null,
  primary key (rollout_id, device_id)
$$);

alter table public.rollout_devices
  add column if not exists command_id uuid,
  add column if not exists state text not null default 'pending' check (
    state in ('pending', 'sent', 'unverified', 'succeeded', 'failed', 'cancelled', 'skipped', 'refused')),
  add column if not exists reason text,
  add column if not exists updated_at timestamptz not null default now();

create index if not exists rollout_devices_state_idx on public.rollout_devices (rollout_id, state);

-- The devices of a snapshot, in the order of device_id, 500 a row.
call mqtt_private.create_table('mqtt_private.rollout_pages', null, $$
  rollout_id uuid not null references public.command_rollouts (rollout_id) on delete cascade,
  last_device_id uuid not null,
  device_ids uuid[] not null,
  primary key (rollout_id, last_device_id)
$$);
grant select, insert, update, delete on table mqtt_private.rollout_pages to service_role;

-- Commands of rollouts whose state has changed, for the next claim to count. Rows are only added, so that nobody who
-- settles, acknowledges or cancels waits for another.
call mqtt_private.create_table('mqtt_private.rollout_changes', null, $$
  change_id bigint generated always as identity primary key,
  rollout_id uuid not null,
  device_id uuid not null,
  command_id uuid not null
$$);
grant select, insert, update, delete on table mqtt_private.rollout_changes to service_role;

alter table public.device_commands
  add column if not exists rollout_id uuid references public.command_rollouts (rollout_id) on delete set null,
  add column if not exists execution_timeout interval,
  add column if not exists held_until timestamptz; -- its window opens then (…_maintenance_windows.sql); due_at is null

-- a rollout's commands; of them, those that can still be cancelled
create index if not exists device_commands_rollout_id_idx on public.device_commands (rollout_id)
  where rollout_id is not null;
create index if not exists device_commands_rollout_open_idx on public.device_commands (rollout_id)
  where rollout_id is not null and (due_at is not null or held_until is not null);

-- Access -------------------------------------------------------------------------------------------------------

call mqtt_private.grant_table('command_rollouts',
  'rollout_id, company_id, name, target, continuous, command_type, command_payload, release_id, priority, validity, '
  'execution_timeout, rate_per_minute, growth_factor, max_rate_per_minute, failure_threshold, failure_minimum, '
  'needs_approval',
  'name, status, rate_per_minute, growth_factor, max_rate_per_minute, failure_threshold, failure_minimum', true);
call mqtt_private.grant_table('rollout_counts', '', '', false);
call mqtt_private.grant_table('rollout_devices', '', '', false);

drop policy if exists mqtt_members_read on public.command_rollouts;
create policy mqtt_members_read on public.command_rollouts for select to authenticated
  using (company_id in (select mqtt_private.fn_my_companies('viewer')));

drop policy if exists mqtt_admins_start on public.command_rollouts;
create policy mqtt_admins_start on public.command_rollouts for insert to authenticated
  with check (company_id in (select mqtt_private.fn_my_companies('admin')));

-- What an operator may change is in fn_guard_rollout: pause and cancel.
drop policy if exists mqtt_operators_change on public.command_rollouts;
create policy mqtt_operators_change on public.command_rollouts for update to authenticated
  using (company_id in (select mqtt_private.fn_my_companies('operator')));

drop policy if exists mqtt_admins_remove on public.command_rollouts;
create policy mqtt_admins_remove on public.command_rollouts for delete to authenticated
  using (company_id in (select mqtt_private.fn_my_companies('admin')) and status in ('finished', 'cancelled'));

drop policy if exists mqtt_members_read on public.rollout_counts;
create policy mqtt_members_read on public.rollout_counts for select to authenticated
  using (exists (select from public.command_rollouts r where r.rollout_id = rollout_counts.rollout_id
    and r.company_id in (select mqtt_private.fn_my_companies('viewer'))));

drop policy if exists mqtt_members_read on public.rollout_devices;
create policy mqtt_members_read on public.rollout_devices for select to authenticated
  using (exists (select from public.command_rollouts r where r.rollout_id = rollout_devices.rollout_id
    and r.company_id in (select mqtt_private.fn_my_companies('viewer'))));

-- Guards -------------------------------------------------------------------------------------------------------

create or replace function mqtt_private.fn_rollout_may_become(p_old text, p_new text) returns boolean
language sql immutable parallel safe set search_path = '' as $$
  select case p_old
    when 'awaiting_approval' then p_new in ('running', 'cancelled')
    when 'running' then p_new in ('paused', 'stopped', 'finished', 'cancelled')
    when 'paused' then p_new in ('running', 'cancelled')
    when 'stopped' then p_new in ('running', 'cancelled')
    else false end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_rollout_may_become', 'authenticated', 'service_role');

-- Raises where a move is not allowed, or is not this person's to make (42501).
create or replace function mqtt_private.fn_check_rollout_change(
  p_old public.command_rollouts, p_new public.command_rollouts) returns void
language plpgsql stable set search_path = '' as $$
begin
  if (p_new.company_id, p_new.target, p_new.continuous, p_new.command_type, p_new.command_payload, p_new.release_id,
      p_new.priority, p_new.validity, p_new.execution_timeout, p_new.needs_approval, p_new.created_by_user_id)
    is distinct from
     (p_old.company_id, p_old.target, p_old.continuous, p_old.command_type, p_old.command_payload, p_old.release_id,
      p_old.priority, p_old.validity, p_old.execution_timeout, p_old.needs_approval, p_old.created_by_user_id)
  then
    perform mqtt_private.fn_raise_check_violation('a rollout''s target and command cannot be changed',
      'Cancel it, and insert another one.');
  end if;
  if p_new.status is distinct from p_old.status and not mqtt_private.fn_rollout_may_become(p_old.status, p_new.status) then
    perform mqtt_private.fn_raise_check_violation(
      format('a rollout that is %s cannot become %s', p_old.status, p_new.status), 'Insert another one instead.');
  end if;
  if current_user <> 'authenticated' then return; end if;
  if p_new.status is distinct from p_old.status and p_new.status not in ('running', 'paused', 'cancelled') then
    perform mqtt_private.fn_raise_check_violation(
      format('only the queue makes a rollout %s', p_new.status), 'Write running, paused or cancelled.');
  end if;
  if (p_new.status is distinct from p_old.status and p_new.status = 'running'
      or (p_new.name, p_new.rate_per_minute, p_new.growth_factor, p_new.max_rate_per_minute, p_new.failure_threshold,
          p_new.failure_minimum) is distinct from
         (p_old.name, p_old.rate_per_minute, p_old.growth_factor, p_old.max_rate_per_minute, p_old.failure_threshold,
          p_old.failure_minimum))
    and p_new.company_id not in (select mqtt_private.fn_my_companies('admin'))
  then
    raise insufficient_privilege using message = 'only an admin of the company starts, resumes, approves or changes a rollout',
      hint = 'An operator may pause it or cancel it.';
  end if;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_check_rollout_change', 'authenticated', 'service_role');

-- A second person's approval: whoever is signed in; with the secret key, whom approved_by_user_id names.
create or replace function mqtt_private.fn_check_approval(p_creator uuid, p_approver uuid) returns void
language plpgsql stable set search_path = '' as $$
begin
  if p_approver is null then
    perform mqtt_private.fn_raise_check_violation('it does not say who approves the rollout',
      'With the secret key, write approved_by_user_id as well.');
  elsif p_approver = p_creator then
    perform mqtt_private.fn_raise_check_violation('whoever made a rollout cannot approve it',
      'Ask another admin of the company.');
  end if;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_check_approval', 'authenticated', 'service_role');

-- Checks what a person writes, and works out when a claim is to look at the rollout. Security invoker: current_user tells
-- people from the secret key.
create or replace function mqtt_private.fn_guard_rollout() returns trigger
language plpgsql set search_path = '' as $$
declare
  v_counts public.rollout_counts;
  v_now constant timestamptz := clock_timestamp();
begin
  if tg_op = 'INSERT' then
    perform mqtt_private.fn_check_target(new.target);
    new.company_id := coalesce(new.company_id, mqtt_private.fn_company_of_target(new.target));
    perform mqtt_private.fn_check_target_company(new.target, new.company_id);
    if new.release_id is null then
      perform mqtt_private.fn_check_command(new.command_type, new.command_payload);
    elsif new.command_type <> 'update_firmware' or not exists (select from public.firmware_releases
      where release_id = new.release_id and company_id = new.company_id)
    then
      perform mqtt_private.fn_raise_check_violation('release_id does not go with this rollout',
        'Write an update_firmware with a release of the same company.');
    end if;
    if current_user = 'authenticated' or new.created_by_user_id is null then
      new.created_by_user_id := auth.uid();
    end if;
    new.approved_by_user_id := null;
    new.status := case when new.needs_approval then 'awaiting_approval' else 'running' end;
    new.current_rate := new.rate_per_minute;
    new.started_at := case when new.status = 'running' then v_now end;
    new.next_release_at := new.started_at;
    return new;
  end if;

  perform mqtt_private.fn_check_rollout_change(old, new);
  new.updated_at := now();
  if new.rate_per_minute <> old.rate_per_minute then
    new.current_rate := new.rate_per_minute;
  elsif new.max_rate_per_minute < old.max_rate_per_minute then
    new.current_rate := greatest(least(new.current_rate, new.max_rate_per_minute), new.rate_per_minute);
  end if;
  if new.status = old.status then return new; end if;
  if new.status = 'running' then
    if old.status = 'awaiting_approval' then
      if current_user = 'authenticated' then
        new.approved_by_user_id := auth.uid();
      end if;
      perform mqtt_private.fn_check_approval(new.created_by_user_id, new.approved_by_user_id);
    elsif old.status = 'stopped' then
      select * into v_counts from public.rollout_counts where rollout_id = new.rollout_id;
      new.failures_before := v_counts.failed + v_counts.cancelled + v_counts.refused;
      new.ended_before := new.failures_before + v_counts.succeeded;
    end if;
    new.started_at := coalesce(new.started_at, v_now);
    new.last_result := null;
    -- the minute that had begun is not begun again; one that is in the future was so before the clock was put back
    new.next_release_at := case when new.minute_began_at <= v_now
      then greatest(v_now, new.minute_began_at + interval '1 minute') else v_now end;
  elsif new.status = 'cancelled' then
    new.next_release_at := v_now; -- for what the statement itself cannot cancel
    new.last_result := 'cancelled';
  else
    new.next_release_at := null;
  end if;
  new.minute_left := 0;
  if new.status in ('finished', 'cancelled') then
    new.finished_at := v_now;
  end if;
  return new;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_guard_rollout');

-- "of" these columns: the queue writes others.
create or replace trigger mqtt_guard_rollout before insert or update of
    company_id, name, target, continuous, command_type, command_payload, release_id, priority, validity,
    execution_timeout, rate_per_minute, growth_factor, max_rate_per_minute, failure_threshold, failure_minimum,
    needs_approval, status, created_by_user_id
  on public.command_rollouts for each row execute function mqtt_private.fn_guard_rollout();

-- Cancel -------------------------------------------------------------------------------------------------------

-- Cancels these commands of a rollout; where the project's own rules refuse one, each alone. Returns those refused.
create or replace function mqtt_private.fn_cancel_or_pass_over(p_ids uuid[]) returns uuid[]
language plpgsql volatile set search_path = public, extensions as $$
declare
  v_id uuid;
  v_fault mqtt_private.fault;
  v_refused uuid[] := '{}';
begin
  update public.device_commands set status = 'cancelled' where command_id = any (p_ids);
  perform mqtt_private.fn_check_deferred_constraints();
  return v_refused;
exception when others then
  get stacked diagnostics v_fault.code = returned_sqlstate, v_fault.message = message_text,
    v_fault.context = pg_exception_context, v_fault.constraint_name = constraint_name,
    v_fault.column_name = column_name;
  if mqtt_private.fn_explain_refusal(v_fault, 'device_commands') is null then raise; end if;
  if cardinality(p_ids) = 1 then return p_ids; end if;
  foreach v_id in array p_ids loop
    v_refused := v_refused || mqtt_private.fn_cancel_or_pass_over(array[v_id]);
  end loop;
  return v_refused;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_cancel_or_pass_over', 'service_role');

-- Cancels what of a rollout waits to be sent, for p_time; it waits for no row. Returns whether some is left.
create or replace function mqtt_private.fn_cancel_rollout_commands(p_rollout_id uuid, p_time interval) returns boolean
language plpgsql volatile set search_path = public, extensions as $$
declare
  c_until constant timestamptz := clock_timestamp() + p_time;
  v_page uuid[];
  v_refused uuid[] := '{}';
begin
  loop
    v_page := array(
      select command_id from public.device_commands
      where rollout_id = p_rollout_id and (due_at is not null or held_until is not null)
        and status::text in ('pending', 'failed') and command_id <> all (v_refused)
      limit 500 for update skip locked);
    exit when v_page = '{}' or clock_timestamp() > c_until;
    v_refused := v_refused || mqtt_private.fn_cancel_or_pass_over(v_page);
  end loop;
  return exists (
    select from public.device_commands
    where rollout_id = p_rollout_id and (due_at is not null or held_until is not null)
      and status::text in ('pending', 'failed') and command_id <> all (v_refused));
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_cancel_rollout_commands', 'service_role');

-- What else a change means: the snapshot is taken when it starts; cancelled, its commands are; workers that sleep wake
-- (…_doorbell.sql). Security definer: people write neither counts nor pages, and who cancels a rollout cancels all of it.
create or replace function mqtt_private.fn_follow_rollout() returns trigger
language plpgsql volatile security definer set search_path = public, extensions, pg_temp as $$
declare
  v_ids uuid[];
  v_transaction constant text := pg_current_xact_id()::text;
begin
  if tg_op = 'INSERT' then
    insert into public.rollout_counts (rollout_id) values (new.rollout_id) on conflict do nothing;
  elsif new.status = old.status then
    return null;
  end if;
  if new.started_at is not null and (tg_op = 'INSERT' or old.started_at is null) and not new.continuous then
    v_ids := (mqtt_private.fn_find_target(new.target, new.company_id)).ids;
    insert into mqtt_private.rollout_pages (rollout_id, last_device_id, device_ids)
    select new.rollout_id, v_ids[least(first + 499, cardinality(v_ids))], v_ids[first : first + 499]
    from generate_series(1, cardinality(v_ids), 500) as page (first);
    update public.rollout_counts set total = cardinality(v_ids) where rollout_id = new.rollout_id;
  end if;
  if new.status in ('finished', 'cancelled') then
    delete from mqtt_private.rollout_pages where rollout_id = new.rollout_id;
  end if;
  if new.status = 'cancelled' then
    perform mqtt_private.fn_cancel_rollout_commands(new.rollout_id, interval '4 seconds');
  elsif new.next_release_at <= now() + interval '1 hour'
    and current_setting('mqtt_service.rung_in', true) is distinct from v_transaction
  then
    perform mqtt_private.fn_ring('due');
    perform set_config('mqtt_service.rung_in', v_transaction, true);
  end if;
  return null;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_follow_rollout');

create or replace trigger mqtt_follow_rollout after insert or update of status
  on public.command_rollouts for each row execute function mqtt_private.fn_follow_rollout();

-- Its commands -------------------------------------------------------------------------------------------------

-- The worker's columns keep their values whatever a person writes. A command is held only while it is pending and not due.
-- Security invoker: current_user tells people from workers. After mqtt_guard_command_*, by its name.
create or replace function mqtt_private.fn_guard_held_command() returns trigger
language plpgsql set search_path = '' as $$
begin
  if current_user = 'authenticated' then
    new.rollout_id := case when tg_op = 'UPDATE' then old.rollout_id end;
    new.held_until := case when tg_op = 'UPDATE' then old.held_until end;
  end if;
  if new.due_at is not null or new.status::text <> 'pending' then
    new.held_until := null;
  end if;
  return new;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_guard_held_command');

create or replace trigger mqtt_guard_held_insert before insert on public.device_commands
  for each row when (new.rollout_id is not null or new.held_until is not null)
  execute function mqtt_private.fn_guard_held_command();
create or replace trigger mqtt_guard_held_update before update on public.device_commands
  for each row when (new.rollout_id is not null or old.rollout_id is not null
    or new.held_until is not null or old.held_until is not null)
  execute function mqtt_private.fn_guard_held_command();

-- Notes what the next claim is to count. Security definer: people cancel commands, and may not write the list.
create or replace function mqtt_private.fn_note_rollout_change() returns trigger
language plpgsql volatile security definer set search_path = '' as $$
begin
  if tg_op = 'UPDATE' then
    if new.status::text = old.status::text and (new.due_at is null) = (old.due_at is null)
      and (new.verified_at is null) = (old.verified_at is null)
    then
      return null;
    end if;
  end if;
  insert into mqtt_private.rollout_changes (rollout_id, device_id, command_id)
  values (old.rollout_id, old.device_id, old.command_id);
  return null;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_note_rollout_change');

-- By conditions on a column of ours alone: other commands pay one look at it.
create or replace trigger mqtt_note_rollout_update after update on public.device_commands
  for each row when (old.rollout_id is not null and new.rollout_id is not null)
  execute function mqtt_private.fn_note_rollout_change();
create or replace trigger mqtt_note_rollout_delete after delete on public.device_commands
  for each row when (old.rollout_id is not null) execute function mqtt_private.fn_note_rollout_change();

-- Progress -----------------------------------------------------------------------------------------------------

call mqtt_private.create_view('rollout_progress',
  'Rollouts with their devices by state, read from counts: as cheap for 100,000 devices as for one.', $$
  select r.rollout_id, r.company_id, r.name, r.status, r.command_type, r.continuous, r.started_at, r.finished_at,
    r.next_release_at, floor(r.current_rate)::int as rate_per_minute, c.total,
    case when c.total is not null and r.finished_at is null then greatest(c.total - c.pending - c.sent - c.unverified
      - c.succeeded - c.failed - c.cancelled - c.skipped - c.refused, 0) end as waiting,
    c.pending, c.sent, c.unverified, c.succeeded, c.failed, c.cancelled, c.skipped, c.refused,
    c.succeeded + c.failed + c.cancelled + c.refused as ended, r.last_result
  from public.command_rollouts r join public.rollout_counts c on c.rollout_id = r.rollout_id
$$);
