"""Faults on demand: what tests and people ask the stack to do wrong.

The parts of the stack ask this object before they answer; a test sets it directly or over HTTP:

    POST   /devstack/v1/faults   {"rest": [{"match": "rpc/fn_claim_commands", "kind": "status", "times": 2}],
                                  "realtime": {"drop": true},
                                  "actions": {"close": "abrupt"}}
    GET    /devstack/v1/faults   what is set now
    DELETE /devstack/v1/faults   everything works again

`rest` rules are added to those set before; `realtime` replaces what was set; `actions` happen once, now:
`close` ("clean" or "abrupt") closes every socket, `phx_close` makes the server close every channel, `expire`
does so as if its token had expired.
"""

import asyncio
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, TypeVar, get_args

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

RestKind = Literal["status", "lose_response", "hang", "close", "malformed"]
RealtimeAction = Literal["close_clean", "close_abrupt", "phx_close", "expire"]


class InvalidFaultError(ValueError):
    """A fault that the stack does not know; the message says what it takes."""


@dataclass(frozen=True)
class RestFault:
    """What to do wrong with a request whose path contains `match`, `times` times (None: until cleared).

    status         answer with `status` (and Retry-After: `retry_after` seconds) without doing anything
    lose_response  do the work, commit, and close the connection instead of answering
    close          close the connection without doing anything
    hang           answer nothing until the client goes away or the faults are cleared
    malformed      do the work, and answer with half a JSON document
    """

    match: str
    kind: RestKind
    status: int = 503
    retry_after: int | None = None
    times: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in get_args(RestKind):
            raise InvalidFaultError(f"kind is {self.kind!r}: write one of {', '.join(get_args(RestKind))}.")


@dataclass(frozen=True)
class RealtimeFaults:
    """What Realtime does wrong with events: it loses them, delays them, sends them twice.

    `silent`: the sockets stay open, and nothing is sent any more, not even replies to heartbeats.
    """

    drop: bool = False
    delay_seconds: float = 0.0
    duplicate: bool = False
    silent: bool = False


_Fault = TypeVar("_Fault", RestFault, RealtimeFaults)


class Faults:
    """The faults of one stack, shared by its parts; all calls come from the event loop."""

    def __init__(self) -> None:
        self.realtime = RealtimeFaults()
        self.cleared = asyncio.Event()
        self._rest: list[tuple[RestFault, int | None]] = []
        self._action_handlers: list[Callable[[RealtimeAction], None]] = []

    @property
    def rest(self) -> list[RestFault]:
        """The rules still in force, the oldest first; `times` is what was asked for."""
        return [fault for fault, _ in self._rest]

    def add_rest(self, fault: RestFault) -> None:
        """Add a rule; where several match a request, the oldest is used."""
        self._rest.append((fault, fault.times))

    def take_rest(self, path: str) -> RestFault | None:
        """Return the fault for a request to `path` and count it, or None."""
        for index, (fault, left) in enumerate(self._rest):
            if fault.match not in path:
                continue
            if left is not None and left <= 1:
                del self._rest[index]
            else:
                self._rest[index] = (fault, None if left is None else left - 1)
            return fault
        return None

    def on_action(self, handler: Callable[[RealtimeAction], None]) -> None:
        """Call `handler` for each action, at the moment it is asked for."""
        self._action_handlers.append(handler)

    def act(self, action: RealtimeAction) -> None:
        """Do this to all sockets now."""
        for handler in self._action_handlers:
            handler(action)

    def clear(self) -> None:
        """Let everything work again, and let go of the requests that hang."""
        self._rest.clear()
        self.realtime = RealtimeFaults()
        hung, self.cleared = self.cleared, asyncio.Event()
        hung.set()

    def set_from(self, document: dict[str, Any]) -> None:
        """Take the JSON document of the HTTP route. Raises InvalidFaultError and then changes nothing."""
        rest = [_build(RestFault, rule) for rule in document.get("rest", [])]
        realtime = _build(RealtimeFaults, document.get("realtime", asdict(self.realtime)))
        actions = _actions(document.get("actions", {}))
        for rule in rest:
            self.add_rest(rule)
        self.realtime = realtime
        for action in actions:
            self.act(action)

    def describe(self) -> dict[str, Any]:
        """Return what is set now, as the HTTP route shows it."""
        return {"rest": [asdict(rule) for rule in self.rest], "realtime": asdict(self.realtime)}

    def routes(self) -> list[BaseRoute]:
        """Return the HTTP control of this object."""
        return [Route("/devstack/v1/faults", self._serve, methods=["GET", "POST", "DELETE"])]

    async def _serve(self, request: Request) -> Response:
        if request.method == "DELETE":
            self.clear()
        if request.method == "POST":
            try:
                self.set_from(await request.json())
            except (InvalidFaultError, json.JSONDecodeError, AttributeError, TypeError) as error:
                return JSONResponse({"message": str(error)}, 400)
        return JSONResponse(self.describe())


def _build(kind: type[_Fault], values: dict[str, Any]) -> _Fault:
    known = {field.name for field in fields(kind)}
    unknown = set(values) - known
    if unknown:
        raise InvalidFaultError(f"{sorted(unknown)} means nothing here: write some of {sorted(known)}.")
    return kind(**values)


def _actions(wanted: dict[str, Any]) -> list[RealtimeAction]:
    known: dict[tuple[str, Any], RealtimeAction] = {
        ("close", "clean"): "close_clean",
        ("close", "abrupt"): "close_abrupt",
        ("phx_close", True): "phx_close",
        ("expire", True): "expire",
    }
    try:
        return [known[item] for item in wanted.items()]
    except KeyError as error:
        known_actions = '{"close": "clean"|"abrupt"}, {"phx_close": true} and {"expire": true}'
        raise InvalidFaultError(f"actions are {known_actions}.") from error
