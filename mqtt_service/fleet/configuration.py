"""The verbs `config set` and `config show`: what devices are to have, and what they have confirmed."""

import asyncio
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from mqtt_service.adapters.supabase.fleet_firmware import ConfigRow
from mqtt_service.adapters.supabase.fleet_rows import DeviceRow
from mqtt_service.config import ProjectSettings
from mqtt_service.errors import UsageError
from mqtt_service.fleet.finding import find_device
from mqtt_service.fleet.output import Output
from mqtt_service.fleet.payload import read_payload
from mqtt_service.fleet.schedules import TargetWords, target_of
from mqtt_service.fleet.session import open_project
from mqtt_service.fleet.times import both


@dataclass(frozen=True, slots=True)
class ConfigRequest:
    """What a person wrote after `config set`; `replace`: what is not named is desired no more."""

    target: TargetWords
    pairs: Sequence[str] = ()
    payload: str | None = None
    replace: bool = False


def run_config_set(settings: ProjectSettings, request: ConfigRequest, *, as_json: bool) -> int:
    """Set the desired configuration of all devices that fit."""
    output = Output(as_json=as_json)
    config = read_payload(request.pairs, request.payload)
    if not config and not request.replace:
        raise UsageError("say what to set: key=value words, or --payload")

    async def run() -> int:
        async with open_project(settings) as project:
            target = await target_of(project, request.target)
            done = await project.configs.desire(target, config, replace=request.replace)
        output.say(
            f"Set for {done.matched} device(s); another than before for {done.changed} of them. "
            "Each gets what differs when it wakes."
        )
        output.document({"config": config, "matched": done.matched, "changed": done.changed})
        return 0

    return asyncio.run(run())


def run_config_show(settings: ProjectSettings, reference: str, *, as_json: bool) -> int:
    """Show what a device is to have, what it has confirmed, and what happens next."""
    output = Output(as_json=as_json)

    async def run() -> int:
        async with open_project(settings) as project:
            device = await find_device(project, reference)
            row = await project.configs.of_device(device.device_id)
        if row is None:
            raise UsageError(f"{device.label} is gone")
        output.document(row)
        if not as_json:
            for line in tell_config(row, device, datetime.now(UTC)):
                output.say(line)
        return 0

    return asyncio.run(run())


def difference(row: ConfigRow) -> dict[str, Any]:
    """What the device is not known to have as it is desired. As fn_config_difference has it."""
    desired, reported = row.desired_config or {}, row.reported_config or {}
    return {
        key: value
        for key, value in desired.items()
        if key not in reported or reported[key] != value or key in row.config_unconfirmed
    }


def tell_config(row: ConfigRow, device: DeviceRow, now: datetime) -> Iterator[str]:
    """The lines that a person reads."""
    if row.desired_config is None:
        yield f"{device.label} has no desired configuration: mqtt-service config set KEY=VALUE --device …"
        return
    yield f"{device.label}, version {row.desired_config_version} of {both(row.desired_config_at, now)}"
    yield f"  desired:  {_json(row.desired_config)}"
    reported = f" (version {row.reported_config_version}, {both(row.reported_config_at, now)})"
    yield f"  reported: {_json(row.reported_config or {})}{reported if row.reported_config else ''}"
    if row.config_unconfirmed:
        yield f"  It was sent {', '.join(row.config_unconfirmed)} and has not answered."
    if row.config_due:
        yield f"  When it wakes ({both(device.next_wake_at, now)}), it gets {_json(difference(row))}."
    elif difference(row):
        yield f"  It refused this version: {row.config_error or 'no reason given'}. It gets the next change."
    else:
        yield "  It has what is desired."


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
