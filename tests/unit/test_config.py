"""Settings: what an operator may write, and how faults are named."""

from pathlib import Path

import pytest

from mqtt_service.config import Settings, default_client_id, load_settings
from mqtt_service.errors import ConfigurationError

GOOD = {
    "SUPABASE_URL": "https://project.example",
    "SUPABASE_SECRET_KEY": "sb_secret_abc",
    "MQTT_HOST": "broker.example",
}


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in [*Settings.model_fields, "supabase_service_role_key", "dyno", "render_instance_id"]:
        monkeypatch.delenv(name.upper(), raising=False)
    for name, value in GOOD.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def test_the_defaults_are_those_of_the_documented_service(environment: pytest.MonkeyPatch) -> None:
    settings = load_settings(None)
    assert (settings.mqtt_port, settings.mqtt_tls) == (8883, True)
    assert (settings.poll_interval, settings.max_retries, settings.retry_delay) == (5.0, 3, 30.0)
    assert (settings.command_ttl, settings.port) == (86_400.0, 3000)


def test_every_fault_is_named_at_once(environment: pytest.MonkeyPatch) -> None:
    environment.delenv("MQTT_HOST")
    environment.setenv("SUPABASE_URL", "project.example/site")
    environment.setenv("POLL_INTERVAL", "soon")
    environment.setenv("MQTT_PORT", "0")
    environment.setenv("LOG_FORMAT", "xml")
    with pytest.raises(ConfigurationError) as caught:
        load_settings(None)
    named = {fault.split(":")[0].split(" ")[0] for fault in caught.value.faults}
    assert named == {"MQTT_HOST", "SUPABASE_URL", "POLL_INTERVAL", "MQTT_PORT", "LOG_FORMAT"}


def test_a_missing_key_is_named_by_its_preferred_name(environment: pytest.MonkeyPatch) -> None:
    environment.delenv("SUPABASE_SECRET_KEY")
    with pytest.raises(ConfigurationError) as caught:
        load_settings(None)
    assert caught.value.faults == ["SUPABASE_SECRET_KEY is not set"]


def test_the_legacy_key_serves_where_the_new_one_is_not_set(environment: pytest.MonkeyPatch) -> None:
    environment.delenv("SUPABASE_SECRET_KEY")
    environment.setenv("SUPABASE_SERVICE_ROLE_KEY", "legacy")
    assert load_settings(None).supabase_secret_key.get_secret_value() == "legacy"


def test_a_secret_appears_neither_in_faults_nor_in_a_printed_settings(
    environment: pytest.MonkeyPatch,
) -> None:
    environment.setenv("MQTT_USERNAME", "worker")
    environment.setenv("MQTT_PASSWORD", "hunter2")
    assert "hunter2" not in repr(load_settings(None))
    assert "sb_secret" not in repr(load_settings(None))
    environment.setenv("SUPABASE_URL", "sb_secret_in_the_wrong_place")
    with pytest.raises(ConfigurationError) as caught:
        load_settings(None)
    assert "sb_secret" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:abc",
        "http://127.0.0.1:99999",
        "http://[::1",
        "ftp://project.example",
        "https://",
        "https://project.example/somewhere",
        "https://project.example/#top",
        "https://user:word@project.example",
    ],
)
def test_a_url_that_cannot_be_the_projects_is_a_fault(environment: pytest.MonkeyPatch, url: str) -> None:
    environment.setenv("SUPABASE_URL", url)
    with pytest.raises(ConfigurationError, match="SUPABASE_URL: must be the project's URL"):
        load_settings(None)


def test_a_file_that_is_no_text_is_a_fault(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    env_file = tmp_path / ".env"
    env_file.write_bytes(b"MQTT_USERNAME=\xff\xfe")
    with pytest.raises(ConfigurationError, match="is not UTF-8"):
        load_settings(env_file)


@pytest.mark.parametrize("key", [" sb_secret_abc ", "sb_secret_abc\n"])
def test_a_key_that_was_pasted_with_white_space_is_taken_without_it(
    environment: pytest.MonkeyPatch, key: str
) -> None:
    environment.setenv("SUPABASE_SECRET_KEY", key)
    assert load_settings(None).supabase_secret_key.get_secret_value() == "sb_secret_abc"


@pytest.mark.parametrize("key", ["SECRÉTKEY", "sb_secret a"])
def test_what_cannot_be_a_key_is_a_fault_that_does_not_show_it(
    environment: pytest.MonkeyPatch, key: str
) -> None:
    environment.setenv("SUPABASE_SECRET_KEY", key)
    with pytest.raises(ConfigurationError) as caught:
        load_settings(None)
    assert caught.value.faults == [
        "SUPABASE_SECRET_KEY: must be the key alone: printable ASCII without spaces"
    ]


def test_a_password_without_a_user_is_a_fault(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("MQTT_PASSWORD", "hunter2")
    with pytest.raises(ConfigurationError) as caught:
        load_settings(None)
    assert caught.value.faults == ["MQTT_USERNAME is not set, but MQTT_PASSWORD is"]


def test_the_environment_goes_before_the_file(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    env_file = tmp_path / ".env"
    env_file.write_text("MQTT_HOST=from-file\nMQTT_USERNAME=from-file\n")
    settings = load_settings(env_file)
    assert (settings.mqtt_host, settings.mqtt_username) == ("broker.example", "from-file")


def test_the_hand_over_is_off_and_has_a_function_to_go_to(environment: pytest.MonkeyPatch) -> None:
    settings = load_settings(None)
    assert (settings.edge_handover, settings.edge_function) == ("off", "mqtt_device_handler")
    assert (settings.edge_buffer, settings.edge_timeout) == (1000, 10.0)
    environment.setenv("EDGE_HANDOVER", "Also")
    environment.setenv("EDGE_FUNCTION", " device-handler_2 ")
    settings = load_settings(None)
    assert (settings.edge_handover, settings.edge_function) == ("also", "device-handler_2")


@pytest.mark.parametrize("name", ["a/b", "a?b", "../a", "a b", "ä", "a\nb"])
def test_a_name_that_no_function_can_have_is_a_fault(environment: pytest.MonkeyPatch, name: str) -> None:
    environment.setenv("EDGE_FUNCTION", name)
    with pytest.raises(ConfigurationError, match="EDGE_FUNCTION"):
        load_settings(None)


def test_a_missing_certificate_file_is_a_fault(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("MQTT_CA_FILE", "/nowhere/ca.pem")
    with pytest.raises(ConfigurationError, match="MQTT_CA_FILE: there is no file"):
        load_settings(None)


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"DYNO": "web.1"}, "mqtt-service-web-1"),
        ({"RENDER_INSTANCE_ID": "srv-abc-x1"}, "mqtt-service-srv-abc-x1"),
        ({}, "mqtt-service-a-host"),
    ],
)
def test_the_client_id_is_stable_for_each_instance(environ: dict[str, str], expected: str) -> None:
    assert default_client_id(environ, "a.host") == expected


REFERENCE = "abcdefghijklmnopqrst"
PROJECT = f"https://{REFERENCE}.supabase.co"


@pytest.mark.parametrize(
    "around", ["%s\r", " %s ", '"%s"', "'%s'\r\n", "\u00a0%s\u200b", "\u201c%s\u201d", "\ufeff%s"]
)
@pytest.mark.parametrize("where", ["environment", "file"])
def test_what_surely_does_not_belong_to_a_setting_is_taken_off(
    environment: pytest.MonkeyPatch, tmp_path: Path, around: str, where: str
) -> None:
    given = {
        **GOOD,
        "MQTT_USERNAME": "worker",
        "MQTT_TLS": "false",
        "POLL_INTERVAL": "2.5",
        "LOG_FORMAT": "json",
    }
    env_file = tmp_path / ".env"
    if where == "file":
        for name in GOOD:
            environment.delenv(name)
        env_file.write_text(
            "".join(f"{name}={around % value}\n" for name, value in given.items()), newline=""
        )
    else:
        for name, value in given.items():
            environment.setenv(name, around % value)
    settings = load_settings(env_file)
    assert (settings.supabase_url, settings.mqtt_host) == (GOOD["SUPABASE_URL"], GOOD["MQTT_HOST"])
    assert settings.supabase_secret_key.get_secret_value() == GOOD["SUPABASE_SECRET_KEY"]
    assert (settings.mqtt_username, settings.mqtt_tls) == ("worker", False)
    assert (settings.poll_interval, settings.log_format) == (2.5, "json")


def test_a_file_may_begin_with_a_byte_order_mark_and_have_windows_line_ends(
    environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    environment.delenv("MQTT_HOST")
    env_file = tmp_path / ".env"
    env_file.write_bytes(b"\xef\xbb\xbfMQTT_HOST=broker.example\r\nMQTT_PORT=1883\r\n")
    settings = load_settings(env_file)
    assert (settings.mqtt_host, settings.mqtt_port) == ("broker.example", 1883)


@pytest.mark.parametrize("blank", [" ", "\r", '""', "\u00a0"])
def test_a_setting_of_blanks_alone_is_not_set(environment: pytest.MonkeyPatch, blank: str) -> None:
    environment.setenv("POLL_INTERVAL", blank)
    assert load_settings(None).poll_interval == 5.0
    environment.setenv("MQTT_HOST", blank)
    with pytest.raises(ConfigurationError, match="MQTT_HOST is not set"):
        load_settings(None)


@pytest.mark.parametrize("password", [" hunter2", "hunter2 ", '"hunter2"', "hunter2\u200b", "\u00a0hunter2"])
def test_what_may_belong_to_a_password_is_refused_and_not_shown(
    environment: pytest.MonkeyPatch, password: str
) -> None:
    environment.setenv("MQTT_USERNAME", "worker")
    environment.setenv("MQTT_PASSWORD", password)
    with pytest.raises(ConfigurationError, match="MQTT_PASSWORD: begins and ends with quotes") as caught:
        load_settings(None)
    assert "hunter2" not in str(caught.value)


def test_a_line_end_is_no_part_of_a_password(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("MQTT_USERNAME", "worker")
    environment.setenv("MQTT_PASSWORD", "hunter2\r\n")
    password = load_settings(None).mqtt_password
    assert password is not None
    assert password.get_secret_value() == "hunter2"


@pytest.mark.parametrize(
    "url", ["/", "/rest/v1", "/rest/v1/", "/auth/v1", "/storage/v1", "/realtime/v1", "/functions/v1", "//"]
)
def test_the_path_of_an_api_of_the_project_is_taken_off(environment: pytest.MonkeyPatch, url: str) -> None:
    environment.setenv("SUPABASE_URL", PROJECT + url)
    assert load_settings(None).supabase_url == PROJECT


@pytest.mark.parametrize(
    ("url", "says"),
    [
        (f"https://supabase.com/dashboard/project/{REFERENCE}", f"dashboard or website; .* is {PROJECT}"),
        (f"https://supabase.com/dashboard/project/{REFERENCE}/settings/api", f"dashboard.* is {PROJECT}"),
        (f"https://app.supabase.io/project/{REFERENCE}", f"dashboard.* is {PROJECT}"),
        ("https://supabase.com", "website; the project's URL is https://<project>.supabase.co"),
        (
            f"postgres://postgres:hunter2@db.{REFERENCE}.supabase.co:5432/postgres",
            f"database's.* is {PROJECT}",
        ),
        (
            f"postgresql://postgres.{REFERENCE}:hunter2@pooler.example:6543/postgres",
            f"database's.* is {PROJECT}",
        ),
        ("postgres://user:hunter2@127.0.0.1/postgres", "database's address; .*<project>"),
        (f"https://db.{REFERENCE}.supabase.co", f"database's host; .* is {PROJECT}"),
        (f"https://{REFERENCE}.functions.supabase.co", f"one of its APIs; .* is {PROJECT}"),
        (f"wss://{REFERENCE}.supabase.co/realtime/v1", f"Realtime; .* is {PROJECT}"),
        (f"{REFERENCE}.supabase.co", "has no https:// before it"),
    ],
)
def test_another_address_is_refused_with_the_one_that_was_meant(
    environment: pytest.MonkeyPatch, url: str, says: str
) -> None:
    environment.setenv("SUPABASE_URL", url)
    with pytest.raises(
        ConfigurationError, match=f"SUPABASE_URL: must be the project's URL.*; this .*{says}"
    ) as caught:
        load_settings(None)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["https://supabase.company.example", "http://127.0.0.1:54321", "https://db.example"]
)
def test_a_host_of_ones_own_is_taken(environment: pytest.MonkeyPatch, url: str) -> None:
    environment.setenv("SUPABASE_URL", url)
    assert load_settings(None).supabase_url == url


@pytest.mark.parametrize(
    ("host", "port", "expected"),
    [
        ("mqtts://broker.example:8884", None, ("broker.example", 8884)),
        ("mqtts://broker.example", None, ("broker.example", 8883)),
        ("ssl://broker.example:8883/", "8883", ("broker.example", 8883)),
        ("broker.example:1884", None, ("broker.example", 1884)),
        ("[::1]:1884", None, ("::1", 1884)),
        ("::1", None, ("::1", 8883)),
    ],
)
def test_a_broker_may_be_given_as_an_address(
    environment: pytest.MonkeyPatch, host: str, port: str | None, expected: tuple[str, int]
) -> None:
    environment.setenv("MQTT_HOST", host)
    if port is not None:
        environment.setenv("MQTT_PORT", port)
    settings = load_settings(None)
    assert (settings.mqtt_host, settings.mqtt_port) == expected


@pytest.mark.parametrize(
    ("host", "others"),
    [
        ("mqtt://broker.example:1883", {}),
        ("wss://broker.example:8884/mqtt", {}),
        ("mqtts://worker:hunter2@broker.example", {}),
        ("mqtts://broker.example:8883", {"MQTT_TLS": "false"}),
        ("broker.example:1883", {"MQTT_PORT": "8883"}),
        ("broker example", {}),
        ("broker\u200b.example", {}),
    ],
)
def test_an_address_of_a_broker_that_needs_a_guess_is_refused(
    environment: pytest.MonkeyPatch, host: str, others: dict[str, str]
) -> None:
    environment.setenv("MQTT_HOST", host)
    for name, value in others.items():
        environment.setenv(name, value)
    with pytest.raises(ConfigurationError, match="MQTT_HOST: must be a host name alone") as caught:
        load_settings(None)
    assert "hunter2" not in str(caught.value)
