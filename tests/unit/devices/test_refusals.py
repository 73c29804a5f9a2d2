"""What the project's tables do not take is logged once and counted each time."""

import pytest

from mqtt_service.devices.picture_rows import in_unit
from mqtt_service.devices.refusals import Refusals
from mqtt_service.metrics import REGISTRY


def counted() -> float:
    return REGISTRY.get_sample_value("mqtt_service_refused_writes_total", {"kind": "HELLO"}) or 0.0


def test_a_reason_is_logged_once_a_device_and_counted_each_time(caplog: pytest.LogCaptureFixture) -> None:
    before = counted()
    refusals = Refusals("HELLO")
    for device in ("d1", "d1", "d2"):
        refusals.report(device, ["too long"])
    refusals.report("d1", ["too short"])
    refusals.report("d1", [])
    assert [record.message for record in caplog.records] == [
        "[DATABASE] Not recorded (HELLO): too long",
        "[DATABASE] Not recorded (HELLO): too long",
        "[DATABASE] Not recorded (HELLO): too short",
    ]
    assert counted() == before + 4


@pytest.mark.parametrize(
    ("celsius", "fahrenheit"), [(None, None), (0.0, 32.0), (25.25, 77.45), (-40.0, -40.0), (100.0, 212.0)]
)
def test_a_temperature_is_written_in_the_unit_of_the_project(
    celsius: float | None, fahrenheit: float | None
) -> None:
    assert in_unit(celsius, "fahrenheit") == fahrenheit
    assert in_unit(celsius, "celsius") == celsius
