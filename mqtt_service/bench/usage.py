"""What a process uses of the machine: CPU and memory, read from outside and at no cost to it."""

import psutil

from mqtt_service.devstack.child import Child


class Usage:
    """Of the program that a running `child` guards; it must have started."""

    def __init__(self, child: Child) -> None:
        guarded = psutil.Process(child.pid).children()
        # The other child of the guard is the shell that waits for us to end.
        self._process = max(guarded, key=lambda process: process.memory_info().rss)

    def cpu(self) -> float:
        """Seconds of CPU so far, of user and system together, to a hundredth."""
        times = self._process.cpu_times()
        return float(times.user + times.system)

    def memory(self) -> int:
        """Resident bytes now."""
        return int(self._process.memory_info().rss)
