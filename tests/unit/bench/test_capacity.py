"""What a fleet needs: the arithmetic, and that it is left out where its figures are missing."""

from mqtt_service.bench.capacity import Measured, as_markdown, steps
from mqtt_service.bench.report import Measure

MEASURED = Measured(
    command_us=500, chunk_us=200, command_requests=0.05, picture_requests=2.9, command_kb=1, picture_kb=2,
    idle_requests_an_hour=720,
)  # fmt: skip


def test_each_step_follows_from_the_one_before() -> None:
    results = {step: result for step, _, result in steps(100_000, MEASURED)}
    assert results == {
        "wakes a day": "200,000",
        "MQTT messages a day": "15,200,000",
        "CPU a wake, ms": "15.2",  # 1.0 and 14.2
        "core hours for all to wake once": "0.4",
        "hours to spread the wakes over": "1",
        "MQTT messages a second in these hours": "2,111",
        "requests to Supabase a second in these hours": "83",
        "requests to Supabase a day": "634,560",  # 600,000 and 34,560 of two idle workers
        "GB from Supabase a month": "24",
        "Realtime messages a month, a statement a command": "18,000,000",
        "GB of new pictures a month": "420",
        "rows of device_commands a month": "6,000,000",
    }


def test_ten_times_the_devices_need_more_hours() -> None:
    results = {step: result for step, _, result in steps(1_000_000, MEASURED)}
    assert results["hours to spread the wakes over"] == "7"  # 4.22 core hours at 0.7 of a core
    assert results["MQTT messages a second in these hours"] == "3,016"


def test_the_table_shows_how_a_result_is_worked_out() -> None:
    measures = [
        Measure("CPU a full cycle / bare paho", [4.0], "lower", None, {"us": 500.0}),
        Measure("CPU a chunk / bare paho", [3.0], "lower", None, {"us": 200.0}),
        *(
            Measure(name, [1.0], "lower")
            for name in (
                "requests a command under load", "requests a picture under load",
                "kB from Supabase a command under load", "kB from Supabase a picture under load",
                "requests an idle hour, from the window",
            )
        ),
    ]  # fmt: skip
    text = as_markdown(measures)
    assert "### 1,000,000 devices" in text
    assert "| CPU a wake, ms | (2 × 500 + 71 × 200 µs) / 1,000 | 15.2 |" in text
    assert as_markdown(measures[1:]) == ""
