"""`mqtt-service dev` as a newcomer starts and stops it."""

import os
import re
import signal
import socket
from pathlib import Path

import psycopg
import pytest
from dotenv import dotenv_values

from mqtt_service.devstack.stack import ENV_HEADER
from tests.acceptance.processes import Process, dev_stack, eventually, running, worker


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def ports(env: dict[str, str]) -> list[int]:
    urls = (env["SUPABASE_URL"], env["SUPABASE_DB_URL"])
    return [*(int(found) for url in urls for found in re.findall(r":(\d+)", url)), int(env["MQTT_PORT"])]


def refusal(arguments: list[str], directory: Path) -> str:
    """What `dev` says when it cannot run: one line, no traceback, status 1."""
    with running(["dev", *arguments], {}, directory) as process:
        assert process.popen.wait(30) == 1
    (line,) = process.output.splitlines()
    assert line.startswith("mqtt-service: ")
    return line


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_status_0_and_leaves_nothing_running(tmp_path: Path, signum: int) -> None:
    env_file = tmp_path / "stack.env"
    process = Process(["dev", "--env-file", str(env_file)], {"TMPDIR": str(tmp_path)}, tmp_path)
    process.says(r"Ctrl-C ends it; nothing is kept")
    used = ports({name: value or "" for name, value in dotenv_values(env_file).items()})
    assert all(listens(port) for port in used)
    assert process.stop(signum) == 0
    assert not any(listens(port) for port in used)
    assert not env_file.exists()
    assert "Traceback" not in process.output
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []


def test_it_says_what_to_type_next(tmp_path: Path) -> None:
    env_file = tmp_path / "stack.env"
    with running(["dev", "--env-file", str(env_file)], {}, tmp_path, anew=True) as process:
        process.says(r"Ctrl-C ends it")
        env = dotenv_values(env_file)
        output = process.output
    assert f"set -a; . {env_file}; python -m mqtt_service run" in output
    assert f"psql {env['SUPABASE_DB_URL']}" in output
    assert f"mosquitto_sub -h 127.0.0.1 -p {env['MQTT_PORT']} -t 'device/+/cmd' -v" in output
    assert str(env["SUPABASE_SERVICE_ROLE_KEY"]) not in output


def test_it_uses_the_ports_it_is_given(tmp_path: Path) -> None:
    with socket.socket() as one, socket.socket() as two:
        one.bind(("127.0.0.1", 0))
        two.bind(("127.0.0.1", 0))
        port, mqtt_port = one.getsockname()[1], two.getsockname()[1]
    with dev_stack(tmp_path, "--port", str(port), "--mqtt-port", str(mqtt_port)) as env:
        assert env["SUPABASE_URL"] == f"http://127.0.0.1:{port}"
        assert env["MQTT_PORT"] == str(mqtt_port)


def test_the_broker_amqtt_can_be_chosen(tmp_path: Path) -> None:
    with running(["dev", "--broker", "amqtt"], {}, tmp_path) as process:
        process.says(r"MQTT .*\(amqtt\)")


def test_what_is_in_the_data_directory_outlives_it(tmp_path: Path) -> None:
    data = str(tmp_path / "data")
    with (
        dev_stack(tmp_path, "--data-dir", data) as env,
        psycopg.connect(env["SUPABASE_DB_URL"]) as connection,
    ):
        connection.execute("update devices set device_name = 'kept'")
    with (
        dev_stack(tmp_path, "--data-dir", data) as env,
        psycopg.connect(env["SUPABASE_DB_URL"]) as connection,
    ):
        names = connection.execute("select distinct device_name from devices").fetchall()
    assert names == [("kept",)]


def test_an_env_file_of_an_earlier_stack_is_gone_until_the_new_one_answers(tmp_path: Path) -> None:
    env_file = tmp_path / "stack.env"
    env_file.write_text(f"{ENV_HEADER}SUPABASE_URL=http://127.0.0.1:1\n")
    with running(["dev", "--env-file", str(env_file)], {}, tmp_path):
        eventually(lambda: not env_file.exists(), "the old file's end")
        eventually(env_file.exists, "the new file")
        env = dotenv_values(env_file)
        assert all(listens(port) for port in ports({name: value or "" for name, value in env.items()}))


def test_settings_that_somebody_else_wrote_are_not_overwritten(tmp_path: Path) -> None:
    env_file = tmp_path / ".env"
    env_file.write_text("SUPABASE_URL=https://project.example\n")
    assert "holds settings that mqtt-service dev did not write" in refusal(
        ["--env-file", str(env_file)], tmp_path
    )
    assert env_file.read_text() == "SUPABASE_URL=https://project.example\n"


def test_a_folder_that_is_not_there_for_the_env_file_is_named(tmp_path: Path) -> None:
    assert "There is no folder" in refusal(["--env-file", str(tmp_path / "no" / "stack.env")], tmp_path)


@pytest.mark.parametrize(
    ("option", "message"),
    [("--port", r"The port {} cannot be had.*--port"), ("--mqtt-port", r"The MQTT port {} cannot be had")],
)
def test_a_port_that_is_taken_is_named(tmp_path: Path, option: str, message: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert re.search(message.format(port), refusal([option, str(port)], tmp_path))


def test_a_data_directory_of_another_postgres_is_refused(tmp_path: Path) -> None:
    cluster = tmp_path / "data" / "postgres"
    cluster.mkdir(parents=True)
    (cluster / "PG_VERSION").write_text("9\n")
    assert "was made by Postgres 9" in refusal(["--data-dir", str(tmp_path / "data")], tmp_path)


def test_a_data_directory_that_is_in_use_is_refused(tmp_path: Path) -> None:
    data = str(tmp_path / "data")
    with dev_stack(tmp_path, "--data-dir", data):
        assert "is in use" in refusal(["--data-dir", data], tmp_path)


def test_a_signal_during_the_start_leaves_nothing_behind(tmp_path: Path) -> None:
    env_file = tmp_path / "stack.env"
    data = tmp_path / "data"
    process = Process(["dev", "--env-file", str(env_file), "--data-dir", str(data)], {}, tmp_path)
    eventually((data / "postgres").exists, "the start of Postgres")
    assert process.stop() == 0
    assert not env_file.exists()
    assert not (data / "postgres" / "postmaster.pid").exists()


def test_a_stack_that_is_killed_leaves_no_server_running(tmp_path: Path) -> None:
    env_file = tmp_path / "stack.env"
    process = Process(["dev", "--env-file", str(env_file)], {"TMPDIR": str(tmp_path)}, tmp_path)
    process.says(r"Ctrl-C ends it")
    used = ports({name: value or "" for name, value in dotenv_values(env_file).items()})
    os.kill(process.popen.pid, signal.SIGKILL)
    process.popen.wait(10)
    eventually(lambda: not any(listens(port) for port in used), "the end of all servers")


def test_simulated_devices_obey_what_is_queued_for_them(stack: dict[str, str], tmp_path: Path) -> None:
    queue = "insert into device_commands (device_id, command_type) values (%s, 'reboot')"
    device = "a0000000-0000-4000-8000-000000000031"
    with worker(stack, tmp_path), running(["simulate"], stack, tmp_path) as simulation:
        simulation.says(r"AA:BB:CC:DD:EE:FF  awake")
        with psycopg.connect(stack["SUPABASE_DB_URL"], autocommit=True) as connection:
            connection.execute(queue, (device,))
        simulation.says(r"AA:BB:CC:DD:EE:FF  reboot  reboot=True")
        assert simulation.stop() == 0


def test_simulated_devices_without_a_broker_say_so_in_one_line(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with running(["simulate", "--port", str(port)], {}, tmp_path) as process:
        assert process.popen.wait(30) == 1
    assert re.fullmatch(rf"mqtt-service: .*127\.0\.0\.1:{port}.*\n", process.output)


def test_one_port_for_two_is_refused(tmp_path: Path) -> None:
    assert "cannot share the port 3778" in refusal(["--port", "3778", "--mqtt-port", "3778"], tmp_path)


def test_a_broker_that_was_killed_is_started_again(tmp_path: Path) -> None:
    env_file = tmp_path / "stack.env"
    data = tmp_path / "data"
    with running(["dev", "--env-file", str(env_file), "--data-dir", str(data)], {}, tmp_path) as process:
        process.says(r"Ctrl-C ends it")
        port = int(dotenv_values(env_file)["MQTT_PORT"] or 0)
        os.kill(broker_pid(data), signal.SIGKILL)
        process.says(r"The broker ended by itself \(status 137\); starting it again")
        eventually(lambda: listens(port), "the broker on its port")


def broker_pid(data: Path) -> int:
    """The process whose command line names this stack's broker configuration."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            words = (folder / "cmdline").read_bytes().split(b"\0")
            if words[0] != b"/bin/sh" and any(str(data).encode() in word for word in words[:4]):
                parts = b" ".join(words)
                if b"broker" in parts and b".conf" in parts:
                    return int(folder.name)
    raise AssertionError(f"no broker of {data} runs")
