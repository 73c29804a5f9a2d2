"""What an operator sees when something is wrong: one clear line, the right status, never a traceback."""

from pathlib import Path

import httpx
import pytest

from tests.acceptance.conftest import Database
from tests.acceptance.processes import Process, eventually, running, worker


def started(stack: dict[str, str], directory: Path, **changes: str) -> "tuple[dict[str, str], Path]":
    return {**stack, "PORT": "0", "POLL_INTERVAL": "0.5", **changes}, directory


def health_of(process: Process) -> httpx.Response:
    port = process.says(r"(?<=on port )\d+")
    return httpx.get(f"http://127.0.0.1:{port}/health")


def test_every_configuration_fault_is_named_and_the_status_is_2(directory: Path) -> None:
    with running(["run"], {"MQTT_PORT": "none", "LOG_LEVEL": "LOUD"}, directory) as process:
        assert process.popen.wait(30) == 2
    lines = process.output.splitlines()
    assert all(line.startswith("mqtt-service: ") for line in lines)
    named = {line.split()[1].rstrip(":") for line in lines}
    assert named == {"SUPABASE_URL", "SUPABASE_SECRET_KEY", "MQTT_HOST", "MQTT_PORT", "LOG_LEVEL"}


def test_a_port_that_is_taken_is_a_configuration_fault(stack: dict[str, str], directory: Path) -> None:
    with worker(stack, directory) as first:
        taken = first.url.rsplit(":", 1)[1]
        with running(["run"], {**stack, "PORT": taken}, directory) as second:
            assert second.popen.wait(30) == 2
    assert f"PORT: cannot listen on {taken}" in second.output


@pytest.mark.parametrize("key", ["SUPABASE_ANON_KEY", "nonsense"])
def test_a_wrong_key_is_one_line_that_names_the_setting(
    stack: dict[str, str], directory: Path, key: str
) -> None:
    env, where = started(stack, directory, SUPABASE_SECRET_KEY=stack.get(key, key))
    with running(["run"], env, where) as process:
        process.says(r"set SUPABASE_SECRET_KEY to the project's secret \(service_role\) key")
        answer = health_of(process)
        assert answer.status_code == 503
        assert "SUPABASE_SECRET_KEY" in answer.json()["supabase"]["error"]
        assert process.stop() == 0
    assert "Traceback" not in process.output
    assert env["SUPABASE_SECRET_KEY"] not in process.output


def test_an_unreachable_broker_is_one_line_and_nothing_is_lost(
    stack: dict[str, str], directory: Path, database: Database
) -> None:
    database.execute(
        "insert into device_commands (device_id, command_type) select device_id, 'reboot' from devices"
        " where device_mac = 'AA:BB:CC:DD:EE:FF'"
    )
    env, where = started(stack, directory, MQTT_PORT="1")
    with running(["run"], env, where) as process:
        process.says(r"\[MQTT\].*127\.0\.0\.1:1\b")
        answer = health_of(process)
        assert answer.status_code == 503
        assert answer.json()["mqtt"]["connected"] is False
        eventually(lambda: health_of(process).json()["supabase"]["connected"], "a poll that succeeded")
        assert process.stop() == 0
    assert "Traceback" not in process.output
    row = database.execute(
        "select status, retry_count from device_commands"
        " where command_type = 'reboot' order by issued_at desc limit 1"
    ).fetchone()
    assert row == ("pending", 0)


def test_a_missing_migration_is_one_line_and_heals_once_it_is_applied(
    stack: dict[str, str], directory: Path, database: Database
) -> None:
    rename = "alter function public.{} rename to {}"
    database.execute(rename.format("fn_claim_commands", "fn_away"))
    database.execute("notify pgrst, 'reload schema'")
    try:
        env, where = started(stack, directory)
        with running(["run"], env, where) as process:
            process.says(
                r"fn_claim_commands is missing in the database: apply the files in supabase/migrations"
            )
            assert health_of(process).status_code == 503
            database.execute(rename.format("fn_away", "fn_claim_commands"))
            database.execute("notify pgrst, 'reload schema'")
            eventually(lambda: health_of(process).status_code == httpx.codes.OK, "health", 60)
            assert process.stop() == 0
        assert "Traceback" not in process.output
    finally:
        left = database.execute("select 1 from pg_proc where proname = 'fn_away'").fetchone()
        if left:
            database.execute(rename.format("fn_away", "fn_claim_commands"))
