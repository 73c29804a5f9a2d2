"""Targets: which devices of one company a document means, and what is refused."""

import json
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from tests.integration.database.queue_calls import copied, reseeded
from tests.integration.database.test_image_storage import acting_as

COMPANY_A, COMPANY_B = "a0000000-0000-4000-8000-000000000001", "b0000000-0000-4000-8000-000000000001"
NORTH, SOUTH = "a0000000-0000-4000-8000-000000000021", "a0000000-0000-4000-8000-000000000022"
PROGRAM = "a0000000-0000-4000-8000-000000000011"
VIEWER_A, OPERATOR_A = "a0000000-0000-4000-8000-0000000000e1", "a0000000-0000-4000-8000-0000000000e2"
IDS = {n: f"d0000000-0000-4000-8000-00000000000{n}" for n in range(1, 7)}

# Of company A but for the last, which is B's and is else like the first.
_DEVICES = f"""
insert into devices (device_id, device_mac, company_id, program_id, site_id, is_active, firmware_version,
  battery_voltage, last_seen_at)
values
  ('{IDS[1]}', 'T1', '{COMPANY_A}', '{PROGRAM}', '{NORTH}', true, '1.9.2', 3.3, now()),
  ('{IDS[2]}', 'T2', '{COMPANY_A}', '{PROGRAM}', '{NORTH}', false, '1.10.0', 3.9, now() - interval '3 days'),
  ('{IDS[3]}', 'T3', '{COMPANY_A}', '{PROGRAM}', '{SOUTH}', true, '1.10.0-rc.1', null, null),
  ('{IDS[4]}', 'T4', '{COMPANY_A}', null, null, true, null, 3.5, now() - interval '1 hour'),
  ('{IDS[5]}', 'T5', '{COMPANY_A}', null, null, true, 'factory', 3.6, now()),
  ('{IDS[6]}', 'T6', '{COMPANY_B}', null, null, true, '1.9.2', 3.3, now());
insert into device_tags (device_id, tag) values
  ('{IDS[1]}', 'indoor'), ('{IDS[1]}', 'tall'), ('{IDS[3]}', 'indoor'), ('{IDS[6]}', 'indoor');
"""


@pytest.fixture(scope="module")
def database(server_url: str, seeded_template: str) -> Iterator[psycopg.Connection]:
    with copied(server_url, seeded_template) as connection:
        reseeded(connection)
        connection.execute("delete from device_site_assignments")
        connection.execute("delete from devices")
        connection.execute(_DEVICES.encode())
        yield connection


def preview(database: psycopg.Connection, target: object, **more: object) -> Any:
    parameters = {"p_target": json.dumps(target), **more}
    call = ", ".join(f"{name} => %({name})s" for name in parameters)
    row = database.execute(f"select fn_preview_target({call})".encode(), parameters).fetchone()
    assert row is not None
    return row[0]


def numbers(answer: Any) -> set[int]:
    return {int(device["device_id"][-1]) for device in answer["devices"]}


@pytest.mark.parametrize(
    ("target", "meant"),
    [
        ({"company": COMPANY_A}, {1, 2, 3, 4, 5}),
        ({"site": NORTH}, {1, 2}),
        ({"program": PROGRAM}, {1, 2, 3}),
        ({"devices": [IDS[1], IDS[4], IDS[1], IDS[6]]}, {1, 4}),
        ({"tags": ["indoor"]}, {1, 3}),
        ({"tags": ["indoor", "tall"]}, {1}),
        ({"tags": ["Indoor"]}, set()),
        ({"site": NORTH, "tags": ["indoor"]}, {1}),
        ({"firmware": {"<": "1.10.0"}}, {1, 3}),
        ({"firmware": {">": "1.9.2"}}, {2, 3}),
        ({"firmware": {">": "1.9", "<=": "1.10"}}, {1, 2, 3}),
        ({"firmware": {"=": "v1.10"}}, {2}),
        ({"firmware": {"=": "factory"}}, {5}),
        ({"firmware": {"!=": "1.10.0"}}, {1, 3, 5}),
        ({"battery": {"<": 3.5}}, {1}),
        ({"battery": {">=": 3.5, "!=": 3.6}}, {2, 4}),
        ({"battery": {"<=": 3.5}}, {1, 4}),
        ({"battery": {"=": 3.9}}, {2}),
        ({"battery": {">": 3.6}}, {2}),
        ({"last_seen": {"within": "2h"}}, {1, 4, 5}),
        ({"last_seen": {"not_within": "2 days"}}, {2, 3}),
        ({"last_seen": {"within": "2h"}, "battery": {"<": 3.5}}, {1}),
    ],
    ids=str,
)
def test_a_target_means_the_devices_that_fit_all_of_it(
    database: psycopg.Connection, target: dict[str, Any], meant: set[int]
) -> None:
    answer = preview(database, target, p_company_id=COMPANY_A)
    assert numbers(answer) == meant
    assert answer["matched"] == len(meant)
    assert answer["active"] == len(meant - {2})


@pytest.mark.parametrize(
    ("lower", "higher"),
    [
        ("1.9.2", "1.10.0"), ("1", "1.0.1"), ("1.0.0-alpha", "1.0.0-alpha.1"),
        ("1.0.0-alpha.1", "1.0.0-alpha.beta"),
        ("1.0.0-beta.2", "1.0.0-beta.11"), ("1.0.0-rc.1", "1.0.0"), ("v2.0", "2.0.1"), ("1.0.0-Z", "1.0.0-a"),
        ("0.9.9", "1.0.0-1"), ("1.2.3.4", "1.2.3.10"),
    ],
)  # fmt: skip
def test_versions_compare_as_semver_orders_them(
    database: psycopg.Connection, lower: str, higher: str
) -> None:
    query = "select mqtt_private.fn_version_fits(%s, jsonb_build_object(%s::text, %s::text))"
    for version, comparison, other, fits in (
        (lower, "<", higher, True),
        (lower, ">=", higher, False),
        (higher, ">", lower, True),
        (lower, "=", higher, False),
    ):
        assert database.execute(query, (version, comparison, other)).fetchone() == (fits,)


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ({}, "names no devices"),
        ([], "names no devices"),
        ({"sites": [NORTH]}, 'there is no part "sites"'),
        ({"site": "Alder North"}, "not an id"),
        ({"devices": []}, "not a list of 1 to 10000"),
        ({"devices": ["T1"]}, 'devices holds "T1"'),
        ({"tags": "indoor"}, "not a list of 1 to 20"),
        ({"tags": [""]}, 'tags holds ""'),
        ({"firmware": "1.2"}, "where a comparison is needed"),
        ({"firmware": {}}, "where a comparison is needed"),
        ({"firmware": {"~": "1.2"}}, 'not by "~"'),
        ({"firmware": {"<": "newest"}}, "is not a version"),
        ({"battery": {"<": "3.5"}}, "is not a number"),
        ({"last_seen": {"within": "soon"}}, "is not a time span"),
        ({"last_seen": {"within": "-2 days"}}, "is not a time span"),
    ],
    ids=str,
)
def test_what_is_no_target_is_refused_with_what_to_write(
    database: psycopg.Connection, target: object, said: str
) -> None:
    with pytest.raises(psycopg.errors.CheckViolation) as refused:
        preview(database, target)
    assert said in str(refused.value.diag.message_primary)
    assert refused.value.diag.message_hint


def test_a_preview_shows_the_first_and_counts_all(database: psycopg.Connection) -> None:
    answer = preview(database, {"company": COMPANY_A}, p_limit=2)
    assert (answer["matched"], answer["active"], numbers(answer)) == (5, 4, {1, 2})


def test_whoever_sees_one_company_need_not_name_it(database: psycopg.Connection) -> None:
    with pytest.raises(psycopg.errors.CheckViolation, match="does not say of which company"):
        preview(database, {"tags": ["indoor"]})
    with acting_as(database, "authenticated", VIEWER_A):
        assert numbers(preview(database, {"tags": ["indoor"]})) == {1, 3}


def test_another_companys_devices_are_neither_counted_nor_shown(database: psycopg.Connection) -> None:
    with acting_as(database, "authenticated", OPERATOR_A):
        for target in ({"company": COMPANY_B}, {"tags": ["indoor"], "company": COMPANY_B}):
            assert preview(database, target)["matched"] == 0
