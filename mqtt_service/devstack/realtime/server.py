"""Realtime of the embedded stack: `postgres_changes`, and broadcasts from the database, over WebSockets.

The way of a change, and below that of a message of `realtime.send`:

    write-ahead log ─▶ pgoutput ─────▶ feed ──────────▶ delivery ──────────▶ channel ──────────▶ socket
            │          bytes → Change  polls its slot   who asked, who may   faults, messages    queue
            └────────▶ stream ───────▶ broadcasts ───────────────────────────▶ ┘
                       pgoutput too    who joined the topic

Who may join a private topic: `topic_access`. Broadcast and presence between clients are not carried.
Serve it with uvicorn's default WebSocket protocol.
"""

import asyncio
import contextlib
from types import TracebackType
from typing import Self

from starlette.responses import JSONResponse
from starlette.routing import BaseRoute, WebSocketRoute
from starlette.websockets import WebSocket

from mqtt_service.devstack.faults import Faults, RealtimeAction
from mqtt_service.devstack.keys import JwtKeys
from mqtt_service.devstack.realtime.auth import TokenRefusedError, authorize
from mqtt_service.devstack.realtime.broadcasts import BroadcastFeed
from mqtt_service.devstack.realtime.channel import Channel, Sources
from mqtt_service.devstack.realtime.feed import POLL_SECONDS, ChangeFeed
from mqtt_service.devstack.realtime.phoenix import V1, VERSIONS, Message
from mqtt_service.devstack.realtime.socket import QUEUE_LENGTH, Socket
from mqtt_service.devstack.realtime.topic_access import TopicAccess

PATH = "/realtime/v1/websocket"


class RealtimeServer:
    """Hears of changes in the database at `url` (a superuser's) while it is entered as a context manager.

    Sockets may be opened before, and outlive a restart of the database: a subscription is confirmed by a
    `system` message as soon as its changes flow, and again after each interruption. Changes are read every
    `poll_seconds`, messages as they come; a client that leaves `queue_length` messages unread is cut off.
    `private_only`: the setting "Allow public access" is off.
    """

    def __init__(
        self,
        url: str,
        keys: JwtKeys,
        faults: Faults,
        *,
        poll_seconds: float = POLL_SECONDS,
        queue_length: int = QUEUE_LENGTH,
        private_only: bool = False,
    ) -> None:
        self._keys = keys
        self._faults = faults
        self._sources = Sources(
            ChangeFeed(url, poll_seconds=poll_seconds),
            BroadcastFeed(url),
            TopicAccess(url),
            private_only,
        )
        self._queue_length = queue_length
        self._sockets: set[Socket] = set()
        self._reading: asyncio.Task[None] | None = None
        faults.on_action(self._act)

    def routes(self) -> list[BaseRoute]:
        """Return the WebSocket's route."""
        return [WebSocketRoute(PATH, self._serve)]

    async def run(self) -> None:
        """Read changes and messages until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._sources.changes.run())
            group.create_task(self._sources.broadcasts.run())

    async def __aenter__(self) -> Self:
        self._reading = asyncio.create_task(self.run(), name="realtime feeds")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for socket in self._sockets:
            socket.close()
        reading, self._reading = self._reading, None
        if reading is not None:
            reading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reading

    async def _serve(self, websocket: WebSocket) -> None:
        version = websocket.query_params.get("vsn", V1)
        api_key = websocket.headers.get("x-api-key") or websocket.query_params.get("apikey")
        refusal = self._refusal(api_key)
        if api_key is None or refusal is not None:
            await websocket.send_denial_response(JSONResponse({"error": refusal}, 401))
            return
        if version not in VERSIONS:
            await websocket.close()  # before it is accepted: 403
            return
        api_token = self._keys.to_token(api_key)

        def open_channel(join: Message, connection: Socket) -> Channel:
            return Channel(
                join,
                connection,
                api_token=api_token,
                sources=self._sources,
                keys=self._keys,
                faults=self._faults,
            )

        socket = Socket(
            websocket,
            version=version,
            open_channel=open_channel,
            faults=self._faults,
            queue_length=self._queue_length,
        )
        self._sockets.add(socket)
        try:
            await socket.serve()
        finally:
            self._sockets.discard(socket)

    def _refusal(self, api_key: str | None) -> str | None:
        """Return why the gateway does not let this key in, or None."""
        if not api_key:
            return "API key is missing"
        if self._keys.is_api_key(api_key):
            return None
        try:
            authorize(self._keys, api_key)
        except TokenRefusedError as error:
            return error.text
        return "Invalid authentication credentials"

    def _act(self, action: RealtimeAction) -> None:
        for socket in list(self._sockets):
            match action:
                case "close_clean":
                    socket.close()
                case "close_abrupt":
                    socket.drop()
                case "phx_close":
                    socket.close_channels()
                case "expire":
                    socket.expire_tokens()
