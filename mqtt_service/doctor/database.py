"""The project's database, as the worker's key sees it."""

import re
from collections.abc import Iterator, Sequence

from mqtt_service.adapters.supabase.examination import Examination
from mqtt_service.adapters.supabase.project import Project
from mqtt_service.doctor.findings import Finding
from mqtt_service.migrations import Migration
from mqtt_service.project_check import missing_files

_APPLY = 'apply them: mqtt-service migrations | psql "$SUPABASE_DB_URL" -v ON_ERROR_STOP=1'
_FULL_CHECK = "mqtt-service migrations --check"
_FUNCTION = re.compile(r"^create (?:or replace )?function public\.(fn_\w+)", re.MULTILINE)
_TRIGGER = re.compile(
    r"^create (?:or replace )?trigger (mqtt_\w+)\s[^;]*?\son public\.(\w+)", re.MULTILINE | re.DOTALL
)
_WORKER_TABLES = {
    "devices",
    "device_commands",
    "device_history",
    "device_images",
    "device_telemetry",
    "device_site_assignments",
    "device_program_assignments",
}
_MOST_NAMED = 4


def functions_of(files: Sequence[Migration]) -> dict[str, str]:
    """The functions of the API that these files make, each with the latest file that makes it."""
    return {name: each.file for each in files for name in _FUNCTION.findall(each.text)}


def triggers_of(files: Sequence[Migration]) -> dict[str, str]:
    """The triggers that these files make on tables that the worker writes, as `<table>.<trigger>`."""
    return {
        f"{table}.{trigger}": each.file
        for each in files
        for trigger, table in _TRIGGER.findall(each.text)
        if table in _WORKER_TABLES
    }


def schema(version: str, files: Sequence[Migration]) -> Finding:
    """Compare the database's version, empty where it is from before it had one, with the newest file's."""
    newest = files[-1].version
    if version < newest:
        return Finding("schema", "broken", f"the database lacks {missing_files(version, files)}", _APPLY)
    if version > newest:
        seen = f"the database's schema {version} is newer than this version's {newest}"
        return Finding("schema", "warning", seen, "update mqtt-service here and on your host")
    return Finding("schema", "ok", f"all {len(files)} migrations, up to {version}")


def objects(seen: Examination, functions: dict[str, str], triggers: dict[str, str]) -> Iterator[Finding]:
    """What of the migrations is missing, forbidden or switched off."""
    yield _missing("functions", seen.missing_functions, functions, f"{len(functions)} functions")
    yield _grants(seen)
    if seen.disabled_triggers:
        table, _, trigger = seen.disabled_triggers[0].partition(".")
        yield Finding(
            "triggers",
            "broken",
            f"switched off: {_named(seen.disabled_triggers)}",
            f"run: alter table public.{table} enable trigger {trigger};",
        )
    elif seen.missing_triggers or not seen.foreign_triggers:
        yield _missing("triggers", seen.missing_triggers, triggers, f"{len(triggers)} triggers")
    else:
        own = _named(seen.foreign_triggers)
        yield Finding("triggers", "ok", f"all on, beside your own: {own} ({_FULL_CHECK} tries those)")


def _missing(name: str, missing: Sequence[str], files: dict[str, str], all_of: str) -> Finding:
    if not missing:
        return Finding(name, "ok", all_of)
    named = list(dict.fromkeys(files.get(each, "the migrations") for each in missing))
    cure = f"apply {_named(named)} again, and what follows: mqtt-service migrations prints all as one script"
    return Finding(name, "broken", f"missing: {_named(missing)}", cure)


def _grants(seen: Examination) -> Finding:
    if seen.forbidden_tables:
        tables = ", ".join(f"public.{table}" for table in seen.forbidden_tables)
        cure = f"run: grant select, insert, update, delete on {tables} to service_role;"
        return Finding("grants", "broken", f"the key may not read and write {tables}", cure)
    if seen.forbidden_functions:
        named = _named(seen.forbidden_functions)
        return Finding(
            "grants", "broken", f"the key may not execute {named}", _APPLY.replace("them", "the migrations")
        )
    return Finding("grants", "ok", "service_role may use all of it")


def columns(project: Project, unit: str) -> Finding:
    """What the project's own columns demand; `unit` is TEMPERATURE_UNIT."""
    if project.demanded_columns:
        first = project.demanded_columns[0]
        named = _named([f"{each.table}.{each.column}" for each in project.demanded_columns])
        return Finding(
            "columns", "broken", f"must have a value and have no default: {named}", f"run: {first.remedy}"
        )
    if project.missing_categories:
        return Finding(
            "columns",
            "warning",
            f"device_history.event_category lacks the words {', '.join(project.missing_categories)}",
            "add them: alter type … add value",
        )
    if project.temperatures_look_like not in {None, unit}:
        return Finding(
            "columns",
            "warning",
            f"temperatures look like degrees {project.temperatures_look_like}, not {unit}",
            f"set TEMPERATURE_UNIT={project.temperatures_look_like}, or convert the old rows",
        )
    return Finding("columns", "ok", "none")


def publication(seen: Examination) -> Finding:
    """Whether changes go out at all."""
    if not seen.unpublished:
        return Finding("publication", "ok", "devices and device_commands are in supabase_realtime")
    tables = ", ".join(f"public.{table}" for table in seen.unpublished)
    cure = f"run: alter publication supabase_realtime add table {tables};"
    return Finding("publication", "broken", f"not in supabase_realtime: {tables}", cure)


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(names[:_MOST_NAMED]) + more
