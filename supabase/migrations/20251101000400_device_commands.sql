-- The command queue's table: insert a row, and the device gets it.
--
--   pending ──▶ sent ──▶ acknowledged      the device did it
--     ▲ │        │ ├───▶ rejected          the device never will
--     │ ├──▶ failed│                       the last attempt failed; due_at says when the next one is, if any
--     └─┼────────┴─┼───▶ expired           its time went by; a late success still makes it acknowledged
--       └──────────┴───▶ cancelled         a person withdrew it (from pending or failed)
--
-- All moves are in mqtt_private.fn_command_may_become. What can never work is refused when it is inserted.
--
-- While a worker publishes a command, the command is pending and leased: lease_worker, lease_until, and due_at =
-- lease_until, so that a lease that lapses is found like any other due command. attempt numbers the leases.

do $$
begin
  if to_regclass('public.device_commands') is null then
    create table public.device_commands (
      command_id uuid primary key default gen_random_uuid(),
      device_id uuid not null references public.devices (device_id) on delete cascade,
      command_type text not null,
      command_payload jsonb not null default '{}'
    );
    alter table public.device_commands enable row level security;
    revoke all on table public.device_commands from public, anon, authenticated, service_role;
  end if;
  perform mqtt_private.fn_require_key('public.device_commands', 'command_id');
end
$$;

alter table public.device_commands
  add column if not exists device_id uuid references public.devices (device_id) on delete cascade,
  add column if not exists command_type text,
  add column if not exists command_payload jsonb not null default '{}',
  add column if not exists status text not null default 'pending'
    check (status in ('pending', 'sent', 'failed', 'acknowledged', 'rejected', 'expired', 'cancelled')),
  add column if not exists priority smallint not null default 0,  -- higher goes first
  add column if not exists issued_at timestamptz not null default now(),
  add column if not exists issue_number bigint generated always as identity,  -- order within one issued_at
  add column if not exists scheduled_for timestamptz,   -- not before
  add column if not exists expires_at timestamptz,      -- null: the worker's COMMAND_TTL after issued_at
  add column if not exists delivered_at timestamptz,    -- the broker had it
  add column if not exists acknowledged_at timestamptz, -- the device said it did it
  add column if not exists retry_count integer not null default 0,
  add column if not exists last_error text,
  add column if not exists response jsonb,              -- the device's last answer
  add column if not exists no_listener boolean not null default false,  -- the broker: nobody was subscribed
  add column if not exists idempotency_key text,
  add column if not exists created_by_user_id uuid,
  add column if not exists due_at timestamptz,          -- when the queue next looks at it; null: never
  add column if not exists lease_worker text,
  add column if not exists lease_until timestamptz,
  add column if not exists attempt bigint not null default 0,  -- only grows
  add column if not exists updated_at timestamptz not null default now();

select mqtt_private.fn_allow_words(
  'public.device_commands', 'status',
  array['pending', 'sent', 'failed', 'acknowledged', 'rejected', 'expired', 'cancelled']
);
select mqtt_private.fn_allow_words(
  'public.device_commands', 'command_type',
  array['capture_image', 'send_image', 'set_wake_schedule', 'update_config', 'reboot', 'update_firmware']
);

-- Commands that waited before the queue came would otherwise never be due. An update would set off the triggers
-- that the project has on its table; changing the column's type, to the one it has, does not.
do $$
begin
  if exists (select from public.device_commands where status = 'pending' and due_at is null) then
    alter table public.device_commands alter column due_at type timestamptz
      using coalesce(due_at, case when status = 'pending' then coalesce(scheduled_for, issued_at, now()) end);
  end if;
end
$$;

-- The queue's own indexes, partial on what waits, come with its functions.
create index if not exists device_commands_device_id_idx on public.device_commands (device_id, issued_at desc);

do $$
begin
  if to_regclass('public.device_commands_idempotency_key_key') is null then
    create unique index device_commands_idempotency_key_key on public.device_commands (idempotency_key)
      where idempotency_key is not null;
  end if;
exception when unique_violation then
  raise warning 'device_commands.idempotency_key is not unique: rows that were there before repeat a key'
    using hint = 'Set the doubles to null and apply this migration again; welcome commands need this index.';
end
$$;

-- What can work ------------------------------------------------------------------------------------------------

-- Why p_cron cannot be a schedule; null: it can. (fn_calculate_next_wake comes with a later migration.)
create or replace function mqtt_private.fn_cron_problem(p_cron text) returns text
language plpgsql stable set search_path = ''
as $$
begin
  perform public.fn_calculate_next_wake(p_cron, now(), 'UTC');
  return null;
exception when data_exception or raise_exception or check_violation then
  return sqlerrm;
end
$$;

-- Whether p_time can be read as one moment, e.g. 2025-11-20T16:00:00Z.
create or replace function mqtt_private.fn_is_timestamp(p_time text) returns boolean
language plpgsql stable set search_path = ''
as $$
begin
  return p_time ~ '^\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}' and isfinite(p_time::timestamptz);
exception when data_exception then
  return false;
end
$$;

create or replace function mqtt_private.fn_refuse(p_message text, p_hint text) returns void
language plpgsql stable set search_path = ''
as $$
begin
  raise exception using errcode = 'check_violation', message = p_message, hint = p_hint;
end
$$;

-- Raises 23514 where a command of this type and payload can never work.
create or replace function mqtt_private.fn_check_command(p_type text, p_payload jsonb) returns void
language plpgsql stable set search_path = ''
as $$
begin
  if p_payload is null or jsonb_typeof(p_payload) <> 'object' then
    perform mqtt_private.fn_refuse(
      'command_payload is not an object', 'Write {} where a command has no parameters.');
  elsif octet_length(p_payload::text) > 131072 then
    perform mqtt_private.fn_refuse(
      format('command_payload has %s bytes, more than 131072', octet_length(p_payload::text)),
      'Put large content behind a URL and send the URL.');
  end if;
  case p_type
    when 'capture_image', 'reboot', 'update_config' then null;
    when 'send_image' then perform mqtt_private.fn_check_send_image(p_payload);
    when 'set_wake_schedule' then perform mqtt_private.fn_check_wake_schedule(p_payload);
    when 'update_firmware' then perform mqtt_private.fn_check_firmware(p_payload);
    else perform mqtt_private.fn_refuse(
      format('command_type %s is not known', coalesce(quote_literal(p_type), 'null')),
      'Use capture_image, send_image, set_wake_schedule, update_config, reboot or update_firmware.');
  end case;
end
$$;

create or replace function mqtt_private.fn_check_send_image(p_payload jsonb) returns void
language plpgsql stable set search_path = ''
as $$
declare
  v_name text := p_payload ->> 'image_name';
begin
  if jsonb_typeof(p_payload -> 'image_name') is distinct from 'string'
    or length(v_name) not between 1 and 255 or v_name ~ '[\u0001-\u001f\u007f-\u009f]'
  then
    perform mqtt_private.fn_refuse(
      'send_image needs image_name: 1 to 255 characters, no control characters',
      'Write e.g. {"image_name": "image_001.jpg"}.');
  end if;
end
$$;

create or replace function mqtt_private.fn_check_wake_schedule(p_payload jsonb) returns void
language plpgsql stable set search_path = ''
as $$
declare
  v_time jsonb := nullif(p_payload -> 'next_wake_time', 'null');
  v_cron jsonb := nullif(p_payload -> 'wake_schedule_cron', 'null');
  v_problem text;
begin
  if v_time is not null
    and (jsonb_typeof(v_time) <> 'string' or not mqtt_private.fn_is_timestamp(v_time #>> '{}'))
  then
    perform mqtt_private.fn_refuse(
      format('next_wake_time %s is not a time', v_time),
      'Write ISO 8601 with an offset, e.g. {"next_wake_time": "2025-11-20T16:00:00Z"}.');
  end if;
  if v_cron is not null then
    if jsonb_typeof(v_cron) <> 'string' or btrim(v_cron #>> '{}') = '' then
      v_problem := 'it is not a text with five fields';
    else
      v_problem := mqtt_private.fn_cron_problem(v_cron #>> '{}');
    end if;
  end if;
  if v_problem is not null then
    perform mqtt_private.fn_refuse(
      format('wake_schedule_cron %s does not parse: %s', v_cron, v_problem),
      'Write five-field cron, e.g. {"wake_schedule_cron": "0 8,16 * * *"}.');
  end if;
  if v_time is null and v_cron is null then
    perform mqtt_private.fn_refuse(
      'set_wake_schedule needs next_wake_time or wake_schedule_cron',
      'Write e.g. {"next_wake_time": "2025-11-20T16:00:00Z"} or {"wake_schedule_cron": "0 8,16 * * *"}.');
  end if;
end
$$;

create or replace function mqtt_private.fn_check_firmware(p_payload jsonb) returns void
language plpgsql stable set search_path = ''
as $$
declare
  v_url text := p_payload ->> 'firmware_url';
begin
  if jsonb_typeof(p_payload -> 'firmware_url') is distinct from 'string'
    or length(v_url) > 2048 or v_url !~ '^[hH][tT][tT][pP][sS]://[^/?#[:space:][:cntrl:]]+[^[:space:][:cntrl:]]*$'
  then
    perform mqtt_private.fn_refuse(
      'update_firmware needs firmware_url: an https URL of at most 2048 characters',
      'Write e.g. {"firmware_url": "https://files.example.com/firmware.bin"}.');
  end if;
  if p_payload ->> 'sha256' is not null and p_payload ->> 'sha256' !~ '^[0-9A-Fa-f]{64}$' then
    perform mqtt_private.fn_refuse(
      'sha256 is not the SHA-256 of a firmware', 'Write 64 hexadecimal digits, or leave sha256 out.');
  end if;
end
$$;

-- Moves --------------------------------------------------------------------------------------------------------

-- Whether a command may go from one status to another. A word that is not ours (a table that was there before
-- may have some) is not ours to judge.
create or replace function mqtt_private.fn_command_may_become(p_old text, p_new text) returns boolean
language sql immutable parallel safe set search_path = ''
as $$
  select case p_old
    when 'pending' then p_new in ('sent', 'failed', 'expired', 'cancelled',
                                  'acknowledged', 'rejected')  -- the answer overtook our own note of sending
    when 'sent' then p_new in ('acknowledged', 'failed', 'rejected', 'expired',
                               'pending')  -- delivered again
    when 'failed' then p_new in ('pending', 'sent', 'expired', 'cancelled',
                                 'acknowledged', 'rejected')  -- a late answer
    when 'expired' then p_new = 'acknowledged'  -- a late success
    when 'acknowledged' then false
    when 'rejected' then false
    when 'cancelled' then false
    else true
  end
  or p_new not in ('pending', 'sent', 'failed', 'acknowledged', 'rejected', 'expired', 'cancelled')
$$;

-- Security invoker, and it must be: current_user tells people (authenticated) from workers.
create or replace function mqtt_private.fn_guard_command_insert() returns trigger
language plpgsql set search_path = ''
as $$
begin
  new.command_payload := coalesce(new.command_payload, '{}');
  perform mqtt_private.fn_check_command(new.command_type, new.command_payload);
  new.status := coalesce(new.status, 'pending');
  new.issued_at := coalesce(new.issued_at, now());
  if current_user = 'authenticated' then
    if new.status <> 'pending' then
      perform mqtt_private.fn_refuse(
        format('a new command cannot be %s', new.status), 'Leave status out, or write ''pending''.');
    end if;
    new.created_by_user_id := auth.uid();  -- who is signed in, whatever the client says
  end if;
  new.created_by_user_id := coalesce(new.created_by_user_id, auth.uid());
  if new.status = 'pending' then
    new.due_at := coalesce(new.due_at, new.scheduled_for, new.issued_at);
  elsif new.status <> 'failed' then
    new.due_at := null;
  end if;
  return new;
end
$$;

create or replace function mqtt_private.fn_guard_command_update() returns trigger
language plpgsql set search_path = ''
as $$
declare
  v_moved boolean := new.status is distinct from old.status;
begin
  new.updated_at := now();
  if new.command_type is distinct from old.command_type
    or new.command_payload is distinct from old.command_payload
  then
    perform mqtt_private.fn_check_command(new.command_type, new.command_payload);
  end if;
  if v_moved then
    perform mqtt_private.fn_check_command_move(old.status, new.status);
  end if;
  if new.status in ('sent', 'acknowledged', 'rejected', 'expired', 'cancelled') then
    new.due_at := null;
    new.lease_worker := null;
    new.lease_until := null;
  elsif v_moved and new.status = 'pending' and new.due_at is not distinct from old.due_at then
    -- a person's "retry now" names no time
    new.due_at := now();
    new.lease_worker := null;
    new.lease_until := null;
  end if;
  return new;
end
$$;

-- Raises 23514 where the move is illegal, or is not a person's to make.
create or replace function mqtt_private.fn_check_command_move(p_old text, p_new text) returns void
language plpgsql stable set search_path = ''
as $$
begin
  if not mqtt_private.fn_command_may_become(p_old, p_new) then
    perform mqtt_private.fn_refuse(
      format('a command that is %s cannot become %s', p_old, p_new), 'Insert a new command instead.');
  end if;
  if current_user = 'authenticated'
    and not (p_old in ('pending', 'failed') and p_new = 'cancelled' or p_old = 'failed' and p_new = 'pending')
  then
    perform mqtt_private.fn_refuse(
      format('only the worker moves a command from %s to %s', p_old, p_new),
      'Cancel what is pending or failed (status ''cancelled''), or try again what failed (status ''pending'').');
  end if;
end
$$;

drop trigger if exists mqtt_guard_command_insert on public.device_commands;
create trigger mqtt_guard_command_insert before insert on public.device_commands
  for each row execute function mqtt_private.fn_guard_command_insert();

drop trigger if exists mqtt_guard_command_update on public.device_commands;
create trigger mqtt_guard_command_update before update on public.device_commands
  for each row execute function mqtt_private.fn_guard_command_update();

-- Grants -------------------------------------------------------------------------------------------------------
-- The trigger functions run as whoever writes a command, so these roles need what they call. Trigger functions
-- themselves need no grant.

revoke all on function mqtt_private.fn_guard_command_insert() from public, anon, authenticated;
revoke all on function mqtt_private.fn_guard_command_update() from public, anon, authenticated;

do $$
declare
  v_function text;
begin
  foreach v_function in array array[
    'fn_cron_problem(text)', 'fn_is_timestamp(text)', 'fn_refuse(text, text)', 'fn_check_command(text, jsonb)',
    'fn_check_send_image(jsonb)', 'fn_check_wake_schedule(jsonb)', 'fn_check_firmware(jsonb)',
    'fn_command_may_become(text, text)', 'fn_check_command_move(text, text)'
  ] loop
    execute format('revoke all on function mqtt_private.%s from public, anon, authenticated', v_function);
    execute format('grant execute on function mqtt_private.%s to authenticated, service_role', v_function);
  end loop;
end
$$;
