"""`mqtt-service dev`: the embedded stack until Ctrl-C or SIGTERM, and what to type next."""

import shlex
import sys
from contextlib import AsyncExitStack, suppress
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from mqtt_service.devstack.auth.routes import SEEDED_PASSWORD
from mqtt_service.devstack.signals import run_until_signal
from mqtt_service.devstack.stack import ENV_HEADER, Stack, StackStartError, running_stack
from mqtt_service.errors import PermanentError, ServiceError


class EnvFileError(PermanentError):
    """The env file cannot be written; the message says why."""


def run_dev(*, env_file: Path | None, data_dir: Path | None, port: int, mqtt_port: int, broker: str) -> int:
    """Run the stack; `env_file` is there while all of it answers. Returns 0 after a signal, else 1.

    `data_dir` None keeps nothing; a port of 0 is any free one; `broker` is auto, mosquitto or amqtt.
    """
    try:
        if port and port == mqtt_port:
            raise StackStartError(f"The API and the broker cannot share the port {port}: name two.")
        clear_env_file(env_file)
        work = _dev(env_file, data_dir, port, mqtt_port, broker)
        return run_until_signal(work, interrupted=0)
    except ServiceError as error:
        print(f"mqtt-service: {error}", file=sys.stderr)  # noqa: T201 - the command line's own output
        return 1


def clear_env_file(path: Path | None) -> None:
    """Remove what a stack wrote there, so that the file is there only while one answers.

    Raises EnvFileError if the file is somebody else's: it may hold the settings of a real project.
    """
    if path is None:
        return
    if not path.absolute().parent.is_dir():
        raise EnvFileError(f"There is no folder {path.absolute().parent} for the env file: make it first.")
    if not path.exists():
        return
    if not path.is_file():
        raise EnvFileError(f"{path} is no file: name another.")
    content = path.read_text(encoding="utf-8", errors="replace")
    if content.strip() and not content.startswith(ENV_HEADER):
        raise EnvFileError(
            f"{path} holds settings that mqtt-service dev did not write: name another file, or move it away."
        )
    path.unlink()


def _forget_env_file(path: Path) -> None:
    with suppress(EnvFileError):  # it is somebody else's by now
        clear_env_file(path)


async def _dev(env_file: Path | None, data_dir: Path | None, port: int, mqtt_port: int, broker: str) -> int:
    console = Console(soft_wrap=True, highlight=False)
    async with AsyncExitStack() as parts:
        with console.status("Starting Postgres, the API and a broker"):
            stack = await parts.enter_async_context(
                running_stack(data_dir=data_dir, port=port, mqtt_port=mqtt_port, broker=broker)
            )
        if env_file is not None:
            stack.write_env_file(env_file)
            parts.callback(_forget_env_file, env_file)
        console.print(summary(stack, env_file=env_file, data_dir=data_dir))
        while True:
            status = await stack.broker.died()
            console.print(f"[yellow]The broker ended by itself (status {status}); starting it again.[/]")
            await stack.broker.restart()


def summary(stack: Stack, *, env_file: Path | None, data_dir: Path | None) -> str:
    """Return what a person needs to know once the stack runs, with rich's markup."""
    kept = "nothing is kept" if data_dir is None else f"the data stays in {escape(str(data_dir))}"
    return "\n".join([
        "[bold green]The embedded stack is ready.[/]",
        "",
        f"  console    {stack.url}/console/",
        f"             sign in as viewer.a@, operator.a@ or admin.a@example.test (or .b@): {SEEDED_PASSWORD}",
        f"  API        {stack.url}",
        f"  Postgres   {stack.db_url}",
        f"  MQTT       {stack.mqtt_host}:{stack.mqtt_port}  ({stack.broker.kind})",
        f"  settings   {escape(str(env_file or 'not written (--env-file FILE)'))}",
        "",
        "[bold]In other terminals:[/]",
        "",
        *(f"  {escape(line)}" for line in _next_steps(stack, env_file)),
        "",
        f"[dim]Ctrl-C ends it; {kept}.[/]",
    ])  # fmt: skip


def _next_steps(stack: Stack, env_file: Path | None) -> list[str]:
    program = _program()
    steps = []
    if env_file is not None:
        read_anyway = env_file.absolute() == Path.cwd() / ".env"
        load = "" if read_anyway else f"set -a; . {shlex.quote(str(env_file.absolute()))}; "
        steps.append(f"{load}{program} run")
    mqtt = f"-h {stack.mqtt_host} -p {stack.mqtt_port}"
    return [
        *steps,
        f"psql {stack.db_url}",
        f"mosquitto_sub {mqtt} -t 'device/+/cmd' -v",
        f"{program} simulate --host {stack.mqtt_host} --port {stack.mqtt_port}",
    ]


def _program() -> str:
    name = Path(sys.argv[0])
    return sys.argv[0] if name.name == "mqtt-service" else "python -m mqtt_service"
