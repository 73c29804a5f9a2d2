"""What people and the back end do in the demo, with supabase-py, as a dashboard would.

The back end (service key) registers devices, an admin of Alder Farms maps them, an operator queues commands
and watches them. Row-level security decides what each of the two may.
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

from mqtt_service.devstack.device import DeviceOptions
from mqtt_service.devstack.keys import JwtKeys

OPERATOR = ("a0000000-0000-4000-8000-0000000000e2", "operator.a@example.test")
ADMIN = ("a0000000-0000-4000-8000-0000000000e3", "admin.a@example.test")
SITES = {
    "Alder North": "a0000000-0000-4000-8000-000000000021",
    "Alder South": "a0000000-0000-4000-8000-000000000022",
}

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


class Dashboard:
    """An async context manager around the three clients. A refused call raises postgrest's APIError."""

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

    async def register(self, fleet: Mapping[str, DeviceOptions]) -> dict[str, UUID]:
        """Insert devices by their code, as after their first contact: known, but not mapped to any site."""
        rows = [
            {
                "device_mac": options.device_id,
                "device_code": code,
                "device_name": f"simulated {code}",
                "provisioning_status": "pending_mapping",
                "is_active": False,
                "mqtt_root": options.root,
                "mqtt_id": options.device_id,
            }
            for code, options in fleet.items()
        ]
        answer = await self._back_end.table("devices").insert(rows).execute()
        return {row["device_code"]: UUID(row["device_id"]) for row in _rows(answer.data)}

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

    async def touch(self, device_ids: Sequence[UUID]) -> None:
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
