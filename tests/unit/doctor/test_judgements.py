"""What doctor makes of what it saw: each table is one check."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from mqtt_service import __version__
from mqtt_service.adapters.supabase.examination import Examination, QueueSeen, WorkerSeen
from mqtt_service.adapters.supabase.project import DemandedColumn, Project
from mqtt_service.doctor import activity, database
from mqtt_service.doctor.broker import judge_limits
from mqtt_service.doctor.broker_connection import BrokerLimits
from mqtt_service.doctor.certificate import judge_expiry
from mqtt_service.doctor.findings import Finding
from mqtt_service.doctor.network import compare_clocks
from mqtt_service.migrations import Migration

NOW = datetime(2026, 1, 1, tzinfo=UTC)
QUIET = QueueSeen(overdue=0, oldest_overdue=None, unanswered=0, given_up=0, welcomes_due=0)
FINE = Examination("2", NOW, (), (), (), (), (), (), (), (), QUIET)
WORKER = WorkerSeen("one", "one:a", __version__, 20.0)
FILES = [
    Migration("1_mqtt_service_a.sql", "create or replace function public.fn_one() returns int"),
    Migration(
        "2_mqtt_service_b.sql",
        "create or replace trigger mqtt_ring after insert on public.device_commands\n"
        "create or replace trigger mqtt_touch before update on public.sites\n",
    ),
]


def about(findings: list[Finding], name: str) -> Finding:
    return next(finding for finding in findings if finding.name == name)


def test_the_files_say_what_they_make() -> None:
    assert database.functions_of(FILES) == {"fn_one": "1_mqtt_service_a.sql"}
    assert database.triggers_of(FILES) == {"device_commands.mqtt_ring": "2_mqtt_service_b.sql"}


@pytest.mark.parametrize(
    ("version", "state", "seen"),
    [
        ("2", "ok", "all 2 migrations, up to 2"),
        ("1", "broken", "the database lacks 2_mqtt_service_b.sql"),
        ("", "broken", "the database lacks the migrations up to 2_mqtt_service_b.sql"),
        ("3", "warning", "the database's schema 3 is newer than this version's 2"),
    ],
)
def test_the_schema_is_compared_with_the_newest_file(version: str, state: str, seen: str) -> None:
    finding = database.schema(version, FILES)
    assert (finding.state, finding.seen) == (state, seen)


@pytest.mark.parametrize(
    ("change", "name", "state", "text"),
    [
        ({}, "functions", "ok", "1 functions"),
        ({}, "triggers", "ok", "1 triggers"),
        ({}, "grants", "ok", "service_role"),
        ({"missing_functions": ["fn_one"]}, "functions", "broken", "apply 1_mqtt_service_a.sql again"),
        (
            {"missing_triggers": ["device_commands.mqtt_ring"]},
            "triggers",
            "broken",
            "2_mqtt_service_b.sql again",
        ),
        (
            {"disabled_triggers": ["devices.mqtt_x"]},
            "triggers",
            "broken",
            "public.devices enable trigger mqtt_x",
        ),
        ({"foreign_triggers": ["devices.theirs"]}, "triggers", "ok", "devices.theirs (mqtt-service migr"),
        ({"forbidden_functions": ["fn_one"]}, "grants", "broken", "apply the migrations: mqtt-service"),
        ({"forbidden_tables": ["devices"]}, "grants", "broken", "on public.devices to service_role"),
    ],
)
def test_objects_of_the_migrations(change: dict[str, list[str]], name: str, state: str, text: str) -> None:
    seen = replace(FINE, **change)  # type: ignore[arg-type]
    functions, triggers = database.functions_of(FILES), database.triggers_of(FILES)
    finding = about(list(database.objects(seen, functions, triggers)), name)
    assert finding.state == state
    assert text in f"{finding.seen} {finding.cure}"


@pytest.mark.parametrize(
    ("project", "state", "text"),
    [
        (Project(), "ok", "none"),
        (Project([DemandedColumn("devices", "n", "int", "alter …;")]), "broken", "run: alter …;"),
        (Project(missing_categories=["Alert"]), "warning", "lacks the words Alert"),
        (Project(temperatures_look_like="fahrenheit"), "warning", "TEMPERATURE_UNIT=fahrenheit"),
    ],
)
def test_columns_of_the_project(project: Project, state: str, text: str) -> None:
    finding = database.columns(project, "celsius")
    assert finding.state == state
    assert text in f"{finding.seen} {finding.cure}"


@pytest.mark.parametrize(
    ("workers", "state", "text"),
    [
        ([], "warning", "start one (mqtt-service run)"),
        ([replace(WORKER, seen_ago=200)], "warning", "no worker announced itself"),
        ([WORKER], "ok", f"one:a ({__version__}, 20 s ago)"),
        ([replace(WORKER, version="0.0.1")], "warning", "deploy one version everywhere"),
        ([replace(WORKER, version=None)], "warning", "an older version"),
    ],
)
def test_workers_that_run(workers: list[WorkerSeen], state: str, text: str) -> None:
    finding = about(list(activity.workers(replace(FINE, workers=workers), "mine")), "workers")
    assert finding.state == state
    assert text in f"{finding.seen} {finding.cure}"


@pytest.mark.parametrize(
    ("change", "state", "text"),
    [
        ({}, "ok", "one is in use by one worker"),
        ({"client_id": "another"}, "ok", "one is used by no other worker"),
        ({"overtaken": "one:b", "overtaken_ago": 0.0, "overtakings": 1}, "warning", "one:b still ran 0 s"),
        ({"overtaken": "one:b", "overtaken_ago": 5.0, "overtakings": 1}, "warning", "one:b still ran 5 s"),
        ({"overtaken": "one:b", "overtaken_ago": 5.0, "overtakings": 3}, "broken", "3 were thrown out"),
        ({"overtaken": "one:b", "overtaken_ago": 700.0, "overtakings": 3}, "ok", "in use by one worker"),
    ],
)
def test_two_workers_with_one_client_id(change: dict[str, object], state: str, text: str) -> None:
    seen = replace(FINE, workers=[replace(WORKER, **change)])  # type: ignore[arg-type]
    finding = about(list(activity.workers(seen, "one")), "client_id")
    assert finding.state == state
    assert text in finding.seen


@pytest.mark.parametrize(
    ("change", "name", "text"),
    [
        (
            {"overdue": 3, "oldest_overdue": 600.0},
            "queue",
            "3 commands wait to be sent, the oldest for 10 min",
        ),
        ({"unanswered": 1000}, "answers", "1000 or more commands"),
        ({"given_up": 2}, "retries", "2 commands of the last day failed for good"),
        ({"welcomes_due": 1}, "welcomes", "1 mapped devices wait"),
    ],
)
def test_commands_that_wait(change: dict[str, float], name: str, text: str) -> None:
    found = list(activity.commands(replace(QUIET, **change)))  # type: ignore[arg-type]
    assert {finding.name for finding in found if finding.state != "ok"} == {name}
    assert text in about(found, name).seen
    assert about(found, name).cure


@pytest.mark.parametrize(
    ("limits", "group", "state", "text"),
    [
        (BrokerLimits(), "workers", "ok", "65535"),
        (BrokerLimits(receive_maximum=20), None, "ok", "20 unacknowledged"),
        (BrokerLimits(shared=False), None, "ok", "MQTT 5"),
        (BrokerLimits(shared=False), "workers", "broken", "unset MQTT_SHARED_GROUP"),
        (BrokerLimits(wildcards=False), None, "broken", "allow them"),
        (BrokerLimits(maximum_qos=0), None, "broken", "raise its maximum QoS"),
        (BrokerLimits(maximum_packet=1024), None, "warning", "1024 bytes at most"),
    ],
)
def test_limits_of_the_broker(limits: BrokerLimits, group: str | None, state: str, text: str) -> None:
    finding = judge_limits(limits, group, speaks_v5=True)
    assert finding.state == state
    assert text in f"{finding.seen} {finding.cure}"


def test_a_broker_of_an_older_protocol_is_a_warning() -> None:
    assert "no shared subscriptions" in judge_limits(BrokerLimits(), "workers", speaks_v5=False).seen


@pytest.mark.parametrize(("days", "state"), [(22, "ok"), (20, "warning")])
def test_a_certificate_is_to_be_renewed_three_weeks_before_its_end(days: int, state: str) -> None:
    assert judge_expiry(NOW + timedelta(days=days), NOW).state == state


@pytest.mark.parametrize(
    ("ahead", "state"), [(0.4, "ok"), (-30.0, "warning"), (301.0, "broken"), (-301.0, "broken")]
)
def test_clocks(ahead: float, state: str) -> None:
    finding = compare_clocks({"the database": ahead, "the API": 0.0})
    assert finding.state == state
    assert bool(finding.cure) == (state != "ok")
