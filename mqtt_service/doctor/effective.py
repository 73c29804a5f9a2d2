"""The settings in effect, secrets masked, and where each comes from."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dotenv import dotenv_values
from pydantic import AliasChoices, SecretStr

from mqtt_service.config import Settings
from mqtt_service.pasted import tidy

_MASKED = "********"


@dataclass(frozen=True, slots=True)
class Effective:
    """A setting: its value as text (a secret masked), and its source in words."""

    name: str
    value: str
    source: str


def effective(settings: Settings, environ: Mapping[str, str], env_file: Path) -> Iterator[Effective]:
    """Every setting in the order of its table; sources as `load_settings` reads them, environment first."""
    places = {"environment": _upper(environ), str(env_file): _upper(_read(env_file))}
    for field, info in Settings.model_fields.items():
        names = _names(field, info.validation_alias)
        name, source = next(
            ((name, place) for place, values in places.items() for name in names if _is_set(values, name)),
            (names[0], "default"),
        )
        value = getattr(settings, field)
        if source == "default" and field == "mqtt_client_id":
            source = "default, from DYNO, RENDER_INSTANCE_ID or the host name"
        elif source == "default" and field == "mqtt_port" and value != info.default:
            source = "MQTT_HOST"
        yield Effective(name, _shown(value), source)


def secrets_of(settings: Settings) -> list[str]:
    """The values that no output may hold."""
    values = [getattr(settings, field) for field in Settings.model_fields]
    return [value.get_secret_value() for value in values if isinstance(value, SecretStr)]


def _shown(value: Any) -> str:  # noqa: ANN401 - of any setting
    if isinstance(value, SecretStr):
        return _MASKED
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.12g}"
    return "not set" if value is None else str(value)


def _names(field: str, alias: object) -> list[str]:
    if isinstance(alias, AliasChoices):
        return [str(choice).upper() for choice in alias.choices]
    return [field.upper()]


def _is_set(values: Mapping[str, str], name: str) -> bool:
    value = values.get(name, "")
    return bool(value if name == "MQTT_PASSWORD" else tidy(value))


def _upper(values: Mapping[str, str | None]) -> dict[str, str]:
    return {name.upper(): value for name, value in values.items() if value}


def _read(env_file: Path) -> Mapping[str, str | None]:
    return dotenv_values(env_file, encoding="utf-8-sig") if env_file.is_file() else {}
