-- What every later file builds on: the private schema, and the procedures that these migrations call.
--
-- The files are applied in the order of their names, and each can be applied again at any time. They create every
-- object once, in its final form.
--
-- A project that already has some of the tables can adopt them: a missing table is created with row-level security on
-- and without any grant; a missing column is added, with its checks. What is there stays as it is: rows, columns,
-- constraints, policies, grants. Where that leaves a gap, a warning says what to run.

-- Holds what the API must not show: the functions behind the API's, and the worker's own tables.
create schema if not exists mqtt_private;
revoke all on schema mqtt_private from public;
grant usage on schema mqtt_private to authenticated, service_role;

-- Grants -------------------------------------------------------------------------------------------------------

-- Lets these roles execute a function, and nobody else. Called after each function: Postgres lets everybody execute a
-- new one, and older projects let anon and authenticated do so too. p_function: its name, with the types of its
-- parameters where a project may have another of that name.
create or replace procedure mqtt_private.grant_execute(p_function text, variadic p_roles regrole[] default '{}')
language plpgsql set search_path = '' as $$
declare
  v_role regrole;
begin
  execute format('revoke all on routine %s from public, anon, authenticated', p_function);
  foreach v_role in array p_roles loop
    execute format('grant execute on routine %s to %s', p_function, v_role);
  end loop;
end
$$;
call mqtt_private.grant_execute('mqtt_private.grant_execute');

-- Tables -------------------------------------------------------------------------------------------------------

-- Creates a table with these columns, row-level security on and no grant; does nothing where the table is there, but for
-- noting that it was (mqtt_private.adoption).
-- Columns that an older table may lack are added to either afterwards. p_key: the column that an older table must have
-- (require_key), or null.
create or replace procedure mqtt_private.create_table(p_table text, p_key text, p_columns text)
language plpgsql set search_path = '' as $$
begin
  if p_table like 'public.%' then
    insert into mqtt_private.adoption (table_name, adopted) values (p_table, to_regclass(p_table) is not null)
    on conflict (table_name) do nothing;
  end if;
  if to_regclass(p_table) is null then
    execute format('create table %s (%s)', p_table, p_columns);
    execute format('alter table %s enable row level security', p_table);
    execute format('revoke all on table %s from public, anon, authenticated, service_role', p_table);
  elsif p_key is not null then
    call mqtt_private.require_key(p_table, p_key);
  end if;
end
$$;
call mqtt_private.grant_execute('mqtt_private.create_table');

-- When each table was first met, and whether it was there before. Rows and clients from before then are treated with
-- care (…_command_rules.sql). Written once, by create_table: applying the migrations again changes nothing.
call mqtt_private.create_table('mqtt_private.adoption', null, $$
  table_name text primary key,  -- e.g. public.device_commands
  adopted boolean not null,     -- the table was there before
  applied_at timestamptz not null default now()
$$);
grant select on table mqtt_private.adoption to service_role;

-- Whether this table (schema.table) was there before the migrations.
-- Security definer: a guard asks for whoever writes a row, and nobody else may read mqtt_private.adoption.
create or replace function mqtt_private.fn_was_adopted(p_table text) returns boolean
language sql stable security definer set search_path = '' as $$
  select coalesce((select adopted from mqtt_private.adoption where table_name = p_table), false)
$$;
call mqtt_private.grant_execute('mqtt_private.fn_was_adopted', 'authenticated', 'service_role');

-- Raises 42703 where a table that was there before lacks its key, and 42830 where the key is not unique: both are for
-- the project's owner to decide.
create or replace procedure mqtt_private.require_key(p_table regclass, p_column text)
language plpgsql set search_path = '' as $$
declare
  v_attnum smallint := (
    select attnum from pg_catalog.pg_attribute
    where attrelid = p_table and attname = p_column and not attisdropped
  );
begin
  if v_attnum is null then
    raise exception 'table % was there before and has no column %', p_table, p_column
      using errcode = 'undefined_column',
            hint = format('Rename its key: alter table %s rename column <key> to %I;', p_table, p_column);
  end if;
  if not exists (
    select from pg_catalog.pg_index
    where indrelid = p_table and indisunique and indimmediate and indpred is null and indexprs is null
      and indnkeyatts = 1 and indkey[0] = v_attnum
  ) then
    raise exception 'table % was there before and its column % is not unique', p_table, p_column
      using errcode = 'invalid_foreign_key',
            hint = format('Remove doubles, then: alter table %s add unique (%I);', p_table, p_column);
  end if;
end
$$;
call mqtt_private.grant_execute('mqtt_private.require_key');

-- Creates a unique index, or a plain one with a warning where rows that were there before repeat a value.
-- p_definition: what follows "on", e.g. 'public.devices (device_code)'.
create or replace procedure mqtt_private.add_unique_index(p_name text, p_definition text)
language plpgsql set search_path = '' as $$
begin
  if to_regclass(format('public.%I', p_name)) is not null then return; end if;
  begin
    execute format('create unique index %I on %s', p_name, p_definition);
  exception when unique_violation then
    execute format('create index %I on %s', p_name, p_definition);
    raise warning 'index % is not unique: rows that were there before repeat a value (%)', p_name, p_definition
      using hint = format('Remove the doubles, then: drop index public.%I; create unique index %I on %s;',
        p_name, p_name, p_definition);
  end;
end
$$;
call mqtt_private.grant_execute('mqtt_private.add_unique_index');

-- Gives an enum of the project the words that it lacks, and a cast, so that a text can be written to a column of it.
create or replace procedure mqtt_private.allow_enum_values(p_type regtype, p_values text[])
language plpgsql set search_path = '' as $$
declare
  v_word text;
begin
  for v_word in
    select word from unnest(p_values) as w (word)
    where not exists (select from pg_catalog.pg_enum where enumtypid = p_type and enumlabel = word)
  loop
    execute format('alter type %s add value if not exists %L', p_type, v_word);
    raise notice 'type % now has the word % as well', p_type, v_word;
  end loop;
  if not exists (select from pg_catalog.pg_cast where castsource = 'text'::regtype and casttarget = p_type) then
    execute format('create cast (text as %s) with inout as assignment', p_type);
    raise notice 'a text can now be written to a column of type %', p_type;
  end if;
end
$$;
call mqtt_private.grant_execute('mqtt_private.allow_enum_values');

-- Lets a domain of the project hold these values.
create or replace procedure mqtt_private.allow_domain_values(p_type regtype, p_values text[])
language plpgsql set search_path = '' as $$
declare
  v_word text;
  v_check record;
  v_refused text[];
begin
  foreach v_word in array p_values loop
    begin
      execute format('select %L::%s', v_word, p_type);
    exception when check_violation then
      v_refused := v_refused || v_word;
    end;
  end loop;
  for v_check in
    select conname, regexp_replace(pg_catalog.pg_get_constraintdef(oid), '^CHECK ', '') as expression
    from pg_catalog.pg_constraint where contypid = p_type and contype = 'c' and v_refused is not null
  loop
    execute format('alter domain %s drop constraint %I', p_type, v_check.conname);
    execute format('alter domain %s add constraint %I check (%s or value = any (%L::text[]))',
      p_type, v_check.conname, v_check.expression, v_refused);
    raise notice 'check % of the domain % now lets % through as well', v_check.conname, p_type, v_refused;
  end loop;
end
$$;
call mqtt_private.grant_execute('mqtt_private.allow_domain_values');

-- Lets a column hold these values. A check that refuses any of them, of the table or of the column's domain, is widened:
-- it keeps its name, and allows what it allowed before, and these. An enum gets the words that it lacks, and a cast, so
-- that a text can be written to it. Raises 42804 where the column is of another kind.
create or replace procedure mqtt_private.allow_values(p_table regclass, p_column text, p_values text[])
language plpgsql set search_path = '' as $$
declare
  v_type regtype := (select atttypid from pg_catalog.pg_attribute where attrelid = p_table and attname = p_column);
  v_base regtype := (select case typtype when 'd' then typbasetype else oid end from pg_catalog.pg_type where oid = v_type);
  v_check record;
  v_refused text[];
begin
  if exists (select from pg_catalog.pg_type where oid = v_type and typtype = 'e') then
    call mqtt_private.allow_enum_values(v_type, p_values);
    return;
  elsif (select typcategory from pg_catalog.pg_type where oid = v_base) <> 'S' then
    raise exception 'table % was there before, and its column % is %, not text', p_table, p_column, v_type
      using errcode = 'datatype_mismatch',
            hint = format('alter table %s alter column %I type text using %I::text;', p_table, p_column, p_column);
  elsif v_base <> v_type then
    call mqtt_private.allow_domain_values(v_type, p_values);
  end if;
  for v_check in
    select c.conname, pg_catalog.pg_get_expr(c.conbin, c.conrelid) as expression
    from pg_catalog.pg_constraint c
    join pg_catalog.pg_attribute a on a.attrelid = c.conrelid and c.conkey = array[a.attnum]
    where c.conrelid = p_table and c.contype = 'c' and a.attname = p_column
  loop
    execute format('select array_agg(%1$I) from unnest($1) as t(%1$I) where not (%2$s)', p_column, v_check.expression)
      into v_refused using p_values;
    if v_refused is not null then
      execute format(
        'alter table %s drop constraint %I, add constraint %I check ((%s) or %I = any (%L::text[]))',
        p_table, v_check.conname, v_check.conname, v_check.expression, p_column, v_refused
      );
      raise notice 'check % of % now lets % through as well', v_check.conname, p_table, v_refused;
    end if;
  end loop;
end
$$;
call mqtt_private.grant_execute('mqtt_private.allow_values');

-- The words that the worker writes where an older table has an enum: a new word can be used only after the transaction
-- that adds it, so they are there before the files that name them.
do $$
declare
  v_table text;
  v_column text;
  v_words text[];
  v_type regtype;
begin
  for v_table, v_column, v_words in values
    ('devices', 'provisioning_status', '{pending_mapping,mapped,active,inactive}'::text[]),
    ('device_commands', 'status', '{pending,sent,failed,acknowledged,rejected,expired,cancelled}'),
    ('device_commands', 'command_type',
      '{capture_image,send_image,set_wake_schedule,update_config,reboot,update_firmware,ping}'),
    ('device_images', 'status', '{pending,receiving,complete,failed}'),
    ('device_history', 'severity', '{info,warning,error}'),
    ('device_history', 'event_type', '{mapped,unmapped,self_registered,wake_schedule_invalid,image_failed}')
  loop
    select t.oid into v_type
    from pg_catalog.pg_attribute a join pg_catalog.pg_type t on t.oid = a.atttypid
    where a.attrelid = to_regclass(format('public.%I', v_table)) and a.attname = v_column and t.typtype = 'e';
    if found then
      call mqtt_private.allow_enum_values(v_type, v_words);
    end if;
  end loop;
end
$$;

-- Triggers -----------------------------------------------------------------------------------------------------

-- Keeps updated_at. A trigger function, so nobody needs a grant.
create or replace function mqtt_private.fn_touch_updated_at() returns trigger
language plpgsql set search_path = '' as $$
begin
  new.updated_at := now();
  return new;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_touch_updated_at');
