-- Companies and their people; and what every later migration shares.
--
-- How all of these migrations can be adopted by a project that already has some of the tables: a table is
-- created with row-level security on and without any grant, but only where it is missing; a column is added,
-- with its checks, only where it is missing. What is there stays as it is: rows, columns, constraints,
-- policies, grants. Where that leaves a gap, a warning says what to run.

-- Functions that the API must not show live here.
create schema if not exists mqtt_private;
revoke all on schema mqtt_private from public;
grant usage on schema mqtt_private to authenticated, service_role;

-- Adoption -----------------------------------------------------------------------------------------------------

-- Raises 42703 where a table that was there before lacks the one column that it cannot do without, and 42830
-- where rows cannot be told apart by it: both are for the project's owner to decide.
create or replace function mqtt_private.fn_require_key(p_table regclass, p_column text) returns void
language plpgsql stable set search_path = ''
as $$
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

-- Creates a unique index, or a plain one with a warning where rows that were there before stand against it.
-- p_definition: what follows "on", e.g. 'public.devices (device_code)'.
create or replace function mqtt_private.fn_add_unique_index(p_name text, p_definition text) returns void
language plpgsql set search_path = ''
as $$
begin
  if to_regclass(format('public.%I', p_name)) is not null then
    return;
  end if;
  begin
    execute format('create unique index %I on %s', p_name, p_definition);
  exception when unique_violation then
    execute format('create index %I on %s', p_name, p_definition);
    raise warning 'index % is not unique: rows that were there before repeat a value (%)', p_name, p_definition
      using hint = format('Remove the doubles, then: drop index public.%I; and apply this migration again.', p_name);
  end;
end
$$;

-- Lets a column hold p_words. Checks on it, in a table that was there before, are widened: what they let through
-- until now, and the words. Raises 42804 where the column is no text, e.g. an enum.
create or replace function mqtt_private.fn_allow_words(p_table regclass, p_column text, p_words text[])
returns void
language plpgsql set search_path = ''
as $$
declare
  v_type regtype := (select atttypid from pg_catalog.pg_attribute where attrelid = p_table and attname = p_column);
  v_check record;
  v_refused text[];
begin
  if v_type not in ('text'::regtype, 'varchar'::regtype) then
    raise exception 'table % was there before, and its column % is %, not text', p_table, p_column, v_type
      using errcode = 'datatype_mismatch',
            hint = format('alter table %s alter column %I type text using %I::text;', p_table, p_column, p_column);
  end if;
  for v_check in
    select c.conname, pg_catalog.pg_get_expr(c.conbin, c.conrelid) as expression
    from pg_catalog.pg_constraint c
    join pg_catalog.pg_attribute a on a.attrelid = c.conrelid and c.conkey = array[a.attnum]
    where c.conrelid = p_table and c.contype = 'c' and a.attname = p_column
  loop
    execute format('select array_agg(%1$I) from unnest($1) as t(%1$I) where not (%2$s)', p_column, v_check.expression)
      into v_refused using p_words;
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

revoke all on function mqtt_private.fn_require_key(regclass, text) from public, anon, authenticated;
revoke all on function mqtt_private.fn_add_unique_index(text, text) from public, anon, authenticated;
revoke all on function mqtt_private.fn_allow_words(regclass, text, text[]) from public, anon, authenticated;

-- Keeps updated_at; a trigger function, so nobody needs a grant.
create or replace function mqtt_private.fn_touch_updated_at() returns trigger
language plpgsql set search_path = ''
as $$
begin
  new.updated_at := now();
  return new;
end
$$;

revoke all on function mqtt_private.fn_touch_updated_at() from public, anon, authenticated;

-- Companies ----------------------------------------------------------------------------------------------------

do $$
begin
  if to_regclass('public.companies') is null then
    create table public.companies (company_id uuid primary key default gen_random_uuid());
    alter table public.companies enable row level security;
    revoke all on table public.companies from public, anon, authenticated, service_role;
  end if;
  perform mqtt_private.fn_require_key('public.companies', 'company_id');
end
$$;

alter table public.companies
  add column if not exists name text not null default '',
  add column if not exists created_at timestamptz not null default now(),
  add column if not exists updated_at timestamptz not null default now();

-- Who belongs to a company. admin includes operator, operator includes viewer.
do $$
begin
  if to_regclass('public.company_members') is null then
    create table public.company_members (
      company_id uuid not null references public.companies (company_id) on delete cascade,
      user_id uuid not null references auth.users (id) on delete cascade,
      primary key (company_id, user_id)
    );
    alter table public.company_members enable row level security;
    revoke all on table public.company_members from public, anon, authenticated, service_role;
  end if;
end
$$;

alter table public.company_members
  add column if not exists role text not null default 'viewer' check (role in ('viewer', 'operator', 'admin')),
  add column if not exists created_at timestamptz not null default now();

create index if not exists company_members_user_id_idx on public.company_members (user_id);

drop trigger if exists mqtt_touch_updated_at on public.companies;
create trigger mqtt_touch_updated_at before update on public.companies
  for each row execute function mqtt_private.fn_touch_updated_at();
