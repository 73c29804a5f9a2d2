"""A broker that refuses the link: one line says what to do, and the link is up once that has been done."""

import subprocess
from pathlib import Path

import pytest

from mqtt_service.adapters.mqtt.link import MqttLink
from tests.integration.worker.mosquitto import HOST, Mosquitto, free_port
from tests.integration.worker.mqtt_harness import eventually, options, running, scripted_broker
from tests.requirements import find_program, require

CA = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=test-ca -keyout ca.key -out ca.pem"
REQUEST = "req -newkey rsa:2048 -nodes -subj /CN=server -keyout server.key -out server.csr"
SIGN = (
    "x509 -req -days 2 -in server.csr -CA ca.pem -CAkey ca.key -set_serial 1 -extfile names -out server.pem"
)


def run_program(name: str, arguments: str, folder: Path) -> None:
    require(name)
    subprocess.run(
        [find_program(name) or "", *arguments.split()], cwd=folder, check=True, capture_output=True
    )


def make_certificates(folder: Path, name: str) -> list[str]:
    """A CA, and a server certificate that carries this name; returns the lines of mosquitto.conf for it."""
    (folder / "names").write_text(f"subjectAltName={name}\n")
    for arguments in (CA, REQUEST, SIGN):
        run_program("openssl", arguments, folder)
    return [f"certfile {folder}/server.pem", f"keyfile {folder}/server.key"]


async def refused(link: MqttLink) -> str:
    """The one line about it."""
    await eventually(lambda: link.describe().last_error, "the refusal")
    assert not link.connected
    return link.describe().last_error or ""


@pytest.mark.parametrize(("username", "password"), [("service", "wrong"), ("nobody", "right"), (None, None)])
async def test_wrong_credentials_are_told_and_tried_again_slowly(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, username: str | None, password: str | None
) -> None:
    run_program("mosquitto_passwd", "-b -c passwords service right", tmp_path)
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        await eventually(lambda: False, "the end of the pause") if len(pauses) > 2 else None

    async with Mosquitto(tmp_path, f"password_file {tmp_path}/passwords", anonymous=False) as broker:
        wrong = options(broker.port, username=username, password=password)
        async with running(wrong, sleep=sleep, wait=False) as link:
            line = await refused(link)
            assert f"{HOST}:{broker.port} refused our credentials" in line
            assert "check MQTT_USERNAME and MQTT_PASSWORD" in line
            await eventually(lambda: len(pauses) > 2, "more attempts")
        assert set(pauses) == {wrong.slow_retry}
        async with running(options(broker.port, username="service", password="right")) as link:
            assert link.connected
    assert "Traceback" not in caplog.text
    assert "wrong" not in caplog.text


async def test_a_subscription_that_is_not_allowed_is_told() -> None:
    async with (
        scripted_broker("20 03 00 00 00", "90 04 00 01 00 87") as port,
        running(options(port), wait=False) as link,
    ):
        assert "does not let us subscribe to device/+/ack (Not authorized)" in await refused(link)


async def test_a_certificate_of_the_ca_file_is_trusted(tmp_path: Path) -> None:
    tls = make_certificates(tmp_path, "IP:127.0.0.1")
    async with Mosquitto(tmp_path, *tls) as broker:
        trusting = options(broker.port, tls=True, ca_file=tmp_path / "ca.pem")
        async with running(trusting) as link:
            assert (await link.publish("device/x/cmd", b"{}", expiry_seconds=60)).no_subscriber
            await broker.stop()
            await eventually(lambda: not link.connected, "the link is down")
            await broker.start()
            await eventually(lambda: link.connected, "the link is up again")


async def test_a_certificate_of_an_unknown_ca_is_refused_in_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tls = make_certificates(tmp_path, "IP:127.0.0.1")
    async with (
        Mosquitto(tmp_path, *tls) as broker,
        running(options(broker.port, tls=True), wait=False) as link,
    ):
        line = await refused(link)
        assert f"the certificate of {HOST}:{broker.port} is not trusted" in line
        assert "set MQTT_CA_FILE to the CA that signed it" in line
    assert "Traceback" not in caplog.text


async def test_a_certificate_for_another_name_is_refused(tmp_path: Path) -> None:
    tls = make_certificates(tmp_path, "DNS:broker.example")
    async with Mosquitto(tmp_path, *tls) as broker:
        trusting = options(broker.port, tls=True, ca_file=tmp_path / "ca.pem")
        async with running(trusting, wait=False) as link:
            assert "or MQTT_HOST to a name that it carries" in await refused(link)


async def test_tls_to_a_plain_broker_is_told(broker: Mosquitto) -> None:
    async with running(options(broker.port, tls=True), wait=False) as link:
        assert "TLS" in await refused(link)


async def test_no_tls_to_a_broker_that_wants_it_is_told(tmp_path: Path) -> None:
    tls = make_certificates(tmp_path, "IP:127.0.0.1")
    async with Mosquitto(tmp_path, *tls) as broker, running(options(broker.port), wait=False) as link:
        assert "check MQTT_PORT and MQTT_TLS" in await refused(link)


async def test_a_ca_file_that_holds_no_certificate_is_told(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("heartbeat\n")
    broken = options(free_port(), tls=True, ca_file=tmp_path / "ca.pem")
    async with running(broken, wait=False) as link:
        assert "MQTT_CA_FILE cannot be used" in await refused(link)


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a..b", "x" * 70])
async def test_a_name_that_does_not_resolve_is_told(host: str) -> None:
    async with running(options(1883, host=host), wait=False) as link:
        assert f"{host!r} does not resolve; check MQTT_HOST" in await refused(link)
