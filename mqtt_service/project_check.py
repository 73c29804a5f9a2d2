"""Says at the start what in the project will refuse or contradict the worker, before anything fails."""

import logging
from collections.abc import Sequence
from typing import Literal

from mqtt_service import __version__
from mqtt_service.adapters.supabase.examination import ExaminationGateway
from mqtt_service.adapters.supabase.project import ProjectGateway, QueueRules
from mqtt_service.backoff import retry_forever
from mqtt_service.errors import MigrationMissingError, PermanentError
from mqtt_service.migrations import Migration

log = logging.getLogger(__name__)

_MOST_NAMED = 5

Unit = Literal["celsius", "fahrenheit"]


async def check_schema(gateway: ExaminationGateway, files: Sequence[Migration]) -> None:
    """Log whether the database has the migrations of `files`, no more and no less; waits for the database."""
    newest = files[-1].version
    try:
        async for attempt in retry_forever(_log_retry):
            with attempt:
                version = await gateway.schema_version()
    except MigrationMissingError:
        version = ""
    except PermanentError as error:
        log.warning("[SERVICE] The version of the database's schema is not known: %s", error)
        return
    if version < newest:
        log.error(
            "[SERVICE] The database's schema (%s) is older than this worker, so some of its work will fail; "
            "apply %s: mqtt-service migrations prints all as one script",
            version or "of an earlier release",
            missing_files(version, files),
        )
    elif version > newest:
        log.warning(
            "[SERVICE] The database's schema (%s) is newer than this worker (%s, schema %s): "
            "update the worker",
            version,
            __version__,
            newest,
        )


def missing_files(version: str, files: Sequence[Migration]) -> str:
    """The files that are newer than a database's schema, in words; all may be missing where it has none."""
    later = [each.file for each in files if each.version > version]
    if not version or len(later) > _MOST_NAMED:
        return f"the migrations up to {files[-1].file}"
    return ", ".join(later)


async def check_project(gateway: ProjectGateway, unit: Unit) -> None:
    """Log what a person should see to; `unit` is what the worker writes temperatures in.

    Waits for the database. Where it refuses the question, that is logged, and nothing else comes of it.
    """
    try:
        async for attempt in retry_forever(_log_retry):
            with attempt:
                project = await gateway.inspect()
    except PermanentError as error:
        log.warning("[SERVICE] The project's tables were not looked at: %s", error)
        return
    for column in project.demanded_columns:
        log.warning(
            "[SERVICE] public.%s.%s (%s) must have a value and has no default, so new rows will be refused; "
            "run: %s",
            column.table,
            column.column,
            column.data_type,
            column.remedy,
        )
    if project.missing_categories:
        log.warning(
            "[SERVICE] The enum of public.device_history.event_category has no %s: such events have no "
            "category, or are missing where one is demanded; add the words with: alter type … add value",
            ", ".join(project.missing_categories),
        )
    if project.temperatures_look_like not in {None, unit}:
        log.warning(
            "[SERVICE] The temperatures in public.device_telemetry look like degrees %s, and this worker "
            "writes degrees %s: set TEMPERATURE_UNIT=%s, or convert the old rows",
            str(project.temperatures_look_like).title(),
            unit.title(),
            project.temperatures_look_like,
        )


async def set_wake_spread(gateway: ProjectGateway, seconds: int) -> None:
    """Tell the database over how many seconds a site's devices wake; waits for the database."""
    try:
        async for attempt in retry_forever(_log_retry):
            with attempt:
                await gateway.set_wake_spread(seconds)
    except PermanentError as error:
        log.warning("[SERVICE] WAKE_SPREAD was not set: %s", error)


async def set_queue_rules(gateway: ProjectGateway, rules: QueueRules) -> None:
    """Tell the database by which rules commands are treated; waits for the database."""
    try:
        async for attempt in retry_forever(_log_retry):
            with attempt:
                await gateway.set_queue_rules(rules)
    except PermanentError as error:
        log.warning("[SERVICE] The stories of commands tell the default settings: %s", error)


def _log_retry(error: BaseException, delay: float) -> None:
    log.info("[SERVICE] The project's tables are looked at later: %s; next try in %.1f s", error, delay)
