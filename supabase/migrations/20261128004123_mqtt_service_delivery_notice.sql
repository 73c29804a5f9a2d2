-- What a person should know about a command that was sent: device_commands.delivery_notice.
--
-- A schedule that cannot be said in the 12-hour form of the wire goes out nevertheless, and the device wakes at another
-- time. That is no failure: last_error stays null, and the worker, which knows what it wrote, says so here.

alter table public.device_commands
  add column if not exists delivery_notice text;  -- about the last sending

-- The column keeps its value whatever a person writes, as the worker's other columns do.
create or replace function mqtt_private.fn_guard_delivery_notice() returns trigger
language plpgsql set search_path = '' as $$
begin
  new.delivery_notice := case tg_op when 'UPDATE' then old.delivery_notice end;
  return new;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_guard_delivery_notice');

create or replace trigger mqtt_guard_delivery_notice
  before insert or update of delivery_notice on public.device_commands
  for each row when (current_user = 'authenticated')
  execute function mqtt_private.fn_guard_delivery_notice();

-- Applies these results to the rows, all at once. p_results, and the answer: see fn_settle_commands in
-- …_claim_and_settle.sql; a result sent may have a notice too.
create or replace function mqtt_private.fn_settle_rows(
  p_worker text, p_results jsonb, p_max_retries int, p_retry_delay interval) returns jsonb
language plpgsql volatile set search_path = public, extensions as $$
declare
  v_answer jsonb;
begin
  with results as materialized (
    select r.*, row_number() over (partition by r.command_id, r.attempt order by r.place) = 1 as first
    from rows from (jsonb_to_recordset(p_results) as (
      command_id uuid, attempt bigint, outcome text, error text, retry boolean, no_listener boolean, notice text
    )) with ordinality as r (command_id, attempt, outcome, error, retry, no_listener, notice, place)
  ), settled as (
    update public.device_commands c
    set lease_worker = null, lease_until = null,
        status = case r.outcome when 'sent' then 'sent' when 'failed' then 'failed' else 'pending' end,
        delivered_at = case r.outcome when 'sent' then now() else c.delivered_at end,
        no_listener = case r.outcome when 'sent' then coalesce(r.no_listener, false) else c.no_listener end,
        delivery_notice = case r.outcome when 'sent' then left(r.notice, 1000) else c.delivery_notice end,
        retry_count = c.retry_count + case r.outcome when 'failed' then 1 else 0 end,
        last_error = case r.outcome when 'sent' then null when 'failed' then r.error else c.last_error end,
        due_at = case
          when r.outcome = 'released' then coalesce(c.scheduled_for, c.issued_at)
          when r.outcome = 'failed' and coalesce(r.retry, true) and c.retry_count + 1 < p_max_retries
            then now() + p_retry_delay
        end
    from results r
    where r.first and r.outcome in ('sent', 'failed', 'released')
      and c.command_id = r.command_id and c.attempt = r.attempt
      and c.lease_worker = p_worker and c.status = 'pending'
    returning c.command_id, c.attempt, c.status, c.retry_count, c.due_at
  ), noticed as (
    update public.device_commands c
    set delivery_notice = left(r.notice, 1000)
    from results r
    where r.notice is not null and r.first and r.outcome = 'sent'
      and c.command_id = r.command_id and c.attempt = r.attempt and c.status = 'acknowledged' -- before it was settled
  )
  select coalesce(jsonb_agg(jsonb_build_object(
    'command_id', r.command_id,
    'result', case when s.command_id is not null
                or (r.first and c.attempt = r.attempt and c.lease_worker is null and case r.outcome
                  -- A device can answer before its command is settled: then it was sent, as reported.
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
  perform mqtt_private.fn_check_deferred_constraints();
  return v_answer;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_settle_rows', 'service_role');
