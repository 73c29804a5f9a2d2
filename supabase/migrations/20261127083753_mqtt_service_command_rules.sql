-- The rules of public.device_commands: which commands can work, and which moves between statuses are allowed.
--
-- What can never work is refused when it is inserted or edited, with a message that says what to write (23514).
-- Triggers apply the rules for whoever writes a row, so everybody who may write one may execute these functions.
--
-- A table that was there before has clients from before: they can insert what they could. There, what can never work is
-- taken and fails at its first claim, and a type that is not known may be another service's: its rows are left alone.

-- Which commands can work --------------------------------------------------------------------------------------

create or replace function mqtt_private.fn_raise_check_violation(p_message text, p_hint text) returns void
language plpgsql stable set search_path = '' as $$
begin
  raise exception using errcode = 'check_violation', message = p_message, hint = p_hint;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_raise_check_violation', 'authenticated', 'service_role');

-- Whether a text can be read as one point in time, e.g. 2025-11-20T16:00:00Z.
create or replace function mqtt_private.fn_is_timestamp(p_text text) returns boolean
language plpgsql stable set search_path = '' as $$
begin
  return p_text ~ '^\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}' and isfinite(p_text::timestamptz);
exception when data_exception then
  return false;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_is_timestamp', 'authenticated', 'service_role');

-- Why a payload cannot be sent; null: it can. A payload that no worker can read would keep every other command of the
-- same claim from being sent.
create or replace function mqtt_private.fn_problem_of_payload(p_payload jsonb) returns text
language plpgsql stable set search_path = '' as $$
declare
  v_bytes constant int := octet_length(p_payload::text);
begin
  if jsonb_typeof(p_payload) <> 'object' then
    return 'command_payload is not an object: write {} where a command has no parameters';
  elsif v_bytes > 131072 then
    return format('command_payload has %s bytes, more than 131072', v_bytes);
  elsif jsonb_path_exists(p_payload, 'strict $.**{33}') then
    return 'command_payload is nested deeper than 32';
  elsif jsonb_path_exists(
    p_payload, 'strict $.** ? (@.type() == "number" && (@ > 1e308 || @ < -1e308))', silent => true)
  then
    return 'command_payload holds a number beyond 1e308';
  end if;
  return null;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_problem_of_payload', 'authenticated', 'service_role');

-- Whether a type is built in or listed.
-- Security definer: who may queue a command need not be able to read the list.
create or replace function mqtt_private.fn_knows_command_type(p_type text) returns boolean
language sql stable security definer set search_path = '' as $$
  select coalesce(p_type = any (mqtt_private.fn_built_in_command_types()), false)
    or exists (select from public.device_command_types where command_type::text = p_type)
$$;
call mqtt_private.grant_execute('mqtt_private.fn_knows_command_type', 'authenticated', 'service_role');

-- Raises 23514 where a command of this type and payload can never work. A new built-in type gets its line here.
create or replace function mqtt_private.fn_check_command(p_type text, p_payload jsonb) returns void
language plpgsql stable set search_path = '' as $$
declare
  v_problem text;
begin
  if p_payload is null or jsonb_typeof(p_payload) <> 'object' then
    perform mqtt_private.fn_raise_check_violation(
      'command_payload is not an object', 'Write {} where a command has no parameters.');
  end if;
  v_problem := mqtt_private.fn_problem_of_payload(p_payload);
  if v_problem is not null then
    perform mqtt_private.fn_raise_check_violation(v_problem, 'Put large content behind a URL and send the URL.');
  end if;
  case p_type
    when 'capture_image', 'reboot', 'update_config', 'ping' then null;
    when 'send_image' then perform mqtt_private.fn_check_send_image(p_payload);
    when 'set_wake_schedule' then perform mqtt_private.fn_check_wake_schedule(p_payload);
    when 'update_firmware' then perform mqtt_private.fn_check_firmware(p_payload);
    else
      if not mqtt_private.fn_knows_command_type(p_type) then
        perform mqtt_private.fn_raise_check_violation(
          format('command_type %s is not known', coalesce(quote_literal(p_type), 'null')),
          format('Use %s, or list the type in device_command_types.',
            array_to_string(mqtt_private.fn_built_in_command_types(), ', ')));
      end if;
  end case;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_check_command', 'authenticated', 'service_role');

create or replace function mqtt_private.fn_check_send_image(p_payload jsonb) returns void
language plpgsql stable set search_path = '' as $$
declare
  v_name text := p_payload ->> 'image_name';
begin
  if jsonb_typeof(p_payload -> 'image_name') is distinct from 'string'
    or length(v_name) not between 1 and 255 or v_name ~ '[\u0001-\u001f\u007f-\u009f]'
  then
    perform mqtt_private.fn_raise_check_violation(
      'send_image needs image_name: 1 to 255 characters, no control characters',
      'Write e.g. {"image_name": "image_001.jpg"}.');
  end if;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_check_send_image', 'authenticated', 'service_role');

create or replace function mqtt_private.fn_check_wake_schedule(p_payload jsonb) returns void
language plpgsql stable set search_path = '' as $$
declare
  v_time jsonb := nullif(p_payload -> 'next_wake_time', 'null');
  v_cron jsonb := coalesce(nullif(p_payload -> 'wake_schedule_cron', 'null'), nullif(p_payload -> 'cron', 'null'));
  v_problem text;
begin
  if v_time is not null
    and (jsonb_typeof(v_time) <> 'string' or not mqtt_private.fn_is_timestamp(v_time #>> '{}'))
  then
    perform mqtt_private.fn_raise_check_violation(
      format('next_wake_time %s is not a time', v_time),
      'Write ISO 8601 with an offset, e.g. {"next_wake_time": "2025-11-20T16:00:00Z"}.');
  end if;
  if v_cron is not null then
    begin
      if jsonb_typeof(v_cron) <> 'string' or btrim(v_cron #>> '{}') = '' then
        v_problem := 'it is not a text with five fields';
      else
        perform public.fn_calculate_next_wake(v_cron #>> '{}', now(), 'UTC');
      end if;
    exception when data_exception or raise_exception or check_violation then
      v_problem := sqlerrm;
    end;
  end if;
  if v_problem is not null then
    perform mqtt_private.fn_raise_check_violation(
      format('wake_schedule_cron %s does not parse: %s', v_cron, v_problem),
      'Write five-field cron, e.g. {"wake_schedule_cron": "0 8,16 * * *"}.');
  end if;
  if v_time is null and v_cron is null then
    perform mqtt_private.fn_raise_check_violation(
      'set_wake_schedule needs next_wake_time or wake_schedule_cron',
      'Write e.g. {"next_wake_time": "2025-11-20T16:00:00Z"} or {"wake_schedule_cron": "0 8,16 * * *"}.');
  end if;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_check_wake_schedule', 'authenticated', 'service_role');

create or replace function mqtt_private.fn_check_firmware(p_payload jsonb) returns void
language plpgsql stable set search_path = '' as $$
declare
  v_url text := p_payload ->> 'firmware_url';
begin
  if jsonb_typeof(p_payload -> 'firmware_url') is distinct from 'string'
    or length(v_url) > 2048 or v_url !~ '^[hH][tT][tT][pP][sS]://[^/?#[:space:][:cntrl:]]+[^[:space:][:cntrl:]]*$'
  then
    perform mqtt_private.fn_raise_check_violation(
      'update_firmware needs firmware_url: an https URL of at most 2048 characters',
      'Write e.g. {"firmware_url": "https://files.example.com/firmware.bin"}.');
  end if;
  if p_payload ->> 'sha256' is not null and p_payload ->> 'sha256' !~ '^[0-9A-Fa-f]{64}$' then
    perform mqtt_private.fn_raise_check_violation(
      'sha256 is not the SHA-256 of a firmware', 'Write 64 hexadecimal digits, or leave sha256 out.');
  end if;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_check_firmware', 'authenticated', 'service_role');

-- Types that are not known ------------------------------------------------------------------------------------

-- Types that somebody inserted into an adopted table and nobody listed; the claim's answer names them.
call mqtt_private.create_table('mqtt_private.unknown_command_types', null, $$
  command_type text primary key,
  first_seen_at timestamptz not null default now()
$$);
grant select, insert, update, delete on table mqtt_private.unknown_command_types to service_role;

-- Remembers such a type, up to 100 of them.
-- Security definer: it is called for whoever inserts a command, and nobody else may write this table.
create or replace function mqtt_private.fn_note_unknown_command_type(p_type text) returns void
language sql volatile security definer set search_path = '' as $$
  insert into mqtt_private.unknown_command_types (command_type)
  select left(p_type, 100)
  where p_type is not null
    and not exists (select from mqtt_private.unknown_command_types where command_type = left(p_type, 100))
    and (select count(*) from mqtt_private.unknown_command_types) < 100
  on conflict (command_type) do nothing
$$;
call mqtt_private.grant_execute('mqtt_private.fn_note_unknown_command_type', 'authenticated', 'service_role');

-- Whether the queue looks after a command of this type and payload. Raises 23514 for one that can never work, unless the
-- table was there before.
create or replace function mqtt_private.fn_admit_command(p_type text, p_payload jsonb) returns boolean
language plpgsql volatile set search_path = '' as $$
begin
  if not mqtt_private.fn_was_adopted('public.device_commands') then
    perform mqtt_private.fn_check_command(p_type, p_payload);
  elsif not mqtt_private.fn_knows_command_type(p_type) then
    perform mqtt_private.fn_note_unknown_command_type(p_type);
    return false;
  end if;
  return true;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_admit_command', 'authenticated', 'service_role');

-- Which moves are allowed --------------------------------------------------------------------------------------

-- Whether a command may go from one status to another; …_device_commands.sql draws it. Any move from or to a status
-- that is not ours is allowed: an adopted table may have some.
create or replace function mqtt_private.fn_command_may_become(p_old text, p_new text) returns boolean
language sql immutable parallel safe set search_path = '' as $$
  select case p_old
    when 'pending' then p_new in ('sent', 'failed', 'expired', 'cancelled',
                                  'acknowledged', 'rejected')  -- the answer came before the worker had settled
    when 'sent' then p_new in ('acknowledged', 'failed', 'rejected', 'expired',
                               'pending')                      -- delivered again
    when 'failed' then p_new in ('pending', 'sent', 'expired', 'cancelled',
                                 'acknowledged', 'rejected')   -- a late answer
    when 'expired' then p_new = 'acknowledged'                 -- a late success
    when 'acknowledged' then false
    when 'rejected' then false
    when 'cancelled' then false
    else true
  end
  or p_new not in ('pending', 'sent', 'failed', 'acknowledged', 'rejected', 'expired', 'cancelled')
$$;
call mqtt_private.grant_execute('mqtt_private.fn_command_may_become', 'authenticated', 'service_role');

-- Raises 23514 where a move is not allowed, or is not a person's to make.
create or replace function mqtt_private.fn_check_command_move(p_old text, p_new text) returns void
language plpgsql stable set search_path = '' as $$
begin
  if not mqtt_private.fn_command_may_become(p_old, p_new) then
    perform mqtt_private.fn_raise_check_violation(
      format('a command that is %s cannot become %s', p_old, p_new), 'Insert a new command instead.');
  end if;
  if current_user = 'authenticated'
    and not (p_old in ('pending', 'failed') and p_new = 'cancelled' or p_old = 'failed' and p_new = 'pending')
  then
    perform mqtt_private.fn_raise_check_violation(
      format('only the worker moves a command from %s to %s', p_old, p_new),
      'Cancel what is pending or failed (status ''cancelled''), or try again what failed (status ''pending'').');
  end if;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_check_command_move', 'authenticated', 'service_role');

-- Guards -------------------------------------------------------------------------------------------------------
-- Security invoker, and they must be: current_user tells people (authenticated) from workers.
-- expires_at is never infinite, so that every command ends: null means after its time to live.
-- A project may have granted people the whole table, and our policies let operators write rows: the worker's columns
-- keep their values whatever a person writes.

create or replace function mqtt_private.fn_guard_command_insert() returns trigger
language plpgsql set search_path = '' as $$
begin
  new.command_payload := coalesce(new.command_payload, '{}');
  new.in_queue := mqtt_private.fn_admit_command(new.command_type::text, new.command_payload);
  new.status := coalesce(new.status, 'pending');
  new.issued_at := coalesce(nullif(new.issued_at, 'infinity'), now());
  new.expires_at := nullif(new.expires_at, 'infinity');
  new.retry_count := coalesce(new.retry_count, 0);
  if current_user = 'authenticated' then
    new.due_at := null;
    new.lease_worker := null;
    new.lease_until := null;
    new.attempt := 0;
    new.redelivery_count := 0;
    new.no_listener := false;
    new.response := null;
    if new.status <> 'pending' then
      perform mqtt_private.fn_raise_check_violation(
        format('a new command cannot be %s', new.status), 'Leave status out, or write ''pending''.');
    end if;
  end if;
  -- Who is signed in, whatever the client says. An adopted table's own column may refer to other ids than those of
  -- auth.users: what its clients write is theirs to know.
  if (current_user = 'authenticated' or new.created_by_user_id is null)
    and not mqtt_private.fn_was_adopted('public.device_commands')
  then
    new.created_by_user_id := auth.uid();
  end if;
  if new.status = 'pending' and new.in_queue then
    new.due_at := coalesce(new.due_at, new.scheduled_for, new.issued_at);
  elsif new.status <> 'failed' or not new.in_queue then
    new.due_at := null;
  end if;
  return new;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_guard_command_insert');

create or replace function mqtt_private.fn_guard_command_update() returns trigger
language plpgsql set search_path = '' as $$
declare
  v_moved boolean := new.status is distinct from old.status;
begin
  if current_user = 'authenticated' then
    new.due_at := old.due_at;
    new.lease_worker := old.lease_worker;
    new.lease_until := old.lease_until;
    new.attempt := old.attempt;
    new.redelivery_count := old.redelivery_count;
    new.no_listener := old.no_listener;
    new.response := old.response;
  end if;
  new.updated_at := now();
  new.expires_at := nullif(new.expires_at, 'infinity');
  new.retry_count := coalesce(new.retry_count, 0);
  new.in_queue := old.in_queue;
  if new.command_type is distinct from old.command_type then
    new.in_queue := mqtt_private.fn_admit_command(new.command_type::text, new.command_payload);
  elsif new.command_payload is distinct from old.command_payload then
    perform mqtt_private.fn_admit_command(new.command_type::text, new.command_payload);
  end if;
  if v_moved then
    perform mqtt_private.fn_check_command_move(old.status::text, new.status::text);
  end if;
  if v_moved and new.status = 'pending' and not new.in_queue then
    -- somebody tries a row from before adoption again
    new.in_queue := mqtt_private.fn_knows_command_type(new.command_type::text);
  elsif v_moved and new.status = 'sent' then
    -- another service sent it, and need not say when
    new.delivered_at := coalesce(new.delivered_at, now());
  end if;
  if not new.in_queue or new.status is null or new.status not in ('pending', 'failed') then
    -- done, or not ours: it leaves the queue, and no longer delays the other commands of its device
    new.due_at := null;
    new.lease_worker := null;
    new.lease_until := null;
  elsif new.status = 'pending' and new.due_at is not distinct from old.due_at and (v_moved or not old.in_queue) then
    -- a person's "try again", which names no time: its life begins again, or the next claim would expire it
    new.due_at := now();
    new.lease_worker := null;
    new.lease_until := null;
    if new.expires_at <= now() then
      new.expires_at := null;
    end if;
    if new.expires_at is null then
      new.scheduled_for := greatest(nullif(new.scheduled_for, 'infinity'), now());
    end if;
  elsif new.status = 'failed' and new.due_at = old.due_at and (v_moved or new.retry_count > old.retry_count) then
    -- another service failed at it, and names no time: it tries again by itself after 30 s, and else we do
    new.due_at := now() + interval '30 seconds';
    new.lease_worker := null;
    new.lease_until := null;
  elsif new.status = 'pending' and new.lease_worker is null and new.scheduled_for is distinct from old.scheduled_for
    and new.due_at is not distinct from old.due_at
  then
    -- a new scheduled_for of a command that waits counts
    new.due_at := coalesce(new.scheduled_for, new.issued_at);
  end if;
  return new;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_guard_command_update');

create or replace trigger mqtt_guard_command_insert before insert on public.device_commands
  for each row execute function mqtt_private.fn_guard_command_insert();

create or replace trigger mqtt_guard_command_update before update on public.device_commands
  for each row execute function mqtt_private.fn_guard_command_update();

-- Rows from before adoption --------------------------------------------------------------------------------------

-- Once, when the table is met first: commands of the last 24 hours (the default of COMMAND_TTL; a migration cannot know
-- the worker's setting) join the queue, and those of them that wait are due. Older rows are left alone for ever: not
-- sent, not expired, not redelivered, not taken for what an answer without a command_id means. From here on, every new
-- row joins. In the transaction that makes the guards, so that no row comes between.
-- An update would fire the project's own triggers; changing a column's type, to the one that it has, does not.
-- A table that had no issued_at got one with the time of migration in every row, so created_at tells how old they are;
-- where there is none, a row is left alone unless its scheduled_for is of these 24 hours or later.
do $$
declare
  v_since constant timestamptz := (
    select applied_at - interval '24 hours' from mqtt_private.adoption where table_name = 'public.device_commands');
  -- in_queue is ours, so a column that the same statement added is too
  v_lacked_issued_at constant boolean := (
    select count(distinct xmin::text) = 1 from pg_catalog.pg_attribute
    where attrelid = 'public.device_commands'::regclass and attname in ('issued_at', 'in_queue'));
  v_issued_at text := 'issued_at';
  v_join boolean;
begin
  if (select pg_get_expr(d.adbin, d.adrelid) from pg_catalog.pg_attrdef d
      join pg_catalog.pg_attribute a on a.attrelid = d.adrelid and a.attnum = d.adnum
      where d.adrelid = 'public.device_commands'::regclass and a.attname = 'in_queue') = 'true'
  then
    return;
  end if;
  if v_lacked_issued_at and mqtt_private.fn_was_adopted('public.device_commands')
    and exists (select from public.device_commands)
  then
    if exists (
      select from pg_catalog.pg_attribute
      where attrelid = 'public.device_commands'::regclass and attname = 'created_at' and not attisdropped
        and atttypid in ('timestamptz'::regtype, 'timestamp'::regtype, 'date'::regtype))
    then
      v_issued_at := 'created_at::timestamptz';
      alter table public.device_commands
        alter column issued_at type timestamptz using coalesce(created_at::timestamptz, issued_at);
    else
      v_issued_at := 'null::timestamptz';
      raise warning 'public.device_commands was there before without issued_at and created_at: old rows are left alone'
        using hint = 'Only scheduled_for tells how old they are. Set status to ''pending'' where one is to be sent.';
    end if;
  end if;
  execute format(
    'select exists (select from public.device_commands where greatest(%s, scheduled_for) > $1)', v_issued_at)
    into v_join using v_since;
  if v_join then
    execute format($alter$
      alter table public.device_commands
        alter column in_queue type boolean using coalesce(greatest(%2$s, scheduled_for) > %1$L, false)
          and coalesce(command_type::text = any (mqtt_private.fn_built_in_command_types()), false),
        alter column due_at type timestamptz using coalesce(due_at, case
          when status = 'pending' and greatest(%2$s, scheduled_for) > %1$L
            and command_type::text = any (mqtt_private.fn_built_in_command_types())
          then coalesce(scheduled_for, %2$s) end)$alter$, v_since, v_issued_at);
  end if;
  alter table public.device_commands alter column in_queue set default true;
end
$$;
