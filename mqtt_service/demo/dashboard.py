"""What people and the back end do in the demo, with supabase-py, as a dashboard would.

An admin of Alder Farms maps devices from the pool, an operator queues commands, watches them and looks at
pictures; row-level security decides what each of the two may. The back end (service key) edits devices.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Any, Self
from uuid import UUID

import httpx
from realtime import RealtimePostgresChangesListenEvent
from supabase import AsyncClient, AsyncClientOptions

from mqtt_service.devstack.keys import JwtKeys

OPERATOR = ("a0000000-0000-4000-8000-0000000000e2", "operator.a@example.test")
ADMIN = ("a0000000-0000-4000-8000-0000000000e3", "admin.a@example.test")
SITES = {
    "Alder North": "a0000000-0000-4000-8000-000000000021",
    "Alder South": "a0000000-0000-4000-8000-000000000022",
}

_BUCKET = "device-images"
_SIGNED_SECONDS = 3600
_PAGE = 1_000  # the API gives no more rows at once
_COLUMNS = (
    "command_id,device_id,command_type,command_payload,status,"
    "issued_at,delivered_at,acknowledged_at,last_error"
)


@dataclass(frozen=True)
class CommandRow:
    """One row of device_commands as the operator sees it; `welcome`: the service queued it for a mapping."""

    command_id: UUID
    device_id: UUID
    command_type: str
    status: str
    issued_at: datetime
    delivered_at: datetime | None
    acknowledged_at: datetime | None
    last_error: str | None
    welcome: bool

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Self:
        """Read a row of the API."""
        return cls(
            UUID(row["command_id"]),
            UUID(row["device_id"]),
            row["command_type"],
            row["status"],
            datetime.fromisoformat(row["issued_at"]),
            _instant(row["delivered_at"]),
            _instant(row["acknowledged_at"]),
            row["last_error"],
            row["command_payload"].get("welcome") is True,
        )

    @property
    def latency(self) -> float | None:
        """Seconds from the insert to the device's answer in the row, None before that."""
        return (
            None if self.acknowledged_at is None else (self.acknowledged_at - self.issued_at).total_seconds()
        )


@dataclass(frozen=True)
class UnmappedDevice:
    """A device that no site has; `address` is the root and the id that it was heard under, as on topics."""

    device_id: UUID
    device_code: str
    address: str


@dataclass(frozen=True)
class PictureRow:
    """One row of device_images as the operator sees it; `storage_path` is its name in the bucket."""

    status: str
    missing_requests: int
    storage_path: str | None
    last_error: str | None


class Dashboard:
    """An async context manager around the three clients.

    A refused call raises postgrest's APIError, or storage3's StorageApiError.
    """

    def __init__(self, url: str, keys: JwtKeys) -> None:
        self._url = url
        self._keys = keys
        # A proxy that the environment names is not for loopback.
        self._http = httpx.AsyncClient(trust_env=False, timeout=30)

    async def __aenter__(self) -> Self:
        service, public = self._keys.service_role_key, self._keys.anon_key
        self._back_end = await self._sign_in(service, service)
        self._admin = await self._sign_in(public, self._keys.user_token(*ADMIN))
        self._operator = await self._sign_in(public, self._keys.user_token(*OPERATOR))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(Exception):  # the library raises whatever its WebSocket does
            await self._operator.realtime.close()
        await self._http.aclose()

    async def unmapped_devices(self) -> list[UnmappedDevice]:
        """Return the devices that were heard and wait to be mapped, by their code; the admin sees them."""
        query = self._admin.table("devices").select("device_id,device_code,mqtt_root,mqtt_id")
        waiting = query.eq("provisioning_status", "pending_mapping").not_.is_("mqtt_id", "null")
        rows = _rows((await waiting.order("device_code").execute()).data)
        return [
            UnmappedDevice(UUID(row["device_id"]), row["device_code"], f"{row['mqtt_root']}/{row['mqtt_id']}")
            for row in rows
        ]

    async def map_to_site(self, device_id: UUID, site: str) -> None:
        """Map a device to a site, as "Map Device" does in a dashboard; the admin does it."""
        row = {"device_id": str(device_id), "site_id": SITES[site], "assigned_by_user_id": ADMIN[0]}
        await self._admin.table("device_site_assignments").insert(row).execute()

    async def queue(self, device_ids: Iterable[UUID], command_type: str, payload: Mapping[str, Any]) -> None:
        """Queue one command for each device; the operator does it."""
        rows = [
            {
                "device_id": str(device_id),
                "command_type": command_type,
                "command_payload": dict(payload),
                "status": "pending",
                "created_by_user_id": OPERATOR[0],
            }
            for device_id in device_ids
        ]
        await self._operator.table("device_commands").insert(rows).execute()

    async def write_reading(self, device_ids: Sequence[UUID]) -> None:
        """Write a reading into rows of devices, which must not look like a mapping to anybody."""
        ids = [str(device_id) for device_id in device_ids[:50]]
        await self._back_end.table("devices").update({"battery_voltage": 3.9}).in_("device_id", ids).execute()

    async def commands(self) -> list[CommandRow]:
        """Return every command that the operator sees, in the order of issue."""
        found: list[CommandRow] = []
        while True:
            query = self._operator.table("device_commands").select(_COLUMNS)
            page = query.order("issue_number").range(len(found), len(found) + _PAGE - 1)
            rows = _rows((await page.execute()).data)
            found += [CommandRow.from_row(row) for row in rows]
            if len(rows) < _PAGE:
                return found

    async def picture(self, device_id: UUID, name: str) -> PictureRow | None:
        """Return the row of a device's picture, None if the operator sees none."""
        columns = "status,missing_requests,storage_path,last_error"
        query = self._operator.table("device_images").select(columns)
        found = await query.eq("device_id", str(device_id)).eq("image_name", name).execute()
        rows = _rows(found.data)
        return PictureRow(**rows[0]) if rows else None

    async def sign_url(self, storage_path: str) -> str:
        """Return an address that opens a stored picture for anybody for an hour; the operator asks for it."""
        signed = await self._operator.storage.from_(_BUCKET).create_signed_url(storage_path, _SIGNED_SECONDS)
        return str(signed["signedUrl"])

    async def download(self, address: str) -> bytes:
        """Return what a browser gets at an address, without any key."""
        return (await self._http.get(address)).content

    async def watch(self, on_change: Callable[[], None]) -> None:
        """Have `on_change` called on each event about a command; returns once events flow."""
        channel = self._operator.channel("demo-commands")
        flowing = asyncio.Event()
        channel.on_postgres_changes(
            RealtimePostgresChangesListenEvent.All,
            lambda _: on_change(),
            table="device_commands",
            schema="public",
        )
        channel.on_system(lambda _: flowing.set())
        await channel.subscribe()
        await flowing.wait()

    async def _sign_in(self, key: str, token: str) -> AsyncClient:
        """Open a client with the project's key that speaks for whoever has this token."""
        options = AsyncClientOptions(
            headers={"Authorization": f"Bearer {token}"},
            httpx_client=self._http,
            auto_refresh_token=False,
            persist_session=False,
        )
        client = await AsyncClient.create(self._url, key, options)
        await client.realtime.set_auth(token)
        return client


def _rows(data: Any) -> list[dict[str, Any]]:  # noqa: ANN401 - the client's type is any JSON
    return list(data)


def _instant(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
