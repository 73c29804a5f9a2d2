"""How often workers said that a device may get a command twice: each such repeat is in a line of a log."""

import re

from tests.faults.bench.processes import WorkerProcess

# Given back since the broker's answer did not come, or taken over from a worker that did not settle in time.
_LINE = re.compile(r"(\d+) command\(s\) (?:wait, uncounted: |of a worker that is gone )")


def given_back(*workers: WorkerProcess) -> int:
    """So many commands in all."""
    return sum(int(count) for worker in workers for count in _LINE.findall(worker.output))
