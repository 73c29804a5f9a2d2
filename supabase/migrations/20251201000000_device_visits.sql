-- Visits: one wake of one device, from its HELLO until it was told when to wake next.
--
-- Every worker hears every message, but only one speaks in a visit: the holder of its lease. Where a lease lapses
-- (its holder died) another worker takes the visit over. A visit that ended is ended.
--
-- Locks. Whoever begins a visit holds the device's row (fn_lock_devices) and then the visit's (fn_lock_visits), both
-- in the order of device_id. Holding, adopting and ending lock visits alone and wait for nothing behind them, so a
-- transaction that keeps a device's row lets no lease lapse; and nobody deadlocks.

-- One row a device: its latest visit.
create table if not exists mqtt_private.visits (
  device_id uuid primary key references public.devices (device_id) on delete cascade,
  worker text not null,
  until timestamptz not null,          -- the worker speaks until then, unless it holds the visit again
  hello_at timestamptz not null,
  ended_at timestamptz,
  heard_by text[] not null default '{}',       -- the workers that brought this HELLO
  heard_refs text[] not null default '{}',     -- under which refs, so that one sent again is known
  pending_count int not null default 0,        -- pictures that the HELLO announced
  pending_names text[] not null default '{}'
);
create index if not exists visits_open_idx on mqtt_private.visits (until) where ended_at is null;
alter table mqtt_private.visits enable row level security;
revoke all on table mqtt_private.visits from public, anon, authenticated;
grant select, insert, update, delete on table mqtt_private.visits to service_role;

-- What a device waits for, found by the device. The claim goes by due_at alone and has an index of its own.
create index if not exists device_commands_waiting_idx
  on public.device_commands (device_id, due_at) where due_at is not null;
create index if not exists device_commands_told_wake_idx on public.device_commands (device_id, acknowledged_at desc)
  where command_type = 'set_wake_schedule' and status = 'acknowledged';
create index if not exists device_images_finished_idx
  on public.device_images (device_id, updated_at) where status in ('complete', 'failed');

-- Steps --------------------------------------------------------------------------------------------------------

create or replace function mqtt_private.fn_require_worker(p_worker text) returns void
language plpgsql immutable set search_path = ''
as $$
begin
  if coalesce(p_worker, '') = '' then
    raise exception 'p_worker is empty'
      using errcode = 'invalid_parameter_value', hint = 'Name the worker that calls.';
  end if;
end
$$;

create or replace function mqtt_private.fn_lock_visits(p_device_ids uuid[]) returns void
language sql volatile set search_path = ''
as $$
  select from mqtt_private.visits where device_id = any (p_device_ids) order by device_id for no key update
$$;

-- A new visit of a device, in which p_worker speaks. The device's row and its visit's are locked.
create or replace function mqtt_private.fn_begin_visit(
  p_device_id uuid, p_worker text, p_ref text, p_now timestamptz, p_lease interval, p_count int, p_names text[])
returns void
language sql volatile set search_path = ''
as $$
  insert into mqtt_private.visits as v
    (device_id, worker, until, hello_at, ended_at, heard_by, heard_refs, pending_count, pending_names)
  values (p_device_id, p_worker, p_now + p_lease, p_now, null, array[p_worker], array[p_ref], p_count, p_names)
  on conflict (device_id) do update
  set worker = excluded.worker, until = excluded.until, hello_at = excluded.hello_at, ended_at = null,
      heard_by = excluded.heard_by, heard_refs = excluded.heard_refs,
      pending_count = excluded.pending_count, pending_names = excluded.pending_names
$$;

-- Commands of the device that are due or leased now; with p_since, also those sent since then and not answered.
create or replace function mqtt_private.fn_count_open_commands(
  p_device_id uuid, p_since timestamptz, p_now timestamptz) returns int
language plpgsql stable set search_path = ''
as $$
begin
  return (
    select count(*) from public.device_commands
    where device_id = p_device_id and due_at is not null and (due_at <= p_now or lease_until > p_now)
  ) + (
    select count(*) from public.device_commands
    where device_id = p_device_id and status = 'sent' and delivered_at >= p_since);
end
$$;

-- Whether a command told the device when to wake, since then.
create or replace function mqtt_private.fn_was_sent_schedule(p_device_id uuid, p_since timestamptz) returns boolean
language plpgsql stable set search_path = ''
as $$
begin
  return exists (
    select from public.device_commands
    where device_id = p_device_id and status = 'sent' and delivered_at >= p_since
      and command_type = 'set_wake_schedule'
  ) or exists (
    select from public.device_commands
    where device_id = p_device_id and status = 'acknowledged' and acknowledged_at >= p_since
      and command_type = 'set_wake_schedule');
end
$$;

-- The names of the device's pictures that became complete or failed since then.
create or replace function mqtt_private.fn_pictures_finished(p_device_id uuid, p_since timestamptz) returns text[]
language plpgsql stable set search_path = ''
as $$
begin
  return array(
    select image_name from public.device_images
    where device_id = p_device_id and status in ('complete', 'failed') and updated_at >= p_since
      and (status = 'failed' or completed_at >= p_since));
end
$$;

-- How the device's visit stands, for p_worker: the answer's element but for the address.
create or replace function mqtt_private.fn_describe_visit(p_device_id uuid, p_worker text, p_now timestamptz)
returns jsonb
language plpgsql volatile set search_path = ''
as $$
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
      'settled_names', '[]'::jsonb,
      'next_wake_at', null);
  end if;
  v_finished := mqtt_private.fn_pictures_finished(p_device_id, v_visit.hello_at);
  return jsonb_build_object(
    'device_id', p_device_id, 'device_code', v_device.device_code,
    'holds_lease', v_visit.worker = p_worker and v_visit.until > p_now, 'ended', false,
    'open_commands', case when v_device.is_active -- the others' fail, and go nowhere
      then mqtt_private.fn_count_open_commands(p_device_id, v_visit.hello_at, p_now) else 0 end,
    'schedule_sent', mqtt_private.fn_was_sent_schedule(p_device_id, v_visit.hello_at),
    'pending_count', greatest(v_visit.pending_count - cardinality(v_finished), 0),
    'pending_names', array(
      select name from unnest(v_visit.pending_names) with ordinality as p (name, place)
      where name <> all (v_finished) order by place),
    'settled_names', v_finished,
    'next_wake_at', (mqtt_private.fn_next_wake_of_device(p_device_id, p_now)).next_wake_at);
end
$$;

-- The worker's calls -------------------------------------------------------------------------------------------

-- Renews p_worker's visits among these devices, and takes over those whose lease lapsed. p_devices: [{topic_root,
-- topic_id}]. p_lease_seconds 0 gives its own visits back: another worker may take them over at once.
-- Returns, in order, [{topic_root, topic_id, device_id, device_code, holds_lease, ended, took_over, open_commands,
-- schedule_sent, pending_count, pending_names, settled_names, next_wake_at}]. ended: it ended, or there is none.
-- open_commands are due or leased now, or sent in this visit and not answered; schedule_sent: a command told the device
-- when to wake. settled_names: pictures that became complete or failed in this visit; pending_*: what its HELLO
-- announced, less those. May be sent again.
create or replace function public.fn_renew_visits(
  p_worker text, p_devices jsonb, p_lease_seconds double precision default 10) returns jsonb
language plpgsql volatile security invoker set search_path = '' set lock_timeout = '2s'
set enable_seqscan = off set jit = off set plan_cache_mode = force_generic_plan
as $$
declare
  v_now timestamptz;
  v_ids constant uuid[] := array(
    select mqtt_private.fn_find_device(d ->> 'topic_id')
    from jsonb_array_elements(p_devices) with ordinality as a (d, place) order by place);
  v_taken uuid[];
begin
  perform mqtt_private.fn_require_worker(p_worker);
  perform mqtt_private.fn_lock_visits(v_ids);
  v_now := clock_timestamp(); -- the wait for the locks must not date the leases back
  v_taken := array(
    select device_id from mqtt_private.visits
    where device_id = any (v_ids) and ended_at is null and worker <> p_worker and until <= v_now
      and p_lease_seconds > 0);
  update mqtt_private.visits
  set worker = p_worker, until = v_now + make_interval(secs => p_lease_seconds)
  where device_id = any (v_ids) and ended_at is null and (worker = p_worker or device_id = any (v_taken));
  return coalesce((
    select jsonb_agg(
      jsonb_build_object('topic_root', d -> 'topic_root', 'topic_id', d -> 'topic_id')
      || mqtt_private.fn_describe_visit(v_ids[place], p_worker, v_now)
      || jsonb_build_object('took_over', coalesce(v_ids[place] = any (v_taken), false)) order by place)
    from jsonb_array_elements(p_devices) with ordinality as a (d, place)), '[]');
end
$$;

-- Takes over up to p_limit visits whose lease lapsed, of devices that can still be awake (10 minutes); older ones are
-- ended. Its own lapsed ones come too: the answer that gave them to this worker was lost. A visit that another
-- transaction holds is left to the next call. Returns elements as fn_renew_visits.
create or replace function public.fn_take_over_visits(
  p_worker text, p_limit int default 100, p_lease_seconds double precision default 10) returns jsonb
language plpgsql volatile security invoker set search_path = ''
set enable_seqscan = off set jit = off set plan_cache_mode = force_generic_plan
as $$
declare
  v_now constant timestamptz := clock_timestamp();
  v_awake constant timestamptz := v_now - interval '10 minutes';
  v_ids uuid[];
begin
  perform mqtt_private.fn_require_worker(p_worker);
  update mqtt_private.visits set ended_at = v_now
  where device_id = any (array(
    select device_id from mqtt_private.visits
    where ended_at is null and until <= v_now and hello_at <= v_awake
    order by until limit 1000 for no key update skip locked));
  v_ids := array(
    select device_id from mqtt_private.visits
    where ended_at is null and until <= v_now and hello_at > v_awake
    order by until limit greatest(p_limit, 0) for no key update skip locked);
  update mqtt_private.visits
  set worker = p_worker, until = v_now + make_interval(secs => p_lease_seconds)
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

-- These devices were told when to wake. Only visits in which p_worker speaks end. Returns {ended: n}.
create or replace function public.fn_end_visits(p_worker text, p_device_ids uuid[]) returns jsonb
language plpgsql volatile security invoker set search_path = '' set lock_timeout = '2s'
set enable_seqscan = off set jit = off set plan_cache_mode = force_generic_plan
as $$
declare
  v_ended int;
begin
  perform mqtt_private.fn_require_worker(p_worker);
  perform mqtt_private.fn_lock_visits(p_device_ids);
  update mqtt_private.visits set ended_at = clock_timestamp()
  where device_id = any (p_device_ids) and worker = p_worker and ended_at is null;
  get diagnostics v_ended = row_count;
  return jsonb_build_object('ended', v_ended);
end
$$;

-- Grants -------------------------------------------------------------------------------------------------------

do $$
declare
  v_function regprocedure;
begin
  foreach v_function in array array[
    'mqtt_private.fn_require_worker(text)',
    'mqtt_private.fn_lock_visits(uuid[])',
    'mqtt_private.fn_begin_visit(uuid, text, text, timestamptz, interval, int, text[])',
    'mqtt_private.fn_count_open_commands(uuid, timestamptz, timestamptz)',
    'mqtt_private.fn_was_sent_schedule(uuid, timestamptz)',
    'mqtt_private.fn_pictures_finished(uuid, timestamptz)',
    'mqtt_private.fn_describe_visit(uuid, text, timestamptz)',
    'public.fn_renew_visits(text, jsonb, double precision)',
    'public.fn_take_over_visits(text, int, double precision)',
    'public.fn_end_visits(text, uuid[])'
  ]::regprocedure[] loop
    execute format('revoke all on function %s from public, anon, authenticated', v_function);
    execute format('grant execute on function %s to service_role', v_function);
  end loop;
end
$$;
