"""Runs doctor and config: looks, prints, and says the status."""

import asyncio
import json
import logging
import os
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote, urlsplit

import typer
from dotenv import dotenv_values
from rich.console import Console

from mqtt_service.config import Settings, load_settings
from mqtt_service.doctor import network, report
from mqtt_service.doctor.checkup import BROKER, FullCheck, checkup
from mqtt_service.doctor.effective import effective, secrets_of
from mqtt_service.doctor.findings import CHECKS, Finding, exit_status, skipped
from mqtt_service.errors import ConfigurationError
from mqtt_service.migrations import Migration, read_migrations
from mqtt_service.part_options import mqtt_options

ENV_FILE = Path(".env")
_DATABASE_URL = "SUPABASE_DB_URL"
_WRONG_SETTINGS = 2


def run_doctor(database_url: str | None, *, as_json: bool, broker: bool) -> int:
    """Print what is found, and return the status; `database_url` None: SUPABASE_DB_URL of .env."""
    with _without_logs():
        return asyncio.run(_doctor(database_url or _from_env_file(), as_json=as_json, broker=broker))


def run_config(*, as_json: bool) -> int:
    """Print the settings, return the status; raises ConfigurationError for people, or prints it as JSON."""
    try:
        settings = list(effective(load_settings(ENV_FILE), os.environ, ENV_FILE))
    except ConfigurationError as error:
        if not as_json:
            raise
        typer.echo(json.dumps({"faults": error.faults}))
        return _WRONG_SETTINGS
    if as_json:
        rows = [{"name": each.name, "value": each.value, "source": each.source} for each in settings]
        typer.echo(json.dumps({"settings": rows}, ensure_ascii=False))
        return 0
    console = _console()
    for line in report.settings_as_lines(settings):
        console.print(line)
    return 0


async def _doctor(database_url: str | None, *, as_json: bool, broker: bool) -> int:
    console, found = _console(), list[Finding]()
    secrets = [unquote(urlsplit(database_url).password or "")] if database_url else []
    async for finding in _findings(database_url, secrets, broker=broker):
        shown = report.without_secrets(finding, secrets)
        if not as_json:
            for line in report.as_lines(shown, found[-1] if found else None):
                console.print(line)
        found.append(shown)
    if as_json:
        typer.echo(json.dumps(report.as_document(found), ensure_ascii=False))
    else:
        console.print(report.verdict(found))
    return exit_status(found)


async def _findings(database_url: str | None, secrets: list[str], *, broker: bool) -> AsyncIterator[Finding]:
    """Everything; what no output may hold is added to `secrets` before it could be."""
    try:
        settings = load_settings(ENV_FILE)
    except ConfigurationError as error:
        cure = "set it in the environment or .env; docs/operations.md explains each setting"
        for fault in error.faults:
            yield Finding("settings", "broken", fault, cure)
        for finding in skipped([name for name in CHECKS if name != "settings"], "settings is broken"):
            yield finding
        return
    secrets += secrets_of(settings)
    yield Finding("settings", "ok", "all can be read; mqtt-service config shows them")
    async for finding in examine(settings, full_check=_full_check(database_url), broker=broker):
        yield finding


async def examine(
    settings: Settings, *, full_check: FullCheck | None = None, broker: bool = True
) -> AsyncIterator[Finding]:
    """Every finding but the settings', in the order of CHECKS; `full_check` looks at the database itself."""
    for finding in await network.http_port(settings.port):
        yield finding
    async with checkup(settings, mqtt_options(settings), read_migrations(), full_check) as look:
        async for finding in look.project():
            yield finding
        if broker:
            async for finding in look.broker():
                yield finding
        else:
            for finding in skipped(BROKER, "--no-broker"):
                yield finding
        for finding in look.activity():
            yield finding


def _full_check(url: str | None) -> FullCheck | None:
    if not url or find_spec("psycopg") is None:
        return None
    from mqtt_service.adoption.check import check  # noqa: PLC0415 - the worker must not need the extra
    from mqtt_service.adoption.database import connect  # noqa: PLC0415 - as above

    def look(files: Sequence[Migration]) -> Finding:
        with connect(url) as connection:
            found = check(connection, files, trial=False)
        if found.is_fine:
            return Finding("migrations_check", "ok", found.verdict)
        cure = "mqtt-service migrations --check says what, and how to mend it"
        return Finding("migrations_check", "broken", found.verdict, cure)

    async def full_check(files: Sequence[Migration]) -> Finding:
        return await asyncio.to_thread(look, files)

    return full_check


def _from_env_file() -> str | None:
    try:
        return dotenv_values(ENV_FILE, encoding="utf-8-sig").get(_DATABASE_URL)
    except UnicodeDecodeError:
        return None  # which the settings say


@contextmanager
def _without_logs() -> Iterator[None]:
    """What the worker's modules and the Realtime library log is found, too."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


def _console() -> Console:
    return Console(soft_wrap=True, highlight=False)
