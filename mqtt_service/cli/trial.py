"""The verbs that show the service on one machine: `dev`, `simulate`, `demo`.

What they call needs the extra dev, which the worker must not need: it is imported when a verb runs.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from mqtt_service.cli.extras import need_dev_extra

BrokerKind = Literal["auto", "mosquitto", "amqtt"]
TopicRoot = Literal["device", "ESP32CAM"]
ChunkEncoding = Literal["base64", "array"]

# Headings in the help.
_TRIAL = "To try it out (with the extra dev)"
_FLEET = "A fleet"

app = typer.Typer()


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
    need_dev_extra()
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
    picture_bytes: Annotated[int, _fleet_option("Size of a picture.", 400)] = 70_000,
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
    need_dev_extra()
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
    need_dev_extra()
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
