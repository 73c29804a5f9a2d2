-- How commands did within some days, by day, type and site at once: what the console's view Numbers shows.
--
-- The view device_command_numbers (…_timeline.sql) has the last 30 days by one dimension. This has any number of days, of a
-- zone, and filters, and reads the commands once for all dimensions.

-- The commands issued today and on the p_days - 1 days before, days of p_timezone; null filters let all through. Rows by
-- dimension, in this order:
--   all    one row, also where there is no command
--   day    one for each day with commands, the latest first; value: the day, e.g. 2026-11-28
--   type   one for each command_type
--   site   one for each site that their devices have now; value: its id, null for devices without site
-- begins_at to before ends_at is when they were issued; ends_at is null where that is now. lost: rejected, expired, or
-- failed for good. open: may still happen. success_rate, 0 to 1, is of those that ended, cancelled ones left out; a firmware
-- command has succeeded when its device woke with the version. Seconds are from the broker's acknowledgement to the device's.
-- Raises 22023 for a zone that is not known.
create or replace function public.fn_command_numbers(
  p_days int default 30, p_timezone text default 'UTC', p_command_type text default null, p_site_id uuid default null,
  p_device_id uuid default null, p_company_id uuid default null)
returns table (dimension text, value text, name text, begins_at timestamptz, ends_at timestamptz, commands bigint,
  succeeded bigint, lost bigint, cancelled bigint, open bigint, success_rate double precision,
  median_seconds_to_answer double precision, p95_seconds_to_answer double precision)
language sql stable security invoker set search_path = public, extensions set jit = off as $$
  with asked as materialized (
    select (date_trunc('day', now() at time zone p_timezone)
      - make_interval(days => least(greatest(coalesce(p_days, 30), 1), 3660) - 1)) at time zone p_timezone as since
  ), found as materialized (
    select d.site_id, c.command_type, c.day, c.status,
      c.status = 'acknowledged' and c.verified as succeeded,
      c.status in ('rejected', 'expired') or c.status = 'failed' and not c.tried_again as lost,
      c.status in ('pending', 'sent') or c.status = 'failed' and c.tried_again as open, c.seconds
    from asked cross join public.devices d cross join lateral (
      select x.command_type::text as command_type, x.status::text as status, x.due_at is not null as tried_again,
        (x.issued_at at time zone p_timezone)::date as day, x.release_id is null or x.verified_at is not null as verified,
        case when x.acknowledged_at is not null and x.delivered_at is not null
          then greatest(extract(epoch from x.acknowledged_at - x.delivered_at), 0)::double precision end as seconds
      from public.device_commands x
      where x.device_id = d.device_id and x.issued_at >= asked.since and x.in_queue
        and (p_command_type is null or x.command_type::text = p_command_type)
      offset 0) c -- device by device
    where (p_device_id is null or d.device_id = p_device_id) and (p_site_id is null or d.site_id = p_site_id)
      and (p_company_id is null or d.company_id = p_company_id)
  ), counted as (
    select case grouping(day, command_type, site_id) when 7 then 'all' when 3 then 'day' when 5 then 'type' else 'site' end
        as dimension,
      f.day, f.command_type, f.site_id, count(*) as commands, count(*) filter (where f.succeeded) as succeeded,
      count(*) filter (where f.lost) as lost, count(*) filter (where f.status = 'cancelled') as cancelled,
      count(*) filter (where f.open) as open,
      percentile_cont(array[0.5, 0.95]) within group (order by f.seconds) as seconds
    from found f group by grouping sets ((), (day), (command_type), (site_id))
  )
  select n.dimension, case n.dimension when 'day' then n.day::text when 'type' then n.command_type
      when 'site' then n.site_id::text end,
    case n.dimension when 'day' then n.day::text when 'type' then n.command_type when 'site' then s.name::text end,
    case when n.dimension = 'day' then n.day::timestamp at time zone p_timezone else asked.since end,
    case when n.dimension = 'day' then (n.day + 1)::timestamp at time zone p_timezone end,
    n.commands, n.succeeded, n.lost, n.cancelled, n.open,
    n.succeeded::double precision / nullif(n.succeeded + n.lost, 0), n.seconds[1], n.seconds[2]
  from asked cross join counted n left join public.sites s on s.site_id = n.site_id
  order by array_position(array['all', 'day', 'type', 'site'], n.dimension), n.day desc, n.command_type, s.name, n.site_id
$$;
call mqtt_private.grant_execute(
  'public.fn_command_numbers(int, text, text, uuid, uuid, uuid)', 'authenticated', 'service_role');

comment on function public.fn_command_numbers(int, text, text, uuid, uuid, uuid) is
  'How the commands of some days did, in all and by day, type and site: counts, success rate, seconds to the answer.';
