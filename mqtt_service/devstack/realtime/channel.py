"""One channel: what a client joined under a topic, until it leaves or the server closes it."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from mqtt_service.devstack.faults import Faults
from mqtt_service.devstack.keys import JwtKeys
from mqtt_service.devstack.realtime import phoenix
from mqtt_service.devstack.realtime.auth import TokenRefusedError, authorize, expired
from mqtt_service.devstack.realtime.broadcasts import BroadcastFeed
from mqtt_service.devstack.realtime.feed import ChangeFeed
from mqtt_service.devstack.realtime.phoenix import Message
from mqtt_service.devstack.realtime.subscriptions import Binding, binding_id, parse_binding
from mqtt_service.devstack.realtime.topic_access import TopicAccess, TopicRefusedError
from mqtt_service.errors import RemoteProtocolError

POSTGRES_CHANGES = "postgres_changes"
_CHECK_TOKEN_SECONDS = 300.0
_OPAQUE_KEY = "sb_"  # opaque keys are for the gateway; a channel goes on with the token it has

log = logging.getLogger(__name__)


class Connection(Protocol):
    """The socket that a channel belongs to."""

    def send(self, message: Message) -> None:
        """Queue a message for the client; never blocks."""

    def forget(self, channel: "Channel") -> None:
        """Stop routing messages to the channel."""


@dataclass(frozen=True)
class Sources:
    """What a channel hears from, and who says whether it may; `private_only`: no public channels."""

    changes: ChangeFeed
    broadcasts: BroadcastFeed
    access: TopicAccess
    private_only: bool = False


@dataclass(frozen=True)
class Config:
    """What a join asks for."""

    changes: Sequence[Mapping[str, Any]] = ()
    presence: bool = False
    private: bool = False

    @classmethod
    def of(cls, join: Message) -> "Config":
        """Read the `config` of a join."""
        config = join.payload.get("config")
        if not isinstance(config, dict):
            return cls()
        entries, presence = config.get(POSTGRES_CHANGES), config.get("presence")
        return cls(
            tuple(entry for entry in entries if isinstance(entry, dict)) if isinstance(entries, list) else (),
            isinstance(presence, dict) and presence.get("enabled") is True,
            config.get("private") is True,
        )


class Channel:
    """A subscriber of the feeds that speaks to one client; `start` answers the join it was made for.

    `api_token` stands in where the join brings no token. Raises TokenRefusedError.
    """

    def __init__(
        self,
        join: Message,
        connection: Connection,
        *,
        api_token: str,
        sources: Sources,
        keys: JwtKeys,
        faults: Faults,
    ) -> None:
        self.topic = join.topic
        self.join_ref = join.join_ref or join.ref
        self._connection = connection
        self._sources = sources
        self._keys = keys
        self._faults = faults
        self._token = _first_token(join.payload) or api_token
        self._claims = authorize(keys, self._token)
        self._config = Config.of(join)
        self._bindings: tuple[Binding, ...] = ()
        self._presence_due = self._config.presence
        self._reads_broadcasts = False
        self._asking: asyncio.Task[None] | None = None
        self._expiry: asyncio.TimerHandle | None = None

    @property
    def _name(self) -> str:
        """The topic as people and policies know it."""
        return self.topic.removeprefix(phoenix.TOPIC_PREFIX)

    @property
    def bindings(self) -> Sequence[Binding]:
        """What it asks for."""
        return self._bindings

    @property
    def claims(self) -> Mapping[str, Any]:
        """What its newest token claims."""
        return self._claims

    def start(self, join: Message) -> None:
        """Answer the join, that of a private channel once the policies were asked.

        That a subscription to changes works follows later, as a `system` message.
        """
        self._watch_expiry()
        if self._sources.private_only and not self._config.private:
            self._turn_away(join, "PrivateOnly: This project only allows private channels")
        elif self._config.private:
            self._asking = asyncio.create_task(self._start_if_allowed(join))
        else:
            self._admit(join)

    async def _start_if_allowed(self, join: Message) -> None:
        try:
            await self._ask_policies()
        except TopicRefusedError as error:
            self._turn_away(join, str(error))
        else:
            self._admit(join)

    def _turn_away(self, join: Message, reason: str) -> None:
        self.end()
        self._connection.send(phoenix.reply(join, {"reason": reason}, status="error"))

    async def _ask_policies(self) -> None:
        self._reads_broadcasts = await self._sources.access.reads_broadcasts(
            self._claims, self._name, presence=self._config.presence
        )

    def _admit(self, join: Message) -> None:
        answer = [{**entry, "id": binding_id(entry)} for entry in self._config.changes]
        self._connection.send(phoenix.reply(join, {POSTGRES_CHANGES: answer}))
        self._sources.broadcasts.listen(self, self._name, private=self._config.private)
        try:
            self._bindings = tuple(parse_binding(entry) for entry in self._config.changes)
        except RemoteProtocolError as error:
            self.refuse(str(error))
            return
        if self._bindings:
            self._sources.changes.subscribe(self)
        else:
            self._sync_presence()

    def handle(self, message: Message) -> None:
        """Take what the client says on the joined channel."""
        match message.event:
            case "access_token":
                self._renew(message.payload.get("access_token"))
            case "presence" | "broadcast":
                log.info("The embedded stack carries no %s of clients: %s", message.event, self.topic)
                self._connection.send(phoenix.reply(message, {}))
            case _:
                log.info("Unexpected message of type %s on %s", message.event, self.topic)

    def confirm(self) -> None:
        """Say that changes flow."""
        self._tell("ok", "Subscribed to PostgreSQL")
        self._sync_presence()

    def refuse(self, reason: str) -> None:
        """Say that no change will come; the channel stays joined, as the real one does."""
        self._tell("error", reason)
        self._sync_presence()

    def deliver(self, ids: list[int], data: Mapping[str, Any]) -> None:
        """Send one change, unless a fault has it otherwise."""
        self._send_event(Message(self.topic, POSTGRES_CHANGES, {"ids": ids, "data": data}))

    def broadcast(self, event: str, payload: Any, message_id: str) -> None:  # noqa: ANN401 - any JSON
        """Send one message of the database, unless a policy or a fault has it otherwise."""
        if self._config.private and not self._reads_broadcasts:
            return
        self._send_event(phoenix.broadcast(self.topic, event, payload, message_id))

    def _send_event(self, message: Message) -> None:
        faults = self._faults.realtime
        if faults.drop:
            return
        for _ in range(2 if faults.duplicate else 1):
            if faults.delay_seconds:
                asyncio.get_running_loop().call_later(faults.delay_seconds, self._connection.send, message)
            else:
                self._connection.send(message)

    def close(self) -> None:
        """End the channel from our side, and say so."""
        self.end()
        self._connection.send(phoenix.close(self.topic, self.join_ref))

    def expire(self) -> None:
        """Act as if the token had expired this moment."""
        self._refuse_token(expired(0))

    def end(self) -> None:
        """Stop listening; the client is told nothing."""
        if self._expiry is not None:
            self._expiry.cancel()
        if self._asking is not None and self._asking is not asyncio.current_task():
            self._asking.cancel()
        self._sources.changes.unsubscribe(self)
        self._sources.broadcasts.forget(self)
        self._connection.forget(self)

    def _renew(self, token: object) -> None:
        """Go on with another token: from now on its claims decide what the client hears."""
        if not isinstance(token, str) or token.startswith(_OPAQUE_KEY) or token == self._token:
            return
        self._token = token
        if not self._check_token():
            return
        if self._config.private:
            if self._asking is not None:
                self._asking.cancel()
            self._asking = asyncio.create_task(self._go_on_if_allowed())
        elif self._bindings:
            self._sources.changes.subscribe(self)

    async def _go_on_if_allowed(self) -> None:
        """Ask the policies again, for the new token."""
        read_before = self._reads_broadcasts
        try:
            await self._ask_policies()
        except TopicRefusedError as error:
            self._end_with(error.text)
            return
        if read_before and not self._reads_broadcasts:
            self._end_with(f"You no longer have permission to read from this Channel topic: {self._name}")
        elif self._bindings:
            self._sources.changes.subscribe(self)

    def _check_token(self) -> bool:
        """Return whether the token is still good; if not, the channel has been closed."""
        try:
            self._claims = authorize(self._keys, self._token)
        except TokenRefusedError as error:
            self._refuse_token(error)
            return False
        self._watch_expiry()
        return True

    def _refuse_token(self, error: TokenRefusedError) -> None:
        self._end_with(error.text)

    def _end_with(self, reason: str) -> None:
        self._tell("error", reason, extension="system")
        self.close()

    def _watch_expiry(self) -> None:
        """Look at the token again when it expires, and every few minutes."""
        if self._expiry is not None:
            self._expiry.cancel()
        left = min(self._claims["exp"] - self._keys.clock(), _CHECK_TOKEN_SECONDS)
        self._expiry = asyncio.get_running_loop().call_later(max(left, 0), self._check_token)

    def _tell(self, status: str, text: str, extension: str = POSTGRES_CHANGES) -> None:
        self._connection.send(
            phoenix.system(self.topic, self.join_ref, extension=extension, status=status, text=text)
        )

    def _sync_presence(self) -> None:
        """Show that nobody is present, once, to a client that asked."""
        if self._presence_due:
            self._presence_due = False
            self._connection.send(Message(self.topic, "presence_state", {}, None, self.join_ref))


def _first_token(payload: Mapping[str, Any]) -> str | None:
    token = payload.get("user_token") or payload.get("access_token")
    if not isinstance(token, str) or token.startswith(_OPAQUE_KEY):
        return None
    return token
