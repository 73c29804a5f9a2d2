"""Log lines as text and as JSON."""

import json
import logging

from mqtt_service.log import JsonFormatter, TextFormatter, WorkerName, context


def record(level: int = logging.INFO, **extra: object) -> logging.LogRecord:
    made = logging.getLogger("mqtt_service.x").makeRecord(
        "mqtt_service.x",
        level,
        __file__,
        1,
        "[CommandQueue] ✅ Sent %s",
        ("reboot",),
        None,
        extra=context(**extra),
    )
    WorkerName("w1").filter(made)
    return made


def test_a_text_line_is_the_documented_one_with_what_it_is_about_behind_it() -> None:
    line = TextFormatter().format(record(command="c1", device="DEVICE-1"))
    assert line == "[CommandQueue] ✅ Sent reboot (command=c1 device=DEVICE-1 worker=w1)"


def test_a_warning_says_so_in_text() -> None:
    assert (
        TextFormatter().format(record(logging.WARNING)) == "WARNING [CommandQueue] ✅ Sent reboot (worker=w1)"
    )


def test_a_json_line_carries_command_device_and_worker_as_fields() -> None:
    document = json.loads(JsonFormatter().format(record(command="c1", device="DEVICE-1")))
    assert document["message"] == "[CommandQueue] ✅ Sent reboot"
    assert (document["level"], document["command"], document["device"], document["worker"]) == (
        "info", "c1", "DEVICE-1", "w1",
    )  # fmt: skip


def test_a_device_cannot_write_a_line_of_its_own() -> None:
    forged = logging.getLogger("mqtt_service.x").makeRecord(
        "mqtt_service.x", logging.INFO, __file__, 1, "reason: %s", ("x\n[SERVICE] forged\r",), None
    )
    assert TextFormatter().format(forged) == "reason: x\\n[SERVICE] forged\\r"


def test_an_absent_field_is_left_out() -> None:
    assert "device" not in json.loads(JsonFormatter().format(record(command="c1", device=None)))
