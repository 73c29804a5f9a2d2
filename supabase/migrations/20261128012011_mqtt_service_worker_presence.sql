-- Which workers run, in which version, and whether two of them use one MQTT client id.
--
-- A worker announces itself when it connects to the broker and once a minute. A process that announces itself under an
-- id that a newer one has taken shows that both run: on a deploy that happens once, with two copies under one id it goes
-- on. An update that changes nothing is not noted in updated_at either, so that `mqtt-service doctor` can cause one.

alter table mqtt_private.worker_instances
  add column if not exists version text,              -- of the worker
  add column if not exists seen_at timestamptz,       -- when it announced itself last
  add column if not exists overtaken text,            -- the older process that still ran when it did
  add column if not exists overtaken_at timestamptz,
  add column if not exists overtakings int;           -- different ones, each within ten minutes of the one before

-- Announces that p_worker, which started p_started_ago seconds ago, uses p_client_id. Returns {worker: the newest
-- process that does}. The newest is the one that started last, not the one that called last: one may reach the database
-- only long after its start.
drop function if exists public.fn_announce_worker(text, text, double precision);
create or replace function public.fn_announce_worker(
  p_client_id text, p_worker text, p_started_ago double precision, p_version text default null) returns jsonb
language plpgsql volatile security invoker set search_path = '' as $$
declare
  v_worker text;
begin
  if coalesce(p_client_id, '') = '' or coalesce(p_worker, '') = '' or p_started_ago is null then
    raise exception 'p_client_id, p_worker or p_started_ago is empty'
      using errcode = 'invalid_parameter_value',
        hint = 'Name the client id and the process, and say for how many seconds it has run.';
  end if;
  insert into mqtt_private.worker_instances as i (client_id, worker, since, version, seen_at)
  values (p_client_id, p_worker, clock_timestamp() - make_interval(secs => p_started_ago), left(p_version, 100), now())
  on conflict (client_id) do update
    set worker = case when excluded.since > i.since then excluded.worker else i.worker end,
        since = case when excluded.since > i.since and excluded.worker <> i.worker then excluded.since else i.since end,
        version = case
          when excluded.since > i.since or excluded.worker = i.worker then excluded.version else i.version end,
        seen_at = case when excluded.since > i.since or excluded.worker = i.worker then now() else i.seen_at end
  returning worker into v_worker;
  if v_worker <> p_worker then
    update mqtt_private.worker_instances
    set overtakings = case
          when overtaken = p_worker then overtakings
          when overtaken_at > now() - interval '10 minutes' then overtakings + 1
          else 1 end,
        overtaken = p_worker, overtaken_at = now()
    where client_id = p_client_id;
  end if;
  -- where each deploy brings a new client id, rows would stay for ever
  delete from mqtt_private.worker_instances
  where client_id <> p_client_id and greatest(since, seen_at) < now() - interval '30 days';
  return jsonb_build_object('worker', v_worker);
end
$$;
call mqtt_private.grant_execute('public.fn_announce_worker(text, text, double precision, text)', 'service_role');

create or replace function mqtt_private.fn_touch_updated_at() returns trigger
language plpgsql set search_path = '' as $$
begin
  if new operator(pg_catalog.*<>) old then  -- by their bytes: not every type of a project's columns has an =
    new.updated_at := now();
  end if;
  return new;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_touch_updated_at');
