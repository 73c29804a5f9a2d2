"""What the database says of itself to `mqtt-service doctor`, and its schema's version to every worker."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from pydantic import TypeAdapter

from mqtt_service.adapters.supabase.transport import DatabaseFunctions


@dataclass(frozen=True, slots=True)
class WorkerSeen:
    """The newest worker of a client id; times are seconds ago. `overtaken`: an older one that still ran."""

    client_id: str
    worker: str
    version: str | None
    seen_ago: float
    overtaken: str | None = None
    overtaken_ago: float | None = None
    overtakings: int | None = None


@dataclass(frozen=True, slots=True)
class QueueSeen:
    """Numbers of commands and devices that wait, to 1,000 at most; `oldest_overdue` in seconds."""

    overdue: int
    oldest_overdue: float | None
    unanswered: int
    given_up: int
    welcomes_due: int


@dataclass(frozen=True, slots=True)
class Examination:
    """The answer of `fn_examine_project`; its migration says what each is."""

    version: str
    now: datetime
    missing_functions: Sequence[str]
    forbidden_functions: Sequence[str]
    missing_triggers: Sequence[str]
    disabled_triggers: Sequence[str]
    foreign_triggers: Sequence[str]
    forbidden_tables: Sequence[str]
    unpublished: Sequence[str]
    workers: Sequence[WorkerSeen]
    queue: QueueSeen


_EXAMINATION = TypeAdapter(Examination)
_VERSION = TypeAdapter(str)


class ExaminationGateway:
    """Asks the database about itself; each call raises as `DatabaseFunctions.call`."""

    def __init__(self, database: DatabaseFunctions) -> None:
        self._database = database

    async def examine(self, functions: Sequence[str], triggers: Sequence[str]) -> Examination:
        """Look for these functions of public and triggers (`<table>.<trigger>`), and at the rest."""
        return await self._database.call(
            "fn_examine_project", _EXAMINATION, p_functions=list(functions), p_triggers=list(triggers)
        )

    async def schema_version(self) -> str:
        """The version of the newest of our migrations in the database."""
        return await self._database.call("fn_mqtt_service_schema", _VERSION)
