"""The verb `console`: the console on a laptop, for a project that has none running."""

import asyncio
import signal
from typing import Annotated

import typer

from mqtt_service import http_server
from mqtt_service.config import load_console_settings
from mqtt_service.console_site import ConsoleProject, console_app

app = typer.Typer()


@app.command()
def console(
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on this machine; 0: any.")] = 3080,
) -> None:
    """Serve the console on this machine until Ctrl-C: see and steer the fleet in a browser.

    It needs SUPABASE_URL and SUPABASE_PUBLISHABLE_KEY, and no secret key: people sign in as themselves.
    """
    settings = load_console_settings()
    project = ConsoleProject(settings.supabase_url, settings.key_of_console())
    asyncio.run(_serve(project, port))


async def _serve(project: ConsoleProject, port: int) -> None:
    with http_server.listening(port, "127.0.0.1") as listener:
        typer.echo(
            f"The console of {project.url} is at http://127.0.0.1:{listener.getsockname()[1]}/console/"
        )
        typer.echo("Ctrl-C ends it.")
        server = asyncio.create_task(http_server.serve(console_app(project), listener))
        for signum in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(signum, server.cancel)
        await asyncio.wait({server})
        if not server.cancelled():
            server.result()
