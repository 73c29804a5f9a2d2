-- The worker's report on what it claimed: each attempt was sent, failed, or is given back.

-- Locks devices in the order of device_id, before any of their commands are written.
create or replace function mqtt_private.fn_lock_devices(p_device_ids uuid[]) returns void
language sql volatile set search_path = ''
as $$
  select from public.devices where device_id = any (p_device_ids) order by device_id for no key update
$$;

-- What became of claimed commands. p_results: [{command_id, attempt, outcome: sent|failed|released, error?,
-- retry? (default true), no_listener?}]. A row changes only while p_worker still holds this attempt of it; else the
-- result is stale. What was settled this way before, and is so still, is settled again, unchanged: a report may be
-- sent again when its response was lost. released gives the command back uncounted, in its old place.
-- Returns, in order, [{command_id, result: settled|stale, status, retry_count, final}].
--
-- A transaction that holds one device's row would keep the whole report waiting, so nothing is waited for longer than
-- lock_timeout. The caller gets 55P03, nothing has changed, and it can send smaller parts.
create or replace function public.fn_settle_commands(
  p_worker text,
  p_results jsonb,
  p_max_retries int default 3,
  p_retry_delay_seconds double precision default 30
) returns jsonb
language plpgsql volatile security invoker set search_path = '' set lock_timeout = '2s'
as $$
declare
  v_answer jsonb;
begin
  perform mqtt_private.fn_lock_devices(array(
    select c.device_id from jsonb_to_recordset(p_results) as r (command_id uuid)
    join public.device_commands c on c.command_id = r.command_id));
  with results as materialized (
    select r.*, row_number() over (partition by r.command_id, r.attempt order by r.place) = 1 as first
    from rows from (jsonb_to_recordset(p_results) as (
      command_id uuid, attempt bigint, outcome text, error text, retry boolean, no_listener boolean
    )) with ordinality as r (command_id, attempt, outcome, error, retry, no_listener, place)
  ), settled as (
    update public.device_commands c
    set lease_worker = null, lease_until = null,
        status = case r.outcome when 'sent' then 'sent' when 'failed' then 'failed' else 'pending' end,
        delivered_at = case r.outcome when 'sent' then now() else c.delivered_at end,
        no_listener = case r.outcome when 'sent' then coalesce(r.no_listener, false) else c.no_listener end,
        retry_count = c.retry_count + case r.outcome when 'failed' then 1 else 0 end,
        last_error = case r.outcome when 'sent' then null when 'failed' then r.error else c.last_error end,
        due_at = case
          when r.outcome = 'released' then coalesce(c.scheduled_for, c.issued_at)
          when r.outcome = 'failed' and coalesce(r.retry, true) and c.retry_count + 1 < p_max_retries
            then now() + make_interval(secs => p_retry_delay_seconds)
        end
    from results r
    where r.first and r.outcome in ('sent', 'failed', 'released')
      and c.command_id = r.command_id and c.attempt = r.attempt
      and c.lease_worker = p_worker and c.status = 'pending'
    returning c.command_id, c.attempt, c.status, c.retry_count, c.due_at
  )
  select coalesce(jsonb_agg(jsonb_build_object(
    'command_id', r.command_id,
    'result', case when s.command_id is not null
                or (r.first and c.attempt = r.attempt and c.lease_worker is null and case r.outcome
                  -- A device can answer before we settle: then sent says nothing new, and is true.
                  when 'sent' then c.status in ('sent', 'acknowledged')
                  when 'failed' then c.status = 'failed'
                  when 'released' then c.status = 'pending' end)
              then 'settled' else 'stale' end,
    'status', coalesce(s.status, c.status),
    'retry_count', coalesce(s.retry_count, c.retry_count),
    'final', case coalesce(s.status, c.status)
      when 'pending' then false when 'sent' then false
      when 'failed' then case when s.command_id is null then c.due_at is null else s.due_at is null end
      else true end
    ) order by r.place), '[]')
  from results r
  left join settled s on r.first and s.command_id = r.command_id and s.attempt = r.attempt
  left join public.device_commands c on c.command_id = r.command_id
  into v_answer;
  return v_answer;
end
$$;

-- Grants -------------------------------------------------------------------------------------------------------

revoke all on function mqtt_private.fn_lock_devices(uuid[]) from public, anon, authenticated;
grant execute on function mqtt_private.fn_lock_devices(uuid[]) to service_role;

revoke all on function public.fn_settle_commands(text, jsonb, int, double precision) from public, anon, authenticated;
grant execute on function public.fn_settle_commands(text, jsonb, int, double precision) to service_role;
