"""The steps of the trial that are about a device: it says HELLO, is mapped, and is welcomed."""

import secrets

import psycopg

from mqtt_service.adoption.flow import (
    WORKER,
    Answer,
    Flow,
    NoDeviceError,
    RefusedError,
    change,
    first,
    insertion,
    unique_ref,
    words,
)

_LISTED = f"{WORKER}-listed.jpg"


def hear_unknown_device(flow: Flow) -> None:
    """A device that nobody knows registers itself: later steps are about it."""
    octets = [f"{octet:02X}" for octet in secrets.token_bytes(5)]
    mac = ":".join(["02", *octets])  # locally administered: nobody's
    answer = _say_hello(flow, mac)
    if answer.get("result") != "created":
        row = {
            "device_mac": mac,
            "device_code": f"CHECK-{mac[-8:]}",
            "provisioning_status": "pending_mapping",
        }
        raise RefusedError(words(answer), insertion("devices", **row))
    flow.topic_id, flow.device_id, flow.is_made = mac, str(answer["device_id"]), True
    query = "select exists (select from public.device_history where device_id = %(id)s)"
    if not flow.one(query, id=flow.device_id):
        flow.remarks.append("device_history refuses the event of a new device, which goes on without it")


def take_existing_device(flow: Flow) -> None:
    """Where no device can register itself, one of the project's does the rest. Raises NoDeviceError."""
    row = flow.connection.execute(
        "select device_mac, device_id from public.devices where coalesce(device_mac::text, '') <> ''"
        " order by is_active desc nulls last, last_seen_at desc nulls last limit 1"
    ).fetchone()
    if row is None:
        raise NoDeviceError("no device can register itself, and none is there")
    flow.topic_id, flow.device_id = str(row[0]), str(row[1])
    _activate(flow)


def hear_known_device(flow: Flow) -> None:
    """The device wakes again, and lists a picture."""
    answer = _say_hello(flow, flow.topic_id, pending_count=1, pending_names=[_LISTED])
    warnings = [str(warning) for warning in answer.get("warnings") or ()]
    device_refused = any(warning.startswith("public.devices ") for warning in warnings)
    if answer.get("result") != "known" or answer.get("error") or device_refused:
        seen = change("devices", "device_id", flow.device_id, "last_seen_at = now(), last_wake_at = now()")
        raise RefusedError("; ".join(warnings) or words(answer), seen)
    query = (
        "select exists (select from public.device_images where device_id = %(id)s and image_name = %(name)s)"
    )
    if not flow.one(query, id=flow.device_id, name=_LISTED):
        flow.remarks.append("device_images refuses pictures that a device lists; it goes on without them")


def _say_hello(flow: Flow, topic_id: str, **said: object) -> Answer:
    hello = {
        "ref": unique_ref(),
        "topic_root": "ESP32CAM",
        "topic_id": topic_id,
        "pending_count": 0,
        "pending_names": [],
        "firmware_version": "1.0.0",
        "battery_voltage": 3.9,
        "wifi_rssi": -60,
        **said,
    }
    return first(flow.call("fn_record_heartbeats", WORKER, [hello]))


# Mapping ----------------------------------------------------------------------------------------------------


def map_device(flow: Flow) -> str | None:
    """Assign the device to a site, as a dashboard does; that makes it active."""
    if not flow.is_made:
        return "the device is the project's own, and stays where it is"
    try:
        with flow.connection.transaction():
            site_id, program_id = _find_site(flow) or _make_site(flow)
            _assign(flow, site_id, program_id)
    except psycopg.errors.IntegrityError as error:
        if error.diag.context:  # it arose further in, in a trigger
            raise
        _activate(flow)
        return f"your dashboard knows more of a mapping than this: {error.diag.message_primary}"
    if not flow.one("select is_active from public.devices where device_id = %(id)s", id=flow.device_id):
        active = change("devices", "device_id", flow.device_id, "is_active = true")
        raise RefusedError("the device was assigned to a site, and is not active", active)
    return None


def _find_site(flow: Flow) -> tuple[str, str] | None:
    """A site that has a program and a company."""
    row = flow.connection.execute(
        "select s.site_id, s.program_id from public.sites s"
        " join public.pilot_programs p on p.program_id = s.program_id"
        " where coalesce(s.company_id, p.company_id) is not null limit 1"
    ).fetchone()
    return (str(row[0]), str(row[1])) if row else None


def _make_site(flow: Flow) -> tuple[str, str]:
    company = flow.insert("companies", "company_id", name=WORKER)
    program = flow.insert("pilot_programs", "program_id", company_id=company, name=WORKER)
    site = flow.insert("sites", "site_id", company_id=company, program_id=program, name=WORKER)
    return site, program


def _assign(flow: Flow, site_id: str, program_id: str) -> None:
    row = {"device_id": flow.device_id, "site_id": site_id, "program_id": program_id}
    flow.connection.execute(insertion("device_site_assignments", **row))


def _activate(flow: Flow) -> None:
    state = "is_active = true, provisioning_status = 'active'"
    flow.connection.execute(change("devices", "device_id", flow.device_id, state))


def queue_welcome(flow: Flow) -> str | None:
    """The newly mapped device is owed one welcome."""
    if not flow.one("select welcome_due from public.devices where device_id = %(id)s", id=flow.device_id):
        return "the device was not mapped in this trial"
    welcomed = flow.call(
        "fn_queue_welcome_commands", f"{{{flow.device_id}}}"
    )  # an array, as Postgres writes it
    if [str(each["device_id"]) for each in welcomed if each["command_id"]] != [flow.device_id]:
        row = {"device_id": flow.device_id, "command_type": "set_wake_schedule", "command_payload": "{}"}
        raise RefusedError("no welcome was queued for the mapped device", insertion("device_commands", **row))
    return None
