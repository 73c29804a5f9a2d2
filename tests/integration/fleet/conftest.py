"""One embedded stack for all tests of the command line."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from mqtt_service.devstack.stack import Stack, running_stack
from tests.integration.fleet.harness import Database, Run, runner


@pytest.fixture(scope="package")
def stack() -> Iterator[Stack]:
    """It runs on a loop of its own, since the command line runs one in the test's thread."""
    started: list[Stack] = []
    ready, ended = threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()

    async def serve() -> None:
        try:
            async with running_stack(data_dir=None) as stack:
                started.append(stack)
                ready.set()
                await ended.wait()
        finally:
            ready.set()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    ready.wait(60)
    try:
        yield started[0]
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join(30)
        loop.close()


@pytest.fixture
def database(stack: Stack) -> Iterator[Database]:
    """What psql would be."""
    with psycopg.connect(stack.db_url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def run(
    stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    """The command line, with the settings of the project and none of the broker's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SUPABASE_URL", stack.url)
    monkeypatch.setenv("SUPABASE_SECRET_KEY", stack.keys.service_role_key)
    monkeypatch.delenv("MQTT_HOST", raising=False)
    return runner(monkeypatch, capsys)
