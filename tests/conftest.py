"""Settings of the whole test run: with MQTT_SERVICE_NO_SKIPS=1 whatever was skipped has failed.

Where processes share the files, those that take longest come first.
"""

import os
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from mqtt_service.devstack.postgres import EmbeddedPostgres
from tests import certificates, started
from tests.prepared_cluster import copied_from, folder_of_the_run
from tests.requirements import NO_SKIPS

certificates.share()
_HERE = Path(__file__).parent
_CONSOLE = "tests/acceptance/console/"
# About the longest first; one that waits most of its time stands beside one that calculates.
_LONGEST = (
    *(f"acceptance/console/{path.name}" for path in sorted((_HERE / "acceptance/console").glob("test_*.py"))),
    "acceptance/test_pictures.py",
    "faults/test_soak.py",
    "integration/database/test_ways_to_apply.py",
    "acceptance/test_first_evening.py",
    "faults/test_beside_the_node_service.py",
    "faults/test_rolling_deploy.py",
    "integration/worker/test_fuzz.py",
    "acceptance/test_deploy.py",
    "integration/worker/test_backfill.py",
    "faults/test_supabase_away.py",
    "acceptance/test_demo.py",
    "faults/test_lost_responses.py",
    "acceptance/test_bench.py",
    "acceptance/test_dev.py",
    "faults/test_broker_away.py",
    "integration/bench/test_measures.py",
    "faults/test_poison.py",
    "integration/database/test_calculate_next_wake_properties.py",
    "integration/database/test_official_tools.py",
    "integration/worker/test_doorbell.py",
    "integration/simulator/test_fleet.py",
    "integration/fleet/test_devices.py",
    "unit/protocol/test_images.py",
    "unit/test_documents.py",
)
# A file that is gone is an error here.
_PLACES = {(_HERE / name).resolve(strict=True): place for place, name in enumerate(_LONGEST)}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """In each process of several (pytest-xdist), put the longest files first: none is left for the end."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=lambda item: _PLACES.get(item.path, len(_PLACES)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give each process whole files, and all of the console to one: its tests share a stack."""
    if config.getoption("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling  # type: ignore[import-untyped]  # noqa: PLC0415 - has no types; only where xdist runs

    class Scheduling(LoadFileScheduling):  # type: ignore[misc]  # its base has no types
        def _split_scope(self, nodeid: str) -> str:
            return _CONSOLE if nodeid.startswith(_CONSOLE) else str(super()._split_scope(nodeid))

    return Scheduling(config, log)


@pytest.fixture(scope="session")
def server_of_stacks(tmp_path_factory: pytest.TempPathFactory) -> type[EmbeddedPostgres]:
    """A server with all migrations and the seed: its cluster is made once in a run, and copied."""
    directory = folder_of_the_run(tmp_path_factory) / "prepared_stack"
    started.prepared[:] = [directory]
    return copied_from(directory)


@pytest.fixture(scope="session", autouse=True)
def _stacks_begin_with_a_copy(server_of_stacks: type[EmbeddedPostgres]) -> Iterator[None]:
    """Start each stack of this process on such a server."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mqtt_service.devstack.stack.EmbeddedPostgres", server_of_stacks)
        yield


def _fail_if_skipped(report: pytest.TestReport | pytest.CollectReport) -> None:
    # An expected failure (xfail) is reported as skipped as well, and is none.
    if NO_SKIPS and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        report.outcome = "failed"
        report.longrepr = f"{report.nodeid}: skips count as failures in this run: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Judge a test's report."""
    report = yield
    _fail_if_skipped(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Judge a file's report: a whole file can be skipped too."""
    report = yield
    _fail_if_skipped(report)
    return report
