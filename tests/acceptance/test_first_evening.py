"""The first evening with the service, in the order in which an owner has it; each command is a process.

The stack is this file's own, since it is broken and mended. The tests build on each other only in what the
fixture `evening` gives: a worker, and the three devices of one site.
"""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import paho.mqtt.client as mqtt
import psycopg
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from mqtt_service.devstack.keys import JwtKeys
from mqtt_service.doctor.findings import CHECKS
from mqtt_service.migrations import read_migrations
from tests.acceptance.conftest import Database
from tests.acceptance.processes import (
    Worker,
    dev_stack,
    eventually,
    healthy,
    procfile_words,
    running,
    worker,
)
from tests.integration.worker.mosquitto import Mosquitto, free_port
from tests.integration.worker.test_mqtt_refusals import make_certificates, run_program
from tests.started import ROOT, run

ANEW = {"PATH": os.environ.get("PATH", os.defpath), "PYTHONPATH": str(ROOT)}
MEADOW = ["02:00:00:00:0F:01", "02:00:00:00:0F:02", "02:00:00:00:0F:03"]
CAMERA = "02:00:00:00:0F:09"
OLD_DEVICES = 1010  # more than the API shows at once

# As they stood before there were triggers: mapped, and never made active.
_ADD_OLD_DEVICES = """
set session_replication_role = replica;
insert into devices (device_mac, device_code)
select '0B' || lpad(to_hex(n), 10, '0'), 'OLD-' || n from generate_series(1, {count}) n;
insert into device_site_assignments (device_id, site_id, program_id)
select d.device_id, s.site_id, s.program_id from devices d, sites s
where d.device_code like 'OLD-%' and s.name = 'Alder North';
set session_replication_role = origin
"""
# As if so much time had gone by for the alert, and for the worker whose turn it was to look.
_LATER = """
update mqtt_private.alerts set seen_at = seen_at - interval '10 minutes';
update mqtt_private.turns set until = until - interval '10 minutes'
"""


@dataclass
class Evening:
    """A stack, by what `mqtt-service dev` wrote about it, its database for what psql breaks, and a worker."""

    stack: Mapping[str, str]
    directory: Path
    database: Database
    worker: Worker

    def environment(self, settings: Mapping[str, str]) -> dict[str, str]:
        """What a command is started with; an empty setting takes one of the stack's away."""
        chosen = {"PORT": "0", **self.stack, "MQTT_CLIENT_ID": "home", **settings}
        return {name: value for name, value in chosen.items() if value}

    def type(self, *words: str, **settings: str) -> "subprocess.CompletedProcess[str]":
        """`mqtt-service …`, to its end."""
        return run(words, self.environment(settings), self.directory)

    def doctor(self, *words: str, **settings: str) -> "Diagnosis":
        """`mqtt-service doctor --json`, without the check that needs a database login."""
        done = self.type("doctor", "--json", *words, **{"SUPABASE_DB_URL": "", **settings})
        assert done.stderr == ""
        found = {finding["name"]: finding for finding in json.loads(done.stdout)["findings"]}
        return Diagnosis(done.returncode, found)


@dataclass(frozen=True)
class Diagnosis:
    """What doctor found."""

    status: int
    found: dict[str, dict[str, str]]

    def wrong(self) -> dict[str, str]:
        """The cure of whatever is broken or a warning."""
        return {
            name: finding["cure"]
            for name, finding in self.found.items()
            if finding["state"] in {"broken", "warning"}
        }


@pytest.fixture(scope="module")
def evening(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Evening]:
    """Started as the README says, with a worker that gives up at once, and devices that obey."""
    directory = tmp_path_factory.mktemp("evening")
    with (
        dev_stack(directory, anew=True) as stack,
        psycopg.connect(stack["SUPABASE_DB_URL"], autocommit=True) as database,
        worker(stack, directory, MQTT_CLIENT_ID="home", MAX_RETRIES="0") as started,
    ):
        yield Evening(stack, directory, database, started)


def test_doctor_finds_all_in_place(evening: Evening) -> None:
    done = evening.type("doctor")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("All is well.\n")
    assert [name for name in CHECKS if f"  ok      {name}: " not in done.stdout] == []
    assert evening.stack["SUPABASE_SERVICE_ROLE_KEY"] not in done.stdout


def test_doctor_names_what_is_wrong_in_the_settings(evening: Evening, tmp_path: Path) -> None:
    """Five things, each broken alone; they leave the stack whole, so they are looked at side by side."""
    tls = make_certificates(tmp_path, "IP:127.0.0.1")
    (tmp_path / "other").mkdir()
    make_certificates(tmp_path / "other", "IP:127.0.0.1")
    run_program("mosquitto_passwd", "-b -c passwords deaf right", tmp_path)
    (tmp_path / "acl").write_text("user deaf\ntopic write device/#\ntopic write ESP32CAM/#\n")
    guarded = [f"password_file {tmp_path}/passwords", f"acl_file {tmp_path}/acl", *tls]
    broker = Mosquitto(tmp_path, *guarded, anonymous=False)
    key, gone = "SUPABASE_SERVICE_ROLE_KEY", str(free_port())
    at_broker = {
        "MQTT_PORT": str(broker.port), "MQTT_TLS": "true", "MQTT_CA_FILE": str(tmp_path / "ca.pem"),
        "MQTT_USERNAME": "deaf", "MQTT_PASSWORD": "right",
    }  # fmt: skip
    breaks: list[tuple[dict[str, str], str, str]] = [
        ({key: JwtKeys.generate().service_role_key}, "key", "to a secret key of this project"),
        ({key: "sb_publishable_0123456789"}, "key", "to a secret key"),
        ({"MQTT_PORT": gone}, "broker_answers", "start the broker, check MQTT_PORT"),
        ({**at_broker, "MQTT_CA_FILE": str(tmp_path / "other/ca.pem")}, "certificate", "set MQTT_CA_FILE to"),
        (at_broker, "subscribe", "let MQTT_USERNAME read device/+/{ack,status,data}"),
    ]  # fmt: skip
    asyncio.run(broker.start())
    try:
        with ThreadPoolExecutor(2) as pool:
            seen = list(pool.map(lambda broken: evening.doctor(**broken[0]), breaks))
    finally:
        asyncio.run(broker.kill())
    for diagnosis, (_, name, cure) in zip(seen, breaks, strict=True):
        assert diagnosis.status == 1
        assert diagnosis.found[name]["state"] == "broken", diagnosis.found
        assert cure in diagnosis.wrong()[name]
        others = diagnosis.wrong().keys() - {name}
        # The certificate of a test ends soon.
        assert others == ({"certificate"} if name == "subscribe" else set())
    assert seen[0].found["schema"]["seen"] == "not looked at: Key: key is broken"
    assert seen[4].wrong()["certificate"] == "renew the broker's certificate"
    assert "is a publishable key" in seen[1].found["key"]["seen"]
    assert "sb_publishable_0123456789" not in str(seen[1].found)
    assert f"nothing listens on 127.0.0.1:{gone}" in seen[2].found["broker_answers"]["seen"]


def test_doctor_names_what_the_database_lacks_and_its_cures_cure(evening: Evening) -> None:
    for function in ("fn_examine_project(text[], text[])", "fn_mqtt_service_schema()"):
        evening.database.execute(f"drop function public.{function}")
    older = evening.doctor("--no-broker")
    assert (older.status, set(older.wrong())) == (1, {"schema"})
    assert older.found["schema"]["seen"].endswith(f"up to {read_migrations()[-1].file}")
    assert older.wrong()["schema"].startswith("apply them: mqtt-service migrations")
    evening.database.execute(evening.type("migrations").stdout.encode())

    evening.database.execute("alter publication supabase_realtime drop table public.devices")
    unpublished = evening.doctor("--no-broker")
    assert (unpublished.status, set(unpublished.wrong())) == (1, {"publication", "row_events"})
    evening.database.execute(unpublished.wrong()["publication"].removeprefix("run: ").encode())
    cured = evening.doctor("--no-broker")
    assert (cured.status, cured.wrong()) == (0, {})


def test_doctor_names_a_second_worker_with_the_same_id(evening: Evening) -> None:
    twice = worker(evening.stack, evening.directory, MQTT_CLIENT_ID="twice")
    with twice as first, worker(evening.stack, evening.directory, MQTT_CLIENT_ID="twice"):
        assert first.process.popen.wait(20) == 0  # it leaves the session to the newer one
        both = evening.doctor("--no-broker", MQTT_CLIENT_ID="twice")
    assert (both.status, set(both.wrong())) == (0, {"client_id"})
    assert "two workers used MQTT_CLIENT_ID twice" in both.found["client_id"]["seen"]
    assert both.wrong()["client_id"].startswith("give each running copy a MQTT_CLIENT_ID of its own")


def test_a_site_is_mapped_commanded_and_watched(evening: Evening) -> None:
    evening.database.execute(
        "insert into sites (company_id, program_id, name)"
        " select company_id, program_id, 'Far Meadow' from sites where name = 'Alder North'"
    )
    broker = {name: evening.stack[name] for name in ("MQTT_HOST", "MQTT_PORT", "MQTT_TLS")}
    for mac in MEADOW:
        add_device(evening.database, mac, f"MEADOW-{mac[-1]}")
    with running(["simulate", *MEADOW], broker, evening.directory):
        for mac in MEADOW:
            mapped = evening.type("map", mac, "Far Meadow")
            assert (mapped.returncode, mapped.stderr) == (0, "")

        one = evening.type("send", "ping", "-d", MEADOW[0], "--wait")
        assert one.returncode == 0, one.stderr
        assert re.search(r"MEADOW-1 [0-9a-f]{8} acknowledged: after \d+\.\d s", one.stdout)

        site = evening.type("send", "ping", "--site", "Far Meadow", "--yes", "--wait", "--json")
        assert site.returncode == 0, site.stderr
        document = json.loads(site.stdout)
    assert [command["status"] for command in document["commands"]] == ["acknowledged"] * 3

    told = evening.type("show", document["queued"][0]["command_id"])
    assert "The device did it at" in told.stdout
    glance = json.loads(evening.type("top", "--once", "--json", "--url", evening.worker.url).stdout)
    assert glance["health"]["mqtt"]["connected"] is True
    assert glance["window"]["acknowledged"] >= 4
    assert glance["health"]["worker"] in {one["worker"] for one in glance["workers"]}
    assert "connected" in evening.type("top", "--once", "--url", evening.worker.url).stdout
    assert metric(evening.worker, "command_outcomes_total", type="ping", outcome="device_acknowledged") == 4


def add_device(database: Database, mac: str, code: str) -> None:
    database.execute("insert into devices (device_mac, device_code) values (%s, %s)", (mac, code))


def metric(of: Worker, name: str, **labels: str) -> float:
    """The value of one series of /metrics."""
    wanted = ",".join(f'{label}="{value}"' for label, value in sorted(labels.items()))
    for line in httpx.get(f"{of.url}/metrics").text.splitlines():
        if line.startswith(f"mqtt_service_{name}{{{wanted}}}"):
            return float(line.rsplit(" ", 1)[1])
    raise AssertionError(f"/metrics has no {name} of {wanted}")


def test_broken_devices_are_completed_with_a_bar_of_progress(evening: Evening) -> None:
    """The worker welcomes each of them meanwhile."""
    evening.database.execute(_ADD_OLD_DEVICES.format(count=OLD_DEVICES).encode())
    done, bar = with_a_terminal(evening, "backfill", "--json")
    assert done.returncode == 0
    report = json.loads(done.stdout)
    assert (len(report["fixed"]), report["failed"], report["remaining_fixable"]) == (OLD_DEVICES, [], 0)
    counts = [int(count) for count in re.findall(rf"(\d+)/{OLD_DEVICES}", bar)]
    assert (min(counts), max(counts)) == (0, OLD_DEVICES)
    assert len(set(counts)) > 2
    welcomed = {"type": "set_wake_schedule", "outcome": "sent"}
    eventually(
        lambda: metric(evening.worker, "command_outcomes_total", **welcomed) >= OLD_DEVICES,
        "a welcome for each of them",
    )


def with_a_terminal(evening: Evening, *words: str) -> tuple["subprocess.CompletedProcess[bytes]", str]:
    """`mqtt-service …` with a terminal for its standard error, and what was to be seen there."""
    ours, theirs = os.openpty()
    seen = bytearray()

    def look() -> None:
        try:
            while piece := os.read(ours, 65536):
                seen.extend(piece)
        except OSError:
            pass  # Linux's word for the end of a terminal that nobody writes to any more

    looking = threading.Thread(target=look)
    looking.start()
    try:
        done = subprocess.run(
            [sys.executable, "-m", "mqtt_service", *words],
            env={**ANEW, **evening.environment({"TERM": "xterm", "COLUMNS": "120"})}, cwd=evening.directory,
            stdout=subprocess.PIPE, stderr=theirs, check=False, timeout=120,
        )  # fmt: skip
    finally:
        os.close(theirs)
        looking.join(10)
        os.close(ours)
    return done, seen.decode(errors="replace")


def test_what_fails_is_alerted_of_cancelled_tried_again_and_over(evening: Evening) -> None:
    """The alerts come from the Procfile's line, which becomes healthy and ends as hosts expect."""
    add_device(evening.database, CAMERA, "CAMERA")
    assert evening.type("map", CAMERA, "Alder North").returncode == 0
    with camera(evening) as answers, receiver() as told:
        answers["ping"] = "failed"
        first = evening.type("send", "ping", "-d", "CAMERA", "--wait", "--json")
        assert first.returncode == 1
        evening.database.execute(
            "insert into device_commands (device_id, command_type)"
            " select device_id, 'ping' from devices, generate_series(1, 2) where device_code = 'CAMERA'"
        )
        eventually(lambda: statuses(evening)["failed"] == 3, "three commands that failed")
        with procfile_worker(evening, told.url):
            alert = eventually(told.first, "an alert")
        assert (alert["alert"].split(":")[0], alert["state"]) == ("device-failing", "open")
        assert alert["text"].startswith("CAMERA: 3 commands failed for good within an hour")

        later = evening.type("send", "reboot", "-d", "CAMERA", "--at", "2h", "--json")
        assert evening.type("cancel", command_of(later)).returncode == 0
        assert statuses(evening)["cancelled"] == 1

        answers["ping"] = "success"
        retried = evening.type("retry", command_of(first))
        assert (retried.returncode, retried.stderr) == (0, "")
        eventually(lambda: statuses(evening).get("acknowledged", 0) >= 1, "the retry's success")
        evening.database.execute(_LATER)
        with procfile_worker(evening, told.url):
            over = eventually(told.first, "the recovery")
        assert (over["alert"], over["state"]) == (alert["alert"], "recovered")


def command_of(sent: "subprocess.CompletedProcess[str]") -> str:
    """The id of the one command that `send --json` queued."""
    (queued,) = json.loads(sent.stdout)["queued"]
    command_id: str = queued["command_id"]
    return command_id


def statuses(evening: Evening) -> dict[str, int]:
    """How many of the camera's pings and reboots stand in each status."""
    rows = evening.database.execute(
        "select status::text, count(*)::int from device_commands join devices using (device_id)"
        " where device_code = 'CAMERA' and command_type <> 'set_wake_schedule' group by 1"
    ).fetchall()
    return {"failed": 0, "cancelled": 0, **{str(status): int(str(count)) for status, count in rows}}


@contextmanager
def camera(evening: Evening) -> Iterator[dict[str, str]]:
    """A device that answers a command with what the dictionary has for its key; else with success."""
    answers: dict[str, str] = {}
    client, subscribed = mqtt.Client(CallbackAPIVersion.VERSION2), threading.Event()

    def answer(client: mqtt.Client, _data: object, message: mqtt.MQTTMessage) -> None:
        body = json.loads(message.payload)
        outcome = next((answers[key] for key in body if key in answers), "success")
        document = {"command_id": body.get("command_id"), "command_ack": outcome}
        client.publish(f"device/{CAMERA}/ack", json.dumps(document), qos=1)

    client.on_message = answer
    client.on_subscribe = lambda *_: subscribed.set()
    client.connect(evening.stack["MQTT_HOST"], int(evening.stack["MQTT_PORT"]))
    client.loop_start()
    try:
        client.subscribe(f"device/{CAMERA}/cmd", qos=1)
        assert subscribed.wait(15)
        yield answers
    finally:
        client.disconnect()
        client.loop_stop()


@dataclass
class Told:
    """Where alerts are to be sent, and those that came and were not taken yet."""

    url: str
    alerts: list[dict[str, Any]]

    def first(self) -> dict[str, Any] | None:
        """Take the next alert; None: there is none yet."""
        return self.alerts.pop(0) if self.alerts else None


@contextmanager
def receiver() -> Iterator[Told]:
    """What ALERT_URL names, on loopback."""
    came: list[dict[str, Any]] = []

    class Take(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            came.extend(json.loads(body)["alerts"])
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = HTTPServer(("127.0.0.1", 0), Take)
    serving = threading.Thread(target=server.serve_forever)
    serving.start()
    try:
        yield Told(f"http://127.0.0.1:{server.server_address[1]}/hook", came)
    finally:
        server.shutdown()
        serving.join(10)
        server.server_close()


@contextmanager
def procfile_worker(evening: Evening, alert_url: str) -> Iterator[None]:
    """The Procfile's line as a host starts it, on a port, and ends it; in time: test_deploy.py."""
    program, *words = procfile_words()
    assert program == "python"
    port = free_port()
    settings = {"PORT": str(port), "DYNO": "web.1", "MQTT_CLIENT_ID": "", "ALERT_URL": alert_url}
    with subprocess.Popen(
        [sys.executable, *words], env={**ANEW, **evening.environment(settings)}, cwd=evening.directory,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8",
    ) as process:  # fmt: skip
        try:
            eventually(lambda: healthy(port) or process.poll() is not None, "a healthy worker")
            yield
            process.send_signal(signal.SIGTERM)
            output, _ = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 0, output
    assert "Traceback" not in output
