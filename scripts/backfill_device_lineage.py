#!/usr/bin/env python3
"""Complete the lineage of devices that were mapped before the provisioning triggers existed.

Configured like the worker, by the environment and .env. Parsing only: the work is in
mqtt_service.devices.backfill.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer

# Where the package is not installed (Heroku, Render) it lies beside this folder.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mqtt_service.config import load_settings
from mqtt_service.devices.backfill_report import run_backfill
from mqtt_service.errors import ConfigurationError

# Without the library's own tracebacks, which print the values of variables.
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Find and report only; change nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Complete site, program, company and next wake of mapped devices; safe to interrupt and repeat.

    Exit status: 0 nothing that can be fixed remains, 1 some failed, 2 wrong configuration, 130 interrupted.
    """
    try:
        status = run_backfill(load_settings(), dry_run=dry_run, as_json=as_json)
    except ConfigurationError as error:
        for fault in error.faults:
            print(f"error: {fault}", file=sys.stderr)
        status = 2
    raise typer.Exit(status)


if __name__ == "__main__":
    app()
