-- Of two processes that go by one MQTT client id, the newer is the one that started later, whichever is the first to
-- tell: one that could not reach the database as it started must not pass for new when it asks at last, as it leaves.

-- Tells that p_worker, which started p_started_ago seconds ago, goes by p_client_id. Returns {worker: the newest
-- process that does}. May be sent again.
create or replace function public.fn_announce_worker(
  p_client_id text, p_worker text, p_started_ago double precision) returns jsonb
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_worker text;
begin
  if coalesce(p_client_id, '') = '' or coalesce(p_worker, '') = '' or p_started_ago is null then
    raise exception 'p_client_id, p_worker or p_started_ago is empty'
      using errcode = 'invalid_parameter_value',
        hint = 'Name the client id and the process, and say for how many seconds it has run.';
  end if;
  insert into mqtt_private.worker_instances as i (client_id, worker, since)
  values (p_client_id, p_worker, clock_timestamp() - make_interval(secs => p_started_ago))
  on conflict (client_id) do update
    set worker = case when excluded.since > i.since then excluded.worker else i.worker end,
        since = case when excluded.since > i.since and excluded.worker <> i.worker then excluded.since else i.since end
  returning worker into v_worker;
  -- Where each deploy brings a new id, rows would stay for ever.
  delete from mqtt_private.worker_instances
  where client_id <> p_client_id and since < now() - interval '30 days';
  return jsonb_build_object('worker', v_worker);
end
$$;
drop function if exists public.fn_announce_worker(text, text, boolean);

revoke all on function public.fn_announce_worker(text, text, double precision) from public, anon, authenticated;
grant execute on function public.fn_announce_worker(text, text, double precision) to service_role;
