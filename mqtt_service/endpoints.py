"""The worker's HTTP endpoints: /, /docs, /health, /ready and /metrics; /console where it is on.

On many platforms the port is public. With a token set, whoever does not know it gets the plain status and no
metrics. Status 503 means that the worker cannot do its work, so that a load balancer or a probe need not read
the document.
"""

import base64
import binascii
import hmac
from collections.abc import Awaitable, Callable

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Route

from mqtt_service.console_site import ConsoleProject, console_routes
from mqtt_service.health import Snapshot, health_document, plain_document
from mqtt_service.metrics import REGISTRY

_CHALLENGE = 'Bearer realm="mqtt-service", Basic realm="mqtt-service", charset="UTF-8"'
_NOT_KEPT = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}

_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>mqtt-service</title>
{body}
</html>
"""
_HOME = (
    '<p>mqtt-service is {verdict}. <a href="health">health</a>, <a href="ready">ready</a>, '
    '<a href="metrics">metrics</a>, <a href="docs">docs</a></p>'
)
_DOCS = """<h1>Endpoints</h1>
<dl>
<dt><code>GET /health</code>
<dd>A JSON document. 200: commands flow; <code>status</code> is <code>healthy</code>, or
<code>degraded</code> when they flow at the pace of the poll or something beside them does not work.
503: <code>unhealthy</code>, they cannot flow.{health}
<dt><code>GET /ready</code>
<dd><code>{{"ready": true}}</code> with 200, or <code>false</code> with 503: for load balancers.
<dt><code>GET /metrics</code>
<dd>Prometheus' text format.{metrics}
</dl>
<p>A token is sent as <code>Authorization: Bearer &lt;token&gt;</code>, or as the password of basic
authentication with any user name.</p>"""


class Access:
    """Tells who knows the token; without one set, everybody does."""

    def __init__(self, token: str | None) -> None:
        self.restricted = token is not None
        self._token = (token or "").encode()

    def allows(self, request: Request) -> bool:
        """Whether the request has the token: as bearer (RFC 6750) or as basic password (RFC 7617)."""
        if not self.restricted:
            return True
        scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
        given = credentials.strip().encode()
        if scheme.lower() == "basic":
            given = _password(given)
        elif scheme.lower() != "bearer":
            return False
        return hmac.compare_digest(given, self._token)


def _password(credentials: bytes) -> bytes:
    try:
        return base64.b64decode(credentials, validate=True).partition(b":")[2]
    except binascii.Error:
        return b""


async def _nothing() -> None:
    pass


def http_app(
    take_snapshot: Callable[[], Snapshot],
    token: str | None = None,
    before_metrics: Callable[[], Awaitable[None]] = _nothing,
    console: ConsoleProject | None = None,
) -> Starlette:
    """The endpoints; all are GET, and none shows a secret.

    `before_metrics` brings up to date what is not counted as it happens; it must not raise.
    `console`: the project whose console is served; None: none is.
    """
    access = Access(token)

    async def home(_: Request) -> Response:
        return _html(_HOME.format(verdict=take_snapshot().verdict))

    async def docs(_: Request) -> Response:
        restricted = access.restricted
        return _html(
            _DOCS.format(
                health=" Details need the token." if restricted else "",
                metrics=" They need the token." if restricted else "",
            )
        )

    async def health(request: Request) -> Response:
        snapshot = take_snapshot()
        document = health_document if access.allows(request) else plain_document
        return _json(document(snapshot), ok=snapshot.verdict != "unhealthy")

    async def ready(_: Request) -> Response:
        is_ready = take_snapshot().ready
        return _json({"ready": is_ready}, ok=is_ready)

    async def metrics(request: Request) -> Response:
        if not access.allows(request):
            headers = {"WWW-Authenticate": _CHALLENGE, **_NOT_KEPT}
            return JSONResponse({"error": "the token in HTTP_TOKEN is needed"}, 401, headers)
        await before_metrics()
        return Response(generate_latest(REGISTRY), media_type=CONTENT_TYPE_LATEST, headers=_NOT_KEPT)

    pages = {"/": home, "/docs": docs, "/health": health, "/ready": ready, "/metrics": metrics}
    routes: list[BaseRoute] = [Route(path, page) for path, page in pages.items()]
    return Starlette(routes=routes + ([] if console is None else console_routes(console)))


def _json(document: dict[str, object], *, ok: bool) -> Response:
    return JSONResponse(document, 200 if ok else 503, _NOT_KEPT)


def _html(body: str) -> Response:
    policy = {"Content-Security-Policy": "default-src 'none'"}
    return HTMLResponse(_PAGE.format(body=body), headers={**_NOT_KEPT, **policy})
