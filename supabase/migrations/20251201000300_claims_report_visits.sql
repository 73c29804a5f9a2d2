-- The claim also says whether a device is awake whose worker is gone (fn_take_over_visits), and fails pictures that were
-- never finished. What it takes and how stands in the migration of the command queue; a command that a HELLO made
-- pending again (fn_record_heartbeats) is a due command like any other.

-- Whether a visit lapsed without an end, of a device that can still be awake. A lease outlasts the HELLO it began
-- with, so the index is read from 10 minutes ago on.
create or replace function mqtt_private.fn_are_visits_due(p_now timestamptz) returns boolean
language plpgsql stable set search_path = ''
as $$
begin
  return exists (
    select from mqtt_private.visits
    where ended_at is null and until <= p_now and until > p_now - interval '10 minutes'
      and hello_at > p_now - interval '10 minutes');
end
$$;

-- Takes up to p_limit due commands for p_worker and leases them for p_lease_seconds; also expires and fails what is
-- due for that. p_worker names one process, for as long as it lives. p_held are the commands that this worker still
-- has in hand; what is leased to it and not held comes again at once, under the same attempt.
-- Returns {now, commands, failed, expired, welcome_due, visits_due, more, seconds_to_next_due}.
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
  v_expired jsonb;
  v_failed jsonb;
  v_broken jsonb;
  v_commands jsonb;
  v_ids uuid[];
  v_new uuid[];
  v_remain boolean;
begin
  if coalesce(p_worker, '') = '' then
    raise exception 'p_worker is empty'
      using errcode = 'invalid_parameter_value', hint = 'Name the worker that claims.';
  end if;
  perform pg_advisory_xact_lock(7205759401); -- claims are serial, so no two take one device
  v_now := clock_timestamp();                -- the wait for the lock must not date the leases back
  v_until := v_now + make_interval(secs => p_lease_seconds);

  v_expired := mqtt_private.fn_expire_commands(v_now, v_ttl);
  v_failed := mqtt_private.fn_fail_undeliverable_commands(
    v_now, p_max_retries, make_interval(secs => p_retry_delay_seconds));
  v_ids := mqtt_private.fn_find_unseen_commands(p_worker, greatest(p_limit, 0), v_now, v_held);
  select l.leased, l.remain into v_new, v_remain
  from mqtt_private.fn_lease_due_commands(
    p_worker, greatest(p_limit - cardinality(v_ids), 0), v_now, v_until, v_held) l;
  select h.commands, h.broken into v_commands, v_broken
  from mqtt_private.fn_hand_out_commands(v_ids || v_new, v_now, v_ttl) h;
  perform mqtt_private.fn_fail_stale_images(v_now);

  return jsonb_build_object(
    'now', v_now, 'commands', v_commands, 'failed', v_failed || v_broken, 'expired', v_expired,
    'more', v_remain and cardinality(v_ids || v_new) > 0, -- else asking again at once would gain nothing
    'welcome_due', exists (select from public.devices where welcome_due and is_active),
    'visits_due', mqtt_private.fn_are_visits_due(v_now),
    'seconds_to_next_due', (
      select extract(epoch from due_at - v_now) from public.device_commands
      where due_at > v_now and due_at < 'infinity' order by due_at limit 1));
end
$$;

-- Grants -------------------------------------------------------------------------------------------------------

do $$
declare
  v_function regprocedure;
begin
  foreach v_function in array array[
    'mqtt_private.fn_are_visits_due(timestamptz)',
    'public.fn_claim_commands(text, int, double precision, int, double precision, double precision, uuid[])'
  ]::regprocedure[] loop
    execute format('revoke all on function %s from public, anon, authenticated', v_function);
    execute format('grant execute on function %s to service_role', v_function);
  end loop;
end
$$;
