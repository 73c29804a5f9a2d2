"""The verb that one leaves open: `top`."""

from typing import Annotated

import typer

from mqtt_service.cli.options import AsJson
from mqtt_service.config import load_project_settings
from mqtt_service.fleet.times import parse_duration
from mqtt_service.fleet.top import run_top

app = typer.Typer()


@app.command()
def top(
    *,
    url: Annotated[
        str | None,
        typer.Option(help="A worker's address, for broker and Realtime. Default: this machine, at PORT."),
    ] = None,
    token: Annotated[
        str | None, typer.Option(envvar="HTTP_TOKEN", help="If the worker's HTTP port asks for one.")
    ] = None,
    window: Annotated[str, typer.Option(metavar="IN", help="How far rates look back, at most 1d.")] = "1h",
    once: Annotated[bool, typer.Option("--once", help="Print it once.")] = False,
    as_json: AsJson = False,
) -> None:
    """Watch the fleet, full screen: queue, rates, slowest devices, workers, broker and Realtime."""
    seconds = parse_duration(window).total_seconds()
    raise typer.Exit(run_top(load_project_settings(), url, token, seconds, once=once, as_json=as_json))
