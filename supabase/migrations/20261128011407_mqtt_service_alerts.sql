-- What a person should be told of, once, whichever worker finds it: alerts that are open, and which were told.
--
--   found ──▶ open ──▶ told ──▶ not found for five minutes: recovered ──▶ told, and gone
--
-- One worker at a time looks (fn_take_turn). A worker tells what is untold, and then says that it did: if it dies in
-- between, a person is told twice, and never not at all.

call mqtt_private.create_table('mqtt_private.alerts', null, $$
  alert text primary key,        -- what it is about, e.g. device-failing:<device_id>
  text text not null,            -- for a person
  opened_at timestamptz not null default clock_timestamp(),
  seen_at timestamptz not null default clock_timestamp(),  -- when it was last found
  told_at timestamptz,
  recovered_at timestamptz       -- it is over, and that is to be told
$$);
grant select, insert, update, delete on table mqtt_private.alerts to service_role;

-- the pictures that failed lately
create index if not exists device_images_failed_idx on public.device_images (updated_at) where status = 'failed';

-- What is wrong now, by what the tables say: {alert, text}. At most 50 devices of each kind.
create or replace function mqtt_private.fn_find_alerts() returns table (alert text, text text)
language plpgsql stable set search_path = public, extensions set enable_seqscan = off set jit = off as $$
begin
  -- three or more that failed for good within the hour, and no success after the last
  return query
  select 'device-failing:' || f.device_id, format('%s: %s commands failed for good within an hour, the last: %s',
    coalesce(d.device_code::text, d.device_mac::text), f.failures, coalesce(left(f.last_error, 200), 'no reason given'))
  from (
    select c.device_id, count(*) filter (where c.status::text <> 'acknowledged') as failures,
      max(c.updated_at) filter (where c.status::text <> 'acknowledged') as failed_at,
      max(c.updated_at) filter (where c.status::text = 'acknowledged') as succeeded_at,
      (array_agg(c.last_error order by c.updated_at desc) filter (where c.status::text <> 'acknowledged'))[1] as last_error
    from (
      select * from public.device_commands
      where in_queue and due_at is null and status in ('acknowledged', 'rejected', 'expired', 'cancelled', 'failed')
        and updated_at > now() - interval '1 hour'
      order by updated_at desc limit 20000) c
    where c.status::text <> 'cancelled' group by c.device_id) f
  join public.devices d on d.device_id = f.device_id
  where f.failures >= 3 and (f.succeeded_at is null or f.succeeded_at < f.failed_at)
  order by f.failures desc limit 50;

  return query
  select 'device-overdue:' || o.device_id, format('%s has missed two wakes; it should have woken at %s UTC',
    coalesce(o.device_code::text, o.device_id::text), to_char(o.next_wake_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI'))
  from (
    select d.device_id, d.device_code, d.next_wake_at, d.wake_schedule_cron, d.site_id from public.devices d
    where d.is_active and d.next_wake_at < now() - interval '10 minutes'
      and (d.last_seen_at is null or d.last_seen_at < d.next_wake_at - interval '10 minutes')
    order by d.next_wake_at limit 50) o
  left join public.sites s on s.site_id = o.site_id
  -- a schedule is moved by the device's share of the spread (…_wake_spread.sql)
  cross join lateral make_interval(secs => coalesce(mqtt_private.fn_wake_shift(o.device_id), 0)) as shift
  where mqtt_private.fn_wake_after(
    coalesce(nullif(trim(o.wake_schedule_cron), ''), nullif(trim(s.wake_schedule_cron), ''), '0 8,16 * * *'),
    o.next_wake_at - shift, coalesce(nullif(trim(s.timezone), ''), 'UTC')) + shift < now() - interval '10 minutes';

  return query
  select 'queue', format('commands are not sent: the oldest that is due has waited for %s minutes, %s are due',
    round((m ->> 'oldest_due_seconds')::numeric / 60), m ->> 'due')
  from public.fn_measure_queue(10000) m where (m ->> 'oldest_due_seconds')::double precision > 300;

  return query
  select 'pictures', format('%s pictures failed within an hour, the last: %s', count(*),
    coalesce(left((array_agg(last_error order by updated_at desc))[1], 200), 'no reason given'))
  from (
    select last_error, updated_at from public.device_images
    where status = 'failed' and updated_at > now() - interval '1 hour' order by updated_at desc limit 1000) failed
  having count(*) >= 5;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_find_alerts', 'service_role');

-- Looks, and notes what is found and what is over. p_found: what the worker itself has found, [{alert, text}].
-- Returns {held, alerts: [{alert, text, state: open|recovered, since}]}: what is to be told, the oldest first, at most
-- p_limit; held is false where another worker looks. Sent again, it returns the same.
create or replace function public.fn_watch_for_alerts(p_worker text, p_found jsonb default '[]', p_limit int default 20)
returns jsonb
language plpgsql volatile security invoker set search_path = '' set lock_timeout = '2s' as $$
begin
  if not mqtt_private.fn_take_turn('alerts', p_worker, 150) then
    return jsonb_build_object('held', false, 'alerts', '[]'::jsonb);
  end if;
  insert into mqtt_private.alerts as a (alert, text)
  select distinct on (f.alert) f.alert, left(f.text, 500) from (
    select alert, text from mqtt_private.fn_find_alerts()
    union all
    select alert, text from jsonb_to_recordset(p_found) as r (alert text, text text)) f
  where (select count(*) from mqtt_private.alerts) < 500
    or exists (select from mqtt_private.alerts known where known.alert = f.alert)
  on conflict (alert) do update set seen_at = clock_timestamp(), recovered_at = null;
  -- what nobody was told of need not be called off
  delete from mqtt_private.alerts where seen_at < clock_timestamp() - interval '5 minutes' and told_at is null;
  update mqtt_private.alerts set recovered_at = clock_timestamp()
  where seen_at < clock_timestamp() - interval '5 minutes' and recovered_at is null;
  delete from mqtt_private.alerts where recovered_at < clock_timestamp() - interval '1 day';
  return jsonb_build_object('held', true, 'alerts', coalesce((
    select jsonb_agg(jsonb_build_object('alert', t.alert, 'text', t.text, 'since', t.opened_at,
      'state', case when t.recovered_at is null then 'open' else 'recovered' end) order by t.opened_at)
    from (
      select * from mqtt_private.alerts where told_at is null or recovered_at is not null
      order by opened_at limit p_limit) t), '[]'));
end
$$;
call mqtt_private.grant_execute('public.fn_watch_for_alerts(text, jsonb, int)', 'service_role');

-- Notes that these were told: [{alert, state}], as fn_watch_for_alerts returned them. Returns {noted}.
create or replace function public.fn_note_alerts_told(p_worker text, p_told jsonb) returns jsonb
language plpgsql volatile security invoker set search_path = '' set lock_timeout = '2s' as $$
declare
  v_rows int;
  v_noted int;
begin
  perform mqtt_private.fn_require_worker(p_worker);
  delete from mqtt_private.alerts a using jsonb_to_recordset(p_told) as t (alert text, state text)
  where a.alert = t.alert and t.state = 'recovered' and a.recovered_at is not null;
  get diagnostics v_noted = row_count;
  update mqtt_private.alerts a set told_at = clock_timestamp()
  from jsonb_to_recordset(p_told) as t (alert text, state text)
  where a.alert = t.alert and t.state = 'open' and a.told_at is null;
  get diagnostics v_rows = row_count;
  return jsonb_build_object('noted', v_noted + v_rows);
end
$$;
call mqtt_private.grant_execute('public.fn_note_alerts_told(text, jsonb)', 'service_role');
