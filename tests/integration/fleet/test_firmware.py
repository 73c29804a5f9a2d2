"""Firmware releases and devices' configuration by hand."""

import hashlib
from pathlib import Path
from typing import Any

import pytest

from tests.integration.fleet.harness import Database, Run, add_site


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "camera.bin"
    path.write_bytes(b"firmware" * 50_000)
    return path


def publish(run: Run, file: Path, version: str, *more: str) -> Any:
    return run("firmware", "publish", str(file), "--version", version, "--company", company_of(run), *more)


def company_of(run: Run) -> str:
    return "a0000000-0000-4000-8000-000000000001"


def stored(database: Database) -> set[str]:
    rows = database.execute("select name from storage.objects where bucket_id = 'firmware'").fetchall()
    return {str(name) for (name,) in rows}


def test_a_release_is_published_once_listed_and_removed(run: Run, database: Database, file: Path) -> None:
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    first = publish(run, file, "1.4.0", "--notes", "better", "--json")
    assert first.status == 0, first.err
    assert (first.document["release"]["sha256"], first.document["release"]["size_bytes"]) == (digest, 400_000)
    assert f"{company_of(run)}/{digest}.bin" in stored(database)
    again = publish(run, file, "v1.4.0")
    assert (again.status, "published before" in again.out) == (0, True)
    file.write_bytes(b"other")
    refused = publish(run, file, "1.4.0")
    assert refused.status == 2
    assert "with another file" in refused.err
    assert "better" in run("firmware", "list").out
    assert run("firmware", "remove", "1.4.0", "--company", company_of(run)).status == 0
    assert f"{company_of(run)}/{digest}.bin" not in stored(database)
    assert run("firmware", "remove", "1.4.0", "--company", company_of(run)).status == 2


def test_a_file_that_two_releases_share_stays_while_one_of_them_does(
    run: Run, database: Database, file: Path
) -> None:
    for version in ("2.0.0", "2.0.1"):
        assert publish(run, file, version).status == 0
    for version, left in (("2.0.0", 1), ("2.0.1", 0)):
        assert run("firmware", "remove", version, "--company", company_of(run)).status == 0
        assert len([name for name in stored(database) if name.startswith(company_of(run))]) == left


def test_a_device_gets_the_release_for_its_hardware(run: Run, database: Database, file: Path) -> None:
    plain, camera = add_site(database, "Updated", 2)
    database.execute("update devices set hardware_version = 'CAM-2' where device_code = %s", (camera,))
    publish(run, file, "3.0.0")
    publish(run, file, "3.0.0", "--hardware", "CAM-2")
    sent = run("send", "update_firmware", "--release", "3.0.0", "-d", plain, "-d", camera, "--yes", "--json")
    assert sent.status == 0, sent.err
    rows = database.execute(
        "select d.device_code, r.hardware from device_commands c join devices d using (device_id)"
        " join firmware_releases r using (release_id) order by 1"
    ).fetchall()
    assert rows == [(plain, None), (camera, "CAM-2")]
    story = run("show", sent.document["queued"][0]["command_id"])
    assert "update_firmware" in story.out
    assert run("send", "update_firmware", "--release", "9.9", "-d", plain).status == 2
    assert run("send", "reboot", "--release", "3.0.0", "-d", plain).status == 2


def test_what_cannot_be_published_is_refused_with_the_reason(run: Run, tmp_path: Path) -> None:
    (tmp_path / "empty.bin").touch()
    for name, said in (("empty.bin", "is empty"), ("none.bin", "cannot be read")):
        refused = publish(run, tmp_path / name, "1.0.0")
        assert refused.status == 2
        assert said in refused.err


def test_a_configuration_is_set_for_a_target_and_shown(run: Run, database: Database) -> None:
    first, *_ = add_site(database, "Configured", 2)
    done = run("config", "set", "interval=30", "led=true", "--site", "Configured", "--json")
    assert done.status == 0, done.err
    assert (done.document["matched"], done.document["changed"]) == (2, 2)
    run("config", "set", "interval=60", "--device", first)
    shown = run("config", "show", first)
    assert '{"led": true, "interval": 60}' in shown.out
    assert "When it wakes" in shown.out
    assert run("config", "show", first, "--json").document["desired_config_version"] == 2
    database.execute("update devices set reported_config = desired_config where device_code = %s", (first,))
    assert "It has what is desired." in run("config", "show", first).out
    run("config", "set", "--replace", "interval=5", "--device", first)
    assert run("config", "show", first, "--json").document["desired_config"] == {"interval": 5}


def test_what_can_be_no_configuration_is_refused_with_the_reason(run: Run, database: Database) -> None:
    [device] = add_site(database, "Refusing", 1)
    for words, said in (
        (("--device", device), "say what to set"),
        (("interval=30",), "say for which devices"),
        (("device_id=x", "--device", device), "desired_config names device_id"),
    ):
        refused = run("config", "set", *words)
        assert refused.status == 2
        assert said in refused.err


def test_config_alone_still_prints_the_settings(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MQTT_HOST", "127.0.0.1")
    assert "SUPABASE_URL" in run("config").out
