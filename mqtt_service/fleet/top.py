"""The verb `top`: the whole fleet at a glance, again and again, until Ctrl-C."""

import asyncio
from collections import deque
from urllib.parse import urlsplit

import httpx
from rich.live import Live

from mqtt_service.config import ProjectSettings
from mqtt_service.errors import SupabaseUnavailableError
from mqtt_service.fleet.output import Output
from mqtt_service.fleet.session import Project, open_project
from mqtt_service.fleet.top_view import Glance, Health, top_view

_PAUSE = 2.0
_HISTORY = 60
_SLOWEST = 8
_HEALTH_TIMEOUT = 2.0


def run_top(
    settings: ProjectSettings, url: str | None, token: str | None, window: float, *, once: bool, as_json: bool
) -> int:
    """Show the fleet, or `once`. `url`: a worker's, for broker and Realtime; `token`: what opens it."""
    output = Output(as_json=as_json)
    address = (url or f"http://127.0.0.1:{settings.port}").rstrip("/")
    headers = {"Authorization": f"Bearer {token}"} if token else {}

    async def run() -> int:
        async with (
            open_project(settings) as project,
            httpx.AsyncClient(timeout=_HEALTH_TIMEOUT, headers=headers) as worker,
        ):
            if once or not output.live:
                glance = await _look(project, worker, settings, address, window, deque())
                if glance.overview is None:
                    raise SupabaseUnavailableError(glance.error or "the project does not answer")
                output.document(
                    {
                        **_sections(glance),
                        "health": glance.health.document,
                        "health_error": glance.health.error,
                    }
                )
                output.show(top_view(glance, None))
                return 0
            await _keep_looking(project, worker, settings, address, window, output)
        return 0

    return asyncio.run(run())


async def _keep_looking(
    project: Project,
    worker: httpx.AsyncClient,
    settings: ProjectSettings,
    address: str,
    window: float,
    output: Output,
) -> None:
    history: deque[int] = deque(maxlen=_HISTORY)
    with Live(console=output.out, screen=True, auto_refresh=False) as live:
        while True:
            glance = await _look(project, worker, settings, address, window, history)
            live.update(top_view(glance, output.out.height), refresh=True)
            await asyncio.sleep(_PAUSE)


async def _look(
    project: Project,
    worker: httpx.AsyncClient,
    settings: ProjectSettings,
    address: str,
    window: float,
    history: deque[int],
) -> Glance:
    health = await _ask_worker(worker, address)
    host = urlsplit(settings.supabase_url).netloc
    try:
        overview = await project.devices.overview(window, _SLOWEST)
    except SupabaseUnavailableError as error:
        return Glance(host, None, health, tuple(history), str(error))
    history.append(overview.minute.acknowledged)
    return Glance(host, overview, health, tuple(history), None)


async def _ask_worker(worker: httpx.AsyncClient, address: str) -> Health:
    """A worker's health document; a 503 has one too."""
    try:
        response = await worker.get(f"{address}/health")
        document = response.json()
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        return Health(
            address, None, f"no worker answers at {address} ({type(error).__name__}): name one with --url"
        )
    if not isinstance(document, dict):
        return Health(address, None, f"{address} is no worker's: name one with --url")
    return Health(address, document, None)


def _sections(glance: Glance) -> dict[str, object]:
    overview = glance.overview
    names = (
        "now",
        "depth",
        "minute",
        "window",
        "devices",
        "active",
        "awake",
        "overdue",
        "slowest",
        "workers",
    )
    return {name: getattr(overview, name) for name in names}
