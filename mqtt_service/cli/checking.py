"""The verb `doctor`: parsing only, since a worker shares this command line."""

from typing import Annotated

import typer

app = typer.Typer()

AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")]


@app.command()
def doctor(
    *,
    as_json: AsJson = False,
    no_broker: Annotated[bool, typer.Option("--no-broker", help="Leave the broker alone.")] = False,
    database_url: Annotated[
        str | None,
        typer.Option(
            envvar="SUPABASE_DB_URL",
            help="Also check the database itself, as migrations --check. Better in the environment.",
        ),
    ] = None,
) -> None:
    """Find out what does not work, and what to do about it; changes nothing that it does not undo.

    Exit status: 0 it works, perhaps with warnings; 1 something is broken; 2 wrong usage.
    """
    from mqtt_service.doctor.run import run_doctor  # noqa: PLC0415 - see above

    raise typer.Exit(run_doctor(database_url, as_json=as_json, broker=not no_broker))
