"""The command line: parsing only; each verb is one function here and calls one of the room that does it.

Exit status: 0 done, 1 something failed, 2 wrong configuration or use, 130 interrupted.
"""

from mqtt_service.cli.app import main

__all__ = ["main"]
