"""The rows that are there: commands that wait, devices that are there twice, pictures whose names repeat."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mqtt_service.adoption.database import fetch, listed
from mqtt_service.adoption.findings import Aspect, Finding, Level
from mqtt_service.adoption.project import Project
from mqtt_service.adoption.tables import COUNTED_BYTES

COMMANDS, DEVICES, IMAGES = "public.device_commands", "public.devices", "public.device_images"


@dataclass(frozen=True, slots=True)
class StatusRow:
    """Commands of one status; `young` of them are younger than a day, the worker's COMMAND_TTL unless set."""

    status: str | None
    rows: int
    young: int


@dataclass(frozen=True, slots=True)
class RepeatedRow:
    """A value that several devices have."""

    value: str
    rows: int


@dataclass(frozen=True, slots=True)
class IndexRow:
    """A unique index."""

    name: str


_STATUSES = """
select status::text as status, count(*) as rows,
  count(*) filter (where issued_at > now() - interval '24 hours') as young
from public.device_commands group by 1 order by 1
"""

# A MAC in any spelling is one device.
_MACS = r"""
select mac as value, count(*) as rows
from (
  select case when hex ~ '^[0-9A-Fa-f]{12}$' then upper(hex) else device_mac end as mac
  from (
    select device_mac::text, regexp_replace(device_mac::text, '[:.\s-]', '', 'g') as hex
    from public.devices) d) m
where mac is not null group by 1 having count(*) > 1 order by 1
"""

_CODES = """
select device_code::text as value, count(*) as rows from public.devices
where device_code is not null group by 1 having count(*) > 1 order by 1
"""

_UNIQUE_NAMES = """
select i.indexrelid::regclass::text as name
from pg_index i
where i.indrelid = to_regclass('public.device_images') and i.indisunique
  and i.indpred is null and i.indexprs is null
  and array['device_id', 'image_name'] = array(
    select attname::text from pg_attribute
    where attrelid = i.indrelid and attnum = any (i.indkey) order by attname)
"""


def inspect(project: Project) -> Iterator[Finding]:
    """Count what the migrations and the worker would meet."""
    if _can_count(project, COMMANDS, "status", "issued_at") and not project.is_applied:
        yield from _commands(fetch(project.connection, StatusRow, _STATUSES))
    if _can_count(project, DEVICES, "device_mac"):
        yield from _repeated(
            "mac_repeated",
            "devices.device_mac",
            "is spelled differently in several rows of one device, of which an answer may reach either",
            fetch(project.connection, RepeatedRow, _MACS),
        )
    if _can_count(project, DEVICES, "device_code"):
        yield from _repeated(
            "code_repeated",
            "devices.device_code",
            "is the same for several devices",
            fetch(project.connection, RepeatedRow, _CODES),
        )
    for index in fetch(project.connection, IndexRow, _UNIQUE_NAMES) if IMAGES in project.shared else ():
        yield Finding(
            Aspect.ROWS,
            "image_names_unique",
            f"{index.name} on {IMAGES}",
            "allows one picture of a name for each device, and devices use names again: the second is"
            " refused. Where you can, replace it by one on (device_id, image_name, captured_at)",
            Level.LOOK,
        )


def _can_count(project: Project, table: str, *columns: str) -> bool:
    """Whether it is there with these columns, and not too large to be read now."""
    return (
        table in project.shared
        and all(column in project.columns[table] for column in columns)
        and project.tables[table].bytes <= COUNTED_BYTES
    )


def _commands(statuses: Sequence[StatusRow]) -> Iterator[Finding]:
    pending = [row for row in statuses if row.status == "pending"]
    young = sum(row.young for row in pending)
    old = sum(row.rows for row in pending) - young
    if young:
        yield Finding(
            Aspect.ROWS,
            "commands_waiting",
            COMMANDS,
            f"has {young} pending of the last 24 hours, which will be sent: end those that must not be",
            Level.LOOK,
        )
    if old:
        yield Finding(
            Aspect.ROWS,
            "commands_old",
            COMMANDS,
            f"has {old} pending for longer than 24 hours, which are left as they are",
        )
    rest = [f"{row.rows} {row.status or 'without a status'}" for row in statuses if row.status != "pending"]
    if rest:
        yield Finding(
            Aspect.ROWS, "commands_done", COMMANDS, f"has {', '.join(rest)}, which are left as they are"
        )


def _repeated(kind: str, subject: str, what: str, rows: Sequence[RepeatedRow]) -> Iterator[Finding]:
    if rows:
        examples = listed([f"{row.value} ({row.rows} rows)" for row in rows], 3)
        yield Finding(
            Aspect.ROWS,
            kind,
            subject,
            f"{what}: {examples}. Its index will not be unique until you remove one",
            Level.LOOK,
        )
