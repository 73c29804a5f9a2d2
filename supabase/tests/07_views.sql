-- Views for people: each shows its reader's own company and no other, and anon nothing.
\ir include/setup.psql
select plan(20);

insert into device_commands (device_id, command_type, status, delivered_at, acknowledged_at)
select device_id, 'reboot', status, now(), case status when 'acknowledged' then now() end
from devices, unnest(array['acknowledged', 'failed']) status where company_id is not null;
insert into device_history (device_id) select device_id from devices where company_id is not null;
update devices set is_active = true, next_wake_at = now() - interval '3 days', last_seen_at = now() - interval '5 days'
where company_id is not null;

create function pg_temp.own(p_view text) returns text
language plpgsql as $$
declare
  v_of text[];
begin
  execute format('select array_agg(distinct left(%I::text, 1)) from %I',
    case p_view when 'device_command_statistics' then 'company_id' else 'device_id' end, p_view) into v_of;
  return array_to_string(v_of, ',');
end
$$;

select pg_temp.become('viewer.a');
select is(pg_temp.own(view), 'a', view || ' shows A what is A''s')
from unnest(array['device_command_history', 'device_command_success', 'device_command_statistics',
  'device_commands_failed', 'device_timeline', 'devices_overdue']) view;
select results_eq('select success_rate from device_command_success', 'select 0.5::double precision', 'half succeeded');
select pg_temp.become('viewer.b');
select is(pg_temp.own(view), 'b', view || ' shows B what is B''s')
from unnest(array['device_command_history', 'device_command_success', 'device_command_statistics',
  'device_commands_failed', 'device_timeline', 'devices_overdue']) view;
select throws_ok('delete from device_command_history', null, null, 'nobody writes through them');
select pg_temp.become_role('anon');
select throws_ok(format('select * from %I', view), '42501', null, 'anon reads no ' || view)
from unnest(array['device_command_history', 'device_command_success', 'device_command_statistics',
  'device_commands_failed', 'device_timeline', 'devices_overdue']) view;

select finish();
rollback;
