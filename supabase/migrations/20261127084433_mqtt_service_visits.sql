-- Visits: one wake of one device, from its HELLO (or its first picture) until it was sent its next wake time.
--
-- Every worker receives every message, but only one answers in a visit: the holder of its lease.
--
--   begins ──▶ held ────▶ ended   the device was sent its next wake time, and sleeps
--              │  ▲
--              ▼  │               the lease runs out; another worker takes the visit over, or its own renews it
--             lapsed ───▶ ended   after 10 minutes: the device cannot be awake any more
--
-- Its worker renews the lease every few seconds, so a visit lapses when its worker dies. A visit that has ended stays
-- ended; the next HELLO begins another.
--
-- Locks. Whoever begins a visit locks the device and then the visit. Renewing, taking over and ending lock visits alone
-- and wait for nothing behind them, so a transaction that keeps a device's row locked lets no lease run out.

-- One row for each device: its latest visit.
call mqtt_private.create_table('mqtt_private.visits', null, $$
  device_id uuid primary key references public.devices (device_id) on delete cascade,
  lease_worker text not null,
  lease_until timestamptz not null,
  began_at timestamptz not null,
  ended_at timestamptz,
  received_by text[] not null default '{}',    -- the workers that brought its HELLO
  received_refs text[] not null default '{}',  -- under which refs, so that one sent again is known
  pending_count int not null default 0,        -- pictures that the HELLO announced
  pending_names text[] not null default '{}'
$$);
-- the visits whose lease has run out
create index if not exists visits_open_idx on mqtt_private.visits (lease_until) where ended_at is null;
grant select, insert, update, delete on table mqtt_private.visits to service_role;

create or replace function mqtt_private.fn_lock_visits(p_device_ids uuid[]) returns void
language sql volatile set search_path = '' as $$
  select from mqtt_private.visits where device_id = any (p_device_ids) order by device_id for no key update
$$;
call mqtt_private.grant_execute('mqtt_private.fn_lock_visits', 'service_role');

-- As fn_find_and_lock_devices, and locks the devices' visits too.
create or replace function mqtt_private.fn_lock_devices_and_visits(p_topic_ids text[]) returns uuid[]
language plpgsql volatile set search_path = '' as $$
declare
  v_ids constant uuid[] := mqtt_private.fn_find_and_lock_devices(p_topic_ids);
begin
  perform mqtt_private.fn_lock_visits(v_ids);
  return v_ids;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_lock_devices_and_visits', 'service_role');

-- Beginning ----------------------------------------------------------------------------------------------------
-- In these functions the device's row and its visit's are locked.

-- A new visit of a device, held by p_worker.
create or replace function mqtt_private.fn_begin_visit(
  p_device_id uuid, p_worker text, p_ref text, p_now timestamptz, p_lease interval, p_count int, p_names text[])
returns void
language sql volatile set search_path = '' as $$
  insert into mqtt_private.visits as v
    (device_id, lease_worker, lease_until, began_at, ended_at, received_by, received_refs, pending_count, pending_names)
  values (p_device_id, p_worker, p_now + p_lease, p_now, null, array[p_worker], array[p_ref], p_count, p_names)
  on conflict (device_id) do update
  set lease_worker = excluded.lease_worker, lease_until = excluded.lease_until, began_at = excluded.began_at,
      ended_at = null, received_by = excluded.received_by, received_refs = excluded.received_refs,
      pending_count = excluded.pending_count, pending_names = excluded.pending_names
$$;
call mqtt_private.grant_execute('mqtt_private.fn_begin_visit', 'service_role');

-- The visit that a HELLO belongs to. begins: it begins one. It does not where its ref was received before (the response
-- was lost), nor where another worker brought it within the last 20 seconds (unless no other worker receives what this
-- one does: p_shared). holds_lease: p_worker holds the visit.
create or replace function mqtt_private.fn_join_or_begin_visit(
  p_device_id uuid, p_worker text, p_ref text, p_now timestamptz, p_lease interval, p_count int, p_names text[],
  p_shared boolean, out begins boolean, out holds_lease boolean)
language plpgsql volatile set search_path = '' as $$
begin
  begins := false;
  update mqtt_private.visits
  set lease_until = case when lease_worker = p_worker then p_now + p_lease else lease_until end
  where device_id = p_device_id and p_ref = any (received_refs)
  returning lease_worker = p_worker and ended_at is null into holds_lease;
  if found then return; end if;
  holds_lease := false;
  update mqtt_private.visits set received_by = received_by || p_worker, received_refs = received_refs || p_ref
  where device_id = p_device_id and lease_worker <> p_worker and began_at > p_now - interval '20 seconds'
    and p_worker <> all (received_by) and not p_shared;
  if found then return; end if;
  perform mqtt_private.fn_begin_visit(p_device_id, p_worker, p_ref, p_now, p_lease, p_count, p_names);
  begins := true;
  holds_lease := true;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_join_or_begin_visit', 'service_role');

-- The visit that a picture belongs to. Returns whether p_worker holds it: its own, one whose lease has run out, or a
-- new one where there is none.
create or replace function mqtt_private.fn_hold_or_begin_visit(
  p_device_id uuid, p_worker text, p_lease interval, p_now timestamptz) returns boolean
language plpgsql volatile set search_path = '' as $$
declare
  v_visit mqtt_private.visits;
begin
  select * into v_visit from mqtt_private.visits where device_id = p_device_id and ended_at is null;
  if not found then
    perform mqtt_private.fn_begin_visit(p_device_id, p_worker, null, p_now, p_lease, 0, '{}');
  elsif v_visit.lease_worker <> p_worker and v_visit.lease_until > p_now then
    return false;
  else
    update mqtt_private.visits set lease_worker = p_worker, lease_until = p_now + p_lease
    where device_id = p_device_id;
  end if;
  return true;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_hold_or_begin_visit', 'service_role');

-- Looking ------------------------------------------------------------------------------------------------------

-- Whether another worker holds the device's visit now.
create or replace function mqtt_private.fn_is_visit_held_by_other(p_device_id uuid, p_worker text, p_now timestamptz)
returns boolean
language plpgsql stable set search_path = '' as $$
begin
  return exists (
    select from mqtt_private.visits
    where device_id = p_device_id and ended_at is null and lease_worker <> p_worker and lease_until > p_now);
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_is_visit_held_by_other', 'service_role');

-- Whether a visit has lapsed, of a device that can still be awake; the claim reports it. A lease ends after its visit
-- began, so the index is read from 10 minutes ago on.
create or replace function mqtt_private.fn_are_visits_due(p_now timestamptz) returns boolean
language plpgsql stable set search_path = '' as $$
begin
  return exists (
    select from mqtt_private.visits
    where ended_at is null and lease_until <= p_now and lease_until > p_now - interval '10 minutes'
      and began_at > p_now - interval '10 minutes');
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_are_visits_due', 'service_role');

-- How many commands of the device are due or leased now; with p_since, also those sent since then and not answered.
create or replace function mqtt_private.fn_count_open_commands(
  p_device_id uuid, p_since timestamptz, p_now timestamptz) returns int
language plpgsql stable set search_path = public, extensions as $$
begin
  return (
    select count(*) from public.device_commands
    where device_id = p_device_id and due_at is not null and (due_at <= p_now or lease_until > p_now)
  ) + (
    select count(*) from public.device_commands
    where device_id = p_device_id and in_queue and status = 'sent' and delivered_at >= p_since);
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_count_open_commands', 'service_role');

-- Whether the device was sent a schedule by a command, since then.
create or replace function mqtt_private.fn_was_sent_schedule(p_device_id uuid, p_since timestamptz) returns boolean
language plpgsql stable set search_path = public, extensions as $$
begin
  return exists (
    select from public.device_commands
    where device_id = p_device_id and in_queue and status = 'sent' and delivered_at >= p_since
      and command_type = 'set_wake_schedule'
  ) or exists (
    select from public.device_commands
    where device_id = p_device_id and status = 'acknowledged' and acknowledged_at >= p_since
      and command_type = 'set_wake_schedule');
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_was_sent_schedule', 'service_role');

-- The state of the device's visit, for p_worker: what fn_renew_visits returns for a device, but for its topics.
create or replace function mqtt_private.fn_describe_visit(p_device_id uuid, p_worker text, p_now timestamptz)
returns jsonb
language plpgsql volatile set search_path = public, extensions as $$
declare
  v_visit mqtt_private.visits;
  v_device public.devices;
  v_finished text[];
begin
  select * into v_device from public.devices where device_id = p_device_id;
  select * into v_visit from mqtt_private.visits where device_id = p_device_id and ended_at is null;
  if not found then
    return jsonb_build_object(
      'device_id', v_device.device_id, 'device_code', v_device.device_code, 'holds_lease', false, 'ended', true,
      'open_commands', 0, 'schedule_sent', false, 'pending_count', 0, 'pending_names', '[]'::jsonb,
      'settled_names', '[]'::jsonb, 'next_wake_at', null);
  end if;
  v_finished := array( -- in this visit
    select image_name from public.device_images
    where device_id = p_device_id and status in ('complete', 'failed') and updated_at >= v_visit.began_at
      and (status = 'failed' or completed_at >= v_visit.began_at));
  return jsonb_build_object(
    'device_id', p_device_id, 'device_code', v_device.device_code,
    'holds_lease', v_visit.lease_worker = p_worker and v_visit.lease_until > p_now, 'ended', false,
    'open_commands', case when v_device.is_active -- the commands of other devices fail, and are never sent
      then mqtt_private.fn_count_open_commands(p_device_id, v_visit.began_at, p_now) else 0 end,
    'schedule_sent', mqtt_private.fn_was_sent_schedule(p_device_id, v_visit.began_at),
    'pending_count', greatest(v_visit.pending_count - cardinality(v_finished), 0),
    'pending_names', array(
      select name from unnest(v_visit.pending_names) with ordinality as p (name, place)
      where name <> all (v_finished) order by place),
    'settled_names', v_finished,
    'next_wake_at', (mqtt_private.fn_next_wake_of_device(p_device_id, p_now)).next_wake_at);
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_describe_visit', 'service_role');

-- The worker's calls -------------------------------------------------------------------------------------------

-- Renews p_worker's visits among these devices, and takes over those that have lapsed. p_devices: [{topic_root,
-- topic_id}]. p_lease_seconds 0 gives its own visits back: another worker may take them over at once.
-- Returns, in order, [{topic_root, topic_id, device_id, device_code, holds_lease, ended, took_over, open_commands,
-- schedule_sent, pending_count, pending_names, settled_names, next_wake_at}].
--   ended          it has ended, or there is none
--   open_commands  are due or leased now, or were sent in this visit and not answered
--   schedule_sent  the device was sent a schedule by a command, in this visit
--   settled_names  pictures that became complete or failed in this visit
--   pending_*      the other pictures that its HELLO announced
create or replace function public.fn_renew_visits(
  p_worker text, p_devices jsonb, p_lease_seconds double precision default 10) returns jsonb
language plpgsql volatile security invoker set search_path = '' set lock_timeout = '2s'
set enable_seqscan = off set jit = off set plan_cache_mode = force_generic_plan as $$
declare
  v_now timestamptz;
  v_ids constant uuid[] := array(
    select mqtt_private.fn_find_device(d ->> 'topic_id')
    from jsonb_array_elements(p_devices) with ordinality as a (d, place) order by place);
  v_taken uuid[];
begin
  perform mqtt_private.fn_require_worker(p_worker);
  perform mqtt_private.fn_lock_visits(v_ids);
  v_now := clock_timestamp(); -- now that we have the locks: the wait must not shorten the leases
  v_taken := array(
    select device_id from mqtt_private.visits
    where device_id = any (v_ids) and ended_at is null and lease_worker <> p_worker and lease_until <= v_now
      and p_lease_seconds > 0);
  update mqtt_private.visits
  set lease_worker = p_worker, lease_until = v_now + make_interval(secs => p_lease_seconds)
  where device_id = any (v_ids) and ended_at is null and (lease_worker = p_worker or device_id = any (v_taken));
  return coalesce((
    select jsonb_agg(
      jsonb_build_object('topic_root', d -> 'topic_root', 'topic_id', d -> 'topic_id')
      || mqtt_private.fn_describe_visit(v_ids[place], p_worker, v_now)
      || jsonb_build_object('took_over', coalesce(v_ids[place] = any (v_taken), false)) order by place)
    from jsonb_array_elements(p_devices) with ordinality as a (d, place)), '[]');
end
$$;
call mqtt_private.grant_execute('public.fn_renew_visits(text, jsonb, double precision)', 'service_role');

-- Takes over up to p_limit lapsed visits of any devices that can still be awake (10 minutes), and ends older ones. Its
-- own lapsed visits come too: the answer that gave them to this worker was lost. A visit that another transaction holds
-- is left to the next call. Returns what fn_renew_visits does.
create or replace function public.fn_take_over_visits(
  p_worker text, p_limit int default 100, p_lease_seconds double precision default 10) returns jsonb
language plpgsql volatile security invoker set search_path = public, extensions
set enable_seqscan = off set jit = off set plan_cache_mode = force_generic_plan as $$
declare
  v_now constant timestamptz := clock_timestamp();
  v_awake constant timestamptz := v_now - interval '10 minutes';
  v_ids uuid[];
begin
  perform mqtt_private.fn_require_worker(p_worker);
  update mqtt_private.visits set ended_at = v_now
  where device_id = any (array(
    select device_id from mqtt_private.visits
    where ended_at is null and lease_until <= v_now and began_at <= v_awake
    order by lease_until limit 1000 for no key update skip locked));
  v_ids := array(
    select device_id from mqtt_private.visits
    where ended_at is null and lease_until <= v_now and began_at > v_awake
    order by lease_until limit greatest(p_limit, 0) for no key update skip locked);
  update mqtt_private.visits
  set lease_worker = p_worker, lease_until = v_now + make_interval(secs => p_lease_seconds)
  where device_id = any (v_ids);
  return coalesce((
    select jsonb_agg(
      jsonb_build_object(
        'topic_root', coalesce(d.mqtt_root, 'device'), 'topic_id', coalesce(d.mqtt_id, d.device_mac))
      || mqtt_private.fn_describe_visit(d.device_id, p_worker, v_now)
      || jsonb_build_object('took_over', true) order by d.device_id)
    from public.devices d where d.device_id = any (v_ids)), '[]');
end
$$;
call mqtt_private.grant_execute('public.fn_take_over_visits(text, int, double precision)', 'service_role');

-- Ends the visits of these devices, which were sent their next wake time; only those that p_worker holds. Returns
-- {ended: n}.
create or replace function public.fn_end_visits(p_worker text, p_device_ids uuid[]) returns jsonb
language plpgsql volatile security invoker set search_path = '' set lock_timeout = '2s'
set enable_seqscan = off set jit = off set plan_cache_mode = force_generic_plan as $$
declare
  v_ended int;
begin
  perform mqtt_private.fn_require_worker(p_worker);
  perform mqtt_private.fn_lock_visits(p_device_ids);
  update mqtt_private.visits set ended_at = clock_timestamp()
  where device_id = any (p_device_ids) and lease_worker = p_worker and ended_at is null;
  get diagnostics v_ended = row_count;
  return jsonb_build_object('ended', v_ended);
end
$$;
call mqtt_private.grant_execute('public.fn_end_visits(text, uuid[])', 'service_role');
