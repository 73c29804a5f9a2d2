"""The broker is away: commands wait, uncounted, and flow in order when it is back."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mqtt_service.devstack.stack import Stack
from tests.faults.bench.drills import drill, report
from tests.faults.bench.fleet import Fleet
from tests.faults.bench.packets import PubackStop, Switch
from tests.faults.bench.rig import Bench, running_bench
from tests.integration.worker.harness import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")

_AWAY = drill(3.0, 60.0)
_DEVICES = drill(20, 100)
_EACH = 10
_IN_FLIGHT = 5
_EXPIRING = 5


async def _queue_what_expires(bench: Bench, devices: list[dict[str, object]]) -> None:
    """Commands whose time ends halfway through the outage."""
    at = datetime.now(UTC) + timedelta(seconds=_AWAY / 2)
    await bench.database.all(
        "insert into public.device_commands (device_id, command_type, expires_at)"
        " select d, 'reboot', %s from unnest(%s::uuid[]) d",
        at,
        [device["device_id"] for device in devices[:_EXPIRING]],
    )


async def _heard(fleet: Fleet, messages: int) -> None:
    await eventually(lambda: len(fleet.heard) >= messages, f"{messages} publishes")


async def test_while_the_broker_is_away_commands_wait_uncounted_and_then_flow_in_order(
    stack: Stack, tmp_path: Path
) -> None:
    """Take out any of these:

    - that nothing is claimed while the link is down (`limit` in CommandQueueProcessor._poll): attempts count;
    - `released` for BrokerUnavailableError in CommandQueueProcessor._publish: retries are counted;
    - one paho client for each connection (a client that reconnects sends its own queue again, marked as DUP).

    Long: the broker is away for 60 s with 1,000 commands.
    """
    async with running_bench(stack, tmp_path, "log_type all") as bench:
        devices = await bench.database.add_active_devices(_DEVICES)
        ids = [device["device_id"] for device in devices]
        async with bench.devices() as fleet, bench.worker("the-worker") as worker:
            fleet.answering = False
            bench.mqtt.black_hole("down")
            await bench.database.queue_each(ids[:_IN_FLIGHT], 1, "capture_image")
            await eventually(lambda: len(fleet.heard) == _IN_FLIGHT, "commands without a PUBACK")
            await bench.broker.stop()
            await bench.mqtt.refuse()
            bench.mqtt.flow()
            gone = asyncio.get_running_loop().time()
            fleet.answering = True

            document = await worker.becomes("unhealthy")
            assert document["mqtt"]["connected"] is False
            assert str(bench.mqtt.port) in document["mqtt"]["error"]
            await worker.says(r"\[MQTT\] ❌ nothing listens on .*; next try in")
            await worker.says(
                rf"{_IN_FLIGHT} command\(s\) not sent, pending again without a failure counted: "
                rf".*; {_IN_FLIGHT} of them may have arrived and will be sent again under the same command_id"
            )
            await bench.database.queue_each(ids, _EACH)
            await _queue_what_expires(bench, devices)
            waiting = {"pending": _IN_FLIGHT + _DEVICES * _EACH, "expired": _EXPIRING}

            async def swept() -> bool:
                return await bench.database.statuses() == waiting

            await eventually(swept, "the expiry of what nobody can be told", _AWAY + 10)
            await worker.says("⌛ reboot expired: it could not be delivered in time", times=_EXPIRING)
            await asyncio.sleep(gone + _AWAY - asyncio.get_running_loop().time())  # the length of the outage
            assert await bench.database.statuses() == waiting
            assert await bench.database.count("lease_worker is not null or retry_count > 0") == 0
            assert await bench.database.count("attempt > 1") == 0

            back = asyncio.get_running_loop().time()
            await bench.broker.start()
            await bench.mqtt.admit()

            async def flowed() -> bool:
                left = {"acknowledged": _IN_FLIGHT + _DEVICES * _EACH, "expired": _EXPIRING}
                return await bench.database.statuses() == left

            await eventually(flowed, "all commands after the outage", 60)
            took = asyncio.get_running_loop().time() - back
            await worker.becomes("healthy")
            warnings = len(worker.said("WARNING"))
        report(away=_AWAY, commands=_DEVICES * _EACH, flowed_after=round(took, 1), warnings=warnings)
        assert await bench.database.count("retry_count > 0") == 0
        assert all(numbers == list(range(1, _EACH + 1)) for numbers in fleet.numbers().values())
        assert fleet.repeats() == _IN_FLIGHT
        assert not [message for message in fleet.heard if "reboot" in message.body]
        broker_log = (tmp_path / "mosquitto.log").read_text(encoding="utf-8")
        assert "Received PUBLISH from the-worker (d0" in broker_log
        assert "Received PUBLISH from the-worker (d1" not in broker_log
        assert warnings < 30 + _AWAY


async def test_the_brokers_receive_maximum_holds_also_right_after_a_reconnect(
    stack: Stack, tmp_path: Path
) -> None:
    """Take out the broker's ReceiveMaximum from `in_flight` in Connection.connack."""
    async with running_bench(stack, tmp_path, "max_inflight_messages 3") as bench:
        ids = [row["device_id"] for row in await bench.database.add_active_devices(10)]
        stopped = Switch(on=True)
        bench.mqtt.filter_down = lambda: PubackStop(stopped)
        async with bench.devices(answering=False) as fleet, bench.worker() as worker:
            await bench.database.queue_each(ids, 1)
            for connection in (1, 2):
                await _heard(fleet, 3 * connection)
                # What the worker does with this, it does after whatever it was to publish.
                fleet.say(f"device/{connection}/ack", {"command_id": "none", "command_ack": "ok"})
                await worker.says("Answer not used", times=connection)
                assert len(fleet.heard) == 3 * connection
                if connection == 1:
                    await bench.mqtt.reset()
            stopped.on = False
            fleet.say("device/3/ack", {"command_id": "none", "command_ack": "ok"})
            for row in await bench.database.all("select command_id from public.device_commands"):
                await bench.database.becomes(row["command_id"], "sent")
            await worker.becomes("healthy")
            assert len(worker.said(r"\[MQTT\] ❌ ")) == 1
    assert "Receive Maximum" not in (tmp_path / "mosquitto.log").read_text(encoding="utf-8")


async def test_a_command_whose_time_ends_while_the_broker_is_slow_is_not_published(bench: Bench) -> None:
    """Take out _TIME_IS_OVER in CommandQueueProcessor._publish_in_order."""
    (device,) = await bench.database.add_active_devices(1)
    async with bench.devices() as fleet, bench.worker(LEASE_DURATION="60") as worker:
        bench.mqtt.black_hole("down")
        await bench.database.all(
            "insert into public.device_commands (device_id, command_type, command_payload, expires_at)"
            " select %s, 'update_config', jsonb_build_object('n', n),"
            "   case n when 2 then now() + interval '3 s' end"
            " from generate_series(1, 3) n",
            device["device_id"],
        )
        await _heard(fleet, 1)
        assert await bench.database.count("lease_worker is not null and expires_at > now()") == 1

        async def over() -> bool:
            return await bench.database.count("expires_at <= now()") == 1

        await eventually(over, "the end of the second command's time")
        bench.mqtt.flow()
        await _heard(fleet, 2)

        async def settled() -> bool:
            return await bench.database.statuses() == {"acknowledged": 2, "expired": 1}

        await eventually(settled, "two answers and an expiry")
        await worker.says(r"1 command\(s\) not sent, .*: it expires before it can be sent")
        await worker.says("⌛ update_config expired: it could not be delivered in time")
    assert fleet.numbers() == {device["device_mac"]: [1, 3]}
