"""The verbs of whoever runs the worker: `run`, `migrations`, `version`."""

import json
from typing import Annotated

import typer

from mqtt_service import __version__
from mqtt_service.cli.extras import need_database_extra
from mqtt_service.config import load_settings
from mqtt_service.migrations import as_document, as_list, as_script, read_migrations
from mqtt_service.worker_process import run_worker

_CHECK = "A check of a project's database (with the extra database)"

app = typer.Typer()


@app.command()
def run() -> None:
    """Run the worker, configured by the environment and .env, until SIGTERM."""
    raise typer.Exit(run_worker(load_settings()))


@app.command()
def migrations(
    *,
    as_names: Annotated[
        bool, typer.Option("--list", help="Only name the files, with a line on each.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="The list, or the check, as one JSON object.")
    ] = False,
    check: Annotated[
        bool,
        typer.Option(
            "--check", help="Try them in a database, keep nothing, and report.", rich_help_panel=_CHECK
        ),
    ] = False,
    database_url: Annotated[
        str | None,
        typer.Option(
            envvar="SUPABASE_DB_URL",
            help="Of the project, as its owner. Better in the environment or .env than here.",
            rich_help_panel=_CHECK,
        ),
    ] = None,
    trial: Annotated[
        bool | None,
        typer.Option(
            "--trial/--no-trial",
            help="Try them, or only look. Default: try, unless a trigger may act outside of the database.",
            rich_help_panel=_CHECK,
        ),
    ] = None,
    trial_seconds: Annotated[
        float, typer.Option(min=1, help="End the trial after this time.", rich_help_panel=_CHECK)
    ] = 60.0,
) -> None:
    """Print the database's migrations as one script, to paste into the SQL editor or to pipe into psql.

    With --check, say what they meet in a project's database, before they are applied, or whether all is in
    place; the status is 1 then if something must be done by hand.
    """
    found = read_migrations()
    if check:
        need_database_extra()
        from mqtt_service.adoption.check import run_check  # noqa: PLC0415 - the worker must not need the extra

        raise typer.Exit(
            run_check(database_url, found, trial=trial, trial_seconds=trial_seconds, as_json=as_json)
        )
    if as_json:
        text = f"{json.dumps(as_document(found))}\n"
    else:
        text = as_list(found) if as_names else as_script(found)
    typer.echo(text.encode(), nl=False)  # bytes, since psql takes UTF-8 whatever this terminal speaks


@app.command()
def version(
    *, as_json: Annotated[bool, typer.Option("--json", help="One JSON object, with the schema's.")] = False
) -> None:
    """Print the version."""
    if as_json:
        typer.echo(json.dumps({"version": __version__, "schema": read_migrations()[-1].version}))
    else:
        typer.echo(__version__)
