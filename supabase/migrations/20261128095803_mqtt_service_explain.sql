-- The story of one command in words: where it is, why, what happens next and when. `mqtt-service show` and every dashboard
-- say the same, because it is said here.
--
-- What other files add to a command (…_command_progress.sql, …_firmware.sql, …_maintenance_windows.sql, …_rollouts.sql) is
-- read from the row as JSON: a key that is not there says nothing.

-- What the worker is set to ------------------------------------------------------------------------------------

-- MAX_RETRIES, REDELIVERY_LIMIT and COMMAND_TTL of the worker that started last: only the story needs them here.
call mqtt_private.create_table('mqtt_private.queue_rules', null, $$
  only_row boolean primary key default true check (only_row),
  max_retries integer not null,
  redelivery_limit integer not null,
  command_ttl interval not null
$$);
grant select, insert, update on table mqtt_private.queue_rules to service_role;

-- For a worker that starts: by which rules it treats commands. Sent again, it changes nothing.
create or replace function public.fn_set_queue_rules(
  p_max_retries int, p_redelivery_limit int, p_command_ttl_seconds double precision) returns void
language sql volatile security invoker set search_path = '' as $$
  insert into mqtt_private.queue_rules as r (max_retries, redelivery_limit, command_ttl)
  values (p_max_retries, p_redelivery_limit, make_interval(secs => p_command_ttl_seconds))
  on conflict (only_row) do update
    set max_retries = excluded.max_retries, redelivery_limit = excluded.redelivery_limit,
        command_ttl = excluded.command_ttl
    where (r.max_retries, r.redelivery_limit, r.command_ttl) is distinct from
      (excluded.max_retries, excluded.redelivery_limit, excluded.command_ttl)
$$;
call mqtt_private.grant_execute('public.fn_set_queue_rules(int, int, double precision)', 'service_role');

-- Those rules; the defaults where no worker has started yet. Security definer: members ask for a story too.
create or replace function mqtt_private.fn_queue_rules(
  out max_retries int, out redelivery_limit int, out command_ttl interval)
language sql stable security definer set search_path = '' as $$
  select coalesce(r.max_retries, 3), coalesce(r.redelivery_limit, 3), coalesce(r.command_ttl, interval '24 hours')
  from (values (1)) one (row) left join mqtt_private.queue_rules r on true
$$;
call mqtt_private.grant_execute('mqtt_private.fn_queue_rules', 'authenticated', 'service_role');

-- Times in words -----------------------------------------------------------------------------------------------

-- Two units at most: 45 s, 5 min, 1 h 30 min, 3 d 4 h.
create or replace function mqtt_private.fn_say_span(p_span interval) returns text
language sql immutable strict parallel safe set search_path = '' as $$
  select coalesce(string_agg(said, ' ' order by size desc) filter (where count > 0), '0 s')
  from (select abs(round(extract(epoch from p_span)))::bigint as seconds) s,
    lateral (select case when seconds >= 86400 then 86400 when seconds >= 3600 then 3600 when seconds >= 60 then 60
      else 1 end as largest) l,
    lateral (values (86400, null::int, 'd'), (3600, 86400, 'h'), (60, 3600, 'min'), (1, 60, 's')) u (size, above, unit),
    lateral (select case when size = largest then seconds / size when above = largest then seconds % largest / size
      else 0 end as count) c,
    lateral (select count || ' ' || unit as said) w
$$;
call mqtt_private.grant_execute('mqtt_private.fn_say_span', 'authenticated', 'service_role');

-- in 5 min, 5 min ago, now; never for none or an infinity.
create or replace function mqtt_private.fn_say_distance(p_moment timestamptz, p_now timestamptz) returns text
language sql immutable parallel safe set search_path = '' as $$
  select case
    when p_moment is null or not isfinite(p_moment) then 'never'
    when abs(extract(epoch from p_moment - p_now)) < 1 then 'now'
    when p_moment > p_now then 'in ' || mqtt_private.fn_say_span(p_moment - p_now)
    else mqtt_private.fn_say_span(p_now - p_moment) || ' ago' end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_say_distance', 'authenticated', 'service_role');

-- 2026-03-01 18:30:05+02:00 in a zone that Postgres knows; never for none or an infinity.
create or replace function mqtt_private.fn_say_time(p_moment timestamptz, p_zone text) returns text
language sql stable parallel safe set search_path = '' as $$
  select case when p_moment is null or not isfinite(p_moment) then 'never' else
    to_char(p_moment at time zone p_zone, 'YYYY-MM-DD HH24:MI:SS')
    || case when away < 0 then '-' else '+' end || lpad((abs(away) / 60)::text, 2, '0') || ':'
    || lpad((abs(away) % 60)::text, 2, '0') end
  from (select (extract(epoch from (p_moment at time zone p_zone) - (p_moment at time zone 'UTC')) / 60)::int as away) o
$$;
call mqtt_private.grant_execute('mqtt_private.fn_say_time', 'authenticated', 'service_role');

-- 2026-03-01 18:30:05+02:00 (in 5 min)
create or replace function mqtt_private.fn_say_when(p_moment timestamptz, p_now timestamptz, p_zone text) returns text
language sql stable parallel safe set search_path = '' as $$
  select case when p_moment is null or not isfinite(p_moment) then 'never' else
    format('%s (%s)', mqtt_private.fn_say_time(p_moment, p_zone), mqtt_private.fn_say_distance(p_moment, p_now)) end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_say_when', 'authenticated', 'service_role');

-- The zone of a device's site where Postgres knows it, else UTC.
create or replace function mqtt_private.fn_zone_of_device(p_device_id uuid) returns text
language plpgsql stable set search_path = public, extensions as $$
declare
  v_zone text;
begin
  select nullif(trim(s.timezone), '') into v_zone
  from public.devices d join public.sites s on s.site_id = d.site_id where d.device_id = p_device_id;
  perform now() at time zone v_zone;
  return coalesce(v_zone, 'UTC');
exception when invalid_parameter_value then
  return 'UTC';
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_zone_of_device', 'authenticated', 'service_role');

-- The story ----------------------------------------------------------------------------------------------------

do $$
begin
  if to_regtype('mqtt_private.story') is null then
    -- What a story is told of. row: the command as JSON, with the columns that other files add.
    create type mqtt_private.story as (
      command_id uuid, command_type text, status text, in_queue boolean, row jsonb,
      issued_at timestamptz, due_at timestamptz, lease_until timestamptz, lease_worker text,
      delivered_at timestamptz, acknowledged_at timestamptz, deadline timestamptz,
      attempt bigint, retry_count int, redelivery_count int, no_listener boolean, last_error text,
      repeatable boolean, max_retries int, redelivery_limit int,
      device text,              -- what people call it; null: it is gone
      device_is_active boolean, device_status text, next_wake_at timestamptz, last_seen_at timestamptz,
      now timestamptz, zone text);
  end if;
  if to_regtype('mqtt_private.told') is null then
    create type mqtt_private.told as (state text, lines text[], next_at timestamptz);
  end if;
end
$$;

create or replace function mqtt_private.fn_read_story(p_command public.device_commands) returns mqtt_private.story
language plpgsql stable set search_path = public, extensions as $$
declare
  s mqtt_private.story;
  v_device public.devices;
  v_rules constant record := mqtt_private.fn_queue_rules();
begin
  select * into v_device from public.devices where device_id = p_command.device_id;
  s.now := now();
  s.zone := mqtt_private.fn_zone_of_device(p_command.device_id);
  s.row := to_jsonb(p_command);
  s.command_id := p_command.command_id;
  s.command_type := p_command.command_type;
  s.status := p_command.status;
  s.in_queue := coalesce(p_command.in_queue, false);
  s.issued_at := p_command.issued_at;
  s.due_at := p_command.due_at;
  s.lease_until := p_command.lease_until;
  s.lease_worker := p_command.lease_worker;
  s.delivered_at := p_command.delivered_at;
  s.acknowledged_at := p_command.acknowledged_at;
  s.deadline := coalesce(p_command.expires_at,
    greatest(p_command.issued_at, p_command.scheduled_for) + v_rules.command_ttl);
  s.attempt := coalesce(p_command.attempt, 0);
  s.retry_count := coalesce(p_command.retry_count, 0);
  s.redelivery_count := coalesce(p_command.redelivery_count, 0);
  s.no_listener := coalesce(p_command.no_listener, false);
  s.last_error := p_command.last_error;
  -- as fn_redeliver_commands has it
  s.repeatable := s.command_type in ('send_image', 'set_wake_schedule', 'update_config') or exists (
    select from public.device_command_types t where t.command_type::text = s.command_type and t.repeatable);
  s.max_retries := v_rules.max_retries;
  s.redelivery_limit := v_rules.redelivery_limit;
  s.device := coalesce(v_device.device_code, v_device.device_name, v_device.device_mac);
  s.device_is_active := coalesce(v_device.is_active, false);
  s.device_status := v_device.provisioning_status;
  s.next_wake_at := v_device.next_wake_at;
  s.last_seen_at := v_device.last_seen_at;
  return s;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_read_story', 'authenticated', 'service_role');

-- Where it comes from: its device, when it was queued, by what.
create or replace function mqtt_private.fn_tell_origin(s mqtt_private.story, p_mac text) returns text[]
language plpgsql stable set search_path = '' as $$
begin
  return array[format('%s for %s, queued %s%s.', s.command_type,
      case when s.device is null then 'a device that is gone' else format('%s (%s)', s.device, p_mac) end,
      mqtt_private.fn_say_when(s.issued_at, s.now, s.zone),
      case when (s.row ->> 'priority')::int <> 0 then ', with priority ' || (s.row ->> 'priority') else '' end)]
    || case when s.row ->> 'rollout_id' is not null
        then array[format('It is part of the rollout %s.', s.row ->> 'rollout_id')] else '{}' end
    || case when s.row ->> 'config_version' is not null
        then array[format('It carries version %s of the device''s desired configuration.', s.row ->> 'config_version')]
        else '{}' end;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_tell_origin', 'authenticated', 'service_role');

create or replace function mqtt_private.fn_tell_pending(s mqtt_private.story) returns mqtt_private.told
language plpgsql stable set search_path = '' as $$
declare
  t mqtt_private.told;
  v_held_until constant timestamptz := s.row ->> 'held_until';
begin
  t.lines := '{}';
  if s.redelivery_count > 0 then
    t.lines := t.lines || format('It was sent before and no answer came; then the device woke, so it goes out again under '
      'its id (for the %s time).', case s.redelivery_count when 1 then 'first' when 2 then 'second' when 3 then 'third'
        else s.redelivery_count || 'th' end);
  end if;
  if s.lease_until > s.now then
    t.state := 'leased';
    t.next_at := s.lease_until;
    t.lines := t.lines || format('%s is sending it now (attempt %s). If that worker dies, another takes the command over '
      'at %s.', s.lease_worker, s.attempt, mqtt_private.fn_say_when(s.lease_until, s.now, s.zone));
    return t;
  end if;
  if s.device is not null and not s.device_is_active then
    t.lines := t.lines || format('The device is not active (%s): the command fails when it is due. Map the device to a site '
      'first: mqtt-service map.', s.device_status);
  end if;
  t.next_at := s.due_at;
  if v_held_until is not null then
    t.state := 'held';
    t.next_at := v_held_until;
    t.lines := t.lines || format('A maintenance window holds it: outside of the window nothing is sent. The next one opens '
      'at %s.', mqtt_private.fn_say_when(v_held_until, s.now, s.zone));
  elsif s.due_at is null or s.due_at > s.now then
    t.state := 'scheduled';
    t.lines := t.lines || format('It waits for its time: it is due at %s.',
      mqtt_private.fn_say_when(s.due_at, s.now, s.zone));
  elsif s.lease_until is not null then
    t.state := 'due';
    t.lines := t.lines || format('%s had taken it up, and its lease ran out %s: the next poll of a worker takes it up again.',
      s.lease_worker, mqtt_private.fn_say_distance(s.lease_until, s.now));
  elsif s.now - s.due_at < interval '1 minute' then -- a worker polls every few seconds
    t.state := 'due';
    t.lines := t.lines || 'It is due: a worker takes it up at its next poll, within seconds.'::text;
  else
    t.state := 'late';
    t.lines := t.lines || format('It has been due for %s. Either no worker can claim and publish (see mqtt-service top), or '
      'another worker holds a command of the same device, or the project''s database refuses to change the row (see the '
      'worker''s log).', mqtt_private.fn_say_span(s.now - s.due_at));
  end if;
  if s.device is not null and not s.device_is_active and t.state <> 'held' then t.state := 'inactive'; end if;
  return t;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_tell_pending', 'authenticated', 'service_role');

-- When the device wakes, as far as one knows.
create or replace function mqtt_private.fn_tell_waking(s mqtt_private.story) returns text
language plpgsql stable set search_path = '' as $$
declare
  v_heard constant text := coalesce(
    'last heard ' || mqtt_private.fn_say_distance(s.last_seen_at, s.now), 'never heard yet');
  v_wake constant text := mqtt_private.fn_say_when(s.next_wake_at, s.now, s.zone);
begin
  return case
    when s.last_seen_at is null and s.next_wake_at is null then
      'When the device wakes is not known; it was never heard yet.'
    when s.next_wake_at is null then format('When the device wakes is not known; it was %s.', v_heard)
    when s.next_wake_at < s.now then format('The device should have woken at %s and has not; it was %s.', v_wake,
      case when s.last_seen_at is null then 'never heard yet' else v_heard end)
    else format('The device wakes at %s; it was %s.', v_wake,
      case when s.last_seen_at is null then 'never heard yet' else v_heard end) end;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_tell_waking', 'authenticated', 'service_role');

create or replace function mqtt_private.fn_tell_sent(s mqtt_private.story) returns mqtt_private.told
language plpgsql stable set search_path = '' as $$
declare
  t mqtt_private.told;
  v_answer_due_at constant timestamptz := s.row ->> 'answer_due_at';
begin
  t.lines := array[format('The broker has had it since %s; %s.', mqtt_private.fn_say_when(s.delivered_at, s.now, s.zone),
    case when s.row ->> 'progress_at' is not null then 'the device is at it'
      when s.no_listener then 'nobody was listening then: the device slept'
      else 'the device has not answered' end)];
  if s.row ->> 'progress_at' is not null then
    t.state := 'in_progress';
    t.lines := t.lines || format('It has come to %s%s, as the device said %s.',
      coalesce(s.row ->> 'progress' || ' %', 'an unknown point'), coalesce(': ' || (s.row ->> 'progress_message'), ''),
      mqtt_private.fn_say_distance((s.row ->> 'progress_at')::timestamptz, s.now));
  elsif not s.no_listener and not s.repeatable then
    t.state := 'sent';
    t.lines := t.lines || format('It is not sent again: the device may have heard it, and a %s is never done twice. A late '
      'answer still counts.', s.command_type);
  elsif s.redelivery_count >= s.redelivery_limit then
    t.state := 'sent';
    t.lines := t.lines || format('It was sent again %s times, which is all. A late answer still counts.',
      s.redelivery_count);
  else
    t.state := 'waiting_for_wake';
    t.next_at := case when s.next_wake_at > s.now then s.next_wake_at end;
    t.lines := t.lines || format('When the device wakes, it is sent again%s (%s of %s times so far).',
      case when s.command_type in ('set_wake_schedule', 'update_config') then ', unless a newer one has replaced it'
        else '' end, s.redelivery_count, s.redelivery_limit);
  end if;
  if v_answer_due_at is not null then
    t.next_at := least(t.next_at, v_answer_due_at);
    t.lines := t.lines || format('It fails at %s, unless the device says before then that it has done it or is at it.',
      mqtt_private.fn_say_when(v_answer_due_at, s.now, s.zone));
  end if;
  if s.device is not null then t.lines := t.lines || mqtt_private.fn_tell_waking(s); end if;
  return t;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_tell_sent', 'authenticated', 'service_role');

create or replace function mqtt_private.fn_tell_failed(s mqtt_private.story) returns mqtt_private.told
language plpgsql stable set search_path = '' as $$
declare
  t mqtt_private.told;
  v_held_until constant timestamptz := s.row ->> 'held_until';
begin
  t.lines := array[format('The last attempt failed: %s (%s of %s failures).',
    coalesce(s.last_error, 'no reason was given'), s.retry_count, s.max_retries)];
  if v_held_until is not null then
    t.state := 'held';
    t.next_at := v_held_until;
    t.lines := t.lines || format('A maintenance window holds the next attempt until %s.',
      mqtt_private.fn_say_when(v_held_until, s.now, s.zone));
  elsif s.due_at is not null then
    t.state := 'retry';
    t.next_at := s.due_at;
    t.lines := t.lines || format('It is tried again at %s.', mqtt_private.fn_say_when(s.due_at, s.now, s.zone));
  else
    t.state := 'failed';
    t.lines := t.lines || format('It is not tried again by itself. Correct the reason, then: mqtt-service retry %s',
      left(s.command_id::text, 8));
  end if;
  return t;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_tell_failed', 'authenticated', 'service_role');

create or replace function mqtt_private.fn_tell_acknowledged(s mqtt_private.story) returns mqtt_private.told
language plpgsql stable set search_path = '' as $$
declare
  t mqtt_private.told;
begin
  t.state := 'acknowledged';
  t.lines := array[format('The device did it at %s%s.', mqtt_private.fn_say_when(s.acknowledged_at, s.now, s.zone),
    case when s.acknowledged_at is not null and s.delivered_at is not null then format(', %s s after the broker had it',
      to_char(greatest(extract(epoch from s.acknowledged_at - s.delivered_at), 0), 'FM999999990.0')) else '' end)];
  if s.retry_count + s.redelivery_count > 0 then
    t.lines := t.lines || format('It took %s failures and %s redeliveries.', s.retry_count, s.redelivery_count);
  end if;
  if s.row ->> 'verified_at' is not null then
    t.state := 'verified';
    t.lines := t.lines || format('The device woke with the new version at %s.',
      mqtt_private.fn_say_when((s.row ->> 'verified_at')::timestamptz, s.now, s.zone));
  elsif s.row ->> 'release_id' is not null then
    t.state := 'waiting_for_verification';
    t.next_at := case when s.next_wake_at > s.now then s.next_wake_at end;
    t.lines := t.lines || array['Whether the new version runs is what the device says when it wakes next.',
      mqtt_private.fn_tell_waking(s)];
  end if;
  return t;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_tell_acknowledged', 'authenticated', 'service_role');

-- What has ended otherwise, and what is not the service's.
create or replace function mqtt_private.fn_tell_end(s mqtt_private.story) returns mqtt_private.told
language plpgsql stable set search_path = '' as $$
declare
  t mqtt_private.told;
begin
  t.state := s.status;
  if s.status = 'rejected' then
    t.lines := array[format('The device says that it never will: %s.', coalesce(s.last_error, 'it gave no reason')),
      'This is final. To try something else, queue a new command.'];
  elsif s.status = 'expired' then
    t.lines := array[format('Its time went by (%s): %s.', coalesce('the broker had it at '
        || case when s.delivered_at is not null then mqtt_private.fn_say_time(s.delivered_at, s.zone) end, 'unsent'),
        coalesce(s.last_error, 'no answer came')),
      'This is final, but a late success still makes it acknowledged. To try again, queue it anew.'];
  elsif s.status = 'cancelled' and s.row ->> 'done_after_cancel_at' is not null then
    t.lines := array['It was withdrawn. This is final.', format('The device did it all the same, and said so at %s.',
      mqtt_private.fn_say_when((s.row ->> 'done_after_cancel_at')::timestamptz, s.now, s.zone))];
  elsif s.status = 'cancelled' then
    t.lines := array['It was withdrawn. This is final.'] || case when s.attempt > 0
      then array['A worker had already taken it up, so the device may have got it nevertheless.'] else '{}' end;
  else
    t.state := 'foreign';
    t.lines := array[format('Its status is %L, which is none of the service''s (pending, sent, acknowledged, failed, '
      'rejected, expired, cancelled): it is left alone.', s.status)];
  end if;
  return t;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_tell_end', 'authenticated', 'service_role');

-- Where a command is, why, what happens next and when, for whoever may read its row; null: there is no such row for them.
-- Returns {command_id, status, state, final, text, next_at, gives_up_at, timezone, at}.
--   state     left_alone; of pending: leased, held, scheduled, inactive, due, late; of sent: waiting_for_wake, in_progress,
--             sent; of failed: retry, held, failed; of acknowledged: acknowledged, waiting_for_verification, verified;
--             rejected, expired, cancelled; foreign
--   final     nothing more happens to it by itself
--   text      the story, a sentence or two a line, its times in the zone of the device's site, else UTC
--   next_at   when something happens next, as far as one knows; null: nobody knows, or nothing does
--   gives_up_at  when an open command expires
create or replace function public.fn_explain_command(p_command_id uuid) returns jsonb
language plpgsql stable security invoker set search_path = public, extensions as $$
declare
  v_command public.device_commands;
  s mqtt_private.story;
  t mqtt_private.told;
  v_lines text[];
  v_open boolean;
begin
  select * into v_command from public.device_commands where command_id = p_command_id;
  if not found then return null; end if;
  s := mqtt_private.fn_read_story(v_command);
  v_lines := mqtt_private.fn_tell_origin(s,
    (select device_mac::text from public.devices where device_id = v_command.device_id));
  if not s.in_queue and s.status in ('pending', 'sent', 'failed') then
    t.state := 'left_alone';
    t.lines := array['The service leaves it alone: it was there before the migrations were applied, or its type was not '
        'known when it was queued. It is not sent and does not expire.',
      format('To have it done, queue it anew: mqtt-service send %s (list a type of your own in device_command_types '
        'first).', s.command_type)];
  else
    t := case s.status when 'pending' then mqtt_private.fn_tell_pending(s) when 'sent' then mqtt_private.fn_tell_sent(s)
      when 'failed' then mqtt_private.fn_tell_failed(s) when 'acknowledged' then mqtt_private.fn_tell_acknowledged(s)
      else mqtt_private.fn_tell_end(s) end;
  end if;
  v_lines := v_lines || t.lines;
  v_open := s.in_queue and (s.status in ('pending', 'sent')
    or s.status = 'failed' and (s.due_at is not null or s.row ->> 'held_until' is not null));
  if v_open then
    v_lines := v_lines || format('It gives up at %s.', mqtt_private.fn_say_when(s.deadline, s.now, s.zone));
  end if;
  return jsonb_build_object(
    'command_id', s.command_id, 'status', s.status, 'state', t.state,
    'final', not v_open and t.state <> 'waiting_for_verification', 'text', to_jsonb(v_lines),
    'next_at', nullif(t.next_at, 'infinity'), 'gives_up_at', case when v_open then nullif(s.deadline, 'infinity') end,
    'timezone', s.zone, 'at', s.now);
end
$$;
call mqtt_private.grant_execute('public.fn_explain_command(uuid)', 'authenticated', 'service_role');
