"""Says at the start what in the project will refuse or contradict the worker, before anything fails."""

import logging
from typing import Literal

from mqtt_service.adapters.supabase.project import ProjectGateway
from mqtt_service.backoff import retry_forever
from mqtt_service.errors import PermanentError

log = logging.getLogger(__name__)

Unit = Literal["celsius", "fahrenheit"]


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


def _log_retry(error: BaseException, delay: float) -> None:
    log.info("[SERVICE] The project's tables are looked at later: %s; next try in %.1f s", error, delay)
