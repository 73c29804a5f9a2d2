-- What a person should know about a command that was sent: device_commands.delivery_notice.
--
-- A schedule that cannot be said in the 12-hour form of the wire goes out nevertheless, and the device wakes at another
-- time. That is no failure: last_error stays null, and the worker, which knows what it wrote, says so here; written by
-- fn_settle_rows in …_claims_at_any_size.sql.

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
