"""Commands by hand: queue for one and for many, list, explain, cancel, try again."""

import pytest

from mqtt_service.devstack.faults import RestFault
from mqtt_service.devstack.stack import Stack
from tests.integration.fleet.harness import Database, Run, add_site

DEVICE = "DEVICE-ESP32S3-001"


def count(database: Database, query: str, *parameters: object) -> int:
    row = database.execute(query, parameters).fetchone()
    assert row is not None
    return int(row[0])


def queue(run: Run, *words: str) -> str:
    finished = run("send", *words, "--json")
    assert finished.status == 0, finished.err
    return str(finished.document["queued"][0]["command_id"])


def test_one_command_is_queued_with_what_was_written(run: Run, database: Database) -> None:
    finished = run(
        "send", "send_image", "image_name=007.jpg", "-d", "aa-bb-cc-dd-ee-ff",
        "--priority", "3", "--at", "2h", "--expires", "1h",
    )  # fmt: skip
    assert finished.status == 0, finished.err
    assert f"send_image for 1 device: {DEVICE}, not before" in finished.out
    command_id = finished.out.split("Queued: ")[1].strip()
    row = database.execute(
        "select command_payload, priority, expires_at - scheduled_for = interval '1 hour',"
        " round(extract(epoch from scheduled_for - issued_at) / 60) from public.device_commands"
        " where command_id = %s",
        (command_id,),
    ).fetchone()
    assert row == ({"image_name": "007.jpg"}, 3, True, 120)


def test_a_whole_site_is_queued_once_after_a_yes(run: Run, stack: Stack, database: Database) -> None:
    add_site(database, "Wide Field", 1201)
    database.execute("update public.devices set is_active = false where device_code = 'Wide Field-0007'")
    asked = run("send", "ping", "--site", "wide field")
    assert asked.status == 2
    assert "1200 devices at Wide Field: Wide Field-" in asked.out
    assert "Left out, since not active: 1 (Wide Field-0007)" in asked.out
    assert "--yes" in asked.err
    of_site = (
        "select count(*) from device_commands c join devices d using (device_id) where device_code like %s"
    )
    assert count(database, of_site, "Wide Field-%") == 0

    # every call's response is lost once
    stack.faults.add_rest(RestFault(match="rest/v1/device_commands", kind="lose_response", times=2))
    finished = run("send", "ping", "--site", "wide field", "--yes", "--json")
    assert (finished.status, len(finished.document["queued"])) == (0, 1200)
    assert count(database, of_site, "Wide Field-%") == 1200


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("selfie", "-d", DEVICE), "command_type 'selfie' is not known. Use capture_image"),
        (("send_image", "-d", DEVICE), 'Write e.g. {"image_name"'),
        (("ping", "-d", "nobody"), "no device has the id"),
        (("ping", "-d", "DEVICE-ESP32S3-002"), "): map it to a site first"),
        (("ping", "--site", "nowhere"), "no site has the id or name"),
        (("ping", DEVICE), "is not key=value"),
        (("ping",), "say for which devices"),
        (("ping", "-d", DEVICE, "--at", "soon"), "'soon' is no time"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line_and_nothing_is_queued(
    run: Run, database: Database, words: tuple[str, ...], said: str
) -> None:
    before = count(database, "select count(*) from device_commands")
    finished = run("send", *words)
    assert finished.status == 2
    (line,) = [line for line in finished.err.splitlines() if line.startswith("mqtt-service: ")]
    assert said in line
    assert count(database, "select count(*) from device_commands") == before


def test_a_name_of_two_devices_is_an_error_that_lists_both(run: Run, database: Database) -> None:
    add_site(database, "Twins", 2)
    database.execute("update public.devices set device_name = 'Twin' where device_code like 'Twins-%'")
    finished = run("send", "ping", "-d", "twin")
    assert finished.status == 2
    assert "fits 2 devices" in finished.err
    assert "Twins-0001" in finished.err
    assert "Twins-0002" in finished.err


def test_a_wait_ends_with_status_1_where_a_command_does_not_get_there(run: Run) -> None:
    finished = run("send", "ping", "-d", DEVICE, "--wait", "--timeout", "1s")
    assert finished.status == 1
    assert "0 of 1 acknowledged, 1 still open" in finished.out


def test_lists_hold_what_was_asked_for(run: Run, database: Database) -> None:
    (code,) = add_site(database, "Listed", 1)
    ids = [queue(run, kind, "-d", code) for kind in ("ping", "reboot", "ping", "capture_image")]
    database.execute("update device_commands set status = 'sent' where command_id = %s", (ids[0],))
    database.execute(
        "update device_commands set status = 'failed', due_at = null, last_error = 'low battery'"
        " where command_id = %s", (ids[1],),
    )  # fmt: skip

    def listed(*words: str) -> list[str]:
        found = run("commands", "-d", code, *words, "--json").document
        return [command["command_id"] for command in found]

    assert listed() == ids[::-1]
    assert listed("--limit", "2") == [ids[3], ids[2]]
    assert listed("--status", "open") == [ids[3], ids[2], ids[0]]
    assert listed("--status", "lost") == [ids[1]]
    assert listed("--type", "ping", "--status", "pending") == [ids[2]]
    assert listed("--since", "1h") == ids[::-1]
    assert listed("--since", "2020-01-01", "--type", "reboot") == [ids[1]]
    shown = run("commands", "-d", code)
    assert "for good: low battery" in shown.out
    assert run("commands", "--status", "pendng").status == 2


def test_more_commands_are_listed_than_the_api_shows_at_once(run: Run, database: Database) -> None:
    (code,) = add_site(database, "Busy", 1)
    database.execute(
        "insert into device_commands (device_id, command_type) select device_id, 'ping' from devices,"
        " generate_series(1, 2500) where device_code = %s", (code,),
    )  # fmt: skip
    found = run("commands", "-d", code, "--limit", "2400", "--json").document
    assert len({command["command_id"] for command in found}) == 2400


def test_a_story_is_told_of_a_command_that_begins_like_this(run: Run, database: Database) -> None:
    (code,) = add_site(database, "Story", 1)
    command_id = queue(run, "ping", "-d", code, "--at", "2h")
    finished = run("show", command_id[:13])
    assert finished.status == 0
    assert command_id in finished.out
    assert "It waits for its time" in finished.out
    document = run("show", command_id, "--json").document
    assert document["device_code"] == code
    assert document["due_at"].endswith("Z")
    assert any("It gives up at" in line for line in document["story"])
    [told] = database.execute("select fn_explain_command(%s)", (command_id,)).fetchall()
    # The first line says how long ago it was queued.
    assert (document["story"][1:], document["state"]) == (told[0]["text"][1:], "scheduled")
    assert run("show", "ffffffff-ffff").status == 2
    assert run("show", "ff").status == 2


def test_a_day_of_a_device_is_replayed_in_the_zone_of_its_site(run: Run, database: Database) -> None:
    (code,) = add_site(database, "Replayed", 1)
    database.execute("update sites set timezone = 'Asia/Kolkata' where name = 'Replayed'")
    command_id = queue(run, "ping", "-d", code)
    database.execute("update device_commands set status = 'cancelled' where command_id = %s", (command_id,))
    finished = run("timeline", code)
    assert finished.status == 0, finished.err
    issued, cancelled = [line for line in finished.out.splitlines() if command_id[:8] in line]
    assert "ping issued" in issued
    assert "ping cancelled by" in cancelled
    assert "+05:30" in issued
    document = run("timeline", code, "--since", "1h", "--json").document
    assert [moment["about"] for moment in document if moment["kind"] == "command"] == [command_id] * 2
    nothing = run("timeline", code, "--until", "2020-01-01")
    assert nothing.status == 0
    assert f"Nothing happened to {code} from 2019-12-31 00:00:00+05:30" in nothing.err
    assert run("timeline", code, "--since", "1h", "--until", "2h").status == 2


def test_a_person_cancels_what_waits_and_tries_again_what_failed(run: Run, database: Database) -> None:
    (code,) = add_site(database, "Moves", 1)
    waiting, failed, sent = (queue(run, "ping", "-d", code) for _ in range(3))
    database.execute(
        "update device_commands set status = 'failed', due_at = null where command_id = %s", (failed,)
    )
    database.execute("update device_commands set status = 'sent' where command_id = %s", (sent,))
    assert run("cancel", waiting).status == 0
    assert run("cancel", waiting).status == 0
    assert run("retry", failed).status == 0
    assert count(
        database, "select count(*) from device_commands where command_id = %s and due_at <= now()", failed
    )
    refused = run("cancel", sent, "--json")
    assert refused.status == 1
    assert refused.document[0]["reason"].startswith("it is sent: only what is pending or failed")
    assert run("retry", waiting).status == 1


def test_a_wrong_key_and_a_missing_setting_are_a_line_with_the_cure(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUPABASE_SECRET_KEY", "sb_secret_wrong")
    wrong = run("devices")
    assert wrong.status == 2
    assert wrong.err.startswith("mqtt-service: ")
    assert "set SUPABASE_SECRET_KEY" in wrong.err
    monkeypatch.delenv("SUPABASE_URL")
    missing = run("commands")
    assert (missing.status, missing.err) == (2, "mqtt-service: SUPABASE_URL is not set\n")
