"""The composition root: wires the worker's parts, supervises them, and shuts them down in order.

Each part is a coroutine that never ends by itself; `supervision` says what becomes of one that fails.
"""

import asyncio
import logging
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import uvicorn
from supabase import AsyncClient

from mqtt_service import __version__
from mqtt_service.adapters.mqtt.link import InboundMessage, MqttLink, MqttOptions
from mqtt_service.adapters.supabase.acknowledgements import AcknowledgementGateway
from mqtt_service.adapters.supabase.commands import CommandGateway, RetryPolicy
from mqtt_service.adapters.supabase.devices import HeartbeatGateway, ProvisioningGateway
from mqtt_service.adapters.supabase.functions import EdgeFunction
from mqtt_service.adapters.supabase.images import ImageGateway
from mqtt_service.adapters.supabase.realtime import Doorbell, Listeners
from mqtt_service.adapters.supabase.storage import PictureStore
from mqtt_service.adapters.supabase.transport import DatabaseFunctions, connect
from mqtt_service.adapters.supabase.visits import VisitGateway, VisitPolicy
from mqtt_service.adapters.supabase.workers import WorkerGateway
from mqtt_service.config import Settings
from mqtt_service.devices.handover import Handover
from mqtt_service.devices.heartbeats import HeartbeatHandler
from mqtt_service.devices.pictures import Pictures
from mqtt_service.devices.provisioning import Provisioner
from mqtt_service.devices.reply_log import ReplyLog
from mqtt_service.devices.visit import VisitOptions
from mqtt_service.devices.visits import Visits
from mqtt_service.errors import ConfigurationError
from mqtt_service.health import Snapshot, health_app
from mqtt_service.inbound import Inbound
from mqtt_service.log import configure_logging
from mqtt_service.protocol.assembly import Limits
from mqtt_service.protocol.topics import subscriptions
from mqtt_service.queue.acknowledgements import AcknowledgementHandler, AnswerListeners
from mqtt_service.queue.command_queue import CommandQueueProcessor, QueueOptions
from mqtt_service.session_takeover import SessionTakeover
from mqtt_service.supervision import (
    Failures,
    LoopWatch,
    Part,
    first_fault,
    kept_running,
    leave_at_last,
    no_progress,
    tell_leaving,
)

log = logging.getLogger(__name__)

# The platform kills 10 s after SIGTERM at the earliest (Heroku and Render allow 30 s).
_SETTLE_PATIENCE = 3.5
_ACK_PATIENCE = 1.5
_GIVE_BACK_PATIENCE = 1.0
_CLOSE_PATIENCE = 2.0
# Answers that wait this long for the database make the worker unhealthy.
_STUCK = 10.0
# So does a message that a handler has had for so long, but then commands still flow.
_LONG_WAIT = 60.0
# A thread that cannot be ended (in a name server's silence, say) must not keep the process.
_LAST_RESORT = 9.0
# A queue that has not moved this long, beyond its poll interval and a lease, never will: an API that asks for
# patience is given two minutes.
_LONGEST_TURN = 180.0


class Worker:
    """One worker process: everything between the settings and the two services that it connects."""

    def __init__(
        self, settings: Settings, client: AsyncClient, worker_id: str, *, visit_lease: float = 10.0
    ) -> None:
        self._settings = settings
        self._database = database = DatabaseFunctions(client)
        retries = RetryPolicy(settings.max_retries, settings.retry_delay, settings.command_ttl)
        wakes = VisitPolicy(
            settings.register_devices,
            settings.registrations_per_minute,
            settings.redelivery_limit,
            visit_lease,
        )
        visits = VisitGateway(database, worker_id, wakes)
        self._worker_id = worker_id
        self.failures = Failures()
        self._started = asyncio.get_running_loop().time()
        self._takeover = SessionTakeover(
            WorkerGateway(database, worker_id), settings.mqtt_client_id, worker_id
        )
        self.link = MqttLink(
            _mqtt_options(settings),
            subscriptions=subscriptions(settings.mqtt_shared_group),
            handler=self._handle,
            on_connected=self._wake,
            has_newer_process=self._takeover.has_newer_process,
        )
        self.provisioner = Provisioner(ProvisioningGateway(database), on_queued=self._wake)
        self.doorbell = Doorbell(
            settings.supabase_url,
            settings.supabase_secret_key.get_secret_value(),
            Listeners(self._wake, self.provisioner.device_mapped, self._joined),
        )
        self.queue = CommandQueueProcessor(
            CommandGateway(database, worker_id, retries),
            self.link,
            QueueOptions(settings.poll_interval, settings.lease_duration, settings.wake_format),
            on_welcome_due=self.provisioner.welcome_due,
            on_visits_due=self._visits_due,
            on_found=self.doorbell.found,
        )
        self.pictures = Pictures(
            ImageGateway(database, worker_id, wakes), PictureStore(client), _limits(settings), worker_id
        )
        self.replies = ReplyLog(visits)
        self.visits = Visits(
            visits, self.link, self.pictures, self.replies, _visit_options(settings), self._wake
        )
        shared = settings.mqtt_shared_group is not None
        self.acknowledgements = AcknowledgementHandler(
            AcknowledgementGateway(database, worker_id, retries),
            self.queue,
            AnswerListeners(self.visits.command_acknowledged, self.visits.stored_by_another),
            worker_id,
            shared=shared,
            heard_since=self.link.heard_since,
        )
        self.heartbeats = HeartbeatHandler(
            HeartbeatGateway(database, worker_id, wakes), self.visits, worker_id, shared=shared
        )
        self.handover = _handover(settings)
        self.inbound = Inbound(
            self.acknowledgements, self.heartbeats, self.pictures, self.visits, self.handover
        )

    def parts(self) -> dict[str, Part]:
        """What runs side by side until the worker stops; the queue itself is first."""
        devices: dict[str, Part] = {
            "HELLOs": self.heartbeats.run,
            "pictures": self.pictures.run,
            "replies": self.replies.run,
            "visits": self.visits.run,
        }
        if self.handover is not None:
            devices = {**({} if self.handover.alone else devices), "hand-over": self.handover.run}
        return {
            "command queue": self.queue.run,
            "settling": self.queue.run_settler,
            "acknowledgements": self.acknowledgements.run,
            **devices,
            "provisioning": self.provisioner.run,
            "MQTT link": self._run_link,
            "Realtime doorbell": self.doorbell.run,
        }

    async def _run_link(self) -> None:
        await self._takeover.has_newer_process()  # before the broker puts another process out for us
        await self.link.run()

    async def stop(self) -> None:
        """Claim no more, finish what is in hand, then leave the broker; bounded well below 10 s."""
        await self.queue.stop(_SETTLE_PATIENCE)
        with suppress(TimeoutError):
            async with asyncio.timeout(_ACK_PATIENCE):
                await self.acknowledgements.drained()
                await self.heartbeats.drained()
                if self.handover is not None:
                    await self.handover.drained()
        with suppress(TimeoutError):
            async with asyncio.timeout(_GIVE_BACK_PATIENCE):
                await self.visits.stop()
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_PATIENCE):
                await self.link.close()

    def snapshot(self) -> Snapshot:
        """The worker now, for /health."""
        now = asyncio.get_running_loop().time()
        since_poll = None if self.queue.last_poll is None else now - self.queue.last_poll
        link, realtime = self.link.describe(), self.doorbell.status
        return Snapshot(
            mqtt_connected=link.connected,
            mqtt_host=self._settings.mqtt_host,
            mqtt_port=self._settings.mqtt_port,
            mqtt_error=link.last_error,
            queue_running=self.queue.running,
            poll_interval=self._settings.poll_interval,
            seconds_since_poll=since_poll,
            last_poll_at=None if since_poll is None else datetime.now(UTC) - timedelta(seconds=since_poll),
            supabase_error=self._supabase_error(),
            realtime_connected=realtime.connected,
            realtime_error=realtime.last_error,
            edge_error=self.handover.last_error if self.handover else None,
            worker=self._worker_id,
            uptime=now - self._started,
            failing=self._failing(),
        )

    def _failing(self) -> dict[str, str]:
        """Parts that failed lately, and messages that nobody gets done with."""
        failing = self.failures.recent()
        if self.link.longest_wait > _LONG_WAIT:
            failing["inbound"] = f"a message has waited for {self.link.longest_wait:.0f} s; see the log"
        return failing

    async def stands_still(self) -> None:
        """Return once the queue does nothing any more, not even fail."""
        settings = self._settings
        longest = settings.poll_interval + settings.lease_duration + _LONGEST_TURN
        await no_progress("The command queue", lambda: self.queue.progress, longest)

    async def waits_in_vain(self) -> None:
        """Return once a call of the database has been under way for longer than its time-outs allow."""
        longest = self._settings.supabase_timeout + _LONGEST_TURN
        await no_progress("A call to Supabase", lambda: self._database.oldest_call or object(), longest)

    def _supabase_error(self) -> str | None:
        """Why the database does not take what it should; settling and answers can be stuck on their own."""
        waits = (part.longest_wait for part in (self.acknowledgements, self.heartbeats, self.pictures))
        if self.queue.settling_stuck or max(waits) > _STUCK:
            return self.queue.last_error or "results and answers wait to be written; see the log"
        return self.queue.last_error

    def _wake(self) -> None:
        self.queue.wake()

    def _visits_due(self) -> None:
        self.visits.take_over_lapsed()

    async def _handle(self, message: InboundMessage) -> None:
        await self.inbound.handle(message)

    def _joined(self) -> None:
        """Events may have been missed while the channel was away."""
        self.queue.wake()
        self.provisioner.welcome_due()


def _mqtt_options(settings: Settings) -> MqttOptions:
    return MqttOptions(
        host=settings.mqtt_host,
        port=settings.mqtt_port,
        tls=settings.mqtt_tls,
        ca_file=settings.mqtt_ca_file,
        username=settings.mqtt_username,
        password=settings.mqtt_password.get_secret_value() if settings.mqtt_password else None,
        client_id=settings.mqtt_client_id,
    )


def _handover(settings: Settings) -> Handover | None:
    if settings.edge_handover == "off":
        return None
    key = settings.supabase_secret_key.get_secret_value()
    function = EdgeFunction(settings.supabase_url, key, settings.edge_function, timeout=settings.edge_timeout)
    return Handover(function, mode=settings.edge_handover, limit=settings.edge_buffer)


def _visit_options(settings: Settings) -> VisitOptions:
    return VisitOptions(
        silence=settings.image_silence, longest=settings.visit_max_age, wake_format=settings.wake_format
    )


def _limits(settings: Settings) -> Limits:
    return Limits(
        max_bytes=settings.image_max_bytes,
        max_chunks=settings.image_max_chunks,
        per_device=settings.images_per_device,
        in_flight=settings.images_in_flight,
        buffered_bytes=settings.image_buffer_bytes,
    )


def run_worker(settings: Settings) -> int:
    """Run until SIGTERM or SIGINT; returns 0 after a graceful stop, 1 after a part kept failing.

    Raises ConfigurationError when PORT cannot be bound.
    """
    worker_id = f"{settings.mqtt_client_id}:{uuid4().hex[:8]}"
    configure_logging(settings.log_level, settings.log_format, worker_id)
    return asyncio.run(_run(settings, worker_id))


async def _run(settings: Settings, worker_id: str) -> int:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, stopping.set)
    key = settings.supabase_secret_key.get_secret_value()
    client = await connect(settings.supabase_url, key, settings.supabase_timeout)
    with _listening(settings.port) as listener:
        log.info("[SERVICE] mqtt-service %s on port %d", __version__, listener.getsockname()[1])
        return await _supervise(Worker(settings, client, worker_id), listener, stopping)


async def _supervise(worker: Worker, listener: socket.socket, stopping: asyncio.Event) -> int:
    parts = {**worker.parts(), "HTTP": lambda: _serve(worker, listener)}
    # A task's name is what has happened when it is done.
    tasks = {
        asyncio.create_task(kept_running(name, part, worker.failures), name=f"the {name} ended")
        for name, part in parts.items()
    }
    tasks.add(asyncio.create_task(_leave(stopping, "SIGTERM or SIGINT"), name="leave"))
    # A newer instance with our client id is at work: on a rolling deploy, the sign to finish.
    taken_over = _leave(worker.link.taken_over, "another worker took over the MQTT session")
    tasks.add(asyncio.create_task(taken_over, name="leave"))
    tasks.add(asyncio.create_task(first_fault(), name="a callback, task or thread failed"))
    tasks.add(asyncio.create_task(worker.stands_still(), name="the command queue stands still"))
    tasks.add(asyncio.create_task(worker.waits_in_vain(), name="a call to Supabase never ends"))
    try:
        with LoopWatch():
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            graceful = all(task.get_name() == "leave" for task in done)
            leave_at_last(0 if graceful else 1, _LAST_RESORT)
            if not graceful:
                tell_leaving(", ".join(task.get_name() for task in done))
            await worker.stop()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    log.info("[SERVICE] Stopped")
    return 0 if graceful else 1


async def _leave(asked: asyncio.Event, why: str) -> None:
    await asked.wait()
    log.info("[SERVICE] Stopping (%s): claiming no more commands, settling what is in hand", why)


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: SIGTERM is the service's own."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone."""
        yield


async def _serve(worker: Worker, listener: socket.socket) -> None:
    config = uvicorn.Config(health_app(worker.snapshot), log_config=None, access_log=False, lifespan="off")
    server = _Server(config)
    try:
        await server.serve(sockets=[listener])
    finally:
        server.should_exit = True


@contextmanager
def _listening(port: int) -> Iterator[socket.socket]:
    """The HTTP port, bound before anything else starts; raises ConfigurationError when it cannot be had."""
    try:
        listener = socket.create_server(("0.0.0.0", port))
    except OSError as error:
        raise ConfigurationError(
            [f"PORT: cannot listen on {port}: {error.strerror}; choose another"]
        ) from error
    with listener:
        yield listener
