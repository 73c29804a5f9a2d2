"""`mqtt-service migrations --check` as a person runs it: its output, its status, whence it has the URL."""

import json
import sys
from pathlib import Path

import psycopg
import pytest

from mqtt_service import cli
from mqtt_service.adoption.check import run_check
from mqtt_service.cli import extras
from tests.integration.database.adoption.conftest import FILES, Owner


def test_a_new_project_is_ready_with_status_0(owner: Owner, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_check(owner.connection.info.dsn, FILES) == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines()[-1].startswith("READY")
    assert "\x1b" not in printed.out
    assert "--no-trial only looks" in printed.err


def test_what_must_be_done_by_hand_gives_status_1(
    node_owner: Owner, capsys: pytest.CaptureFixture[str]
) -> None:
    node_owner.run("alter table devices add column serial_number text not null")
    assert run_check(node_owner.connection.info.dsn, FILES, trial=False) == 1
    printed = capsys.readouterr()
    assert printed.out.splitlines()[-1] == "NOT READY: 1 thing to be done by hand."
    assert printed.err == ""


def test_the_document_is_one_object_alone(owner: Owner, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_check(owner.connection.info.dsn, FILES, as_json=True) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["state"] == "new"
    assert {step["outcome"] for step in document["trial"]["steps"]} == {"done"}


def run_command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int | str | None:
    monkeypatch.setattr(sys, "argv", ["mqtt-service", "migrations", "--check", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code


def test_the_url_is_read_from_the_environment(
    owner: Owner, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SUPABASE_DB_URL", owner.connection.info.dsn)
    assert run_command(monkeypatch, "--no-trial", "--json") == 0
    assert json.loads(capsys.readouterr().out)["trial"] is None


def test_the_url_is_read_from_the_env_file(
    owner: Owner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("SUPABASE_DB_URL", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text(f'SUPABASE_DB_URL="{owner.connection.info.dsn}"\n')
    assert run_command(monkeypatch, "--no-trial") == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("READY")


def test_without_a_url_the_status_is_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("SUPABASE_DB_URL", raising=False)
    monkeypatch.chdir(tmp_path)
    assert run_command(monkeypatch) == 2
    assert capsys.readouterr().err.endswith("(--database-url or SUPABASE_DB_URL) is not set\n")


def test_a_wrong_password_is_one_line_and_status_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fault = psycopg.OperationalError('connection failed: FATAL:  password authentication failed for user "x"')

    def refuse(*_: object, **__: object) -> None:
        raise fault

    monkeypatch.setattr(psycopg, "connect", refuse)
    assert run_command(monkeypatch, "--database-url", "postgresql://x:s3cr3t@127.0.0.1:5432/postgres") == 2
    printed = capsys.readouterr()
    assert printed.err == (
        "mqtt-service: no connection to 127.0.0.1:5432: the password or the user is wrong\n"
    )


def test_without_the_extra_the_one_to_install_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    assert run_command(monkeypatch) == 2
    assert "pip install '.[database]'" in capsys.readouterr().err


def test_a_database_that_goes_away_meanwhile_is_said(node_owner: Owner) -> None:
    node_owner.run(
        "create function ends() returns trigger language plpgsql as"
        " $$ begin perform pg_terminate_backend(pg_backend_pid()); return new; end $$",
        "create trigger ending before insert on device_commands for each row execute function ends()",
        "alter function ends() security definer",
    )
    report = node_owner.check()
    assert report.trial is not None
    [failure] = report.trial.failures
    assert failure.step == "its welcome is queued"
    assert not report.is_fine
