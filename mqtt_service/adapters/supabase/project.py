"""What the project's own tables demand and hold, as far as it concerns what the worker writes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import TypeAdapter

from mqtt_service.adapters.supabase.transport import NO_ANSWER, DatabaseFunctions


@dataclass(frozen=True, slots=True)
class DemandedColumn:
    """A column that the worker does not know, which is NOT NULL and has no default; `remedy` is SQL."""

    table: str
    column: str
    data_type: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Project:
    """`temperatures_look_like`: the unit of the latest readings; None where there are too few to tell.

    `missing_categories`: words that the enum of `device_history.event_category` does not have.
    """

    demanded_columns: Sequence[DemandedColumn] = ()
    missing_categories: Sequence[str] = ()
    temperatures_look_like: Literal["celsius", "fahrenheit"] | None = None


@dataclass(frozen=True, slots=True)
class QueueRules:
    """How a worker treats commands; `command_ttl` in seconds."""

    max_retries: int
    redelivery_limit: int
    command_ttl: float


_PROJECT = TypeAdapter(Project)


class ProjectGateway:
    """Asks the database about the project, and tells it what the worker is set to."""

    def __init__(self, database: DatabaseFunctions) -> None:
        self._database = database

    async def inspect(self) -> Project:
        """What is there before this worker writes anything."""
        return await self._database.call("fn_inspect_project", _PROJECT)

    async def set_wake_spread(self, seconds: int) -> None:
        """Set over how many seconds the devices of a site wake that names no spread of its own."""
        await self._database.call("fn_set_wake_spread", NO_ANSWER, p_seconds=seconds)

    async def set_queue_rules(self, rules: QueueRules) -> None:
        """Say by which rules this worker treats commands, for the stories that the database tells."""
        await self._database.call(
            "fn_set_queue_rules",
            NO_ANSWER,
            p_max_retries=rules.max_retries,
            p_redelivery_limit=rules.redelivery_limit,
            p_command_ttl_seconds=rules.command_ttl,
        )
