-- Which process goes by an MQTT client id now. On a rolling deploy the new one takes the broker's session from the old
-- one, and not every broker tells the old one why it was put out: it asks here before it connects again, since to take
-- the session back would be to fight.

create table if not exists mqtt_private.worker_instances (
  client_id text primary key,
  worker text not null,
  since timestamptz not null default now()
);
alter table mqtt_private.worker_instances enable row level security;
revoke all on table mqtt_private.worker_instances from public, anon, authenticated;
grant select, insert, update, delete on table mqtt_private.worker_instances to service_role;

-- Who goes by p_client_id. p_starts: p_worker does, from now on; a repeat of this call by the same worker changes
-- nothing. Without it, p_worker does only where nobody was known. Returns {worker: the name of that process}.
create or replace function public.fn_announce_worker(p_client_id text, p_worker text, p_starts boolean) returns jsonb
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_worker text;
begin
  if coalesce(p_client_id, '') = '' or coalesce(p_worker, '') = '' then
    raise exception 'p_client_id or p_worker is empty'
      using errcode = 'invalid_parameter_value', hint = 'Name the client id and the process.';
  end if;
  insert into mqtt_private.worker_instances as i (client_id, worker, since)
  values (p_client_id, p_worker, clock_timestamp())
  on conflict (client_id) do update
    set worker = case when p_starts then excluded.worker else i.worker end,
        since = case when p_starts and excluded.worker <> i.worker then excluded.since else i.since end
  returning worker into v_worker;
  if p_starts then
    -- Where each deploy brings a new id, rows would stay for ever.
    delete from mqtt_private.worker_instances
    where client_id <> p_client_id and since < now() - interval '30 days';
  end if;
  return jsonb_build_object('worker', v_worker);
end
$$;

revoke all on function public.fn_announce_worker(text, text, boolean) from public, anon, authenticated;
grant execute on function public.fn_announce_worker(text, text, boolean) to service_role;
