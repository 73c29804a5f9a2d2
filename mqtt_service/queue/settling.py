"""Settling: what became of each attempt is written to its row, many in a call, until the database has it."""

import asyncio
import logging
from dataclasses import replace
from uuid import UUID

from mqtt_service.adapters.supabase.commands import CommandGateway, Settled, Settlement
from mqtt_service.batching import Batcher
from mqtt_service.errors import PermanentError
from mqtt_service.log import context
from mqtt_service.metrics import COMMANDS
from mqtt_service.protocol.commands import Command

log = logging.getLogger(__name__)

_LIMIT = 500
# Writing takes longer only where a row is locked, or Supabase is away: nothing can be claimed then either.
_MAX_WAIT = 15.0
# What the database refuses is tried again after so many seconds, so many at once: the cause may be mended.
_REFUSED_RETRY_DELAY = 60.0
_REFUSED_RETRY_LIMIT = 100


class Settler:
    """Writes settlements in the background; `run` it as one task."""

    def __init__(self, gateway: CommandGateway) -> None:
        self._batcher: Batcher[Settlement, Settled] = Batcher(
            "CommandQueue", gateway.settle, _LIMIT, key=lambda settlement: settlement.command_id
        )
        self._settling: dict[UUID, asyncio.Task[None]] = {}
        # The one that was tried last stands at the end.
        self._refused: dict[UUID, tuple[Settlement, Command | None]] = {}

    @property
    def held(self) -> list[UUID]:
        """Commands whose outcome is not in the database yet: a claim must not hand them out again."""
        return [*self._settling, *self._refused]

    @property
    def unsettled(self) -> int:
        """How many settlements wait for the database, apart from those that it refused before."""
        return len(self._settling)

    @property
    def longest_wait(self) -> float:
        """For how many seconds the oldest settlement has waited for the database."""
        return self._batcher.longest_wait

    @property
    def attempts(self) -> int:
        """How often the database was called so far."""
        return self._batcher.attempts

    async def run(self) -> None:
        """Write until cancelled; what the database refused is tried again now and then."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._batcher.run())
            tasks.create_task(self._retry_refused())

    async def wait_until_written(self) -> None:
        """Wait until everything given to `settle` before this call is in the database, for at most 15 s."""
        if self._settling:
            await asyncio.wait(set(self._settling.values()), timeout=_MAX_WAIT)

    def settle(self, settlement: Settlement, command: Command | None = None) -> None:
        """Have this written; the log takes the names of device and command type from `command`."""
        task = asyncio.create_task(self._write(settlement, command))
        self._settling[settlement.command_id] = task
        task.add_done_callback(lambda _: self._settling.pop(settlement.command_id, None))

    async def _write(self, settlement: Settlement, command: Command | None) -> None:
        try:
            settled = await self._submit(settlement)
        except PermanentError as error:
            await self._fail_instead(settlement, command, str(error))
        else:
            self._refused.pop(settlement.command_id, None)
            _log_outcome(settlement, settled, command)

    async def _retry_refused(self) -> None:
        while True:
            await asyncio.sleep(_REFUSED_RETRY_DELAY)
            oldest = list(self._refused.values())[:_REFUSED_RETRY_LIMIT]
            await asyncio.gather(*(self._write(settlement, command) for settlement, command in oldest))

    async def _submit(self, settlement: Settlement) -> Settled:
        """Raises PermanentError where the database refuses this row's change."""
        settled = await self._batcher.submit(settlement)
        if settled.result == "refused":
            raise PermanentError(settled.error or "the database names no reason")
        return settled

    async def _fail_instead(self, settlement: Settlement, command: Command | None, why: str) -> None:
        """Fail a command for good whose outcome the database refuses (a trigger of the project, say).

        If that is refused too, the command stays with this worker, so that it is not published again.
        """
        failure = replace(settlement, outcome="failed", error=f"its outcome was refused: {why}", retry=False)
        try:
            settled = await self._submit(failure)
        except PermanentError as error:
            if not self._refused.pop(settlement.command_id, None):
                log.error(  # noqa: TRY400 - one line, the traceback would tell nothing
                    "[CommandQueue] The database takes neither %s nor failed for this command; this worker "
                    "keeps it, does not send it again, and reports its outcome again each minute: %s",
                    settlement.outcome,
                    error,
                    extra=context(command=settlement.command_id),
                )
            self._refused[settlement.command_id] = settlement, command
        else:
            self._refused.pop(settlement.command_id, None)
            _log_outcome(failure, settled, command)


def _log_outcome(settlement: Settlement, settled: Settled, command: Command | None) -> None:
    """One line for each attempt, once the database knows of it."""
    if settled.result == "settled":
        COMMANDS.labels(settlement.outcome).inc()
    name = (command.device_code or command.topic_id) if command else None
    kind = command.command_type if command else "command"
    extra = context(command=settlement.command_id, device=name)
    if settled.result == "stale":
        log.warning(
            "[CommandQueue] %s was settled elsewhere already; the result %s is not written",
            kind,
            settlement.outcome,
            extra=extra,
        )
    elif settlement.outcome == "sent":
        asleep = " (nobody is subscribed now)" if settlement.no_listener else ""
        log.info("[CommandQueue] ✅ Sent %s to %s%s", kind, name, asleep, extra=extra)
        if settlement.notice is not None:
            log.warning(
                "[CommandQueue] Sent with a notice, %s to %s: %s", kind, name, settlement.notice, extra=extra
            )
    elif settlement.outcome == "released":
        # At debug level only: `CommandPublisher` logs how many there are, in one line.
        log.debug("[CommandQueue] %s not sent, pending again: %s", kind, settlement.error, extra=extra)
    else:
        log.warning("[CommandQueue] ❌ %s failed: %s", kind, settlement.error, extra=extra)
