-- Where pictures are kept, and which changes go out over Realtime.

-- Storage ------------------------------------------------------------------------------------------------------
-- Pictures are in the private bucket device-images, named <company>/<site>/<device>/<day>/<image>.jpg, all of them ids.
-- Members of the company that is the first folder may read a picture, whatever becomes of the device. Nobody but
-- service_role, which is not held back by row-level security, writes.
--
-- A bucket of that name that was there before keeps its settings, and other policies stay. On a database without
-- Storage nothing is done.
do $$
begin
  if to_regclass('storage.buckets') is null or to_regclass('storage.objects') is null then
    raise notice 'there is no schema storage: pictures cannot be kept here'
      using hint = 'Apply 20261127084623_mqtt_service_storage_and_realtime.sql again when Storage is there.';
    return;
  end if;

  insert into storage.buckets (id, name, public, file_size_limit, allowed_mime_types)
  values ('device-images', 'device-images', false, 20971520, array['image/jpeg'])
  on conflict (id) do nothing;

  if (select public from storage.buckets where id = 'device-images') then
    raise warning 'the bucket device-images was there before and is public, and still is'
      using hint = 'Anybody who knows a picture''s address can see it. To close it: '
        'update storage.buckets set public = false where id = ''device-images'';';
  end if;

  -- split_part, not storage.foldername: the planner works it out once a row without calling PL/pgSQL
  drop policy if exists mqtt_members_read_images on storage.objects;
  create policy mqtt_members_read_images on storage.objects for select to authenticated
    using (
      bucket_id = 'device-images'
      and split_part(name, '/', 1) in (select c::text from mqtt_private.fn_my_companies('viewer') as c)
    );
end
$$;

-- Realtime -----------------------------------------------------------------------------------------------------
-- Changes of devices and device_commands are in the publication supabase_realtime.
do $$
declare
  v_table text;
begin
  if not exists (select from pg_catalog.pg_publication where pubname = 'supabase_realtime') then
    create publication supabase_realtime;
  end if;
  foreach v_table in array array['devices', 'device_commands'] loop
    -- pg_publication_tables knows a publication "for all tables" too, to which nothing can be added
    if not exists (
      select from pg_catalog.pg_publication_tables
      where pubname = 'supabase_realtime' and schemaname = 'public' and tablename = v_table
    ) then
      execute format('alter publication supabase_realtime add table public.%I', v_table);
    end if;
  end loop;
end
$$;
