"""The two verbs as they are called: what they print, and their status."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mqtt_service.cli.app import app
from mqtt_service.config import Settings
from mqtt_service.doctor import report
from mqtt_service.doctor.findings import CHECKS, Finding
from mqtt_service.errors import ConfigurationError

GOOD = {
    "SUPABASE_URL": "https://project.example",
    "SUPABASE_SECRET_KEY": "sb_secret_abc",
    "MQTT_HOST": "broker.example",
}


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    monkeypatch.chdir(tmp_path)
    for name in [*Settings.model_fields, "supabase_service_role_key", "supabase_db_url"]:
        monkeypatch.delenv(name.upper(), raising=False)
    for name, value in GOOD.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def test_config_prints_the_settings(environment: pytest.MonkeyPatch) -> None:
    text = CliRunner().invoke(app, ["config"]).output
    assert "SUPABASE_URL" in text
    assert "https://project.example  (environment)" in text
    assert "sb_secret" not in text
    document = json.loads(CliRunner().invoke(app, ["config", "--json"]).output)
    assert {"name": "MQTT_TLS", "value": "true", "source": "default"} in document["settings"]


def test_config_names_faults_with_status_2(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("POLL_INTERVAL", "soon")
    result = CliRunner().invoke(app, ["config", "--json"])
    assert result.exit_code == 2
    assert json.loads(result.output)["faults"][0].startswith("POLL_INTERVAL: ")
    assert isinstance(CliRunner().invoke(app, ["config"]).exception, ConfigurationError)


def test_doctor_names_faults_of_the_settings_and_looks_no_further(environment: pytest.MonkeyPatch) -> None:
    environment.delenv("MQTT_HOST")
    result = CliRunner().invoke(app, ["doctor", "--json"])
    assert result.exit_code == 1
    document = json.loads(result.output)
    assert document["state"] == "broken"
    first, *others = document["findings"]
    assert (first["name"], first["seen"]) == ("settings", "MQTT_HOST is not set")
    assert {finding["state"] for finding in others} == {"skipped"}
    assert [first["name"], *[finding["name"] for finding in others]] == list(CHECKS)


def test_doctor_is_plain_where_nobody_watches(environment: pytest.MonkeyPatch) -> None:
    environment.delenv("MQTT_HOST")
    text = CliRunner().invoke(app, ["doctor"]).output
    assert text.startswith("CONFIGURATION\n  broken  settings: MQTT_HOST is not set\n          -> set it in")
    assert text.endswith("BROKEN: 1, to look at: 0. Begin with the first.\n")
    assert "\x1b" not in text


def test_wrong_usage_has_status_2(environment: pytest.MonkeyPatch) -> None:
    assert CliRunner().invoke(app, ["doctor", "--all"]).exit_code == 2


def test_no_secret_is_in_a_finding_and_each_is_one_line() -> None:
    quoted = Finding("key", "broken", "bad header\n 'sb_secret_abc'", "unset sb_secret_abc")
    shown = report.without_secrets(quoted, ["sb_secret_abc", ""])
    assert shown == Finding("key", "broken", "bad header '********'", "unset ********")


@pytest.mark.parametrize(
    ("states", "text"),
    [
        (["ok", "skipped"], "All is well."),
        (["ok", "warning"], "It works. To look at: 1."),
        (["broken", "warning"], "BROKEN: 1, to look at: 1."),
    ],
)
def test_the_last_line_sums_up(states: list[str], text: str) -> None:
    findings = [Finding("key", state, "seen") for state in states]  # type: ignore[arg-type]
    assert report.verdict(findings).plain.startswith(text)
