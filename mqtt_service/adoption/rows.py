"""The rows that are there: commands that wait, devices that are there twice, pictures whose names repeat."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mqtt_service.adoption.database import fetch, listed
from mqtt_service.adoption.findings import Aspect, Finding, Level
from mqtt_service.adoption.project import Project
from mqtt_service.adoption.tables import COUNTED_BYTES

COMMANDS, DEVICES, IMAGES = "public.device_commands", "public.devices", "public.device_images"


@dataclass(frozen=True, slots=True)
class StatusRow:
    """Commands of one status; `young` of them are younger than a day, the worker's COMMAND_TTL unless set.

    `young_unknown` of the young ones have a type that the worker does not know: `unknown` names these types.
    """

    status: str | None
    rows: int
    young: int
    unknown: Sequence[str]
    young_unknown: int


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
select status::text as status, count(*) as rows, count(*) filter (where is_young) as young,
  coalesce(array_agg(distinct command_type::text) filter (where is_young and not is_known), '{}') as unknown,
  count(*) filter (where is_young and not is_known) as young_unknown
from (
  select *, issued_at > now() - interval '24 hours' as is_young,
    coalesce(command_type::text = any (%(known)s), false) as is_known
  from public.device_commands) c
group by 1 order by 1
"""
_BUILT_IN = re.compile(r"function mqtt_private\.fn_built_in_command_types\(\).*?'\{([\w,]+)\}'", re.DOTALL)

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
    if _can_count(project, COMMANDS, "status", "issued_at", "command_type") and not project.is_applied:
        known = _BUILT_IN.search(project.intended.text)
        types = known[1].split(",") if known else []
        yield from _commands(fetch(project.connection, StatusRow, _STATUSES, known=types))
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
    unknown = sum(row.young_unknown for row in pending)
    young = sum(row.young for row in pending) - unknown
    old = sum(row.rows for row in pending) - young - unknown
    if young:
        yield Finding(
            Aspect.ROWS,
            "commands_waiting",
            COMMANDS,
            f"has {young} pending of the last 24 hours, which will be sent: end those that must not be",
            Level.LOOK,
        )
    if unknown:
        types = listed([kind for row in pending for kind in row.unknown])
        yield Finding(
            Aspect.ROWS,
            "commands_unknown",
            COMMANDS,
            f"has {unknown} pending of types that the worker does not know ({types}), which are left alone",
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
