"""Alerts in the database: what is wrong, and which of it a person has not been told yet."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Literal

from pydantic import TypeAdapter

from mqtt_service.adapters.supabase.transport import DatabaseFunctions


@dataclass(frozen=True, slots=True)
class Found:
    """What a worker itself finds wrong: `alert` names it, `text` is for a person."""

    alert: str
    text: str


@dataclass(frozen=True, slots=True)
class Alert:
    """What a person is to be told: that something is wrong, or that it is over; `since` when it began."""

    alert: str
    text: str
    state: Literal["open", "recovered"]
    since: datetime


@dataclass(frozen=True, slots=True)
class Watched:
    """`held`: this worker is the one that looks."""

    held: bool
    alerts: Sequence[Alert] = ()


_WATCHED = TypeAdapter(Watched)
_NOTED = TypeAdapter(dict[str, int])


class AlertGateway:
    """Looks for alerts for one worker."""

    def __init__(self, database: DatabaseFunctions, worker: str) -> None:
        self._database = database
        self._worker = worker

    async def watch(self, found: Sequence[Found]) -> Watched:
        """Look, add what this worker has `found`, and return what is to be told."""
        return await self._database.call(
            "fn_watch_for_alerts",
            _WATCHED,
            p_worker=self._worker,
            p_found=[asdict(each) for each in found],
        )

    async def note_told(self, alerts: Sequence[Alert]) -> None:
        """Note that these were told."""
        told = [{"alert": each.alert, "state": each.state} for each in alerts]
        await self._database.call("fn_note_alerts_told", _NOTED, p_worker=self._worker, p_told=told)
