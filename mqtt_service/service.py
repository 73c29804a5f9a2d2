"""The composition root: wires the parts of a worker, names what runs, and stops it in order.

    queue      row → claim → publish → settle; the device's answer → its row
    devices    HELLO, pictures, mapping → tables and Storage; replies to the device in a visit
    between    a claim, an answer or an event that concerns another part calls it by the callbacks wired here

What belongs to the process (signals, HTTP, supervision) is in `worker_process`.
"""

import asyncio
from collections.abc import Awaitable
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from starlette.applications import Starlette
from supabase import AsyncClient

from mqtt_service import part_options
from mqtt_service.adapters.mqtt.link import MqttLink
from mqtt_service.adapters.mqtt.messages import AtOnce, InboundMessage
from mqtt_service.adapters.supabase.alerts import AlertGateway
from mqtt_service.adapters.supabase.command_bell import RingGateway
from mqtt_service.adapters.supabase.devices import ProvisioningGateway
from mqtt_service.adapters.supabase.examination import ExaminationGateway
from mqtt_service.adapters.supabase.firmware import FirmwareStore
from mqtt_service.adapters.supabase.images import ImageGateway
from mqtt_service.adapters.supabase.measured import (
    MeasuredAcknowledgementGateway,
    MeasuredCommandGateway,
    MeasuredHeartbeatGateway,
)
from mqtt_service.adapters.supabase.project import ProjectGateway
from mqtt_service.adapters.supabase.queue_measures import QueueGauge
from mqtt_service.adapters.supabase.realtime import Doorbell
from mqtt_service.adapters.supabase.realtime_session import Listeners
from mqtt_service.adapters.supabase.retention import RetentionGateway
from mqtt_service.adapters.supabase.storage import PictureStore
from mqtt_service.adapters.supabase.telemetry import TelemetryGateway
from mqtt_service.adapters.supabase.transport import DatabaseFunctions
from mqtt_service.adapters.supabase.visits import VisitGateway
from mqtt_service.adapters.supabase.workers import WorkerGateway
from mqtt_service.config import Settings
from mqtt_service.console_site import ConsoleProject
from mqtt_service.devices.heartbeats import HeartbeatHandler
from mqtt_service.devices.pictures import Pictures
from mqtt_service.devices.provisioning import Provisioner
from mqtt_service.devices.reply_log import ReplyLog
from mqtt_service.devices.telemetry import TelemetryHandler
from mqtt_service.devices.visits import Visits
from mqtt_service.endpoints import http_app
from mqtt_service.health import Snapshot
from mqtt_service.inbound import InboundRouter
from mqtt_service.loop_lag import measure_loop_lag
from mqtt_service.metrics import (
    BROKER_CONNECTED,
    IN_FLIGHT,
    REALTIME_CONNECTED,
    REFUSED_COMMANDS,
    SUPABASE_CONNECTED,
)
from mqtt_service.migrations import read_migrations
from mqtt_service.project_check import check_project, check_schema, set_queue_rules, set_wake_spread
from mqtt_service.protocol.topics import subscriptions
from mqtt_service.queue.acknowledgements import AcknowledgementHandler, AnswerListeners
from mqtt_service.queue.command_queue import CommandQueueProcessor, QueueListeners, QueueOptions
from mqtt_service.retention import Retention
from mqtt_service.session_takeover import SessionTakeover
from mqtt_service.supervision import Failures, Part, wait_until_stalled

# `Worker.stop` must end well before 10 s, after which a platform may kill the process.
_SETTLE_TIMEOUT = 3.5
_WRITE_TIMEOUT = 1.5
_GIVE_BACK_TIMEOUT = 1.0
_CLOSE_TIMEOUT = 2.0
# Messages that wait this long for the database make the worker unhealthy.
_MAX_WRITE_WAIT = 10.0
# A message that a handler has had for so long makes it degraded: commands still flow.
_MAX_HANDLER_WAIT = 60.0
# Beyond a poll interval and a lease, or a call's time-out: nothing waits longer than that, since an API that
# asks for a pause gets two minutes at most.
_STALLED_AFTER = 180.0


class Worker:
    """One worker: everything between the settings and the two services that it connects.

    `worker_id` names this process and is `settings.mqtt_client_id`, a colon and something unique.
    `visit_lease`: another worker takes over a device's visit that was not renewed for so many seconds.
    """

    def __init__(
        self, settings: Settings, client: AsyncClient, worker_id: str, *, visit_lease: float = 10.0
    ) -> None:
        self._settings = settings
        self._worker_id = worker_id
        self._started = asyncio.get_running_loop().time()
        self.failures = Failures()
        self._database = database = DatabaseFunctions(client)
        self._takeover = SessionTakeover(
            WorkerGateway(database, worker_id), settings.mqtt_client_id, worker_id
        )
        self.link = MqttLink(
            part_options.mqtt_options(settings),
            subscriptions=subscriptions(settings.mqtt_shared_group),
            handler=self._handle,
            at_once=self._handle_at_once,
            on_connected=self._poll_now,
            has_newer_process=self._takeover.has_newer_process,
        )
        self.provisioner = Provisioner(
            ProvisioningGateway(database, standby=settings.standby), on_queued=self._poll_now
        )
        self.doorbell = Doorbell(
            settings.supabase_url,
            settings.supabase_secret_key.get_secret_value(),
            Listeners(self._poll_now, self.provisioner.device_mapped, self._realtime_joined),
            RingGateway(database).ring,
        )
        self._wire_queue(database, FirmwareStore(client))
        self._wire_devices(database, client, visit_lease)
        self._wire_inbound(database)
        self.alerts = part_options.alerts(settings, AlertGateway(database, worker_id), worker_id, self.link)
        self._queue_gauge = QueueGauge(database)
        self.retention = Retention(
            RetentionGateway(database, worker_id), PictureStore(client), part_options.keep(settings)
        )

    def _wire_queue(self, database: DatabaseFunctions, firmware: FirmwareStore) -> None:
        settings = self._settings
        self._commands = MeasuredCommandGateway(
            database, self._worker_id, part_options.retry_policy(settings)
        )
        self.queue = CommandQueueProcessor(
            self._commands,
            self.link,
            QueueOptions(settings.poll_interval, settings.lease_duration, settings.wake_format),
            QueueListeners(
                on_welcome_due=self.provisioner.welcome_due,
                on_visits_due=self._visits_due,
                on_new_command=self.doorbell.command_found,
            ),
            firmware.sign,
        )

    def _wire_devices(self, database: DatabaseFunctions, client: AsyncClient, visit_lease: float) -> None:
        settings, worker_id = self._settings, self._worker_id
        policy = part_options.visit_policy(settings, visit_lease)
        visits = VisitGateway(database, worker_id, policy)
        self.pictures = Pictures(
            ImageGateway(database, worker_id, policy, settings.supabase_url),
            PictureStore(client),
            part_options.limits(settings),
            worker_id,
            temperature_unit=settings.temperature_unit,
            give_up=part_options.give_up_policy(settings),
        )
        self.telemetry = TelemetryHandler(
            TelemetryGateway(database, worker_id, policy),
            worker_id,
            settings.temperature_unit,
            self.link.session_started_at,
        )
        self.replies = ReplyLog(visits)
        self.visits = Visits(
            visits,
            self.link,
            self.pictures,
            self.replies,
            part_options.visit_options(settings),
            self._poll_now,
        )
        self.heartbeats = HeartbeatHandler(
            MeasuredHeartbeatGateway(database, worker_id, policy),
            self.visits,
            worker_id,
            shared=settings.mqtt_shared_group is not None,
        )
        self.handover = part_options.handover(settings)

    def _wire_inbound(self, database: DatabaseFunctions) -> None:
        self.acknowledgements = AcknowledgementHandler(
            MeasuredAcknowledgementGateway(
                database, self._worker_id, part_options.retry_policy(self._settings)
            ),
            self.queue,
            AnswerListeners(
                self.visits.command_acknowledged,
                self.visits.stored_by_another,
                self.visits.command_in_progress,
            ),
            self._worker_id,
            shared=self._settings.mqtt_shared_group is not None,
            standby=self._stands_by,
            session_started_at=self.link.session_started_at,
        )
        self.inbound = InboundRouter(
            self.acknowledgements,
            self.heartbeats,
            self.pictures,
            self.visits,
            self.telemetry,
            self.handover,
            standby=self._stands_by,
        )

    @property
    def _stands_by(self) -> bool:
        return self._settings.standby > 0

    def parts(self) -> dict[str, Part]:
        """What runs side by side until the worker stops; the queue itself is first."""
        devices: dict[str, Part] = {
            "HELLOs": self.heartbeats.run,
            "pictures": self.pictures.run,
            "readings": self.telemetry.run,
            "replies": self.replies.run,
            "visits": self.visits.run,
        }
        if self._stands_by:
            devices = {}
        elif self.handover is not None:
            devices = {**({} if self.handover.exclusive else devices), "hand-over": self.handover.run}
        return {
            "command queue": self.queue.run,
            "settling": self.queue.run_settler,
            "acknowledgements": self.acknowledgements.run,
            **devices,
            "provisioning": self.provisioner.run,
            **({} if self.alerts is None else {"alerts": self.alerts.run}),
            # Beside another service, which may look after its rows itself, nothing is removed.
            **({} if self._stands_by else {"retention": self.retention.run}),
            "event loop's lag": measure_loop_lag,
            "look at the project": self._check_project,
            "presence": self._takeover.run,
            "MQTT link": self._run_link,
            "Realtime doorbell": self.doorbell.run,
        }

    def http_app(self) -> Starlette:
        """The worker's HTTP endpoints."""
        token = self._settings.http_token
        console = None
        if self._settings.console:
            key = self._settings.key_of_console()
            console = ConsoleProject(self._settings.supabase_url, key, served_by="worker")
        return http_app(
            self.snapshot, token.get_secret_value() if token else None, self._measure, console=console
        )

    async def _measure(self) -> None:
        """Bring the gauges up to date that are not kept as things happen."""
        snapshot = self.snapshot()
        IN_FLIGHT.set(self._commands.in_hand)
        REFUSED_COMMANDS.set(snapshot.refused_count)
        BROKER_CONNECTED.set(snapshot.mqtt_connected)
        REALTIME_CONNECTED.set(snapshot.realtime_connected)
        SUPABASE_CONNECTED.set(snapshot.polling)
        await self._queue_gauge.refresh()

    async def stop(self) -> None:
        """Claim no more, finish what was begun, then disconnect from the broker; takes 8 s at most."""
        await self.queue.stop(_SETTLE_TIMEOUT)
        await _within(_WRITE_TIMEOUT, self._received_is_written())
        await _within(_GIVE_BACK_TIMEOUT, self.visits.stop())
        await _within(_CLOSE_TIMEOUT, self.link.close())

    async def _received_is_written(self) -> None:
        await self.acknowledgements.drained()
        await self.heartbeats.drained()
        if self.handover is not None:
            await self.handover.drained()

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
            refused_count=self.queue.refused[0],
            refused_example=self.queue.refused[1],
        )

    def _supabase_error(self) -> str | None:
        """Why the database does not take what it should: results and answers can wait while polls succeed."""
        parts = (self.acknowledgements, self.heartbeats, self.pictures, self.telemetry)
        waits = (part.longest_wait for part in parts)
        if self.queue.settling_overdue or max(waits) > _MAX_WRITE_WAIT:
            return self.queue.last_error or "results and answers wait to be written; see the log"
        return self.queue.last_error

    def _failing(self) -> dict[str, str]:
        """Parts that failed lately, and messages whose handling does not end."""
        failing = self.failures.recent()
        if self.link.longest_wait > _MAX_HANDLER_WAIT:
            failing["inbound"] = f"a message has waited for {self.link.longest_wait:.0f} s; see the log"
        return failing

    async def wait_until_queue_stalls(self) -> None:
        """Return once the queue does nothing any more, not even fail."""
        longest = self._settings.poll_interval + self._settings.lease_duration + _STALLED_AFTER
        await wait_until_stalled("The command queue", lambda: self.queue.progress, longest)

    async def wait_until_call_stalls(self) -> None:
        """Return once a call of the database has been under way for longer than its time-outs allow."""
        longest = self._settings.supabase_timeout + _STALLED_AFTER
        await wait_until_stalled(
            "A call to Supabase", lambda: self._database.oldest_call or object(), longest
        )

    async def _check_project(self) -> None:
        await check_schema(ExaminationGateway(self._database), read_migrations())
        project = ProjectGateway(self._database)
        if not self._stands_by:
            await set_wake_spread(project, self._settings.wake_spread)
            await set_queue_rules(project, part_options.queue_rules(self._settings))
        await check_project(project, self._settings.temperature_unit)
        await asyncio.Event().wait()  # looked at once, and a part never ends

    async def _run_link(self) -> None:
        # Announced before the broker disconnects another process with our client id, so that it finds us.
        await self._takeover.has_newer_process()
        await self.link.run()

    # Callbacks from one part to another, which may not exist yet when the callback is passed.

    def _poll_now(self) -> None:
        self.queue.poll_now()

    def _visits_due(self) -> None:
        self.visits.take_over_lapsed()

    async def _handle(self, message: InboundMessage) -> None:
        await self.inbound.handle(message)

    def _handle_at_once(self, message: InboundMessage) -> AtOnce:
        return self.inbound.handle_at_once(message)

    def _realtime_joined(self) -> None:
        """Events may have been missed while the channel was away."""
        self.queue.poll_now()
        self.provisioner.welcome_due()


async def _within(seconds: float, work: Awaitable[None]) -> None:
    """Do this, or as much of it as so many seconds allow."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await work
