"""How often workers said that a device may get a command twice: each such repeat is in a line of a log."""

import re

from tests.faults.bench.processes import WorkerProcess

# The PUBACK did not come, or the worker that had the command did not settle it in time.
_LINES = (
    re.compile(r"(\d+) of them may have arrived and will be sent again"),
    re.compile(r"(\d+) command\(s\) of a worker that is gone "),
)

_UNSENT = re.compile(r"(\d+) command\(s\) not sent, pending again")


def given_back(*workers: WorkerProcess) -> int:
    """So many commands in all."""
    return sum(int(count) for worker in workers for line in _LINES for count in line.findall(worker.output))


def claimed_again(*workers: WorkerProcess) -> int:
    """So many commands at most were claimed more than once: those, and what was given back unsent."""
    unsent = sum(int(count) for worker in workers for count in _UNSENT.findall(worker.output))
    return unsent + given_back(*workers)
