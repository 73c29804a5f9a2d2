"""Try the migrations, and one of each thing that a worker does, in a transaction that is rolled back.

Nothing is kept but the gaps that sequences get: Postgres does not take back the numbers that triggers and
identity columns draw; the report names those sequences.

While it runs, the tables that the migrations alter are locked: the project's clients wait. It waits for no
lock longer than LOCK_WAIT, and is cancelled as a whole after the seconds that it is given.
"""

import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal

import psycopg
from psycopg import sql
from psycopg.errors import Diagnostic

from mqtt_service.adoption.changes import Change, compare, snapshot
from mqtt_service.adoption.command_steps import (
    acknowledge_command,
    claim_command,
    insert_command,
    settle_command,
)
from mqtt_service.adoption.database import Connection, fetch, values
from mqtt_service.adoption.device_steps import (
    hear_known_device,
    hear_unknown_device,
    map_device,
    queue_welcome,
    take_existing_device,
)
from mqtt_service.adoption.failure import Failure, explain
from mqtt_service.adoption.flow import Act, Flow, NoDeviceError, RefusedError
from mqtt_service.adoption.picture_steps import announce_picture, complete_picture, hear_readings_alone
from mqtt_service.adoption.project import Project
from mqtt_service.adoption.raised import Raised
from mqtt_service.migrations import Migration

LOCK_WAIT = "2s"
STEPS: Sequence[tuple[str, Act]] = (
    ("the device is mapped to a site", map_device),
    ("its welcome is queued", queue_welcome),
    ("a command is inserted", insert_command),
    ("the command is claimed", claim_command),
    ("the command is noted as sent", settle_command),
    ("the command is acknowledged", acknowledge_command),
    ("a known device says HELLO", hear_known_device),
    ("a picture is announced, with readings", announce_picture),
    ("the picture is complete", complete_picture),
    ("readings come without a picture", hear_readings_alone),
)

_APPLY = "the migrations are applied"
_REGISTER = "a device that nobody knows says HELLO"
_NOT_NULL = "23502"
_CODE = re.compile(r"\(([0-9A-Z]{5})\)")


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that was tried; `note` says why it was left out."""

    name: str
    outcome: Literal["done", "failed", "left out"]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Lock:
    """A lock that the trial held on a table until it ended, so that others waited."""

    table: str
    mode: str


@dataclass(frozen=True, slots=True)
class Trial:
    """What the trial did. `changes`: what applying the files changes in the catalog.

    `warnings` are the files' own, `remarks` say what the project's tables refused without harm to the rest.
    """

    steps: tuple[Step, ...] = ()
    failures: tuple[Failure, ...] = ()
    changes: tuple[Change, ...] = ()
    warnings: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    locks: tuple[Lock, ...] = ()
    sequences: tuple[str, ...] = ()
    seconds: float = 0.0


# Locks of modes that keep others from reading or writing.
_LOCKS = """
select l.relation::regclass::text as table, string_agg(distinct l.mode, ', ' order by l.mode) as mode
from pg_locks l
where l.pid = pg_backend_pid() and l.locktype = 'relation' and l.relation = any (%(tables)s::oid[])
  and l.granted and l.mode in ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
group by 1 order by 1
"""
# Who draws a number from a sequence locks it in this mode until the transaction ends.
_SEQUENCES = """
select l.relation::regclass::text from pg_locks l
where l.pid = pg_backend_pid() and l.locktype = 'relation' and l.relation = any (%(sequences)s::oid[])
  and l.mode = 'RowExclusiveLock'
order by 1
"""
_RELATIONS = (
    'select oid from pg_class where relkind = any (%(kinds)s::text[]::"char"[]) and relnamespace <> 11'
)

_REQUEST = """
select set_config('search_path', 'public, extensions', true), set_config('role', 'service_role', true),
  set_config('request.jwt.claims', '{"role": "service_role"}', true),
  set_config('request.method', 'POST', true)
"""


def run_trial(project: Project, files: Sequence[Migration], *, seconds: float) -> Trial:
    """Apply the files, go through the steps, roll back. The first step that fails ends it.

    Where a required column forbids that a device registers itself, a device of the project does the rest.
    """
    run = _Run(project, seconds)
    try:
        with (
            _cancelled_after(project.connection, seconds),
            project.connection.transaction(force_rollback=True),
        ):
            run.go(files)
    except psycopg.OperationalError as error:  # the connection is gone, and all of it rolled back
        run.failures.append(Failure(run.now, Raised.of(error).message, error.sqlstate))
    return run.result()


class _Run:
    """One trial while it goes on."""

    def __init__(self, project: Project, seconds: float) -> None:
        self._project = project
        self._connection = project.connection
        self._started = time.monotonic()
        self._seconds = seconds
        self._said: list[str] = []
        self.now = _APPLY
        self.steps: list[Step] = []
        self.failures: list[Failure] = []
        self._changes: tuple[Change, ...] = ()
        self._warnings: tuple[str, ...] = ()
        self._remarks: list[str] = []
        self._locks: tuple[Lock, ...] = ()
        self._sequences: tuple[str, ...] = ()

    def go(self, files: Sequence[Migration]) -> None:
        """Do it all, in the transaction that is open."""
        tables, sequences = self._relations("r", "p"), self._relations("S")
        self._connection.execute("set local search_path = pg_catalog")
        self._connection.execute(sql.SQL("set local lock_timeout = {}").format(LOCK_WAIT))
        self._connection.add_notice_handler(self._hear)
        try:
            before = snapshot(self._connection)
            if self._try(_APPLY, lambda: self._apply(files)):
                self._changes = compare(before, snapshot(self._connection))
                self._warnings = tuple(self._said)
                self._live()
        finally:
            self._connection.remove_notice_handler(self._hear)
        self._locks = tuple(fetch(self._connection, Lock, _LOCKS, tables=tables))
        self._sequences = tuple(values(self._connection, _SEQUENCES, sequences=sequences))

    def result(self) -> Trial:
        """Return what was found until now."""
        return Trial(
            tuple(self.steps),
            tuple(self.failures),
            self._changes,
            self._warnings,
            tuple(self._remarks),
            self._locks,
            self._sequences,
            time.monotonic() - self._started,
        )

    def _live(self) -> None:
        """Go the steps, as long as one can follow the other."""
        flow = Flow(self._connection)
        if not self._step(_REGISTER, hear_unknown_device, flow):
            if self.failures[-1].sqlstate != _NOT_NULL:
                return
            if not self._step("a device of the project takes its place", take_existing_device, flow):
                return
        for name, act in STEPS:
            if not self._step(name, act, flow):
                return

    def _apply(self, files: Sequence[Migration]) -> None:
        with self._connection.transaction():
            for each in files:
                self._connection.execute("set local search_path to default")
                try:
                    self._connection.execute(each.text.encode())
                except psycopg.Error as error:
                    raise _FileError(f"{each.file}{_line(each.text, error)}") from error
            self._connection.execute("set local search_path = pg_catalog")

    def _step(self, name: str, act: Act, flow: Flow) -> bool:
        """Go one step as the worker; whether the next can follow."""
        self._said.clear()
        flow.remarks.clear()
        went_on = self._try(name, lambda: self._as_request(act, flow))
        why = f": {'; '.join(self._said)}" if self._said else ""
        remarks = (f"{remark}{why}" for remark in flow.remarks)
        self._remarks += [remark for remark in remarks if remark not in self._remarks]
        return went_on

    def _as_request(self, act: Act, flow: Flow) -> str | None:
        with self._connection.transaction():
            self._connection.execute(_REQUEST)
            left_out = act(flow)
            self._connection.execute("set constraints all immediate")  # as at the end of the request
            self._connection.execute("set constraints all deferred")
            self._connection.execute("set local role none")
            self._connection.execute("set local search_path = pg_catalog")
        return left_out

    def _try(self, name: str, act: Callable[[], str | None]) -> bool:
        """Whether it went well, or was left out; what went wrong is noted, and undone."""
        self.now = name
        try:
            if time.monotonic() > self._started + self._seconds:
                raise psycopg.errors.QueryCanceled("the time of the trial is over")
            left_out = act()
        except NoDeviceError as reason:
            self.steps.append(Step(name, "left out", str(reason)))
            return False
        except (RefusedError, _FileError, psycopg.Error) as error:
            if self._connection.broken:
                raise
            self.steps.append(Step(name, "failed"))
            self.failures.append(explain(self._project, name, self._raised(error)))
            return False
        self.steps.append(Step(name, "left out" if left_out else "done", left_out or ""))
        return True

    def _raised(self, error: Exception) -> Raised:
        if isinstance(error, psycopg.Error):
            return Raised.of(error)
        if isinstance(error, RefusedError):
            return self._find_refusal(error)
        raised = (
            Raised.of(error.__cause__) if isinstance(error.__cause__, psycopg.Error) else Raised(None, "")
        )
        return replace(raised, message=f"{error}: {raised.message}")

    def _find_refusal(self, refusal: RefusedError) -> Raised:
        """Do plainly what the function was about to do: that raises the error with all that is known."""
        try:
            with self._connection.transaction(force_rollback=True):
                self._connection.execute(_REQUEST)
                self._connection.execute(refusal.write)
                self._connection.execute("set constraints all immediate")
        except psycopg.Error as error:
            return Raised.of(error)
        code = _CODE.search(str(refusal))  # our functions name it where they can
        return Raised(code[1] if code else None, str(refusal))

    def _relations(self, *kinds: str) -> list[int]:
        return values(self._connection, _RELATIONS, kinds=list(kinds))

    def _hear(self, notice: Diagnostic) -> None:
        if notice.severity_nonlocalized == "WARNING":
            self._said.append(". ".join(filter(None, (notice.message_primary, notice.message_hint))))


class _FileError(Exception):
    """A file was refused; the message says which, and where in it."""


def _line(text: str, error: psycopg.Error) -> str:
    position = error.diag.statement_position
    return f", line {text.count(chr(10), 0, int(position)) + 1}" if position else ""


@contextmanager
def _cancelled_after(connection: Connection, seconds: float) -> Iterator[None]:
    """Cancel whatever runs when the time is over; what comes after sees the clock itself."""
    timer = threading.Timer(seconds, connection.cancel_safe)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
