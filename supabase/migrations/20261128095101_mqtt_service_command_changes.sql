-- What became of each command, step by step, and each wake of a device: rows that are only ever added.
--
-- device_command_changes has a row for each change of a command's status, for each attempt that a worker gives back or
-- takes over from another, and for what a device says after its command has ended; with who did it. That a command was
-- queued stands in device_commands (issued_at, created_by_user_id) and is not written twice; nor is a lease, whose worker
-- the next change names.
--
-- device_wakes has a row for each visit of a device (…_visits.sql).
--
-- Both stand beside what happens: what refuses a row gives a warning, and stops nothing. Nobody writes them but the triggers
-- below, and nobody removes rows but fn_remove_old_rows, after RETENTION_HISTORY. There is no foreign key, whose check
-- would lock the device's row at each change of a command; rows of a device that is deleted show to nobody, and go by age.

call mqtt_private.create_table('public.device_command_changes', 'change_id', $$
  change_id bigint generated always as identity primary key,  -- also the order
  command_id uuid not null,
  device_id uuid not null
$$);

alter table public.device_command_changes
  add column if not exists at timestamptz not null default clock_timestamp(),
  add column if not exists from_status text,    -- null: the row was inserted like this
  add column if not exists to_status text,
  -- worker: it sent the command, or failed to; device: it answered; queue: its time was over, its device was not active or
  -- woke, a window or a rollout; user: somebody signed in; service: whoever has the secret key or the database's password
  add column if not exists changed_by text check (changed_by in ('worker', 'device', 'queue', 'user', 'service')),
  add column if not exists who text,            -- the worker's name, the user's id, the role of a service; else null
  add column if not exists detail jsonb;        -- {error, retry_at, attempt, redelivery, no_listener, …}; null: nothing to add

-- what happened to a device, in order
create index if not exists device_command_changes_device_idx on public.device_command_changes (device_id, at);

call mqtt_private.create_table('public.device_wakes', 'wake_id', $$
  wake_id bigint generated always as identity primary key,
  device_id uuid not null
$$);

alter table public.device_wakes
  add column if not exists at timestamptz not null default clock_timestamp(),
  add column if not exists hello boolean,        -- it said HELLO; false: the first that was heard of it was a picture
  add column if not exists worker text,          -- that answered it
  add column if not exists pending_count integer; -- pictures that it announced

create index if not exists device_wakes_device_idx on public.device_wakes (device_id, at);

-- Access -------------------------------------------------------------------------------------------------------
-- Everybody reads, nobody writes; service_role neither.

do $$
declare
  v_table text;
begin
  foreach v_table in array array['device_command_changes', 'device_wakes'] loop
    call mqtt_private.grant_table(v_table, '', '', false);
    execute format('revoke insert, update, delete, truncate on table public.%I from service_role', v_table);
    -- default privileges of older projects may have given the sequence away
    execute format('revoke all on sequence %s from public, anon, authenticated, service_role', pg_get_serial_sequence(
      'public.' || v_table, case v_table when 'device_wakes' then 'wake_id' else 'change_id' end));
  end loop;
end
$$;

drop policy if exists mqtt_members_read on public.device_command_changes;
create policy mqtt_members_read on public.device_command_changes for select to authenticated
  using (exists (select from public.devices d where d.device_id = device_command_changes.device_id
    and d.company_id in (select mqtt_private.fn_my_companies('viewer'))));

drop policy if exists mqtt_members_read on public.device_wakes;
create policy mqtt_members_read on public.device_wakes for select to authenticated
  using (exists (select from public.devices d where d.device_id = device_wakes.device_id
    and d.company_id in (select mqtt_private.fn_my_companies('viewer'))));

-- Changes of commands ------------------------------------------------------------------------------------------

-- Since when changes are written; what happened before stands in the columns of device_commands alone.
-- Security definer: nobody else may read mqtt_private.adoption.
create or replace function mqtt_private.fn_changes_since() returns timestamptz
language sql stable security definer set search_path = '' as $$
  select coalesce((
    select applied_at from mqtt_private.adoption where table_name = 'public.device_command_changes'), 'infinity')
$$;
call mqtt_private.grant_execute('mqtt_private.fn_changes_since', 'authenticated', 'service_role');

-- Who a statement runs for, beside workers: the role as the API or the session has it.
create or replace function mqtt_private.fn_acting_role() returns text
language sql stable set search_path = '' as $$
  select coalesce(nullif(nullif(current_setting('role', true), 'none'), ''), session_user::text)
$$;
call mqtt_private.grant_execute('mqtt_private.fn_acting_role', 'authenticated', 'service_role');

-- What there is to say of a change, beside its statuses; null: nothing. Of a change that is not of the status, p_worker is
-- who took the attempt over, null where it was given back.
create or replace function mqtt_private.fn_detail_of_change(
  p_from text, p_to text, p_error text, p_retry_at timestamptz, p_attempt bigint, p_redelivery int, p_no_listener boolean,
  p_old_worker text, p_worker text) returns jsonb
language plpgsql immutable parallel safe set search_path = '' as $$
begin
  return case
    when p_to in ('failed', 'rejected', 'expired') then jsonb_strip_nulls(jsonb_build_object('error', p_error,
      'retry_at', case when p_to = 'failed' then p_retry_at end, 'attempt', nullif(p_attempt, 0)))
    when p_from = p_to and p_worker is null then jsonb_build_object('given_back', true, 'attempt', p_attempt)
    when p_from = p_to then jsonb_build_object('taken_over_from', p_old_worker, 'attempt', p_attempt)
    when p_from = 'sent' and p_to = 'pending' then jsonb_build_object('redelivery', p_redelivery)
    when p_to = 'sent' then jsonb_strip_nulls(jsonb_build_object(
      'attempt', p_attempt, 'no_listener', case when p_no_listener then true end))
  end;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_detail_of_change', 'service_role');

-- Writes the changes of one statement, all at once. A claim that leases commands changes no status: then the join finds
-- nothing, and nothing is written.
-- Security definer, since whoever changes a command writes no history. One plan is kept for statements of one row and of
-- hundreds, so that it must have no nested loop. What is rarely needed is a function's, so that the plan starts quickly.
create or replace function mqtt_private.fn_record_changes() returns trigger
language plpgsql volatile security definer set search_path = public, extensions, pg_temp
set enable_nestloop = off set plan_cache_mode = force_generic_plan as $$
declare
  v_user constant text := auth.uid();
begin
  insert into public.device_command_changes
    (command_id, device_id, from_status, to_status, changed_by, who, detail)
  select c.command_id, c.device_id, c.old_status, c.new_status, c.changed_by,
    case c.changed_by when 'worker' then coalesce(c.old_worker, c.new_worker) when 'user' then v_user
      when 'service' then mqtt_private.fn_acting_role() end,
    case when c.new_status in ('failed', 'rejected', 'expired', 'pending')
        or c.new_status = 'sent' and (c.attempt > 1 or c.no_listener)
      then mqtt_private.fn_detail_of_change(c.old_status, c.new_status, c.last_error, c.due_at, c.attempt,
        c.redelivery_count, c.no_listener, c.old_worker, c.new_worker) end
  from (
    select n.command_id, n.device_id, n.attempt, n.redelivery_count, n.no_listener, n.last_error, n.due_at,
      o.status::text as old_status, n.status::text as new_status, o.lease_worker as old_worker,
      n.lease_worker as new_worker,
      case
        when v_user is not null then 'user'
        when n.status::text in ('acknowledged', 'rejected')
          or n.status::text = 'failed' and n.last_error like 'the device reports failure%' then 'device'
        when n.status::text = 'expired' then 'queue'
        when o.lease_worker is not null or n.lease_worker is not null then 'worker'
        when n.status::text = 'failed' or o.status::text = 'sent' and n.status::text = 'pending' then 'queue'
        else 'service' end as changed_by
    from old_rows o join new_rows n on n.command_id = o.command_id
    where o.status::text is distinct from n.status::text
      or o.lease_worker is not null and n.status::text = 'pending' and o.lease_worker is distinct from n.lease_worker
  ) c;
  return null;
exception when others then
  raise warning 'device_command_changes does not take a change: % (%)', sqlerrm, sqlstate;
  return null;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_record_changes');

create or replace trigger mqtt_record_changes after update on public.device_commands
  referencing old table as old_rows new table as new_rows
  for each statement execute function mqtt_private.fn_record_changes();

-- A command that is inserted as anything but pending: another service has done something with it already.
-- Security definer, as above.
create or replace function mqtt_private.fn_record_inserted() returns trigger
language plpgsql volatile security definer set search_path = public, extensions, pg_temp as $$
begin
  if not exists (select from new_rows where status::text <> 'pending') then return null; end if;
  insert into public.device_command_changes (command_id, device_id, to_status, changed_by, who, detail)
  select n.command_id, n.device_id, n.status::text, case when session.uid is null then 'service' else 'user' end,
    coalesce(session.uid, session.role), case when n.last_error is not null then jsonb_build_object('error', n.last_error) end
  from new_rows n, (select auth.uid()::text as uid, mqtt_private.fn_acting_role() as role offset 0) session
  where n.status::text <> 'pending';
  return null;
exception when others then
  raise warning 'device_command_changes does not take a new command: % (%)', sqlerrm, sqlstate;
  return null;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_record_inserted');

create or replace trigger mqtt_record_inserted after insert on public.device_commands
  referencing new table as new_rows
  for each statement execute function mqtt_private.fn_record_inserted();

-- What a device says after its command has ended, where the status stays (…_command_progress.sql, …_firmware.sql): the
-- trigger's argument is the column that says when.
-- Security definer, as above.
create or replace function mqtt_private.fn_record_late_word() returns trigger
language plpgsql volatile security definer set search_path = public, extensions, pg_temp as $$
begin
  insert into public.device_command_changes (command_id, device_id, from_status, to_status, changed_by, detail)
  values (new.command_id, new.device_id, old.status::text, new.status::text, 'device',
    jsonb_build_object(tg_argv[0], to_jsonb(new) -> tg_argv[0]));
  return null;
exception when others then
  raise warning 'device_command_changes does not take a late word: % (%)', sqlerrm, sqlstate;
  return null;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_record_late_word');

create or replace trigger mqtt_record_verified_at after update on public.device_commands
  for each row when (new.verified_at is not null and old.verified_at is null)
  execute function mqtt_private.fn_record_late_word('verified_at');

create or replace trigger mqtt_record_done_after_cancel_at after update on public.device_commands
  for each row when (new.done_after_cancel_at is not null and old.done_after_cancel_at is null)
  execute function mqtt_private.fn_record_late_word('done_after_cancel_at');

-- Wakes --------------------------------------------------------------------------------------------------------

-- Writes the visit that begins. Security definer, as above.
create or replace function mqtt_private.fn_record_wake() returns trigger
language plpgsql volatile security definer set search_path = public, extensions, pg_temp as $$
begin
  insert into public.device_wakes (device_id, at, hello, worker, pending_count)
  values (new.device_id, new.began_at, coalesce(new.received_refs[1] is not null, false), new.lease_worker,
    new.pending_count);
  return null;
exception when others then
  raise warning 'device_wakes does not take a wake of device %: % (%)', new.device_id, sqlerrm, sqlstate;
  return null;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_record_wake');

create or replace trigger mqtt_record_first_wake after insert on mqtt_private.visits
  for each row execute function mqtt_private.fn_record_wake();
create or replace trigger mqtt_record_wake after update on mqtt_private.visits
  for each row when (new.began_at is distinct from old.began_at and new.ended_at is null)
  execute function mqtt_private.fn_record_wake();

-- Retention ----------------------------------------------------------------------------------------------------

-- Removes at most p_limit changes and p_limit wakes from before p_before, the oldest first; returns how many, and whether
-- there may be more. By the key, which grows with time: no index more.
-- Security definer: nobody else may remove any.
create or replace function mqtt_private.fn_remove_old_changes(
  p_before timestamptz, p_limit int, out removed int, out more boolean)
language plpgsql volatile security definer set search_path = public, extensions, pg_temp set enable_seqscan = off as $$
declare
  v_changes int;
  v_wakes int;
begin
  delete from public.device_command_changes where change_id = any (array(
    select change_id from (
      select change_id, at from public.device_command_changes order by change_id limit p_limit) oldest
    where at < p_before and at >= mqtt_private.fn_ours_since('public.device_command_changes')));
  get diagnostics v_changes = row_count;
  delete from public.device_wakes where wake_id = any (array(
    select wake_id from (select wake_id, at from public.device_wakes order by wake_id limit p_limit) oldest
    where at < p_before and at >= mqtt_private.fn_ours_since('public.device_wakes')));
  get diagnostics v_wakes = row_count;
  removed := v_changes + v_wakes;
  more := greatest(v_changes, v_wakes) >= p_limit;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_remove_old_changes', 'service_role');

-- See …_retention.sql. New: `history` also removes changes of commands and wakes, ten times as many a call, since they are
-- many and nothing refuses them.
create or replace function public.fn_remove_old_rows(
  p_worker text, p_kind text, p_days double precision, p_limit int default 500, p_after timestamptz default '-infinity'
) returns jsonb
language plpgsql volatile security invoker set search_path = public, extensions set lock_timeout = '2s' as $$
declare
  v_removal mqtt_private.removal;
  v_done record;
  v_fault mqtt_private.fault;
  v_refused int := 0;
  v_error text;
  v_removed int := 0;
  v_more boolean := false;
begin
  if not mqtt_private.fn_take_turn('retention', p_worker, 120) then
    return jsonb_build_object('held', false, 'removed', 0, 'refused', 0, 'more', false);
  end if;
  if p_kind = 'images' then
    raise exception 'pictures are removed by fn_remove_images' using errcode = 'invalid_parameter_value';
  end if;
  v_removal := mqtt_private.fn_plan_removal(p_kind, p_days, p_limit, coalesce(p_after, '-infinity'));
  begin
    v_done := mqtt_private.fn_try_removal(v_removal);
  exception when others then
    get stacked diagnostics v_fault.code = returned_sqlstate, v_fault.message = message_text,
      v_fault.context = pg_exception_context, v_fault.constraint_name = constraint_name,
      v_fault.column_name = column_name;
    if mqtt_private.fn_explain_refusal(v_fault, v_removal.table_name) is null then raise; end if;
    v_removal.batch := least(p_limit, 100);
    v_done := mqtt_private.fn_remove_by_row(v_removal);
    v_refused := v_done.refused;
    v_error := v_done.error;
  end;
  if p_kind = 'history' then
    select c.removed, c.more into v_removed, v_more
    from mqtt_private.fn_remove_old_changes(v_removal.before, least(p_limit, 100000) * 10) c;
  end if;
  return jsonb_build_object(
    'held', true, 'removed', v_done.removed + v_removed, 'refused', v_refused, 'error', v_error,
    'after', coalesce(v_done.youngest, nullif(p_after, '-infinity')),
    'more', v_more or coalesce(
      v_done.seen >= v_removal.batch and (v_done.removed > 0 or v_done.youngest > v_removal.since), false));
end
$$;
call mqtt_private.grant_execute(
  'public.fn_remove_old_rows(text, text, double precision, int, timestamptz)', 'service_role');
