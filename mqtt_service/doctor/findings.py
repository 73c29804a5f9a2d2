"""What a check found, as plain data, and how checks follow each other."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from mqtt_service.errors import ServiceError

State = Literal["ok", "warning", "broken", "skipped"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at. `name` is one of CHECKS, `cure` says in one line what to do where it is not ok."""

    name: str
    state: State
    seen: str
    cure: str = ""


@dataclass(frozen=True, slots=True)
class Check:
    """What a finding of this name is about: its heading in the report, and the question that it answers."""

    heading: str
    question: str


# In the order in which things fail for people, and of the report. docs/doctor.md has the same table.
CHECKS = {
    "settings": Check("Configuration", "can every setting be read?"),
    "http_port": Check("Configuration", "can the worker listen on PORT?"),
    "project_name": Check("Network", "does the host of SUPABASE_URL resolve?"),
    "project_answers": Check("Network", "does the project's API answer?"),
    "key": Check("Key", "is it a secret key, and of this project?"),
    "schema": Check("Database", "are the migrations applied, and of this version?"),
    "functions": Check("Database", "are all functions of the migrations there?"),
    "grants": Check("Database", "may the key use the functions and tables?"),
    "triggers": Check("Database", "are the triggers of the migrations there and on?"),
    "columns": Check("Database", "does a column of yours refuse the worker's rows?"),
    "migrations_check": Check("Database", "does the full check of the database find anything?"),
    "clock": Check("Database", "do the clocks agree?"),
    "publication": Check("Realtime", "are devices and device_commands published?"),
    "ring": Check("Realtime", "does a ring of the database arrive?"),
    "row_events": Check("Realtime", "does a change of a device arrive?"),
    "bucket": Check("Storage", "is the bucket device-images there, and private?"),
    "pictures": Check("Storage", "can a picture be stored, read and removed?"),
    "broker_name": Check("Broker", "does MQTT_HOST resolve?"),
    "broker_answers": Check("Broker", "does something listen on MQTT_PORT?"),
    "certificate": Check("Broker", "is its certificate trusted, for this name, for weeks to come?"),
    "credentials": Check("Broker", "does the broker let the worker in?"),
    "limits": Check("Broker", "do the broker's limits suffice?"),
    "sessions": Check("Broker", "does the broker keep a session?"),
    "subscribe": Check("Broker", "may the worker hear devices?"),
    "publish": Check("Broker", "may the worker speak to devices?"),
    "workers": Check("Workers", "does a worker run, and in which version?"),
    "client_id": Check("Workers", "do two workers use one MQTT_CLIENT_ID?"),
    "queue": Check("Commands", "are commands processed?"),
    "answers": Check("Commands", "do devices answer?"),
    "retries": Check("Commands", "were commands given up lately?"),
    "welcomes": Check("Commands", "are mapped devices welcomed?"),
}


@dataclass(frozen=True, slots=True)
class Step:
    """Finds something under each of `names`. Where an `essential` one is broken, the rest is pointless."""

    names: Sequence[str]
    look: Callable[[], Awaitable[Iterable[Finding]]]
    essential: bool = False


async def walk(steps: Iterable[Step]) -> AsyncIterator[Finding]:
    """Take the steps in order; after an essential one that is broken, the names of the others are skipped."""
    reason = ""
    for step in steps:
        if reason:
            for finding in skipped(step.names, reason):
                yield finding
            continue
        for finding in await _look(step):
            yield finding
            if step.essential and finding.state == "broken":
                reason = f"{CHECKS[finding.name].heading}: {finding.name} is broken"


async def _look(step: Step) -> list[Finding]:
    try:
        found = list(await step.look())
    except ServiceError as error:
        found = [from_error(step.names[0], error)]
    named = {finding.name for finding in found}
    reason = f"{found[0].name} is {found[0].state}" if found else "nothing was found"
    return [*found, *skipped([name for name in step.names if name not in named], reason)]


def skipped(names: Iterable[str], reason: str) -> list[Finding]:
    """Findings that say why nothing was looked at."""
    return [Finding(name, "skipped", f"not looked at: {reason}") for name in names]


def from_error(name: str, error: ServiceError, cure: str = "") -> Finding:
    """A broken finding; our errors say what happened and, after a colon or a semicolon, what to do."""
    text = str(error)
    if cure:
        return Finding(name, "broken", text, cure)
    seen, _, advice = text.partition("; ")
    if not advice:
        seen, _, advice = text.rpartition(": ")
    return Finding(name, "broken", seen or text, advice if seen else "see the message, then run this again")


def exit_status(findings: Iterable[Finding]) -> int:
    """1 where something is broken, else 0."""
    return 1 if any(finding.state == "broken" for finding in findings) else 0
