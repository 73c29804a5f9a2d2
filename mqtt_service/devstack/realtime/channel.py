"""One channel: what a client joined under a topic, until it leaves or the server closes it."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from mqtt_service.devstack.faults import Faults
from mqtt_service.devstack.keys import JwtKeys
from mqtt_service.devstack.realtime import phoenix
from mqtt_service.devstack.realtime.auth import TokenRefusedError, authorize, expired
from mqtt_service.devstack.realtime.feed import ChangeFeed
from mqtt_service.devstack.realtime.phoenix import Message
from mqtt_service.devstack.realtime.subscriptions import Binding, binding_id, parse_binding
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


class Channel:
    """A subscriber of the feed that speaks to one client; `start` answers the join it was made for.

    `api_token` stands in where the join brings no token. Raises TokenRefusedError.
    """

    def __init__(
        self,
        join: Message,
        connection: Connection,
        *,
        api_token: str,
        feed: ChangeFeed,
        keys: JwtKeys,
        faults: Faults,
    ) -> None:
        self.topic = join.topic
        self.join_ref = join.join_ref or join.ref
        self._connection = connection
        self._feed = feed
        self._keys = keys
        self._faults = faults
        self._token = _first_token(join.payload) or api_token
        self._claims = authorize(keys, self._token)
        self._bindings: tuple[Binding, ...] = ()
        self._presence_due = False
        self._expiry: asyncio.TimerHandle | None = None

    @property
    def bindings(self) -> Sequence[Binding]:
        """What it asks for."""
        return self._bindings

    @property
    def claims(self) -> Mapping[str, Any]:
        """What its newest token claims."""
        return self._claims

    def start(self, join: Message) -> None:
        """Answer the join. That the subscription works follows later, as a `system` message."""
        asked, self._presence_due = _read_config(join.payload)
        answer = [{**entry, "id": binding_id(entry)} for entry in asked]
        self._connection.send(phoenix.reply(join, {POSTGRES_CHANGES: answer}))
        self._watch_expiry()
        try:
            self._bindings = tuple(parse_binding(entry) for entry in asked)
        except RemoteProtocolError as error:
            self.refuse(str(error))
            return
        if self._bindings:
            self._feed.subscribe(self)
        else:
            self._sync_presence()

    def handle(self, message: Message) -> None:
        """Take what the client says on the joined channel."""
        match message.event:
            case "access_token":
                self._renew(message.payload.get("access_token"))
            case "presence" | "broadcast":
                log.info("The embedded stack carries no %s: %s", message.event, self.topic)
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
        faults = self._faults.realtime
        if faults.drop:
            return
        message = Message(self.topic, POSTGRES_CHANGES, {"ids": ids, "data": data})
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
        self._feed.unsubscribe(self)
        self._connection.forget(self)

    def _renew(self, token: object) -> None:
        """Go on with another token: from now on its claims decide what the client hears."""
        if not isinstance(token, str) or token.startswith(_OPAQUE_KEY) or token == self._token:
            return
        self._token = token
        if self._check_token() and self._bindings:
            self._feed.subscribe(self)

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
        self._tell("error", error.text, extension="system")
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


def _read_config(payload: Mapping[str, Any]) -> tuple[list[dict[str, Any]], bool]:
    """Return the entries of `postgres_changes`, and whether presence is asked for."""
    config = payload.get("config")
    if not isinstance(config, dict):
        return [], False
    entries = config.get(POSTGRES_CHANGES)
    presence = config.get("presence")
    asked = [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
    return asked, isinstance(presence, dict) and presence.get("enabled") is True
