"""Devices by hand: list, look at one, map, unmap, give a schedule; and the whole fleet at a glance."""

from tests.integration.fleet.harness import Database, Run, add_site

DEVICE = "DEVICE-ESP32S3-002"


def test_devices_are_listed_by_site_and_status_and_however_many(run: Run, database: Database) -> None:
    codes = add_site(database, "Long List", 1100)
    found = run("devices", "--site", "Long List", "--json").document
    assert [device["device_code"] for device in found] == codes
    assert {device["site_name"] for device in found} == {"Long List"}
    assert run("devices", "--site", "Long List", "--status", "inactive", "--json").document == []
    shown = run("devices", "--site", "Long List")
    assert codes[0] in shown.out
    assert "Long List" in shown.out


def test_a_device_is_mapped_and_unmapped_and_each_says_what_it_did(run: Run, database: Database) -> None:
    mapped = run("map", DEVICE, "alder south")
    assert mapped.status == 0, mapped.err
    assert f"{DEVICE} is mapped to Alder South: active, next wake 20" in mapped.out
    assert "already" in run("map", DEVICE, "Alder South").out
    device = run("devices", "--site", "Alder South", "--json").document[0]
    assert (device["device_code"], device["is_active"]) == (DEVICE, True)

    given = run("wake", DEVICE, "*/5 * * * *", "--json")
    assert given.status == 0, given.err
    assert given.document["effective"] == "*/5 * * * *"
    told = database.execute(
        "select c.command_type, c.command_payload, d.wake_schedule_cron from device_commands c"
        " join devices d using (device_id) where c.command_id = %s",
        (given.document["command_id"],),
    ).fetchone()
    assert told == ("set_wake_schedule", {"wake_schedule_cron": "*/5 * * * *"}, "*/5 * * * *")
    wrong = run("wake", DEVICE, "0 25 * * *")
    assert wrong.status == 2
    assert "hour 25 is not between 0 and 23" in wrong.err
    assert run("wake", DEVICE, "--of-site", "--json").document["wake_schedule_cron"] is None
    assert run("wake", DEVICE).status == 2

    page = run("device", DEVICE, "--json").document
    assert page["site"]["name"] == "Alder South"
    assert {moment["kind"] for moment in page["timeline"]} == {"command", "event"}
    assert "Timeline" in run("device", "AA:BB:CC:DD:EE:02").out

    assert "mapped to no site now: inactive" in run("unmap", DEVICE).out
    assert "nothing was changed" in run("unmap", DEVICE).out
    assert run("wake", DEVICE, "*/5 * * * *").status == 2


def test_a_site_of_another_company_is_refused_with_the_reason(run: Run) -> None:
    refused = run("map", "DEVICE-ESP32S3-001", "Birch Ward 4")
    assert refused.status == 2
    assert "belongs to another company" in refused.err


def test_top_counts_what_waits_what_was_done_and_who_does_it(run: Run, database: Database) -> None:
    codes = add_site(database, "Glance", 3)
    before = run("top", "--once", "--json", "--url", "http://127.0.0.1:1").document
    insert = """
        insert into device_commands
            (device_id, command_type, status, issued_at, delivered_at, acknowledged_at, scheduled_for, due_at)
        select device_id, 'ping', %s, now() - interval '1 min', now() + %s::interval, now() + %s::interval,
            now() + %s::interval, now() + %s::interval
        from devices where device_code = %s
        """
    for status, delivered, acknowledged, scheduled, due in (
        ("pending", None, None, None, None),
        ("pending", None, None, "1 hour", None),
        ("sent", "-10 s", None, None, None),
        ("acknowledged", "-50 s", "-10 s", None, None),
        ("acknowledged", "-30 min", "-10 min", None, None),
        ("failed", "-10 s", None, None, "20 s"),
        ("rejected", None, None, None, None),
    ):
        database.execute(insert, (status, delivered, acknowledged, scheduled, due, codes[0]))
    database.execute(insert, ("pending", None, None, None, None, codes[1]))
    database.execute(
        "update device_commands set due_at = null, held_until = now() + interval '1 hour'"
        " where device_id = (select device_id from devices where device_code = %s)",
        (codes[1],),
    )
    database.execute(
        "insert into mqtt_private.worker_instances (client_id, worker) values ('web-1', 'web-1:1')"
    )
    after = run("top", "--once", "--json", "--url", "http://127.0.0.1:1").document

    def grown(part: str, name: str) -> int:
        return int(after[part][name] - before[part][name])

    waiting = ("due", "scheduled", "retrying", "held", "sent", "leased")
    assert [grown("depth", name) for name in waiting] == [1, 1, 1, 1, 1, 0]
    assert [grown("minute", name) for name in ("delivered", "acknowledged")] == [3, 1]
    assert [grown("window", name) for name in ("issued", "delivered", "acknowledged", "lost")] == [8, 4, 2, 1]
    assert after["slowest"][0]["device_code"] == codes[0]
    assert after["slowest"][0]["median_seconds"] > 40
    assert after["workers"][0]["worker"] == "web-1:1"
    assert after["health"] is None
    assert "name one with --url" in after["health_error"]
    shown = run("top", "--once", "--url", "http://127.0.0.1:1")
    assert (shown.status, "Slowest to answer" in shown.out) == (0, True)
