"""Supabase is away while devices answer: each answer reaches its row, or its command comes again."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

import psycopg
import pytest

from mqtt_service.devstack.stack import Stack
from tests.faults.bench.drills import drill, report
from tests.faults.bench.fleet import Fleet, Heard
from tests.faults.bench.processes import WorkerProcess
from tests.faults.bench.rig import Bench, running_bench
from tests.integration.worker.harness import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")

Way = Literal["refuses", "swallows", "restarts"]

_AWAY = drill(2.0, 60.0)
_DEVICES = drill(20, 100)
_EACH = drill(5, 10)
_ANSWERS = _DEVICES * _EACH
# The longest pause between two attempts, and a time-out before it.
_BACK = drill(20.0, 60.0)
_OVERFLOW = 200
_OPEN = """
status <> 'acknowledged'
and device_id in (select device_id from public.devices where device_mac = any (%s))
"""


async def _sent(bench: Bench, fleet: Fleet, devices: int, each: int) -> list[Heard]:
    """So many commands that each device has, and none has answered."""
    ids = [row["device_id"] for row in await bench.database.add_active_devices(devices)]
    fleet.answering = False
    await bench.database.queue_each(ids, each)

    async def all_sent() -> bool:
        return await bench.database.statuses() == {"sent": devices * each}

    await eventually(all_sent, "commands that are sent", 60)
    rows = await bench.database.all(
        "select device_mac, command_id from public.device_commands join public.devices using (device_id)"
        " order by issue_number"
    )
    return [Heard("device", row["device_mac"], str(row["command_id"]), {}, 0.0) for row in rows]


async def _answer_all(fleet: Fleet, heard: list[Heard]) -> None:
    """Each device answers; returns when the broker has it all."""
    said = [fleet.answer(message) for message in heard]
    await eventually(lambda: all(info.is_published() for info in said), "the broker's PUBACKs", 30)


async def _answers(fleet: Fleet, number: int) -> None:
    await eventually(lambda: fleet.answered >= number, f"{number} answers")


async def _acknowledged(bench: Bench, commands: int, patience: float) -> float:
    loop = asyncio.get_running_loop()
    started = loop.time()

    async def landed() -> bool:
        return await bench.database.statuses() == {"acknowledged": commands}

    await eventually(landed, f"{commands} acknowledged commands", patience)
    return loop.time() - started


@asynccontextmanager
async def _away(bench: Bench, way: Way) -> AsyncIterator[None]:
    """Supabase is away for the time of the block, in one of the ways in which it can be."""
    if way == "refuses":
        await bench.api.refuse()
    elif way == "swallows":
        bench.api.black_hole()
    else:
        await bench.stack.postgres.stop()
    try:
        yield
    finally:
        if way == "refuses":
            await bench.api.admit()
        elif way == "swallows":
            bench.api.flow()
        else:
            await bench.stack.postgres.start()


async def _is_seen(worker: WorkerProcess) -> None:
    """What an operator sees of it."""
    await worker.says(r"\[ACK\] .*Supabase.*; \d+ waiting, next try in")
    await worker.says(r"\[CommandQueue\] .*Supabase.*; next poll in")
    document = await worker.becomes("unhealthy")
    assert document["supabase"]["connected"] is False
    assert "Supabase" in document["supabase"]["error"]


@pytest.mark.parametrize("way", ["refuses", "swallows", "restarts"])
async def test_answers_that_come_while_supabase_is_away_land_when_it_is_back(bench: Bench, way: Way) -> None:
    """Take out `retry_forever` in Batcher._call: the first failure loses what was in hand.

    Long: 1,000 answers in 60 s.
    """
    async with bench.devices() as fleet, bench.worker("worker", SUPABASE_TIMEOUT="1") as worker:
        heard = await _sent(bench, fleet, _DEVICES, _EACH)
        async with _away(bench, way):
            gone = asyncio.get_running_loop().time()
            await _answer_all(fleet, heard)
            await _is_seen(worker)
            await asyncio.sleep(
                max(gone + _AWAY - asyncio.get_running_loop().time(), 0)
            )  # the outage's length
        took = await _acknowledged(bench, _ANSWERS, _BACK)
        await worker.becomes("healthy")
        assert "Traceback" not in worker.output
    report(way=way, away=_AWAY, answers=_ANSWERS, landed_after=round(took, 1))


async def test_answers_outlive_a_worker_that_is_killed_while_supabase_is_away(bench: Bench) -> None:
    """Take out that the MQTT acknowledgement comes after the commit: acknowledge in Inbound.take.

    Or the persistent session: `clean_start=True` in the link's CONNECT. Long: 1,000 answers in 60 s.
    """
    async with bench.devices() as fleet:
        async with bench.worker("worker") as worker:
            heard = await _sent(bench, fleet, _DEVICES, _EACH)
            await bench.api.refuse()
            gone = asyncio.get_running_loop().time()
            await _answer_all(fleet, heard[: _ANSWERS // 2])
            await _is_seen(worker)
            await worker.kill()
        await _answer_all(fleet, heard[_ANSWERS // 2 :])
        async with bench.worker("worker", ready=False) as worker:
            await _is_seen(worker)
            await asyncio.sleep(
                max(gone + _AWAY - asyncio.get_running_loop().time(), 0)
            )  # the outage's length
            await bench.api.admit()
            took = await _acknowledged(bench, _ANSWERS, _BACK)
            await worker.becomes("healthy")
    report(killed=True, away=_AWAY, answers=_ANSWERS, landed_after=round(took, 1))


async def _kill_backends_at_work(bench: Bench) -> None:
    """End the API's connections to Postgres while the worker's calls are under way in them."""
    at_work = "from pg_stat_activity where usename = 'authenticator' and wait_event_type = 'Lock'"
    async with await psycopg.AsyncConnection.connect(bench.stack.db_url) as another:
        await another.execute("lock table public.device_commands")

        async def wait_for_the_lock() -> bool:
            return bool(await bench.database.all(f"select pid {at_work}"))

        await eventually(wait_for_the_lock, "calls under way")
        await bench.database.all(f"select pg_terminate_backend(pid) {at_work}")


async def test_backends_that_are_killed_at_work_cost_no_command_and_no_answer(bench: Bench) -> None:
    """Take out 57P01 from _RETRYABLE_CODES and 503 from _RETRYABLE_STATUS in api_errors.py."""
    ids = [row["device_id"] for row in await bench.database.add_active_devices(_DEVICES)]
    turns = drill(2, 20)
    async with bench.devices() as fleet, bench.worker() as worker:
        for turn in range(turns):
            await bench.database.queue_each(ids, _EACH)
            await _answers(fleet, turn * _ANSWERS + 1)
            await _kill_backends_at_work(bench)
        await _acknowledged(bench, _ANSWERS * turns, 60)
        await worker.becomes("healthy")
        assert worker.said(r"WARNING \[\w+\] Supabase .*; .*next (try|poll) in")
        assert not worker.said("Traceback|state of the project")
    assert await bench.database.count("retry_count > 0 or attempt <> 1") == 0
    assert fleet.repeats() == 0


async def _broker_says(directory: Path, pattern: str) -> None:
    log = directory / "mosquitto.log"
    await eventually(
        lambda: re.search(pattern, log.read_text(encoding="utf-8")), f"{pattern!r} from Mosquitto"
    )


async def _nothing_is_open(bench: Bench, topic_ids: list[str]) -> None:
    async def closed() -> bool:
        return await bench.database.count(_OPEN, topic_ids) == 0

    await eventually(closed, "the answers to what came again", 30)


async def test_answers_that_the_broker_dropped_cost_a_delivery_on_wake_or_an_expiry_that_says_so(
    stack: Stack, tmp_path: Path
) -> None:
    """Take out fn_redeliver_commands in fn_record_heartbeat: commands without an answer stay sent."""
    async with running_bench(stack, tmp_path, "max_queued_messages 60") as bench, bench.devices() as fleet:
        async with bench.worker("worker") as worker:
            heard = await _sent(bench, fleet, _OVERFLOW // 5, 5)
            await worker.kill()
            await _broker_says(tmp_path, r"lient worker.*(closed|disconnect)")
        await _answer_all(fleet, heard)
        async with bench.worker("worker") as worker:
            silent = heard[0].topic_id
            fleet.leave_to_themselves(silent)
            # Behind what the broker kept: answers are written in the order in which they came.
            fleet.say("device/last/ack", {"command_id": "none", "command_ack": "ok"})
            await worker.says("Answer not used")
            dropped = await bench.database.count("status = 'sent'")
            assert dropped > _OVERFLOW / 2
            # Hours later the devices wake, and one has gone for good.
            await bench.database.all(
                "update public.device_commands set delivered_at = delivered_at - interval '6 h'"
            )
            fleet.answering = True
            waking = sorted({message.topic_id for message in heard} - {silent})
            for start in range(0, len(waking), 10):  # or the broker would drop what is for the devices, too
                for device in waking[start : start + 10]:
                    fleet.say(f"device/{device}/status", {"device_id": device, "status": "Alive"})
                await _nothing_is_open(bench, waking[start : start + 10])
            await worker.says(r"\[HELLO\] Awake: .* again: no answer to them came\)")
            left = await bench.database.count("status = 'sent'")
            assert left
            await bench.database.all(
                "update public.device_commands set expires_at = now() where status = 'sent'"
            )
            reason = "expired: it was delivered to the broker, but the device did not answer in time"
            await worker.says(f"⌛ update_config {reason}", times=left)
            assert await bench.database.statuses() == {"acknowledged": _OVERFLOW - left, "expired": left}
            assert await bench.database.count("last_error = %s", reason) == left
        report(answers=_OVERFLOW, dropped_by_the_broker=dropped, expired=left)
