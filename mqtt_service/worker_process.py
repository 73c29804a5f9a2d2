"""The worker's process: starts a worker and its HTTP server, decides when to stop and with which status.

It stops in order on SIGTERM, on SIGINT, and when a newer process has taken over the MQTT session (status 0),
and when something fails for which a new process is needed (status 1).
"""

import asyncio
import logging
import signal
import socket
from collections.abc import Coroutine
from uuid import uuid4

from mqtt_service import __version__, http_server
from mqtt_service.adapters.supabase.transport import connect
from mqtt_service.config import Settings
from mqtt_service.error_reports import start_error_reports
from mqtt_service.log import configure_logging
from mqtt_service.service import Worker
from mqtt_service.supervision import keep_running, wait_for_unhandled_error
from mqtt_service.watchdog import LoopWatchdog, exit_after, log_exit

log = logging.getLogger(__name__)

# The platform kills 10 s after SIGTERM at the earliest (Heroku and Render allow 30 s), and a thread that
# cannot be ended (it waits for a name server, say) must not keep the process.
_EXIT_AFTER = 9.0

Tasks = set[asyncio.Task[None]]


def run_worker(settings: Settings) -> int:
    """Run until SIGTERM or SIGINT; returns the exit status: 0 after a graceful stop, 1 after a fault.

    Raises ConfigurationError when PORT cannot be bound.
    """
    worker_id = f"{settings.mqtt_client_id}:{uuid4().hex[:8]}"
    configure_logging(settings.log_level, settings.log_format, worker_id)
    if settings.sentry_dsn is not None:
        start_error_reports(settings.sentry_dsn.get_secret_value(), worker_id)
    return asyncio.run(_run(settings, worker_id))


async def _run(settings: Settings, worker_id: str) -> int:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, stopping.set)
    key = settings.supabase_secret_key.get_secret_value()
    client = await connect(settings.supabase_url, key, settings.supabase_timeout)
    with http_server.listening(settings.port) as listener:
        log.info("[SERVICE] mqtt-service %s on port %d", __version__, listener.getsockname()[1])
        if settings.standby:
            log.info(
                "[SERVICE] Standing by beside another service (STANDBY): it has %g s for each command; "
                "HELLOs and pictures are not answered",
                settings.standby,
            )
        return await _supervise(Worker(settings, client, worker_id), listener, stopping)


async def _supervise(worker: Worker, listener: socket.socket, stopping: asyncio.Event) -> int:
    """Run until one of the reasons to stop; returns the exit status."""
    asked, faults = _reasons_to_stop(worker, stopping), _faults(worker, listener)
    tasks = asked | faults
    try:
        with LoopWatchdog():
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            failed = done & faults
            status = 1 if failed else 0
            exit_after(_EXIT_AFTER, status)
            if failed:
                log_exit(", ".join(task.get_name() for task in failed))
            await worker.stop()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    log.info("[SERVICE] Stopped")
    return status


def _reasons_to_stop(worker: Worker, stopping: asyncio.Event) -> Tasks:
    """Each ends when the process is asked to stop."""
    # A newer process with our client id is at work: on a rolling deploy, the sign to stop.
    taken_over = _stop_when(worker.link.taken_over, "another worker took over the MQTT session")
    return {
        asyncio.create_task(_stop_when(stopping, "SIGTERM or SIGINT")),
        asyncio.create_task(taken_over),
    }


async def _stop_when(asked: asyncio.Event, why: str) -> None:
    await asked.wait()
    log.info("[SERVICE] Stopping (%s): claiming no more commands, settling what was claimed", why)


def _faults(worker: Worker, listener: socket.socket) -> Tasks:
    """Run the parts, and what watches over them: each ends with a fault, which is its task's name."""
    parts = {**worker.parts(), "HTTP": lambda: http_server.serve(worker.http_app(), listener)}
    faults: dict[str, Coroutine[object, object, None]] = {
        f"the {name} ended": keep_running(name, part, worker.failures) for name, part in parts.items()
    }
    faults["a callback, task or thread failed"] = wait_for_unhandled_error()
    faults["the command queue has stalled"] = worker.wait_until_queue_stalls()
    faults["a call to Supabase never ends"] = worker.wait_until_call_stalls()
    return {asyncio.create_task(coroutine, name=name) for name, coroutine in faults.items()}
