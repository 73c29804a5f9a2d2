-- Removing what is old: finished commands, history, readings and pictures, and what the worker's own tables still hold.
--
-- A worker calls these functions now and then, one worker at a time (fn_take_turn), some hundred rows a call. Only rows
-- that nothing waits for are removed, rows that somebody holds are passed over, and no call waits for a lock that a
-- claim holds; a claim's indexes hold no finished rows, so it does not notice.
--
-- On a table that was there before the migrations, rows from before then stay, whatever their age: they are the owner's.
-- So do commands that the queue does not look after (in_queue is false), and events that other programs wrote into an
-- older device_history.
--
-- A project with the extension pg_cron can do without the worker (RETENTION_COMMANDS=0 and so on), but for pictures, whose
-- files only the API of Storage removes. A call removes up to p_limit rows; each minute is often enough:
--   select cron.schedule('remove old commands', '* * * * *',
--     $cron$ select public.fn_remove_old_rows('pg_cron', 'commands', 90, 5000) $cron$);

-- One worker at a time -----------------------------------------------------------------------------------------

-- Whose turn a task is that one worker at a time does. A worker that dies loses it by time.
call mqtt_private.create_table('mqtt_private.turns', null, $$
  task text primary key check (task in ('retention', 'alerts')),
  worker text not null,
  until timestamptz not null
$$);
grant select, insert, update, delete on table mqtt_private.turns to service_role;

-- Gives p_worker the turn at a task for p_seconds from now, or keeps it; false: it is another's.
create or replace function mqtt_private.fn_take_turn(p_task text, p_worker text, p_seconds double precision)
returns boolean
language plpgsql volatile set search_path = '' as $$
begin
  perform mqtt_private.fn_require_worker(p_worker);
  insert into mqtt_private.turns as t (task, worker, until)
  values (p_task, p_worker, clock_timestamp() + make_interval(secs => p_seconds))
  on conflict (task) do update set worker = excluded.worker, until = excluded.until
    where t.worker = excluded.worker or t.until < clock_timestamp();
  return found;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_take_turn', 'service_role');

-- Indexes ------------------------------------------------------------------------------------------------------
-- By age, so that a call reads the rows that it removes and no others.

create index if not exists device_commands_finished_idx on public.device_commands (updated_at)
  where in_queue and due_at is null and status in ('acknowledged', 'rejected', 'expired', 'cancelled', 'failed');
create index if not exists device_history_created_at_idx on public.device_history (created_at);
create index if not exists device_telemetry_created_at_idx on public.device_telemetry (created_at);
create index if not exists device_images_done_idx on public.device_images (created_at)
  where status in ('complete', 'failed');

-- Rows ---------------------------------------------------------------------------------------------------------

-- Since when rows of a table are the service's to remove. A day after adoption: the columns that it added to older rows
-- say the time of the migration, which takes a while.
create or replace function mqtt_private.fn_ours_since(p_table text) returns timestamptz
language sql stable set search_path = '' as $$
  select coalesce((
    select applied_at + interval '1 day' from mqtt_private.adoption where table_name = p_table and adopted), '-infinity')
$$;
call mqtt_private.grant_execute('mqtt_private.fn_ours_since', 'service_role');

do $$
begin
  if to_regtype('mqtt_private.removal') is null then
    create type mqtt_private.removal as (
      table_name text,
      key text,
      age text,           -- the column that says how old a row is
      condition text,     -- of the rows that may be removed
      since timestamptz,  -- rows of this age and younger, up to before
      before timestamptz,
      batch int
    );
  end if;
end
$$;

-- What may be removed of p_kind, of the ages from p_after on.
create or replace function mqtt_private.fn_plan_removal(
  p_kind text, p_days double precision, p_limit int, p_after timestamptz) returns mqtt_private.removal
language plpgsql stable set search_path = '' as $$
declare
  v_removal mqtt_private.removal;
begin
  v_removal.before := clock_timestamp() - make_interval(secs => p_days * 86400);
  v_removal.batch := p_limit;
  v_removal.table_name := case p_kind
    when 'commands' then 'device_commands' when 'history' then 'device_history'
    when 'telemetry' then 'device_telemetry' when 'images' then 'device_images' end;
  if v_removal.table_name is null or p_days is null or not p_days > 0 then
    raise exception 'p_kind is % and p_days is %', p_kind, p_days
      using errcode = 'invalid_parameter_value',
        hint = 'p_kind is commands, history, telemetry or images; p_days is above 0.';
  end if;
  v_removal.key := case p_kind
    when 'commands' then 'command_id' when 'history' then 'history_id'
    when 'telemetry' then 'telemetry_id' when 'images' then 'image_id' end;
  v_removal.age := case p_kind when 'commands' then 'updated_at' else 'created_at' end;
  v_removal.condition := case p_kind
    when 'commands' then $sql$in_queue and due_at is null
      and status in ('acknowledged', 'rejected', 'expired', 'cancelled', 'failed')$sql$
    when 'history' then case when mqtt_private.fn_was_adopted('public.device_history')
      then $sql$event_type::text in ('mapped', 'unmapped', 'self_registered', 'wake_schedule_invalid', 'image_failed')$sql$
      else 'true' end
    -- another service's have no upload_path; one that came again has changed since it was new
    when 'images' then format($sql$status in ('complete', 'failed') and upload_path is not null and updated_at < %L$sql$,
      v_removal.before)
    else 'true' end;
  v_removal.since := greatest(p_after, case when p_kind = 'commands' then '-infinity'
    else mqtt_private.fn_ours_since('public.' || v_removal.table_name) end);
  return v_removal;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_plan_removal', 'service_role');

-- Removes the oldest rows, or raises what the project raises.
create or replace function mqtt_private.fn_try_removal(
  p_removal mqtt_private.removal, out seen int, out removed int, out oldest timestamptz, out youngest timestamptz)
language plpgsql volatile set search_path = public, extensions set enable_seqscan = off set jit = off as $$
begin
  execute format($sql$
    with old as materialized (
      select %2$I as key, %3$I as age from public.%1$I where (%4$s) and %3$I >= $1 and %3$I < $2
      order by %3$I limit $3 for update skip locked
    ), gone as (
      delete from public.%1$I as t using old where t.%2$I = old.key and t.%3$I = old.age returning 1
    )
    select (select count(*) from old), (select count(*) from gone),
      (select min(age) from old)::timestamptz, (select max(age) from old)::timestamptz$sql$,
    p_removal.table_name, p_removal.key, p_removal.age, p_removal.condition)
  into seen, removed, oldest, youngest using p_removal.since, p_removal.before, p_removal.batch;
  perform mqtt_private.fn_check_deferred_constraints();
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_try_removal', 'service_role');

-- The same row by row, past those that the project refuses to let go (a foreign key of another table, say). error: why
-- the last of them stays.
create or replace function mqtt_private.fn_remove_by_row(
  p_removal mqtt_private.removal, out seen int, out removed int, out oldest timestamptz, out youngest timestamptz,
  out refused int, out error text)
language plpgsql volatile set search_path = public, extensions set enable_seqscan = off set jit = off as $$
declare
  v_row record;
  v_fault mqtt_private.fault;
begin
  seen := 0; removed := 0; refused := 0;
  for v_row in execute format($sql$
      select %2$I::text as key, %3$I::timestamptz as age from public.%1$I
      where (%4$s) and %3$I >= $1 and %3$I < $2 order by %3$I limit $3 for update skip locked$sql$,
    p_removal.table_name, p_removal.key, p_removal.age, p_removal.condition)
    using p_removal.since, p_removal.before, p_removal.batch
  loop
    seen := seen + 1;
    oldest := coalesce(oldest, v_row.age);
    youngest := v_row.age;
    begin
      execute format('delete from public.%I where %I::text = $1 and %I = $2',
        p_removal.table_name, p_removal.key, p_removal.age) using v_row.key, v_row.age;
      perform mqtt_private.fn_check_deferred_constraints();
      removed := removed + 1;
    exception when others then
      get stacked diagnostics v_fault.code = returned_sqlstate, v_fault.message = message_text,
        v_fault.context = pg_exception_context, v_fault.constraint_name = constraint_name,
        v_fault.column_name = column_name;
      error := mqtt_private.fn_explain_refusal(v_fault, p_removal.table_name);
      if error is null then raise; end if;
      refused := refused + 1;
    end;
  end loop;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_remove_by_row', 'service_role');

-- Removes the oldest rows of p_kind (commands, history, telemetry) that are older than p_days, at most p_limit.
-- p_after: where the last call left off, so that rows which cannot be removed are not met again. Sent again, it removes
-- further rows.
-- Returns {held, removed, refused, error, after, more}: held is false where another worker does it now; more: another
-- call, with p_after = after, may remove more.
create or replace function public.fn_remove_old_rows(
  p_worker text, p_kind text, p_days double precision, p_limit int default 500, p_after timestamptz default '-infinity'
) returns jsonb
language plpgsql volatile security invoker set search_path = public, extensions set lock_timeout = '2s' as $$
declare
  v_removal mqtt_private.removal;
  v_done record;
  v_fault mqtt_private.fault;
  v_refused int := 0;
  v_error text;
begin
  if not mqtt_private.fn_take_turn('retention', p_worker, 120) then
    return jsonb_build_object('held', false, 'removed', 0, 'refused', 0, 'more', false);
  end if;
  if p_kind = 'images' then
    raise exception 'pictures are removed by fn_remove_images' using errcode = 'invalid_parameter_value';
  end if;
  v_removal := mqtt_private.fn_plan_removal(p_kind, p_days, p_limit, coalesce(p_after, '-infinity'));
  begin
    v_done := mqtt_private.fn_try_removal(v_removal);
  exception when others then
    get stacked diagnostics v_fault.code = returned_sqlstate, v_fault.message = message_text,
      v_fault.context = pg_exception_context, v_fault.constraint_name = constraint_name,
      v_fault.column_name = column_name;
    if mqtt_private.fn_explain_refusal(v_fault, v_removal.table_name) is null then raise; end if;
    v_removal.batch := least(p_limit, 100);
    v_done := mqtt_private.fn_remove_by_row(v_removal);
    v_refused := v_done.refused;
    v_error := v_done.error;
  end;
  return jsonb_build_object(
    'held', true, 'removed', v_done.removed, 'refused', v_refused, 'error', v_error, 'after', v_done.youngest,
    'more', coalesce(
      v_done.seen >= v_removal.batch and (v_done.removed > 0 or v_done.youngest > v_removal.since), false));
end
$$;
call mqtt_private.grant_execute(
  'public.fn_remove_old_rows(text, text, double precision, int, timestamptz)', 'service_role');

-- Pictures -----------------------------------------------------------------------------------------------------

-- The oldest pictures that are older than p_days, at most p_limit, and where their files are: the worker removes the
-- files of those that are complete, and then calls fn_remove_images. Changes nothing but the turn.
-- Returns {held, images: [{image_id, path}], after, more}; path is null for one that failed, which has no file.
create or replace function public.fn_list_old_images(
  p_worker text, p_days double precision, p_limit int default 100, p_after timestamptz default '-infinity') returns jsonb
language plpgsql volatile security invoker set search_path = public, extensions
set enable_seqscan = off set jit = off as $$
declare
  v_removal mqtt_private.removal;
  v_images jsonb;
  v_youngest timestamptz;
begin
  if not mqtt_private.fn_take_turn('retention', p_worker, 120) then
    return jsonb_build_object('held', false, 'images', '[]'::jsonb, 'more', false);
  end if;
  v_removal := mqtt_private.fn_plan_removal('images', p_days, p_limit, coalesce(p_after, '-infinity'));
  execute format($sql$
    select coalesce(jsonb_agg(jsonb_build_object('image_id', image_id, 'path', path)), '[]'), max(created_at)
    from (select image_id, case when status = 'complete' then coalesce(storage_path, upload_path) end as path, created_at
      from public.device_images where (%s) and created_at >= $1 and created_at < $2
      order by created_at limit $3) old$sql$, v_removal.condition)
  into v_images, v_youngest using v_removal.since, v_removal.before, p_limit;
  return jsonb_build_object('held', true, 'images', v_images, 'after', v_youngest,
    'more', jsonb_array_length(v_images) >= p_limit);
end
$$;
call mqtt_private.grant_execute('public.fn_list_old_images(text, double precision, int, timestamptz)', 'service_role');

-- Removes the rows of these pictures, whose files are gone; their readings stay, without a picture. What is not
-- complete or failed by now stays as well. A row that is removed already is no fault.
-- Returns {removed, refused, error, files}; files: where a picture that failed may have left a file.
create or replace function public.fn_remove_images(p_worker text, p_image_ids uuid[]) returns jsonb
language plpgsql volatile security invoker set search_path = public, extensions set lock_timeout = '2s' as $$
declare
  v_image public.device_images;
  v_fault mqtt_private.fault;
  v_error text;
  v_removed int := 0;
  v_refused int := 0;
  v_files text[] := '{}';
begin
  perform mqtt_private.fn_require_worker(p_worker);
  for v_image in
    select * from public.device_images
    where image_id = any (p_image_ids) and status in ('complete', 'failed') and upload_path is not null
    order by image_id for update skip locked
  loop
    begin
      update public.device_telemetry set image_id = null where image_id = v_image.image_id;
      delete from public.device_images where image_id = v_image.image_id;
      perform mqtt_private.fn_check_deferred_constraints();
      v_removed := v_removed + 1;
      if v_image.status = 'failed' then
        v_files := v_files || v_image.upload_path;
      end if;
    exception when others then
      get stacked diagnostics v_fault.code = returned_sqlstate, v_fault.message = message_text,
        v_fault.context = pg_exception_context, v_fault.constraint_name = constraint_name,
        v_fault.column_name = column_name;
      v_error := mqtt_private.fn_explain_refusal(v_fault, 'device_images');
      if v_error is null then raise; end if;
      v_refused := v_refused + 1;
    end;
  end loop;
  return jsonb_build_object('removed', v_removed, 'refused', v_refused, 'error', v_error, 'files', to_jsonb(v_files));
end
$$;
call mqtt_private.grant_execute('public.fn_remove_images(text, uuid[])', 'service_role');

-- The worker's own tables --------------------------------------------------------------------------------------

-- Removes what the worker's own tables no longer need. The calls that write them do so too, but only while they are
-- called, and for the devices that they concern. Returns {held, removed}.
create or replace function public.fn_sweep_own_tables(p_worker text) returns jsonb
language plpgsql volatile security invoker set search_path = '' set lock_timeout = '2s' as $$
declare
  v_rows int;
  v_removed int := 0;
begin
  if not mqtt_private.fn_take_turn('retention', p_worker, 120) then
    return jsonb_build_object('held', false, 'removed', 0);
  end if;
  delete from mqtt_private.acknowledgements where ref = any (array(
    select ref from mqtt_private.acknowledgements where received_at < now() - interval '70 minutes'
    order by received_at limit 10000 for update skip locked));
  get diagnostics v_rows = row_count;
  v_removed := v_removed + v_rows;
  delete from mqtt_private.replies where reply_id = any (array(
    select reply_id from mqtt_private.replies where sent_at < now() - interval '70 minutes'
    limit 10000 for update skip locked));
  get diagnostics v_rows = row_count;
  v_removed := v_removed + v_rows;
  delete from mqtt_private.duplicate_images where image_id = any (array(
    select image_id from mqtt_private.duplicate_images where found_at < now() - interval '1 day'
    order by found_at limit 10000 for update skip locked));
  get diagnostics v_rows = row_count;
  v_removed := v_removed + v_rows;
  delete from mqtt_private.worker_instances where since < now() - interval '30 days' and client_id = any (array(
    select i.client_id from mqtt_private.worker_instances i
    -- a process can run for longer than that: the newest ten stay
    order by i.since desc offset 10));
  get diagnostics v_rows = row_count;
  v_removed := v_removed + v_rows;
  delete from mqtt_private.unknown_command_types where mqtt_private.fn_knows_command_type(command_type);
  get diagnostics v_rows = row_count;
  return jsonb_build_object('held', true, 'removed', v_removed + v_rows);
end
$$;
call mqtt_private.grant_execute('public.fn_sweep_own_tables(text)', 'service_role');
