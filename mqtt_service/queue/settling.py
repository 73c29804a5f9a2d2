"""Settling: what became of each attempt is written to its row, many in a call, until the database has it."""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from uuid import UUID

from mqtt_service.adapters.supabase.commands import CommandGateway, Settled, Settlement
from mqtt_service.batching import Batcher
from mqtt_service.errors import PermanentError
from mqtt_service.log import context
from mqtt_service.metrics import COMMANDS
from mqtt_service.protocol.commands import Command

log = logging.getLogger(__name__)

_LIMIT = 500
# Between two calls, in seconds, while there is much to write: each costs the worker milliseconds.
PAUSE = 0.02
# Writing takes longer only where a row is locked, or Supabase is away: nothing can be claimed then either.
_MAX_WAIT = 15.0
# What the database refuses is tried again after so many seconds, so many at once: the cause may be mended.
_REFUSED_RETRY_DELAY = 60.0
_REFUSED_RETRY_LIMIT = 100
# Of so many commands at once the log names each; of more, how many there are.
SMALL_BATCH = 10


@dataclass(frozen=True, slots=True, eq=False)
class _Unsettled:
    """A settlement on its way; the log takes the names of device and command type from `command`."""

    settlement: Settlement
    command: Command | None
    written: Callable[[], None]


class Settler:
    """Writes settlements in the background; `run` it as one task."""

    def __init__(self, gateway: CommandGateway) -> None:
        self._gateway = gateway
        self._batcher: Batcher[Settlement, Settled] = Batcher(
            "CommandQueue", self._write, _LIMIT, key=lambda settlement: settlement.command_id, pause=PAUSE
        )
        self._unsettled: dict[UUID, _Unsettled] = {}
        self._progress = asyncio.Event()
        # The one that was tried last stands at the end.
        self._refused: dict[UUID, _Unsettled] = {}

    @property
    def held(self) -> list[UUID]:
        """Commands whose outcome is not in the database yet: a claim must not hand them out again."""
        return list(self._unsettled | self._refused)

    @property
    def unsettled(self) -> int:
        """How many settlements wait for the database, apart from those that it refused before."""
        return len(self._unsettled)

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
        before = set(self._unsettled.values())
        with suppress(TimeoutError):
            async with asyncio.timeout(_MAX_WAIT):
                await self.wait_until(lambda: before.isdisjoint(self._unsettled.values()))

    async def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait until this holds, which is looked at whenever something was written."""
        while not condition():
            self._progress.clear()
            await self._progress.wait()

    def settle(
        self,
        settlement: Settlement,
        command: Command | None = None,
        written: Callable[[], None] = lambda: None,
    ) -> None:
        """Have this written; `written` is called once the database has it, or refuses it for good."""
        self._submit(_Unsettled(settlement, command, written))

    def _submit(self, unsettled: _Unsettled) -> None:
        self._unsettled[unsettled.settlement.command_id] = unsettled
        self._batcher.add(unsettled.settlement, partial(self._settled, unsettled))

    async def _write(self, settlements: Sequence[Settlement]) -> list[Settled]:
        results = await self._gateway.settle(settlements)
        few = len(settlements) <= SMALL_BATCH
        outcomes: Counter[str] = Counter()
        for settlement, settled in zip(settlements, results, strict=True):
            if settled.result == "refused":
                continue
            unsettled = self._unsettled.get(settlement.command_id)
            _log_outcome(settlement, settled, unsettled.command if unsettled else None, few=few)
            outcomes[settlement.outcome] += settled.result == "settled"
        for outcome, number in outcomes.items():
            COMMANDS.labels(outcome).inc(number)
        if outcomes["sent"] and not few:
            log.info("[CommandQueue] ✅ Sent %d command(s)", outcomes["sent"])
        return results

    def _settled(self, unsettled: _Unsettled, result: Settled | PermanentError) -> None:
        settlement = unsettled.settlement
        if isinstance(result, Settled) and result.result != "refused":
            self._refused.pop(settlement.command_id, None)
            self._finish(unsettled)
            return
        why = str(result) if isinstance(result, PermanentError) else result.error
        self._fail_instead(unsettled, why or "the database names no reason")

    def _fail_instead(self, unsettled: _Unsettled, why: str) -> None:
        """Fail a command for good whose outcome the database refuses (a trigger of the project, say).

        If that is refused too, the command stays with this worker, so that it is not published again.
        """
        settlement = unsettled.settlement
        failure = replace(settlement, outcome="failed", error=f"its outcome was refused: {why}", retry=False)

        def done(result: Settled | PermanentError) -> None:
            first_time = not self._refused.pop(settlement.command_id, None)
            if isinstance(result, PermanentError) or result.result == "refused":
                if first_time:
                    _log_refused(settlement, str(result) if isinstance(result, PermanentError) else why)
                self._refused[settlement.command_id] = unsettled
            self._finish(unsettled)

        self._batcher.add(failure, done)

    def _finish(self, unsettled: _Unsettled) -> None:
        if self._unsettled.get(unsettled.settlement.command_id) is unsettled:
            del self._unsettled[unsettled.settlement.command_id]
        self._progress.set()
        unsettled.written()

    async def _retry_refused(self) -> None:
        while True:
            await asyncio.sleep(_REFUSED_RETRY_DELAY)
            oldest = [
                replace(each, written=_nothing)
                for each in islice(self._refused.values(), _REFUSED_RETRY_LIMIT)
            ]
            for unsettled in oldest:
                self._submit(unsettled)
            await self.wait_until(lambda: set(oldest).isdisjoint(self._unsettled.values()))  # noqa: B023 - awaited here


def _nothing() -> None:
    """Nobody waits any more."""


def _log_refused(settlement: Settlement, error: str) -> None:
    log.error(
        "[CommandQueue] The database takes neither %s nor failed for this command; this worker "
        "keeps it, does not send it again, and reports its outcome again each minute: %s",
        settlement.outcome,
        error,
        extra=context(command=settlement.command_id),
    )


def _log_outcome(settlement: Settlement, settled: Settled, command: Command | None, *, few: bool) -> None:
    """One line for each attempt, once the database knows of it; of many, those sent at debug level."""
    plain = settled.result == "settled" and settlement.outcome == "sent" and settlement.notice is None
    if plain and not few and not log.isEnabledFor(logging.DEBUG):
        return
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
        level = logging.INFO if few else logging.DEBUG
        log.log(level, "[CommandQueue] ✅ Sent %s to %s%s", kind, name, asleep, extra=extra)
        if settlement.notice is not None:
            log.warning(
                "[CommandQueue] Sent with a notice, %s to %s: %s", kind, name, settlement.notice, extra=extra
            )
    elif settlement.outcome == "released":
        # At debug level only: `CommandPublisher` logs how many there are, in one line.
        log.debug("[CommandQueue] %s not sent, pending again: %s", kind, settlement.error, extra=extra)
    else:
        log.warning("[CommandQueue] ❌ %s failed: %s", kind, settlement.error, extra=extra)
