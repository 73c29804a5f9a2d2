"""The console's files over HTTP, at /console/: for the worker, `mqtt-service console` and the embedded stack.

The files are public and hold no secret: whoever opens them signs in to the project. `config.json` names the
project and its publishable key. A strict Content-Security-Policy lets a page load nothing but these files,
and talk to nobody but its own host and the project.
"""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route

FOLDER = Path(__file__).parent / "console"
PATH = "/console"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".LICENSE": "text/plain; charset=utf-8",
}


@dataclass(frozen=True)
class ConsoleProject:
    """The project that the console signs in to.

    `key` is the publishable one, never the secret one. `served_by`: worker, laptop or stack; a worker also
    answers /health beside the console.
    """

    url: str
    key: str = field(repr=False)
    served_by: str = "laptop"

    def document(self) -> dict[str, str]:
        """What config.json says, to the console and to anybody else."""
        return {"supabase_url": self.url, "publishable_key": self.key, "served_by": self.served_by}


@dataclass(frozen=True)
class _File:
    content: bytes
    type: str
    etag: str


def console_routes(project: ConsoleProject) -> list[BaseRoute]:
    """Return the routes of the console: its files at /console/, and what config.json says of the project."""
    files = _read_files()
    headers = _headers(project.url)
    config = _file(json.dumps(project.document()).encode(), "application/json")

    async def serve(request: Request) -> Response:
        name = request.path_params.get("name") or "index.html"
        found = config if name == "config.json" else files.get(name)
        if found is None:
            return JSONResponse({"error": f"the console has no file {name[:200]}"}, 404, headers)
        kept = {**headers, "ETag": found.etag, "Cache-Control": "no-cache"}
        if found.etag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=kept)
        return Response(found.content, headers=kept, media_type=found.type)

    async def enter(_: Request) -> Response:
        # Relative, since a proxy may have put the worker under a path of its own.
        return RedirectResponse("console/", 308, headers)

    return [Route(PATH, enter), Route(f"{PATH}/{{name:path}}", serve)]


def console_app(project: ConsoleProject) -> Starlette:
    """The console alone; / leads to it."""

    async def home(_: Request) -> Response:
        return RedirectResponse("console/", 307)

    return Starlette(routes=[Route("/", home), *console_routes(project)])


def content_security_policy(project_url: str) -> str:
    """The policy of every answer: code and styles from here alone, connections to here and to the project."""
    url = httpx.URL(project_url)
    origin = f"{url.scheme}://{url.netloc.decode()}"
    socket = origin.replace("http", "ws", 1)
    return "; ".join([
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        f"img-src 'self' data: blob: {origin}",
        f"connect-src 'self' {origin} {socket}",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ])  # fmt: skip


def _headers(project_url: str) -> dict[str, str]:
    return {
        "Content-Security-Policy": content_security_policy(project_url),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Opener-Policy": "same-origin",
    }


def _read_files() -> dict[str, _File]:
    """All files by their name under /console/; they are few and small, so they stay in memory."""
    return {
        path.relative_to(FOLDER).as_posix(): _file(path.read_bytes(), _TYPES[path.suffix])
        for path in sorted(FOLDER.rglob("*"))
        if path.suffix in _TYPES
    }


def _file(content: bytes, media_type: str) -> _File:
    return _File(content, media_type, f'"{hashlib.sha256(content).hexdigest()[:32]}"')
