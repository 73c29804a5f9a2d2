"""What runs and what waits: workers, their client ids, and commands, as the database saw them last. Pure."""

from collections.abc import Iterator

from mqtt_service import __version__
from mqtt_service.adapters.supabase.examination import Examination, QueueSeen, WorkerSeen
from mqtt_service.doctor.findings import Finding

# A worker announces itself once a minute, and a call can take a while.
_RUNS = 150.0
_LATELY = 600.0
_MANY_OVERTAKINGS = 2
_ENOUGH = 1000


def workers(seen: Examination, client_id: str) -> Iterator[Finding]:
    """Who runs, and whether two use one client id; `client_id` is MQTT_CLIENT_ID here."""
    running = [worker for worker in seen.workers if worker.seen_ago <= _RUNS]
    yield _running(running)
    clashes = [
        worker
        for worker in seen.workers
        if worker.overtaken_ago is not None and worker.overtaken_ago < _LATELY
    ]
    if clashes:
        yield _clash(max(clashes, key=lambda worker: worker.overtakings or 0))
    elif client_id in {worker.client_id for worker in running}:
        note = "a worker here with these settings would take its place"
        yield Finding("client_id", "ok", f"{client_id} is in use by one worker; {note}")
    else:
        yield Finding("client_id", "ok", f"{client_id} is used by no other worker")


def _running(running: list[WorkerSeen]) -> Finding:
    if not running:
        cure = "start one (mqtt-service run), or see your host's log for why it ended"
        return Finding("workers", "warning", "no worker announced itself within two minutes", cure)
    named = ", ".join(
        f"{worker.worker} ({worker.version or 'an older version'}, {worker.seen_ago:.0f} s ago)"
        for worker in running
    )
    other = [worker.client_id for worker in running if worker.version != __version__]
    if other:
        cure = f"deploy one version everywhere (this is {__version__}): {', '.join(other)}"
        return Finding("workers", "warning", f"versions differ: {named}", cure)
    return Finding("workers", "ok", named)


def _clash(worker: WorkerSeen) -> Finding:
    """On a deploy an old process is seen once; copies under one id throw each other out again and again."""
    ago = worker.overtaken_ago or 0.0
    cure = "give each running copy a MQTT_CLIENT_ID of its own (a deploy ends by itself)"
    seen = f"two workers used MQTT_CLIENT_ID {worker.client_id}: {worker.overtaken} still ran {ago:.0f} s ago"
    if (worker.overtakings or 0) >= _MANY_OVERTAKINGS:
        return Finding(
            "client_id", "broken", f"{seen}, and {worker.overtakings} were thrown out in turn", cure
        )
    return Finding("client_id", "warning", f"{seen}, beside {worker.worker}", cure)


def commands(queue: QueueSeen) -> Iterator[Finding]:
    """What waits longer than it should, and what to look at first."""
    oldest = (queue.oldest_overdue or 0.0) / 60
    yield _waiting(
        "queue",
        queue.overdue,
        f"commands wait to be sent, the oldest for {oldest:.0f} min",
        "see that a worker runs (above), and the log for [CommandQueue]",
        otherwise="no command waits for longer than two minutes",
    )
    yield _waiting(
        "answers",
        queue.unanswered,
        "commands were sent more than an hour ago and not answered",
        "see whether the device wakes (devices.last_seen_at) and publishes on device/<id>/ack",
        otherwise="no command waits for its answer for longer than an hour",
    )
    yield _waiting(
        "retries",
        queue.given_up,
        "commands of the last day failed for good",
        "last_error of the command says why; if it names the broker, see above",
        otherwise="none within a day",
    )
    yield _waiting(
        "welcomes",
        queue.welcomes_due,
        "mapped devices wait for their welcome",
        "see that a worker runs and hears Realtime (above), and the log for [PROVISIONING]",
        otherwise="no mapped device waits for its welcome",
    )


def _waiting(check: str, number: int, seen: str, cure: str, *, otherwise: str) -> Finding:
    """A warning with this cure where there are any."""
    if not number:
        return Finding(check, "ok", otherwise)
    count = f"{number} or more" if number >= _ENOUGH else str(number)
    return Finding(check, "warning", f"{count} {seen}", cure)
