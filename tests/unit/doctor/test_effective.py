"""Where each setting comes from, and that no secret is shown."""

from pathlib import Path

import pytest

from mqtt_service.config import Settings, load_settings
from mqtt_service.doctor.effective import Effective, effective, secrets_of

ENV_FILE = (
    "SUPABASE_URL=https://file.example\nSUPABASE_SECRET_KEY=sb_secret_file\nMQTT_HOST=file.example:1884\n"
)


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in [*Settings.model_fields, "supabase_service_role_key", "dyno", "render_instance_id"]:
        monkeypatch.delenv(name.upper(), raising=False)
    return monkeypatch


def shown(environ: dict[str, str], env_file: Path) -> dict[str, Effective]:
    return {each.name: each for each in effective(load_settings(env_file), environ, env_file)}


def test_each_setting_names_its_source(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    env_file = tmp_path / ".env"
    env_file.write_text(ENV_FILE)
    environ = {"SUPABASE_URL": "https://environment.example", "poll_interval": "7", "LOG_LEVEL": " "}
    for name, value in environ.items():
        environment.setenv(name, value)
    found = shown(environ, env_file)
    assert [each.upper() for each in Settings.model_fields] == list(found)
    assert found["SUPABASE_URL"] == Effective("SUPABASE_URL", "https://environment.example", "environment")
    assert found["POLL_INTERVAL"] == Effective("POLL_INTERVAL", "7", "environment")
    assert found["MQTT_HOST"] == Effective("MQTT_HOST", "file.example", str(env_file))
    assert found["MQTT_PORT"] == Effective("MQTT_PORT", "1884", "MQTT_HOST")
    assert found["LOG_LEVEL"] == Effective("LOG_LEVEL", "INFO", "default")
    assert found["MQTT_PASSWORD"] == Effective("MQTT_PASSWORD", "not set", "default")
    assert found["MQTT_CLIENT_ID"].source.startswith("default, from DYNO")
    assert found["IMAGE_BUFFER_BYTES"].value == "134217728"


def test_secrets_are_stars(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    env_file = tmp_path / ".env"
    env_file.write_text(f"{ENV_FILE}MQTT_USERNAME=u\nMQTT_PASSWORD=hunter2\n")
    found = shown({}, env_file)
    assert found["SUPABASE_SECRET_KEY"].value == found["MQTT_PASSWORD"].value == "********"
    assert "hunter2" not in repr(found)
    assert secrets_of(load_settings(env_file)) == ["sb_secret_file", "hunter2"]


@pytest.mark.parametrize(
    ("environ", "file", "name", "from_file"),
    [
        ({"SUPABASE_SERVICE_ROLE_KEY": "a"}, "", "SUPABASE_SERVICE_ROLE_KEY", False),
        ({"SUPABASE_SECRET_KEY": "a"}, "SUPABASE_SECRET_KEY=b", "SUPABASE_SECRET_KEY", False),
        ({"SUPABASE_SERVICE_ROLE_KEY": "a"}, "SUPABASE_SECRET_KEY=b", "SUPABASE_SERVICE_ROLE_KEY", False),
        ({}, "SUPABASE_SERVICE_ROLE_KEY=c\nSUPABASE_SECRET_KEY=b", "SUPABASE_SECRET_KEY", True),
    ],
)
def test_the_name_that_gave_the_key_is_shown(
    environment: pytest.MonkeyPatch,
    tmp_path: Path,
    environ: dict[str, str],
    file: str,
    name: str,
    from_file: bool,
) -> None:
    """The environment goes first, then the newer of the two names for the key."""
    env_file = tmp_path / ".env"
    env_file.write_text(f"SUPABASE_URL=https://p.example\nMQTT_HOST=b.example\n{file}\n")
    for variable, value in environ.items():
        environment.setenv(variable, value)
    assert shown(environ, env_file)[name].source == (str(env_file) if from_file else "environment")
    key = load_settings(env_file).supabase_secret_key.get_secret_value()
    assert key == ("b" if from_file else "a")
