"""The verbs put together, and what is said when one of them fails."""

import typer

from mqtt_service.cli import (
    checking,
    commands,
    configuration,
    console,
    devices,
    firmware,
    rollouts,
    schedules,
    trial,
    watching,
    worker,
)
from mqtt_service.errors import (
    ConfigurationError,
    PermanentError,
    ServiceError,
    UsageError,
)

_INTERRUPTED = 130

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Carries commands from a Supabase project to MQTT devices, and their answers back.",
    epilog="Exit status: 0 done, 1 something failed, 2 wrong configuration or use, 130 interrupted.",
)
_GROUPS = (
    worker, checking, configuration, commands, schedules, rollouts, devices, firmware, watching,
    console, trial,
)  # fmt: skip
for group in _GROUPS:
    app.add_typer(group.app)


def main() -> None:
    """Run the command line; what went wrong is said on standard error, a line for each wrong setting."""
    try:
        app()
    except ConfigurationError as error:
        for fault in error.faults:
            typer.echo(f"mqtt-service: {fault}", err=True)
        raise SystemExit(2) from None
    except ServiceError as error:
        typer.echo(f"mqtt-service: {error}", err=True)
        raise SystemExit(2 if isinstance(error, (UsageError, PermanentError)) else 1) from None
    except KeyboardInterrupt:
        raise SystemExit(_INTERRUPTED) from None
