"""CPU of the worker's process beside that of a bare paho process which makes the same exchange.

Stack, broker, devices and worker share this machine, so a rate measures all of them. The CPU of one process
measures that one: it hardly changes with what else runs.

    dispatch   publish and PUBACK
    cycle      publish, PUBACK, an answer received and acknowledged
    chunks     a chunk received and acknowledged
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from mqtt_service.bench.bare_paho import COMMANDS, Message
from mqtt_service.bench.commands import all_are, all_heard
from mqtt_service.bench.pictures import DATA, EVERYTHING_SENT, SETTINGS, Upload, all_complete
from mqtt_service.bench.processes import WorkerProcess
from mqtt_service.bench.report import Measure
from mqtt_service.bench.rig import Rig

_MAX_COMMANDS = 2.5
_MAX_CHUNKS = 2.0
_FIRST_UPLOAD = 1_000


class _Work(NamedTuple):
    """Messages that were exchanged in one round, and the CPU seconds of the worker for all of them."""

    messages: list[Message]
    cpu: float


async def measure_cpu(rig: Rig, commands: int, pictures: int, chunks: int, rounds: int) -> list[Measure]:
    """Microseconds of CPU an item of the worker, over those of bare paho; all rounds of one worker first.

    Bare paho comes after the worker has gone, since its messages would be work for the worker too.
    """
    dispatches, cycles, uploads = [], [], []
    async with rig.worker(**SETTINGS) as worker:
        await worker.ready()
        for number in range(rounds):
            dispatches.append(await _dispatch(rig, worker, commands))
            cycles.append(await _cycle(rig, worker, commands))
            uploads.append(await _upload(rig, worker, Upload(pictures, chunks, _FIRST_UPLOAD + number)))
    await rig.clear()
    bare_dispatches = [(await rig.publish(work.messages)).cpu for work in dispatches]
    async with rig.devices_that_answer():
        bare_cycles = [(await rig.publish(work.messages, "exchange")).cpu for work in cycles]
    bare_uploads = [(await rig.receive(work.messages, DATA)).cpu for work in uploads]
    return [
        _measure("CPU a dispatched command / bare paho", dispatches, bare_dispatches, _MAX_COMMANDS),
        _measure("CPU a full cycle / bare paho", cycles, bare_cycles, _MAX_COMMANDS),
        _measure("CPU a chunk / bare paho", uploads, bare_uploads, _MAX_CHUNKS),
    ]


async def _dispatch(
    rig: Rig, worker: WorkerProcess, commands: int, status: Literal["sent", "acknowledged"] = "sent"
) -> _Work:
    """From the insert until all rows say `status`."""
    await rig.clear()
    with rig.listener(*COMMANDS) as listener:
        before = worker.usage.cpu()
        await rig.queue_backlog(commands)
        await all_heard(listener, commands)
        await all_are(rig, status, commands)
        return _Work(listener.messages(), worker.usage.cpu() - before)


async def _cycle(rig: Rig, worker: WorkerProcess, commands: int) -> _Work:
    """The same until all rows say `acknowledged`."""
    async with rig.devices_that_answer():
        return await _dispatch(rig, worker, commands, "acknowledged")


async def _upload(rig: Rig, worker: WorkerProcess, upload: Upload) -> _Work:
    """From the first message until all rows say `complete`: storing the pictures is part of it."""
    messages = upload.messages()
    with rig.listener(*EVERYTHING_SENT):
        before = worker.usage.cpu()
        await rig.publish(messages)
        await all_complete(rig, upload)
        return _Work(messages, worker.usage.cpu() - before)


def _measure(name: str, works: Sequence[_Work], bare: Sequence[float], goal: float) -> Measure:
    microseconds = [work.cpu / len(work.messages) * 1e6 for work in works]
    of_paho = [cpu / len(work.messages) * 1e6 for cpu, work in zip(bare, works, strict=True)]
    ratios = [ours / theirs for ours, theirs in zip(microseconds, of_paho, strict=True)]
    return Measure(name, ratios, "lower", goal, {"us": microseconds[-1], "paho_us": of_paho[-1]})
