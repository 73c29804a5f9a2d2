-- A row that the table refuses to change stops no claim. A project's own trigger, or a check or a length that was there
-- before, can refuse what a claim writes; as all rows of a step are written at once, that one row would keep every
-- command of every device from being sent, for ever.
--
-- So a step whose write is refused through a row's fault is taken again, row by row. What is refused then is passed
-- over: such a row stays as it is, nothing later of its device is leased before it, and the claim says so (refused).
-- One claim looks past up to 1000 such rows in a step, 500 where their time is over. Every other error fails the claim.

-- Expiry -------------------------------------------------------------------------------------------------------

-- A command lives until expires_at, else for p_ttl from its issue (or from scheduled_for, where that is later).
-- A live lease is left alone: its worker may be publishing the command this moment.
create or replace function mqtt_private.fn_find_overdue_commands(p_now timestamptz, p_ttl interval) returns uuid[]
language plpgsql stable set search_path = ''
as $$
begin
  return array(
    (select command_id from public.device_commands
     where expires_at is not null and expires_at <= p_now
       and (status in ('pending', 'sent') or due_at is not null)
       and (lease_until is null or lease_until <= p_now)
     order by expires_at limit 500)
    union all
    (select command_id from public.device_commands
     where expires_at is null and greatest(issued_at, nullif(scheduled_for, 'infinity')) <= p_now - p_ttl
       and (status in ('pending', 'sent') or due_at is not null)
       and (lease_until is null or lease_until <= p_now)
     order by greatest(issued_at, nullif(scheduled_for, 'infinity')) limit 500));
end
$$;

-- Expires what is overdue; p_only, which is overdue, and nothing else.
create or replace function mqtt_private.fn_expire_commands(
  p_now timestamptz, p_ttl interval, p_only uuid default null) returns jsonb
language plpgsql volatile set search_path = ''
as $$
declare
  v_answer jsonb;
  v_overdue constant uuid[] :=
    case when p_only is null then mqtt_private.fn_find_overdue_commands(p_now, p_ttl) else array[p_only] end;
begin
  with locked as materialized (
    select command_id from public.device_commands
    where command_id = any (v_overdue)
      and (status in ('pending', 'sent') or due_at is not null)
      and (lease_until is null or lease_until <= p_now)
    for update skip locked
  ), expired as (
    update public.device_commands
    set status = 'expired', due_at = null, lease_worker = null, lease_until = null,
        last_error = left(case
          when status = 'sent' or (status = 'pending' and delivered_at is not null)
            then 'expired: it was delivered to the broker, but the device did not answer in time'
          else 'expired: it could not be delivered in time' || coalesce('; last failure: ' || last_error, '')
        end, 1000)
    where command_id = any (array(select command_id from locked))
    returning command_id, device_id, command_type
  )
  select coalesce(jsonb_agg(jsonb_build_object(
    'command_id', e.command_id, 'device_id', e.device_id, 'device_code', d.device_code,
    'command_type', e.command_type)), '[]')
  from expired e join public.devices d on d.device_id = e.device_id
  into v_answer;
  return v_answer;
end
$$;

-- The same, past what is refused: [{command_id, error}].
create or replace function mqtt_private.fn_expire_or_pass_over(
  p_now timestamptz, p_ttl interval, out expired jsonb, out refused jsonb)
language plpgsql volatile set search_path = ''
as $$
declare
  v_id uuid;
begin
  refused := '[]';
  begin
    expired := mqtt_private.fn_expire_commands(p_now, p_ttl);
    return;
  exception when others then
    if not mqtt_private.fn_is_row_fault(sqlstate) then
      raise;
    end if;
  end;
  expired := '[]';
  foreach v_id in array mqtt_private.fn_find_overdue_commands(p_now, p_ttl) loop
    begin
      expired := expired || mqtt_private.fn_expire_commands(p_now, p_ttl, v_id);
    exception when others then
      if not mqtt_private.fn_is_row_fault(sqlstate) then
        raise;
      end if;
      refused := refused || jsonb_build_object('command_id', v_id, 'error', left(sqlerrm, 1000));
    end;
  end loop;
end
$$;

-- Devices that are not active ----------------------------------------------------------------------------------

-- Commands for devices that are not active fail as soon as they are due. A row whose retries were used up before
-- (the limit was lowered) is not tried again and not counted again.
create or replace function mqtt_private.fn_find_undeliverable_commands(p_now timestamptz, p_max_retries int)
returns uuid[]
language plpgsql stable set search_path = ''
as $$
begin
  return array(
    with waiting as materialized (
      select distinct device_id from public.device_commands
      where due_at <= p_now and (lease_until is null or lease_until <= p_now)
    ), inactive as materialized (
      select d.device_id from waiting join public.devices d on d.device_id = waiting.device_id
      where d.is_active is not true
    )
    select command_id from public.device_commands
    where due_at <= p_now and (lease_until is null or lease_until <= p_now)
      and (device_id in (select device_id from inactive) or (status = 'failed' and retry_count >= p_max_retries))
    order by due_at limit 1000);
end
$$;

-- Fails what cannot be delivered; p_only, which cannot, and nothing else.
create or replace function mqtt_private.fn_fail_undeliverable_commands(
  p_now timestamptz, p_max_retries int, p_delay interval, p_only uuid default null) returns jsonb
language plpgsql volatile set search_path = ''
as $$
declare
  v_answer jsonb;
  v_undeliverable constant uuid[] := case when p_only is null
    then mqtt_private.fn_find_undeliverable_commands(p_now, p_max_retries) else array[p_only] end;
begin
  with due as materialized (
    select c.command_id, d.device_code, c.status = 'failed' and c.retry_count >= p_max_retries as used_up,
      format('device %s is not active: map it to a site', coalesce(d.device_code, d.device_mac)) as error
    from public.device_commands c join public.devices d on d.device_id = c.device_id
    where c.command_id = any (v_undeliverable)
      and c.due_at <= p_now and (c.lease_until is null or c.lease_until <= p_now)
      and (d.is_active is not true or (c.status = 'failed' and c.retry_count >= p_max_retries))
    for update of c skip locked
  ), failed as (
    update public.device_commands c
    set status = 'failed', lease_worker = null, lease_until = null,
        retry_count = c.retry_count + case when due.used_up then 0 else 1 end,
        last_error = case when due.used_up then c.last_error else due.error end,
        due_at = case when not due.used_up and c.retry_count + 1 < p_max_retries then p_now + p_delay end
    from due where c.command_id = due.command_id
    returning c.command_id, c.device_id, due.device_code, c.command_type, c.retry_count, c.due_at, c.last_error
  )
  select coalesce(jsonb_agg(jsonb_build_object(
    'command_id', command_id, 'device_id', device_id, 'device_code', device_code, 'command_type', command_type,
    'retry_count', retry_count, 'final', due_at is null, 'error', last_error)), '[]')
  from failed
  into v_answer;
  return v_answer;
end
$$;

-- The same, past what is refused: [{command_id, error}].
create or replace function mqtt_private.fn_fail_or_pass_over(
  p_now timestamptz, p_max_retries int, p_delay interval, out failed jsonb, out refused jsonb)
language plpgsql volatile set search_path = ''
as $$
declare
  v_id uuid;
begin
  refused := '[]';
  begin
    failed := mqtt_private.fn_fail_undeliverable_commands(p_now, p_max_retries, p_delay);
    return;
  exception when others then
    if not mqtt_private.fn_is_row_fault(sqlstate) then
      raise;
    end if;
  end;
  failed := '[]';
  foreach v_id in array mqtt_private.fn_find_undeliverable_commands(p_now, p_max_retries) loop
    begin
      failed := failed || mqtt_private.fn_fail_undeliverable_commands(p_now, p_max_retries, p_delay, v_id);
    exception when others then
      if not mqtt_private.fn_is_row_fault(sqlstate) then
        raise;
      end if;
      refused := refused || jsonb_build_object('command_id', v_id, 'error', left(sqlerrm, 1000));
    end;
  end loop;
end
$$;

-- Leases -------------------------------------------------------------------------------------------------------

-- Leases due commands of active devices in the order of publishing. A device belongs to one worker at a time: while
-- another worker holds a lease on any command of it, the device is left alone. A row that another transaction holds
-- keeps back the later ones of its device, so that their order stands.
--
-- No device keeps the others out. One whose next command is locked is left before the limit is applied (up to 1000
-- such devices), so a claim leases something whenever some device can go on. And the first 20 commands of each
-- device go before the rest of any. remain: due commands are left that a larger limit might have taken.
--
-- With p_only: that command, whose turn it is, and nothing else.
create or replace function mqtt_private.fn_lease_due_commands(
  p_worker text, p_limit int, p_now timestamptz, p_until timestamptz, p_held uuid[], p_only uuid default null,
  out leased uuid[], out remain boolean)
language plpgsql volatile set search_path = ''
as $$
begin
  with busy as materialized (
    select device_id from public.device_commands where lease_until > p_now and lease_worker <> p_worker
  ), due as materialized (
    select c.command_id, c.device_id, c.priority, c.issued_at, c.issue_number,
      row_number() over (partition by c.device_id order by c.priority desc, c.issued_at, c.issue_number) as turn
    from public.device_commands c
    where p_only is null and c.due_at <= p_now and (c.lease_until is null or c.lease_until <= p_now)
      and c.device_id not in (select device_id from busy)
      and c.command_id not in (select unnest(p_held))
  ), next_ones as materialized (
    select due.command_id
    from due join public.devices d on d.device_id = due.device_id -- here, so that each device is read once
    where due.turn = 1 and d.is_active
    order by due.priority desc, due.issued_at, due.issue_number limit p_limit + 1000
  ), free_devices as materialized (
    select device_id from public.device_commands
    where command_id = any (array(select command_id from next_ones))
      and status in ('pending', 'failed') and coalesce(due_at, 'infinity') <= p_now
    order by priority desc, issued_at, issue_number limit p_limit
    for update skip locked
  ), waiting as materialized (
    (select command_id, device_id, turn from due
     where device_id in (select device_id from free_devices)
     order by turn > 20, priority desc, issued_at, issue_number limit p_limit)
    union all
    select p_only, null, 1 where p_only is not null
  ), locked as materialized (
    select command_id from public.device_commands
    where command_id = any (array(select command_id from waiting))
      and status in ('pending', 'failed') and coalesce(due_at, 'infinity') <= p_now -- still so, now that it is ours
    for update skip locked
  ), turns as materialized (
    select command_id,
      bool_and(command_id in (select command_id from locked)) over (partition by device_id order by turn) as free
    from waiting
  ), claimed as (
    update public.device_commands
    set status = 'pending', lease_worker = p_worker, lease_until = p_until, due_at = p_until, attempt = attempt + 1
    where command_id = any (array(select command_id from turns where free))
    returning command_id
  )
  select coalesce((select array_agg(command_id) from claimed), '{}'),
    (select count(*) from due) > (select count(*) from claimed)
  into leased, remain;
end
$$;

-- The same, past what is refused: [{command_id, error}]. What comes after a refused command of its device is left, so
-- that their order stands.
create or replace function mqtt_private.fn_lease_or_pass_over(
  p_worker text, p_limit int, p_now timestamptz, p_until timestamptz, p_held uuid[],
  out leased uuid[], out remain boolean, out refused jsonb)
language plpgsql volatile set search_path = ''
as $$
declare
  v_command record;
  v_taken uuid[];
  v_left uuid[] := '{}'; -- devices
begin
  refused := '[]';
  begin
    select l.leased, l.remain into leased, remain
    from mqtt_private.fn_lease_due_commands(p_worker, p_limit, p_now, p_until, p_held) l;
    return;
  exception when others then
    if not mqtt_private.fn_is_row_fault(sqlstate) then
      raise;
    end if;
  end;
  leased := '{}';
  remain := false;
  for v_command in
    select due.command_id, due.device_id
    from (
      select c.*, row_number() over (
        partition by c.device_id order by c.priority desc, c.issued_at, c.issue_number) as turn
      from public.device_commands c
      where c.due_at <= p_now and (c.lease_until is null or c.lease_until <= p_now)
        and c.device_id not in (
          select device_id from public.device_commands where lease_until > p_now and lease_worker <> p_worker)
        and c.command_id not in (select unnest(p_held))) due
    join public.devices d on d.device_id = due.device_id
    where d.is_active
    order by due.turn > 20, due.priority desc, due.issued_at, due.issue_number
  loop
    continue when v_command.device_id = any (v_left);
    if cardinality(leased) >= p_limit or jsonb_array_length(refused) >= 1000 then
      remain := true;
      exit;
    end if;
    begin
      select l.leased into v_taken
      from mqtt_private.fn_lease_due_commands(p_worker, 1, p_now, p_until, p_held, v_command.command_id) l;
      leased := leased || v_taken;
      if v_taken = '{}' then -- another transaction holds it
        v_left := v_left || v_command.device_id;
      end if;
    exception when others then
      if not mqtt_private.fn_is_row_fault(sqlstate) then
        raise;
      end if;
      v_left := v_left || v_command.device_id;
      refused := refused || jsonb_build_object('command_id', v_command.command_id, 'error', left(sqlerrm, 1000));
    end;
  end loop;
end
$$;

-- Handing out --------------------------------------------------------------------------------------------------

-- As fn_hand_out_commands, past what is refused: [{command_id, error}]. That cannot be sent, so it keeps nothing back.
create or replace function mqtt_private.fn_hand_out_or_pass_over(
  p_ids uuid[], p_now timestamptz, p_ttl interval, out commands jsonb, out broken jsonb, out refused jsonb)
language plpgsql volatile set search_path = ''
as $$
declare
  v_id uuid;
  v_one record;
  v_commands jsonb[] := '{}';
begin
  refused := '[]';
  begin
    select h.commands, h.broken into commands, broken
    from mqtt_private.fn_hand_out_commands(p_ids, p_now, p_ttl) h;
    return;
  exception when others then
    if not mqtt_private.fn_is_row_fault(sqlstate) then
      raise;
    end if;
  end;
  broken := '[]';
  for v_id in
    select command_id from public.device_commands
    where command_id = any (p_ids) order by priority desc, issued_at, issue_number
  loop
    begin
      select h.* into v_one from mqtt_private.fn_hand_out_commands(array[v_id], p_now, p_ttl) h;
      v_commands := v_commands || array(select jsonb_array_elements(v_one.commands));
      broken := broken || v_one.broken;
    exception when others then
      if not mqtt_private.fn_is_row_fault(sqlstate) then
        raise;
      end if;
      refused := refused || jsonb_build_object('command_id', v_id, 'error', left(sqlerrm, 1000));
    end;
  end loop;
  commands := to_jsonb(v_commands);
end
$$;

-- The claim ----------------------------------------------------------------------------------------------------

create or replace function mqtt_private.fn_refused_ids(p_refused jsonb) returns uuid[]
language plpgsql immutable set search_path = ''
as $$
begin
  return array(select (element ->> 'command_id')::uuid from jsonb_array_elements(p_refused) as e (element));
end
$$;

-- The first 20 of these commands, each once, with their devices: [{command_id, device_code, error}].
create or replace function mqtt_private.fn_name_refused_commands(p_refused jsonb) returns jsonb
language plpgsql stable set search_path = ''
as $$
begin
  return (
    select coalesce(jsonb_agg(jsonb_build_object(
      'command_id', c.command_id, 'device_code', d.device_code, 'error', r.errors[1]) order by r.place), '[]')
    from (
      select (element ->> 'command_id')::uuid as command_id, min(place) as place,
        array_agg(element ->> 'error' order by place) as errors
      from jsonb_array_elements(p_refused) with ordinality as e (element, place)
      group by 1 order by 2 limit 20) r
    join public.device_commands c on c.command_id = r.command_id
    join public.devices d on d.device_id = c.device_id);
end
$$;

-- Takes up to p_limit due commands for p_worker and leases them for p_lease_seconds; also expires and fails what is
-- due for that. p_worker names one process, for as long as it lives. p_held are the commands that this worker still
-- has in hand; what is leased to it and not held comes again at once, under the same attempt.
-- Returns {now, commands, failed, expired, refused, rescued, welcome_due, visits_due, more, seconds_to_next_due};
-- rescued names the workers whose leases ran out on some of these commands: {worker: how many}. refused are the first
-- 20 commands that the table refuses to change: [{command_id, device_code, error}]; the rest went on.
create or replace function public.fn_claim_commands(
  p_worker text,
  p_limit int default 200,
  p_lease_seconds double precision default 30,
  p_max_retries int default 3,
  p_retry_delay_seconds double precision default 30,
  p_command_ttl_seconds double precision default 86400,
  p_held uuid[] default '{}'
) returns jsonb
language plpgsql volatile security invoker set search_path = ''
-- One plan for an empty table and for millions of finished rows: the planner cannot know how few are due.
set enable_seqscan = off set jit = off set plan_cache_mode = force_generic_plan
as $$
declare
  v_now timestamptz;
  v_until timestamptz;
  v_ttl constant interval := make_interval(secs => p_command_ttl_seconds);
  v_held constant uuid[] := coalesce(p_held, '{}');
  v_lapsed jsonb;
  v_expired record;
  v_failed record;
  v_refused jsonb;
  v_ids uuid[];
  v_new record;
  v_handed record;
begin
  if coalesce(p_worker, '') = '' then
    raise exception 'p_worker is empty'
      using errcode = 'invalid_parameter_value', hint = 'Name the worker that claims.';
  end if;
  perform pg_advisory_xact_lock(7205759401); -- claims are serial, so no two take one device
  v_now := clock_timestamp();                -- the wait for the lock must not date the leases back
  v_until := v_now + make_interval(secs => p_lease_seconds);

  v_expired := mqtt_private.fn_expire_or_pass_over(v_now, v_ttl);
  v_failed := mqtt_private.fn_fail_or_pass_over(
    v_now, p_max_retries, make_interval(secs => p_retry_delay_seconds));
  v_refused := v_expired.refused || v_failed.refused;
  v_ids := mqtt_private.fn_find_unseen_commands(p_worker, greatest(p_limit, 0), v_now, v_held);
  v_lapsed := mqtt_private.fn_find_lapsed_commands(p_worker, v_now);
  v_new := mqtt_private.fn_lease_or_pass_over( -- but not what is to be sent no more
    p_worker, greatest(p_limit - cardinality(v_ids), 0), v_now, v_until,
    v_held || mqtt_private.fn_refused_ids(v_refused));
  v_ids := v_ids || v_new.leased;
  v_handed := mqtt_private.fn_hand_out_or_pass_over(v_ids, v_now, v_ttl);
  perform mqtt_private.fn_fail_stale_images(v_now);

  return jsonb_build_object(
    'now', v_now, 'commands', v_handed.commands, 'failed', v_failed.failed || v_handed.broken,
    'expired', mqtt_private.fn_explain_expired_commands(v_expired.expired),
    'refused', mqtt_private.fn_name_refused_commands(v_refused || v_new.refused || v_handed.refused),
    'rescued', mqtt_private.fn_count_rescued_commands(v_lapsed, v_new.leased),
    'more', v_new.remain and cardinality(v_ids) > 0, -- else asking again at once would gain nothing
    'welcome_due', exists (select from public.devices where welcome_due and is_active),
    'visits_due', mqtt_private.fn_are_visits_due(v_now),
    'seconds_to_next_due', (
      select extract(epoch from due_at - v_now) from public.device_commands
      where due_at > v_now and due_at < 'infinity' order by due_at limit 1));
end
$$;

drop function if exists mqtt_private.fn_expire_commands(timestamptz, interval);
drop function if exists mqtt_private.fn_fail_undeliverable_commands(timestamptz, int, interval);
drop function if exists mqtt_private.fn_lease_due_commands(text, int, timestamptz, timestamptz, uuid[]);

-- Grants -------------------------------------------------------------------------------------------------------

do $$
declare
  v_function regprocedure;
begin
  foreach v_function in array array[
    'mqtt_private.fn_find_overdue_commands(timestamptz, interval)',
    'mqtt_private.fn_expire_commands(timestamptz, interval, uuid)',
    'mqtt_private.fn_expire_or_pass_over(timestamptz, interval)',
    'mqtt_private.fn_find_undeliverable_commands(timestamptz, int)',
    'mqtt_private.fn_fail_undeliverable_commands(timestamptz, int, interval, uuid)',
    'mqtt_private.fn_fail_or_pass_over(timestamptz, int, interval)',
    'mqtt_private.fn_lease_due_commands(text, int, timestamptz, timestamptz, uuid[], uuid)',
    'mqtt_private.fn_lease_or_pass_over(text, int, timestamptz, timestamptz, uuid[])',
    'mqtt_private.fn_hand_out_or_pass_over(uuid[], timestamptz, interval)',
    'mqtt_private.fn_refused_ids(jsonb)',
    'mqtt_private.fn_name_refused_commands(jsonb)',
    'public.fn_claim_commands(text, int, double precision, int, double precision, double precision, uuid[])'
  ]::regprocedure[] loop
    execute format('revoke all on function %s from public, anon, authenticated', v_function);
    execute format('grant execute on function %s to service_role', v_function);
  end loop;
end
$$;
