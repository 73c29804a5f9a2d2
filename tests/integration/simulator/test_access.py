"""Simulated devices on brokers with TLS and passwords."""

from pathlib import Path
from random import Random

import pytest

from mqtt_service.errors import BrokerUnavailableError, PermanentError
from mqtt_service.simulator.access import Access
from mqtt_service.simulator.device import DeviceOptions, SimulatedDevice
from tests.integration.simulator.device_harness import MAC, camera
from tests.integration.worker.mosquitto import HOST, Mosquitto
from tests.integration.worker.test_mqtt_refusals import make_certificates, run_program


def device_on(broker: Mosquitto, access: Access) -> SimulatedDevice:
    options = DeviceOptions(MAC, camera=camera(uploads_new=True))
    return SimulatedDevice(options, HOST, broker.port, rng=Random(1), access=access)


async def test_a_picture_goes_out_over_tls_with_a_name_and_a_password(tmp_path: Path) -> None:
    tls = make_certificates(tmp_path, f"IP:{HOST}")
    run_program("mosquitto_passwd", "-b -c passwords device right", tmp_path)
    settings = (*tls, f"password_file {tmp_path}/passwords")
    access = Access(tls=True, ca_file=tmp_path / "ca.pem", username="device", password="right")
    async with Mosquitto(tmp_path, *settings, anonymous=False) as broker:
        device = device_on(broker, access)
        assert device.camera is not None
        picture = device.camera.take()
        async with device:
            await device.wait_for(lambda device: device.wakes[-1].sent == [picture.name])


async def test_a_certificate_of_an_unknown_authority_is_refused(tmp_path: Path) -> None:
    tls = make_certificates(tmp_path, f"IP:{HOST}")
    async with Mosquitto(tmp_path, *tls) as broker:
        with pytest.raises(BrokerUnavailableError, match="certificate"):
            await device_on(broker, Access(tls=True)).wake()


async def test_a_broker_that_refuses_the_password_is_told(tmp_path: Path) -> None:
    run_program("mosquitto_passwd", "-b -c passwords device right", tmp_path)
    async with Mosquitto(tmp_path, f"password_file {tmp_path}/passwords", anonymous=False) as broker:
        with pytest.raises(BrokerUnavailableError, match="Not authorized"):
            await device_on(broker, Access(username="device", password="wrong")).wake()


async def test_a_file_without_an_authority_is_told(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("nothing")
    async with Mosquitto(tmp_path) as broker:
        with pytest.raises(PermanentError, match=r"ca\.pem holds no certificate"):
            await device_on(broker, Access(tls=True, ca_file=tmp_path / "ca.pem")).wake()


def test_a_password_is_not_shown() -> None:
    assert "right" not in repr(Access(username="device", password="right"))
