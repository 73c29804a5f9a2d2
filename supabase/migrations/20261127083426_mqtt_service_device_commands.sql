-- The command queue's table: insert a row, and the device gets the command. Its rules are in …_command_rules.sql.
--
--   pending ──▶ sent ──▶ acknowledged      the device did it
--     ▲ │        │ ├───▶ rejected          the device never will
--     │ ├──▶ failed│                       the last attempt failed; due_at says when the next one is, if any
--     └─┼────────┴─┼───▶ expired           its time ran out; a late success still makes it acknowledged
--       └──────────┴───▶ cancelled         a person withdrew it (from pending or failed)
--
-- due_at is the time when the queue next looks at a row; null: never.
-- While a worker publishes a command, the row is pending and leased: lease_worker, lease_until, and due_at =
-- lease_until, so that a lease that runs out is found like any other due command. attempt numbers the leases.

-- The types that the service knows by itself, and checks (…_command_rules.sql).
create or replace function mqtt_private.fn_built_in_command_types() returns text[]
language sql immutable parallel safe set search_path = '' as $$
  select '{capture_image,send_image,set_wake_schedule,update_config,reboot,update_firmware,ping}'::text[]
$$;
call mqtt_private.grant_execute('mqtt_private.fn_built_in_command_types', 'authenticated', 'service_role');

-- Further types, listed by the project's owner: each is sent as update_config is, its payload's keys as they are.
call mqtt_private.create_table('public.device_command_types', 'command_type', $$
  command_type text primary key
    check (command_type <> '' and command_type <> all (mqtt_private.fn_built_in_command_types()))
$$);

alter table public.device_command_types
  add column if not exists description text,
  -- doing it twice leaves the device as doing it once: it is redelivered when the device wakes
  add column if not exists repeatable boolean not null default false,
  add column if not exists created_at timestamptz not null default now();

call mqtt_private.create_table('public.device_commands', 'command_id', $$
  command_id uuid primary key default gen_random_uuid(),
  device_id uuid not null references public.devices (device_id) on delete cascade,
  command_type text not null,
  command_payload jsonb not null default '{}'
$$);

alter table public.device_commands
  add column if not exists device_id uuid references public.devices (device_id) on delete cascade,
  add column if not exists command_type text,
  add column if not exists command_payload jsonb not null default '{}',
  add column if not exists status text not null default 'pending'
    check (status in ('pending', 'sent', 'failed', 'acknowledged', 'rejected', 'expired', 'cancelled')),
  add column if not exists priority smallint not null default 0,        -- higher goes first
  add column if not exists issued_at timestamptz not null default now(),
  add column if not exists issue_number bigint generated always as identity,  -- order within one issued_at
  add column if not exists scheduled_for timestamptz,                   -- not before
  add column if not exists expires_at timestamptz,                      -- null: COMMAND_TTL after issued_at
  add column if not exists delivered_at timestamptz,                    -- the broker confirmed it
  add column if not exists acknowledged_at timestamptz,                 -- the device did it
  add column if not exists retry_count integer not null default 0,      -- failed attempts
  add column if not exists redelivery_count integer not null default 0, -- how often a wake made it pending again
  add column if not exists last_error text,
  add column if not exists response jsonb,                              -- the device's last answer
  add column if not exists no_listener boolean not null default false,  -- the broker: nobody was subscribed
  add column if not exists idempotency_key text,
  add column if not exists created_by_user_id uuid,
  add column if not exists due_at timestamptz,
  -- The queue looks after this row. Not so: rows from before adoption, and types that it does not know. Trigger-kept.
  add column if not exists in_queue boolean not null default false,
  add column if not exists lease_worker text,
  add column if not exists lease_until timestamptz,
  add column if not exists attempt bigint not null default 0,           -- only grows
  add column if not exists updated_at timestamptz not null default now();

call mqtt_private.allow_values(
  'public.device_commands', 'status', '{pending,sent,failed,acknowledged,rejected,expired,cancelled}');
call mqtt_private.allow_values(
  'public.device_commands', 'command_type', mqtt_private.fn_built_in_command_types());

-- Indexes ------------------------------------------------------------------------------------------------------
-- Most are partial on what waits, so finished rows, rows scheduled for later and rows from before adoption cost a claim
-- nothing.

-- a device's commands, the latest first: dashboards and policies
create index if not exists device_commands_device_id_idx on public.device_commands (device_id, issued_at desc);
-- the claim: what is due
create index if not exists device_commands_due_idx on public.device_commands (due_at) where due_at is not null;
-- the claim: which devices another worker is sending to
create index if not exists device_commands_leased_idx
  on public.device_commands (device_id) where lease_until is not null;
-- the claim: what has expired, at its own time or after its time to live
create index if not exists device_commands_expires_at_idx on public.device_commands (expires_at)
  where in_queue and expires_at is not null and (status in ('pending', 'sent') or due_at is not null);
do $$
declare
  v_index constant text := $index$
    create index if not exists device_commands_time_to_live_idx on public.device_commands (%s)
    where in_queue and expires_at is null and (status in ('pending', 'sent') or due_at is not null)$index$;
begin
  execute format(v_index, 'greatest(issued_at, nullif(scheduled_for, ''infinity''))');
exception when invalid_object_definition then
  -- an older table has one of them without a time zone: which is the later depends on the session's then
  execute format(v_index, 'issued_at');
end
$$;
-- heartbeats and visits: what waits for a device that is awake
create index if not exists device_commands_waiting_idx
  on public.device_commands (device_id, due_at) where due_at is not null;
-- heartbeats and visits: what the device was sent and has not answered
create index if not exists device_commands_sent_idx
  on public.device_commands (device_id, delivered_at desc) where in_queue and status = 'sent';
-- visits: whether the device has confirmed a schedule
create index if not exists device_commands_schedule_acknowledged_idx
  on public.device_commands (device_id, acknowledged_at desc)
  where command_type = 'set_wake_schedule' and status = 'acknowledged';
-- acknowledgements: what the device was sent last
create index if not exists device_commands_delivered_idx
  on public.device_commands (device_id, delivered_at desc) where in_queue and delivered_at is not null;
-- a command with this key is queued once; the welcome of a device depends on it
call mqtt_private.add_unique_index(
  'device_commands_idempotency_key_key',
  'public.device_commands (idempotency_key) where idempotency_key is not null');
