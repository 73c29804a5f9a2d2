"""The worker's settings: read once from the environment and `.env`, frozen, every fault reported at once.

Where both set a value, the environment wins. Durations are seconds.
"""

import os
import platform
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import httpx
from pydantic import (
    AliasChoices,
    Field,
    SecretStr,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

from mqtt_service.errors import ConfigurationError
from mqtt_service.pasted import fault_of_secret, is_secret_key, meant_by_url, project_url, split_host, tidy

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
# 0: for ever
Days = Annotated[float, Field(ge=0, le=36_500, allow_inf_nan=False)]
Port = Annotated[int, Field(ge=1, le=65535)]
FunctionName = Annotated[str, StringConstraints(strip_whitespace=True, pattern=r"^[0-9A-Za-z_-]+$")]

S = TypeVar("S", bound="ConsoleSettings")

_PORTS = 65536
_AS_THEY_ARE = {"mqtt_password"}
_TRUE = {"true", "1", "yes", "on", "t", "y"}
# Every broker accepts letters and digits (MQTT 3.1.1, section 3.1.3.1); in practice - and _ too.
_NOT_IN_A_CLIENT_ID = re.compile(r"[^0-9A-Za-z_-]+")


class ConsoleSettings(BaseSettings):
    """What the console needs: which project, and its publishable key. It never needs the secret one.

    Raises nothing but pydantic's `ValidationError`: use `load_console_settings`, which speaks to operators.
    """

    model_config = SettingsConfigDict(
        env_file=".env", env_file_encoding="utf-8-sig", env_ignore_empty=True, extra="ignore", frozen=True
    )

    supabase_url: Text
    supabase_publishable_key: Annotated[str, StringConstraints(pattern=r"^[!-~]+$")] | None = Field(
        default=None, validation_alias=AliasChoices("SUPABASE_PUBLISHABLE_KEY", "SUPABASE_ANON_KEY")
    )

    @model_validator(mode="before")
    @classmethod
    def _as_pasted(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Tidy every text but the password; what is then empty counts as not set, as empty variables do."""
        tidied = {
            name: value if not isinstance(value, str) or name.lower() in _AS_THEY_ARE else tidy(value)
            for name, value in values.items()
        }
        tidied = {name: value for name, value in tidied.items() if value != ""}
        return _with_port_of_host(tidied)

    @field_validator("supabase_url")
    @classmethod
    def _is_http(cls, value: str) -> str:
        value = project_url(value)
        try:
            url = httpx.URL(value)
            good = (
                url.scheme in {"http", "https"} and url.host and url.path == "/" and (url.port or 1) < _PORTS
            )
        except (httpx.InvalidURL, ValueError):
            good = False
        meant = meant_by_url(value)
        if meant is not None or not good or url.query or url.userinfo or url.fragment:
            rule = "must be the project's URL, like https://<project>.supabase.co, with no path"
            raise ValueError(rule if meant is None else f"{rule}; this {meant}")
        return value

    @field_validator("supabase_publishable_key")
    @classmethod
    def _is_public(cls, value: str | None) -> str | None:
        if value is not None and is_secret_key(value):
            raise ValueError("is a secret key, and everybody could read it: use the publishable (anon) one")
        return value

    def key_of_console(self) -> str:
        """The publishable key. Raises ConfigurationError where it is not set."""
        if self.supabase_publishable_key is None:
            raise ConfigurationError(
                ["SUPABASE_PUBLISHABLE_KEY is not set: the console signs people in with it"]
            )
        return self.supabase_publishable_key


class ProjectSettings(ConsoleSettings):
    """What the command line needs of the worker's settings: the project, and how the worker treats commands.

    Raises nothing but pydantic's `ValidationError`: use `load_project_settings`, which speaks to operators.
    """

    supabase_secret_key: SecretStr = Field(
        validation_alias=AliasChoices("SUPABASE_SECRET_KEY", "SUPABASE_SERVICE_ROLE_KEY")
    )
    supabase_timeout: Seconds = 10.0

    max_retries: Annotated[int, Field(ge=0, le=1000)] = 3
    retry_delay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 30.0
    command_ttl: Seconds = 86_400.0
    redelivery_limit: Annotated[int, Field(ge=0, le=1000)] = 3

    port: Annotated[int, Field(ge=0, le=65535)] = 3000

    @field_validator("supabase_secret_key", "http_token", "alert_secret", check_fields=False)
    @classmethod
    def _is_a_key(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None:
            return None
        key = value.get_secret_value().strip()  # a pasted key often ends with a line break
        if not re.fullmatch(r"[!-~]+", key):
            raise ValueError("must be the key alone: printable ASCII without spaces")
        return SecretStr(key)


class Settings(ProjectSettings):
    """What an operator can set; the table in docs/operations.md says the same in words.

    Raises nothing but pydantic's `ValidationError`: use `load_settings`, which speaks to operators.
    """

    mqtt_host: Text
    mqtt_port: Port = 8883
    mqtt_username: str | None = None
    mqtt_password: SecretStr | None = None
    mqtt_tls: bool = True
    mqtt_ca_file: Path | None = None
    mqtt_client_id: Text = Field(default_factory=lambda: default_client_id(dict(os.environ), platform.node()))
    mqtt_shared_group: Annotated[str, StringConstraints(pattern=r"^[0-9A-Za-z_-]{1,64}$")] | None = None

    poll_interval: Seconds = 5.0
    lease_duration: Annotated[float, Field(ge=5, allow_inf_nan=False)] = 30.0
    wake_format: Literal["12h", "iso"] = "12h"
    wake_spread: Annotated[int, Field(ge=0, le=43_200)] = 0
    temperature_unit: Literal["celsius", "fahrenheit"] = "celsius"
    standby: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0

    register_devices: bool = True
    registrations_per_minute: Count = 60

    image_silence: Seconds = 5.0
    image_max_bytes: Count = 5_000_000
    image_max_chunks: Count = 5_000
    image_give_up: Literal["keep", "discard", "quarantine"] = "keep"
    image_give_up_after: Count = 3
    images_per_device: Count = 4
    images_in_flight: Count = 1_000
    image_buffer_bytes: Count = 128 * 1024 * 1024
    visit_max_age: Seconds = 600.0

    edge_handover: Literal["off", "also", "only"] = "off"
    edge_function: FunctionName = "mqtt_device_handler"
    edge_buffer: Count = 1_000
    edge_timeout: Seconds = 10.0

    retention_commands: Days = 90.0
    retention_history: Days = 90.0
    retention_telemetry: Days = 0.0
    retention_images: Days = 0.0

    alert_url: SecretStr | None = None
    alert_secret: SecretStr | None = None
    sentry_dsn: SecretStr | None = None

    console: bool = False
    http_token: SecretStr | None = None
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    log_format: Literal["text", "json"] = "text"

    @field_validator("mqtt_password")
    @classmethod
    def _is_not_wrapped(cls, value: SecretStr | None) -> SecretStr | None:
        # A line end at the end comes from a file, not from a person.
        secret = None if value is None else SecretStr(value.get_secret_value().rstrip("\r\n"))
        if secret is not None and (fault := fault_of_secret(secret.get_secret_value())) is not None:
            raise ValueError(fault)
        return secret

    @model_validator(mode="after")
    def _has_a_user_for_the_password(self) -> Self:
        if self.mqtt_password is not None and self.mqtt_username is None:
            raise ValueError("MQTT_USERNAME is not set, but MQTT_PASSWORD is")
        if self.alert_secret is not None and self.alert_url is None:
            raise ValueError("ALERT_URL is not set, but ALERT_SECRET is")
        if self.console and self.supabase_publishable_key is None:
            raise ValueError("SUPABASE_PUBLISHABLE_KEY is not set, but CONSOLE is true")
        return self

    @field_validator("log_level", mode="before")
    @classmethod
    def _upper(cls, value: object) -> object:
        return value.upper() if isinstance(value, str) else value

    @field_validator(
        "log_format", "wake_format", "temperature_unit", "edge_handover", "image_give_up", mode="before"
    )
    @classmethod
    def _lower(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value

    @field_validator("alert_url")
    @classmethod
    def _is_a_webhook(cls, value: SecretStr | None) -> SecretStr | None:
        try:
            url = None if value is None else httpx.URL(value.get_secret_value())
        except httpx.InvalidURL:
            url = httpx.URL("")
        if url is not None and (url.scheme not in {"http", "https"} or not url.host):
            raise ValueError("must be a URL that takes a POST, like https://hooks.example/…")
        return value

    @field_validator("mqtt_host")
    @classmethod
    def _is_bare_host(cls, value: str) -> str:
        if "/" in value or value.count(":") == 1 or not value.isprintable() or " " in value:
            raise ValueError(
                "must be a host name alone; the port goes into MQTT_PORT (the same where both have one), "
                "TLS into MQTT_TLS (mqtts:// needs it true), and user and password into "
                "MQTT_USERNAME and MQTT_PASSWORD"
            )
        return value

    @field_validator("mqtt_ca_file")
    @classmethod
    def _is_a_file(cls, value: Path | None) -> Path | None:
        if value is not None and not value.is_file():
            raise ValueError(f"there is no file {value}")
        return value


def _with_port_of_host(values: dict[str, Any]) -> dict[str, Any]:
    """Read `mqtts://host:port` as MQTT_HOST and MQTT_PORT; as it is where another setting says otherwise."""
    names = {name.lower(): name for name in values}
    given = values.get(names.get("mqtt_host", ""))
    if not isinstance(given, str):
        return values
    host, port = split_host(given)
    port_set = values.get(names.get("mqtt_port", ""))
    tls = str(values.get(names.get("mqtt_tls", ""), "true")).lower()
    if (port is not None and port_set is not None and str(port_set) != str(port)) or (
        "://" in given and tls not in _TRUE
    ):
        return values
    ports = {} if port is None else {"mqtt_port": port}
    return {**values, names["mqtt_host"]: host, **ports}


def default_client_id(environ: dict[str, str], host: str) -> str:
    """A client id that is the same each time this instance starts (MQTT_CLIENT_ID overrides it).

    Heroku names the instance in DYNO, Render in RENDER_INSTANCE_ID; elsewhere the host name serves.
    """
    instance = environ.get("DYNO") or environ.get("RENDER_INSTANCE_ID") or host or "worker"
    return "mqtt-service-" + _NOT_IN_A_CLIENT_ID.sub("-", instance)


def load_settings(env_file: Path | None = Path(".env")) -> Settings:
    """Read the settings; raise `ConfigurationError` that names every fault, and shows no value.

    The message leaves out values, since one of them may be a secret in the wrong place.
    """
    return _load(Settings, env_file)


def load_project_settings(env_file: Path | None = Path(".env")) -> ProjectSettings:
    """Read what the command line needs; the broker's settings are neither demanded nor looked at."""
    return _load(ProjectSettings, env_file)


def load_console_settings(env_file: Path | None = Path(".env")) -> ConsoleSettings:
    """Read what the console needs; no secret is demanded or looked at."""
    return _load(ConsoleSettings, env_file)


def _load(kind: type[S], env_file: Path | None) -> S:
    try:
        return kind(_env_file=env_file)
    except UnicodeDecodeError:
        raise ConfigurationError([f"{env_file} is not UTF-8 text: save it as such"]) from None
    except ValidationError as error:
        raise ConfigurationError(
            [_fault(item["loc"], item["type"], item["msg"]) for item in error.errors()]
        ) from None


def _fault(location: tuple[int | str, ...], kind: str, message: str) -> str:
    if not location:
        return message.removeprefix("Value error, ")
    name = str(location[0]).upper()
    if kind == "missing":
        return f"{name} is not set"
    return f"{name}: {message.removeprefix('Value error, ')}"
