-- How we write to a table that a project shares with us: by its types, beside its triggers, and past the row that it
-- refuses.
--
-- A project's triggers, checks, generated columns and rules run inside our statements and look bare names up by our
-- search_path. So every function that reads or writes a table that the project shares has the path of an API request,
-- `public, extensions`; our own statements name every table with its schema, so nothing there can capture them. Pure
-- functions, and definer functions that write to no such table, have an empty path.

-- Faults -------------------------------------------------------------------------------------------------------
-- A project's trigger, check, type or grant can refuse what we write to a row. That is this row's trouble: the rows
-- beside it go on. So each write of ours stands in a block of its own, which ends with fn_check_deferred_constraints,
-- and whose handler asks fn_explain_fault.

-- What `get stacked diagnostics` says of an error.
do $$
begin
  if to_regtype('mqtt_private.fault') is null then
    create type mqtt_private.fault as (
      code text, message text, context text, constraint_name text, column_name text
    );
  end if;
end
$$;

-- Whether a function that Postgres names in a context, innermost first, is one of ours. p_line: such as
-- `PL/pgSQL function public."notifyDevice"(uuid) line 3 at PERFORM`, or `SQL function "device_label" statement 1`.
create or replace function mqtt_private.fn_is_our_function(p_line text) returns boolean
language plpgsql stable set search_path = '' as $$
declare
  v_name constant text := coalesce(
    (regexp_match(p_line, '^SQL function "(.*)" (?:statement|during)'))[1],
    (regexp_match(p_line, '^PL/pgSQL function (?:\w+\.)?"?([^"(]+)"?\('))[1]);
begin
  return p_line like 'PL/pgSQL function mqtt\_private.%'
    or v_name = any ('{fn_calculate_next_wake,fn_trigger_device_lineage_update,fn_initialize_device_after_mapping}')
    or exists (select from pg_catalog.pg_proc
      where proname = v_name and pronamespace = 'mqtt_private'::regnamespace);
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_is_our_function', 'authenticated', 'service_role');

-- Whether an error concerns the server, the connection or the whole transaction, and so no row.
create or replace function mqtt_private.fn_is_general_fault(p_code text) returns boolean
language sql immutable parallel safe set search_path = '' as $$
  select left(p_code, 2) in ('08', '25', '40', '53', '57', '58', 'XX')
$$;
call mqtt_private.grant_execute('mqtt_private.fn_is_general_fault', 'authenticated', 'service_role');

-- What refused a row of p_table, and what to do; null where the error is not this row's: a general one, a lock that one
-- of our statements waits for, or an object or a grant that one of our statements lacks.
create or replace function mqtt_private.fn_explain_fault(p_fault mqtt_private.fault, p_table text) returns text
language plpgsql stable set search_path = public, extensions as $$
declare
  v_line constant text := (regexp_match(p_fault.context, '(?:^|\n)((?:PL/pgSQL|SQL) function [^\n]+)'))[1];
  v_function constant text := coalesce(
    (regexp_match(v_line, '^SQL function "(.*?)" (?:statement|during)'))[1],
    (regexp_match(v_line, '^PL/pgSQL function (.*?) (?:line|during|while)'))[1]);
  v_is_theirs constant boolean := coalesce(not mqtt_private.fn_is_our_function(v_line), false);
  v_trigger constant text := (
    select string_agg(quote_ident(t.tgname), ', ') from pg_catalog.pg_trigger t
    where t.tgrelid = to_regclass(format('public.%I', p_table)) and not t.tgisinternal
      and position(t.tgfoid::regprocedure::text || ' line' in p_fault.context) > 0
      and t.tgfoid::regprocedure::text !~ '^mqtt_private\.');
begin
  if mqtt_private.fn_is_general_fault(p_fault.code)
    or left(p_fault.code, 2) in ('0A', '26', '2F', '34', '3D', '3F', '42', '55') and not v_is_theirs
  then
    return null;
  end if;
  return left(case
    when v_is_theirs and v_trigger is not null then
      format('function %s of the project, called by trigger %s on %s, refuses it: %s (%s); mend it, or: '
        'alter table public.%I disable trigger %s;',
        v_function, v_trigger, p_table, p_fault.message, p_fault.code, p_table, v_trigger)
    when v_is_theirs then format('function %s of the project refuses it: %s (%s); mend it',
      v_function, p_fault.message, p_fault.code)
    when p_fault.constraint_name <> '' then format('constraint %s on %s refuses it: %s (%s)',
      p_fault.constraint_name, p_table, p_fault.message, p_fault.code)
    when p_fault.column_name <> '' then format('column %s of %s refuses it: %s (%s); give the column a default',
      p_fault.column_name, p_table, p_fault.message, p_fault.code)
    else format('%s (%s)', p_fault.message, p_fault.code) end, 1000);
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_explain_fault', 'authenticated', 'service_role');

-- The same for a write beside which the rest of a call goes on, whatever refused it: null only where the server, the
-- connection or the transaction is at fault, or one of our statements waits for a lock.
create or replace function mqtt_private.fn_explain_refusal(p_fault mqtt_private.fault, p_table text) returns text
language sql stable set search_path = public, extensions as $$
  select coalesce(mqtt_private.fn_explain_fault(p_fault, p_table),
    case when not mqtt_private.fn_is_general_fault(p_fault.code) and left(p_fault.code, 2) <> '55'
      then left(format('%s (%s)', p_fault.message, p_fault.code), 1000) end)
$$;
call mqtt_private.grant_execute('mqtt_private.fn_explain_refusal', 'authenticated', 'service_role');

-- Raises now what the project's deferred constraints would raise at the end of the transaction, where it would be the
-- trouble of all rows. p_table: those of this table alone, for a transaction that is a client's. All are named where
-- they can be, since a constraint may be in a schema that our role may not use, and names need not be unique.
create or replace function mqtt_private.fn_check_deferred_constraints(p_table text default null) returns void
language plpgsql volatile set search_path = public, extensions as $$
declare
  v_deferred text;
begin
  if not exists (select from pg_catalog.pg_constraint where condeferred) then
    return;
  elsif p_table is null then
    set constraints all immediate;
    set constraints all deferred; -- those that were not are checked by the next call, at the latest
    return;
  end if;
  select string_agg(format('public.%I', c.conname), ', ') into v_deferred
  from pg_catalog.pg_constraint c
  where c.condeferred and c.conrelid = to_regclass(format('public.%I', p_table))
    and not exists (select from pg_catalog.pg_constraint other
      where other.conname = c.conname and other.connamespace = c.connamespace and not other.condeferrable);
  if v_deferred is not null then
    execute format('set constraints %s immediate', v_deferred);
    execute format('set constraints %s deferred', v_deferred);
  end if;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_check_deferred_constraints', 'authenticated', 'service_role');

-- Rows of shared tables ----------------------------------------------------------------------------------------
-- A project can have a column of ours with another type, and be stricter than we are. fn_write_row makes one statement
-- out of the columns that the table has, each value by the type that the column has. What the table refuses for one
-- column's sake is written without that column.

-- The word of an enum that stands for this one, however the project spells it; null: there is none.
create or replace function mqtt_private.fn_nearest_word(p_enum regtype, p_word text) returns text
language sql stable set search_path = '' as $$
  select enumlabel::text from pg_catalog.pg_enum
  where enumtypid = p_enum
    and lower(regexp_replace(enumlabel::text, '[^[:alnum:]]', '', 'g'))
      = lower(regexp_replace(p_word, '[^[:alnum:]]', '', 'g'))
  order by enumlabel::text <> p_word limit 1
$$;
call mqtt_private.grant_execute('mqtt_private.fn_nearest_word', 'authenticated', 'service_role');

-- Those of these columns that p_table has and that can be written, each with the expression that makes a value of its
-- type out of $1 ->> column: decimals are rounded where the type is whole, a time is the session's where the type has no
-- zone, a word of an enum is the nearest. p_cut: the columns whose text may lose what does not fit.
create or replace function mqtt_private.fn_column_expressions(p_table regclass, p_columns text[], p_cut text[])
returns table (name text, place smallint, expression text)
language plpgsql stable set search_path = '' as $$
begin
  return query
  with recursive typed as (
    select a.attname, a.attnum, a.atttypid as column_type, a.atttypid as base, a.atttypmod as typmod
    from pg_catalog.pg_attribute a
    where a.attrelid = p_table and a.attname = any (p_columns) and a.attnum > 0 and not a.attisdropped
      and a.attgenerated = '' and a.attidentity <> 'a'
    union all
    select c.attname, c.attnum, c.column_type, d.typbasetype, d.typtypmod
    from typed c join pg_catalog.pg_type d on d.oid = c.base and d.typtype = 'd'
  )
  select c.attname::text, c.attnum, case
      when b.typtype = 'e' then format('mqtt_private.fn_nearest_word(%L, $1 ->> %L)', b.oid::regtype, c.attname)
      when b.typname in ('json', 'jsonb') then format('($1 -> %L)', c.attname)
      when b.typname in ('int2', 'int4', 'int8') then format('round(($1 ->> %L)::numeric)', c.attname)
      when b.typcategory = 'N' then format('($1 ->> %L)::numeric', c.attname)
      when b.typname in ('timestamp', 'date', 'time') then format('($1 ->> %L)::timestamptz', c.attname)
      else format('($1 ->> %L)', c.attname)
    end
    || '::' || pg_catalog.format_type(b.oid, case when b.typcategory <> 'S' or c.attname = any (p_cut) then c.typmod end)
    || case when c.column_type <> b.oid then '::' || c.column_type::regtype else '' end
  from typed c join pg_catalog.pg_type b on b.oid = c.base and b.typtype <> 'd';
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_column_expressions', 'authenticated', 'service_role');

-- Writes these columns of one row, those of them that the table has and that are not generated: of a new row, or of the
-- row that p_key names (p_required has its value). Raises what the project raises, deferred constraints too.
create or replace function mqtt_private.fn_try_row(p_table text, p_key text, p_required jsonb, p_optional jsonb)
returns void
language plpgsql volatile set search_path = public, extensions as $$
declare
  v_table constant regclass := format('public.%I', p_table);
  v_columns text;
  v_values text;
  v_sets text;
  v_where text;
begin
  select string_agg(format('%I', name), ', ' order by place), string_agg(expression, ', ' order by place),
    string_agg(format('%I = %s', name, expression), ', ' order by place) filter (where name is distinct from p_key),
    string_agg(format('%I = %s', name, expression), '') filter (where name = p_key)
  into v_columns, v_values, v_sets, v_where
  from mqtt_private.fn_column_expressions(v_table, array(select jsonb_object_keys(p_required || p_optional)),
    array(select jsonb_object_keys(p_optional)));
  if p_key is null then
    execute format('insert into %s (%s) select %s', v_table, v_columns, v_values) using p_required || p_optional;
  elsif v_sets is not null then
    execute format('update %s set %s where %s', v_table, v_sets, v_where) using p_required || p_optional;
  end if;
  perform mqtt_private.fn_check_deferred_constraints(case when p_table = 'device_history' then p_table end);
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_try_row', 'authenticated', 'service_role');

-- Those of the columns p_optional for whose sake a row was refused, as far as the error names them: the column, the
-- columns of the constraint or of the constraint's domain, or those whose value is none of their type. (A domain's check
-- may name a function of the project.)
create or replace function mqtt_private.fn_find_culprits(
  p_table text, p_fault mqtt_private.fault, p_optional jsonb) returns text[]
language plpgsql stable set search_path = public, extensions as $$
declare
  v_table constant regclass := format('public.%I', p_table);
  v_names constant text[] := array(select jsonb_object_keys(p_optional));
  v_culprits text[];
  v_column record;
begin
  select array_agg(distinct a.attname::text) into v_culprits
  from pg_catalog.pg_attribute a
  where a.attrelid = v_table and p_optional ? a.attname::text and (a.attname = p_fault.column_name
    or p_fault.constraint_name <> '' and (
      exists (select from pg_catalog.pg_constraint c where c.conname = p_fault.constraint_name
        and (c.conrelid = v_table and a.attnum = any (c.conkey) or c.contypid = a.atttypid))
      or exists (select from pg_catalog.pg_index i join pg_catalog.pg_class x on x.oid = i.indexrelid
        where i.indrelid = v_table and x.relname = p_fault.constraint_name and a.attnum = any (i.indkey))));
  if v_culprits is not null or left(p_fault.code, 2) not in ('22', '23', '42') then
    return coalesce(v_culprits, '{}');
  end if;
  for v_column in
    select name, expression
    from mqtt_private.fn_column_expressions(v_table, v_names, v_names)
  loop
    begin
      execute format('select %s', v_column.expression) using p_optional;
    exception when data_exception or integrity_constraint_violation or syntax_error_or_access_rule_violation then
      v_culprits := v_culprits || v_column.name;
    end;
  end loop;
  return coalesce(v_culprits, '{}');
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_find_culprits', 'authenticated', 'service_role');

-- Whether the table would take this row; nothing is written.
create or replace function mqtt_private.fn_would_take_row(p_table text, p_key text, p_required jsonb, p_optional jsonb)
returns boolean
language plpgsql volatile set search_path = public, extensions as $$
begin
  perform mqtt_private.fn_try_row(p_table, p_key, p_required, p_optional);
  raise exception using errcode = 'MQ000', message = 'the row would be taken';
exception when others then
  if mqtt_private.fn_is_general_fault(sqlstate) then raise; end if;
  return sqlstate = 'MQ000';
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_would_take_row', 'authenticated', 'service_role');

-- As fn_find_culprits where the error names none: by trying each of the columns beside those that are good.
create or replace function mqtt_private.fn_find_culprits_by_trying(
  p_table text, p_key text, p_required jsonb, p_optional jsonb) returns text[]
language plpgsql volatile set search_path = public, extensions as $$
declare
  v_good jsonb := '{}';
  v_culprits text[] := '{}';
  v_column text;
begin
  if not mqtt_private.fn_would_take_row(p_table, p_key, p_required, '{}') then
    return array(select jsonb_object_keys(p_optional));
  end if;
  for v_column in select jsonb_object_keys(p_optional) loop
    if mqtt_private.fn_would_take_row(
      p_table, p_key, p_required, v_good || jsonb_build_object(v_column, p_optional -> v_column))
    then
      v_good := v_good || jsonb_build_object(v_column, p_optional -> v_column);
    else
      v_culprits := v_culprits || v_column;
    end if;
  end loop;
  return v_culprits;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_find_culprits_by_trying', 'authenticated', 'service_role');

-- Writes a row as fn_try_row does, without those of the columns p_optional that the table refuses. Returns what was
-- left out, {column: why}. Raises what refuses p_required.
create or replace function mqtt_private.fn_write_row(p_table text, p_key text, p_required jsonb, p_optional jsonb)
returns jsonb
language plpgsql volatile set search_path = public, extensions as $$
declare
  v_optional jsonb := p_optional;
  v_left_out jsonb := '{}';
  v_fault mqtt_private.fault;
  v_error text;
  v_culprits text[];
begin
  loop
    begin
      perform mqtt_private.fn_try_row(p_table, p_key, p_required, v_optional);
      return v_left_out;
    exception when others then
      get stacked diagnostics v_fault.code = returned_sqlstate, v_fault.message = message_text,
        v_fault.context = pg_exception_context, v_fault.constraint_name = constraint_name,
        v_fault.column_name = column_name;
      v_error := mqtt_private.fn_explain_refusal(v_fault, p_table);
      if v_error is null or v_optional = '{}' then raise; end if;
    end;
    v_culprits := mqtt_private.fn_find_culprits(p_table, v_fault, v_optional);
    if v_culprits = '{}' then
      v_culprits := mqtt_private.fn_find_culprits_by_trying(p_table, p_key, p_required, v_optional);
    end if;
    if v_culprits = '{}' then -- each alone would be taken
      v_culprits := array(select jsonb_object_keys(v_optional));
    end if;
    v_left_out := v_left_out || (select jsonb_object_agg(name, v_error) from unnest(v_culprits) as c (name));
    v_optional := v_optional - v_culprits;
  end loop;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_write_row', 'authenticated', 'service_role');

-- What was left out of a row, {column: why}, as one text; null: nothing.
create or replace function mqtt_private.fn_describe_left_out(p_table text, p_left_out jsonb) returns text
language plpgsql immutable set search_path = '' as $$
begin
  if p_left_out = '{}' then return null; end if;
  return (
    select left(string_agg(format('public.%s does not take %s: %s', p_table, columns, why), '; '), 2000)
    from (
      select string_agg(key, ', ' order by key) as columns, value as why
      from jsonb_each_text(p_left_out) group by value) reasons);
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_describe_left_out', 'authenticated', 'service_role');

-- Whether the project's table demands a value in this column.
create or replace function mqtt_private.fn_is_demanded(p_table text, p_column text) returns boolean
language plpgsql stable set search_path = '' as $$
begin
  return exists (
    select from pg_catalog.pg_attribute
    where attrelid = format('public.%I', p_table)::regclass and attname = p_column and attnotnull and not attisdropped);
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_is_demanded', 'authenticated', 'service_role');
