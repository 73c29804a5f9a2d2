"""The set of migrations: what is said of each, and the text of the script (tried on Postgres elsewhere)."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mqtt_service.cli import main
from mqtt_service.migrations import (
    Migration,
    as_document,
    as_list,
    as_script,
    read_migrations,
    supabase_folder,
)

ROOT = Path(__file__).parents[2]

DEVICES = Migration(
    "20260102030405_mqtt_service_devices.sql",
    "-- Devices, and what happened\n-- to them. More.\n--\n-- And more.\nselect 1;\n",
)
SITES = Migration("20270102030405_mqtt_service_sites.sql", "-- Sites\n\nselect 2;\n")


def test_a_migration_says_what_it_is_about_in_the_first_sentence_of_its_head() -> None:
    assert DEVICES.about == "Devices, and what happened to them."
    assert SITES.about == "Sites."


def test_a_migration_has_the_version_and_the_name_that_the_official_command_line_records() -> None:
    assert (DEVICES.version, DEVICES.name) == ("20260102030405", "mqtt_service_devices")


def test_every_migration_of_the_project_says_what_it_is_about() -> None:
    for migration in read_migrations():
        assert len(migration.about) > len("Tables."), migration.file
        assert migration.version.isdigit(), migration.file


def test_migrations_are_read_in_the_order_of_their_versions(tmp_path: Path) -> None:
    for migration in (SITES, DEVICES):
        (tmp_path / migration.file).write_text(migration.text)
    (tmp_path / "README.md").write_text("no migration")
    assert read_migrations(tmp_path) == [DEVICES, SITES]


def test_in_a_clone_the_migrations_are_those_beside_the_package() -> None:
    assert Path(str(supabase_folder())) == ROOT / "supabase"
    assert [each.file for each in read_migrations()] == sorted(
        file.name for file in (ROOT / "supabase" / "migrations").glob("*.sql")
    )


def test_the_list_has_a_line_on_each() -> None:
    assert as_list([DEVICES, SITES]).splitlines() == [
        "20260102030405_mqtt_service_devices.sql  Devices, and what happened to them.",
        "20270102030405_mqtt_service_sites.sql    Sites.",
    ]


def test_the_list_as_json_has_the_parts_of_each() -> None:
    assert as_document([SITES]) == {
        "migrations": [
            {
                "file": "20270102030405_mqtt_service_sites.sql",
                "version": "20270102030405",
                "name": "mqtt_service_sites",
                "about": "Sites.",
            }
        ]
    }


def test_the_script_holds_the_text_of_each_migration_under_its_name_in_order() -> None:
    script = as_script([DEVICES, SITES])
    places = [script.index(part) for each in (DEVICES, SITES) for part in (each.file, each.text.strip())]
    assert places == sorted(places)


def test_quotes_of_a_migration_do_not_end_those_of_the_script() -> None:
    script = as_script([Migration("1_quotes.sql", "select $file$a$file$ || $mqtt_service$b$mqtt_service$;")])
    assert script.count("$file_$") == 2
    assert script.count("$mqtt_service_$") == 2


def test_the_command_line_prints_the_script() -> None:
    command = [sys.executable, "-m", "mqtt_service", "migrations"]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, timeout=60)
    assert finished.stdout.decode() == as_script(read_migrations())


def test_the_command_line_prints_the_list_and_the_document(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def printed(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["mqtt-service", "migrations", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 0
        return capsys.readouterr().out

    migrations = read_migrations()
    assert printed("--list") == as_list(migrations)
    assert json.loads(printed("--list", "--json")) == as_document(migrations)
