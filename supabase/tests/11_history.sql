-- Changes of commands, wakes, stories and numbers: members read their company's, and nobody writes any.
\ir include/setup.psql
select plan(29);

insert into device_commands (command_id, device_id, command_type)
select (left(device_id::text, 1) || '0000000-0000-4000-8000-000000000071')::uuid, device_id, 'reboot'
from devices where device_id in ('a0000000-0000-4000-8000-000000000031', 'b0000000-0000-4000-8000-000000000031');
update device_commands set status = 'failed', due_at = null, last_error = 'cold'
where command_id::text like '_0000000-0000-4000-8000-000000000071';
insert into mqtt_private.visits (device_id, lease_worker, lease_until, began_at, received_refs)
select device_id, 'w1', now(), now(), array['r'] from devices
where device_id in ('a0000000-0000-4000-8000-000000000031', 'b0000000-0000-4000-8000-000000000031');

select pg_temp.become('viewer.a');
select results_eq($$select from_status, to_status, changed_by from device_command_changes$$,
  $$values ('pending', 'failed', 'queue')$$, 'a viewer sees the changes of her company''s commands');
select results_eq('select device_id from device_wakes', $$values ('a0000000-0000-4000-8000-000000000031'::uuid)$$, '… and the wakes of its devices');
select results_eq(
  $$select what from device_timeline where kind in ('command', 'wake') and about is distinct from null and what like 'reboot failed%'$$,
  $$values ('reboot failed: cold')$$, '… its timeline');
select is(fn_explain_command('a0000000-0000-4000-8000-000000000071') ->> 'state', 'failed', '… the story of a command');
select is(fn_explain_command('b0000000-0000-4000-8000-000000000071'), null, '… and none of B''s');
select results_eq($$select distinct company_id from device_command_numbers where dimension = 'device'$$,
  $$values ('a0000000-0000-4000-8000-000000000001'::uuid)$$, '… her company''s numbers');
select throws_ok('select fn_set_queue_rules(1, 1, 1)', '42501', null, 'she sets no rules');
select throws_ok('select * from mqtt_private.queue_rules', '42501', null, '… and does not read them');

select throws_ok(format(statement, relation), '42501', null, actor || ': ' || format(statement, relation))
from (values ('delete from %I'), ('update %I set at = now()'),
    ('insert into %I (device_id) values (''a0000000-0000-4000-8000-000000000031'')')) s (statement),
  (values ('device_command_changes'), ('device_wakes')) r (relation), (values ('a viewer')) a (actor);

select pg_temp.become('admin.a');
select throws_ok(format(statement, relation), '42501', null, actor || ': ' || format(statement, relation))
from (values ('delete from %I'), ('update %I set at = now()'),
    ('insert into %I (device_id) values (''a0000000-0000-4000-8000-000000000031'')')) s (statement),
  (values ('device_command_changes'), ('device_wakes')) r (relation), (values ('an admin')) a (actor);
select pg_temp.become('operator.a');
select lives_ok($$update device_commands set status = 'pending' where command_id = 'a0000000-0000-4000-8000-000000000071'$$,
  'an operator tries again what failed');
select results_eq(
  $$select changed_by, who from device_command_changes where to_status = 'pending'$$,
  $$values ('user', 'a0000000-0000-4000-8000-0000000000e2')$$, '… and the change is hers');

select pg_temp.become('viewer.b');
select results_eq('select distinct device_id from device_command_changes',
  $$values ('b0000000-0000-4000-8000-000000000031'::uuid)$$, 'B sees B''s changes');
select results_eq('select device_id from device_wakes', $$values ('b0000000-0000-4000-8000-000000000031'::uuid)$$, '… and B''s wakes');

select pg_temp.become_role('service_role');
select throws_ok('delete from device_command_changes', '42501', null, 'the secret key removes no change');

select pg_temp.become_role('anon');
select throws_ok('select * from device_command_changes', '42501', null, 'anon reads no change');
select throws_ok('select fn_explain_command(gen_random_uuid())', '42501', null, '… and no story');
select throws_ok('select * from device_command_numbers', '42501', null, '… and no numbers');
select throws_ok('select * from device_wakes', '42501', null, '… and no wakes');
select finish();
rollback;
