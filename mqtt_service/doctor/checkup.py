"""All checks of one project and its broker, in the order of CHECKS."""

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime

import httpx
from supabase import AsyncClient

from mqtt_service.adapters.mqtt.options import MqttOptions
from mqtt_service.adapters.supabase.command_bell import RingGateway
from mqtt_service.adapters.supabase.examination import Examination, ExaminationGateway
from mqtt_service.adapters.supabase.project import ProjectGateway
from mqtt_service.adapters.supabase.transport import DatabaseFunctions, connect
from mqtt_service.config import Settings
from mqtt_service.doctor import activity, database, network, realtime, storage
from mqtt_service.doctor.broker import inspect_login, inspect_session, inspect_topics
from mqtt_service.doctor.certificate import inspect_certificate, inspect_port
from mqtt_service.doctor.findings import CHECKS, Finding, Step, skipped, walk
from mqtt_service.doctor.key import inspect_key
from mqtt_service.errors import MigrationMissingError
from mqtt_service.migrations import Migration

# Looks at the database itself, by its own URL.
FullCheck = Callable[[Sequence[Migration]], Awaitable[Finding]]

_NO_SCHEMA = "Database: schema is broken"
BROKER = tuple(name for name, check in CHECKS.items() if check.heading == "Broker")


class Checkup:
    """One look at everything that these settings name. `files` are the migrations of this version."""

    def __init__(
        self,
        settings: Settings,
        client: AsyncClient,
        mqtt: MqttOptions,
        files: Sequence[Migration],
        full_check: FullCheck | None = None,
    ) -> None:
        self._settings = settings
        self._key = settings.supabase_secret_key.get_secret_value()
        self._client = client
        self._database = DatabaseFunctions(client)
        # An id that begins as the worker's does, since a broker may have rules about that.
        self._mqtt = replace(mqtt, client_id=f"{mqtt.client_id}-doctor-{secrets.token_hex(2)}")
        self._files = files
        self._full_check = full_check
        self._answer: network.Answer | None = None
        self._seen: Examination | None = None
        self._seen_at = datetime.now(UTC)

    async def project(self) -> AsyncIterator[Finding]:
        """Everything that is asked of Supabase but for what runs there."""
        host = httpx.URL(self._settings.supabase_url).host
        steps = [
            Step(
                ["project_name"],
                lambda: network.resolve("project_name", host, "SUPABASE_URL"),
                essential=True,
            ),
            Step(["project_answers"], self._project_answers, essential=True),
            Step(["key"], self._inspect_key, essential=True),
            Step(["schema"], self._schema),
            Step(["functions", "grants", "triggers"], self._objects),
            Step(["columns"], self._columns),
            Step(["migrations_check"], self._check_migrations),
            Step(["clock"], self._clock),
            Step(["publication"], self._publication),
            Step(["ring", "row_events"], self._realtime),
            Step(["bucket", "pictures"], self._storage),
        ]
        async for finding in walk(steps):
            yield finding

    async def broker(self) -> AsyncIterator[Finding]:
        """Everything that is asked of the broker."""
        settings, options = self._settings, self._mqtt
        steps = [
            Step(
                ["broker_name"],
                lambda: network.resolve("broker_name", options.host, "MQTT_HOST"),
                essential=True,
            ),
            Step(["broker_answers"], lambda: inspect_port(options), essential=True),
            Step(["certificate"], lambda: inspect_certificate(options, datetime.now(UTC)), essential=True),
            Step(
                ["credentials", "limits"],
                lambda: inspect_login(options, settings.mqtt_shared_group),
                essential=True,
            ),
            Step(["sessions"], lambda: inspect_session(options)),
            Step(["subscribe", "publish"], lambda: inspect_topics(options, secrets.token_hex(6))),
        ]
        async for finding in walk(steps):
            yield finding

    def activity(self) -> Iterable[Finding]:
        """What runs and what waits, as `project` saw it in the database."""
        if self._seen is None:
            names = [name for name, check in CHECKS.items() if check.heading in {"Workers", "Commands"}]
            return skipped(names, "the database could not be asked")
        return [
            *activity.workers(self._seen, self._settings.mqtt_client_id),
            *activity.commands(self._seen.queue),
        ]

    async def _project_answers(self) -> Iterable[Finding]:
        settings = self._settings
        self._answer = await network.ask(settings.supabase_url, self._key, settings.supabase_timeout)
        return [Finding("project_answers", "ok", f"{settings.supabase_url} answers")]

    async def _inspect_key(self) -> Iterable[Finding]:
        finding = inspect_key(self._key, self._settings.supabase_url, datetime.now(UTC))
        if finding.state == "broken" or self._answer is None:
            return [finding]
        if self._answer.status == httpx.codes.UNAUTHORIZED:
            cure = "set SUPABASE_SECRET_KEY to a secret key of this project (dashboard: Settings, API Keys)"
            seen = "the project refuses the key (401): it is of another project, or was removed"
            return [Finding("key", "broken", seen, cure)]
        return [finding]

    async def _schema(self) -> Iterable[Finding]:
        gateway = ExaminationGateway(self._database)
        functions, triggers = database.functions_of(self._files), database.triggers_of(self._files)
        try:
            self._seen = await gateway.examine(list(functions), list(triggers))
        except MigrationMissingError:
            return [database.schema("", self._files)]
        self._seen_at = datetime.now(UTC)
        return [database.schema(self._seen.version, self._files)]

    async def _objects(self) -> Iterable[Finding]:
        if self._seen is None:
            return skipped(["functions", "grants", "triggers"], _NO_SCHEMA)
        functions, triggers = database.functions_of(self._files), database.triggers_of(self._files)
        return database.objects(self._seen, functions, triggers)

    async def _columns(self) -> Iterable[Finding]:
        if self._seen is None:
            return skipped(["columns"], _NO_SCHEMA)
        project = await ProjectGateway(self._database).inspect()
        return [database.columns(project, self._settings.temperature_unit)]

    async def _check_migrations(self) -> Iterable[Finding]:
        if self._full_check is None:
            return skipped(["migrations_check"], "set SUPABASE_DB_URL for it (with the extra database)")
        return [await self._full_check(self._files)]

    async def _clock(self) -> Iterable[Finding]:
        if self._seen is None or self._answer is None:
            return skipped(["clock"], _NO_SCHEMA)
        ahead = {"the database": (self._seen.now - self._seen_at).total_seconds()}
        if self._answer.server_time is not None:
            ahead["the API"] = (self._answer.server_time - self._answer.local_time).total_seconds()
        return [network.compare_clocks(ahead)]

    async def _publication(self) -> Iterable[Finding]:
        if self._seen is None:
            return skipped(["publication"], _NO_SCHEMA)
        return [database.publication(self._seen)]

    async def _realtime(self) -> Iterable[Finding]:
        if self._seen is None:
            return skipped(["ring", "row_events"], _NO_SCHEMA)
        return await realtime.inspect_realtime(
            realtime.Project(
                self._settings.supabase_url,
                self._key,
                self._client,
                RingGateway(self._database),
                self._seen.foreign_triggers,
                published=not self._seen.unpublished,
            )
        )

    async def _storage(self) -> Iterable[Finding]:
        return await storage.inspect_storage(self._client, self._settings.image_max_bytes)


@asynccontextmanager
async def checkup(
    settings: Settings,
    mqtt: MqttOptions,
    files: Sequence[Migration],
    full_check: FullCheck | None = None,
) -> AsyncIterator[Checkup]:
    """Make a checkup, whose connections to the API are closed at the end; nothing is asked yet."""
    key = settings.supabase_secret_key.get_secret_value()
    client = await connect(settings.supabase_url, key, settings.supabase_timeout)
    try:
        yield Checkup(settings, client, mqtt, files, full_check)
    finally:
        await client.postgrest.aclose()
