-- A HELLO joins the visit that another worker began only where that one began with a HELLO.
--
-- A visit that began with a picture has no HELLO that this one could be a copy of: a device that uploaded and says HELLO
-- within 20 seconds, heard by a worker that took the other's place, must be answered like any other.

-- See …_visits.sql. New: the visit must have begun with a HELLO (its first ref is not null).
create or replace function mqtt_private.fn_join_or_begin_visit(
  p_device_id uuid, p_worker text, p_ref text, p_now timestamptz, p_lease interval, p_count int, p_names text[],
  p_shared boolean, out begins boolean, out holds_lease boolean)
language plpgsql volatile set search_path = '' as $$
begin
  begins := false;
  update mqtt_private.visits
  set lease_until = case when lease_worker = p_worker then p_now + p_lease else lease_until end
  where device_id = p_device_id and p_ref = any (received_refs)
  returning lease_worker = p_worker and ended_at is null into holds_lease;
  if found then return; end if;
  holds_lease := false;
  update mqtt_private.visits set received_by = received_by || p_worker, received_refs = received_refs || p_ref
  where device_id = p_device_id and lease_worker <> p_worker and began_at > p_now - interval '20 seconds'
    and received_refs[1] is not null and p_worker <> all (received_by) and not p_shared;
  if found then return; end if;
  perform mqtt_private.fn_begin_visit(p_device_id, p_worker, p_ref, p_now, p_lease, p_count, p_names);
  begins := true;
  holds_lease := true;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_join_or_begin_visit', 'service_role');
