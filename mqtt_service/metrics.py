"""What the worker counts, for /metrics (Prometheus text format)."""

import platform
from functools import cache
from typing import TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics

from mqtt_service import __version__

# Before the first counter: each would otherwise have a second series, the time at which it was made.
disable_created_metrics()  # type: ignore[no-untyped-call]
REGISTRY = CollectorRegistry()

Metric = TypeVar("Metric", Counter, Histogram)

_TYPES = (
    "capture_image",
    "send_image",
    "set_wake_schedule",
    "update_config",
    "reboot",
    "update_firmware",
    "ping",
)
_FAST = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_SLOW = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 21600.0, 86400.0)


@cache
def child(metric: Metric, *labels: str) -> Metric:
    """The series of these labels; found faster than by `metric.labels`, which checks and locks each time."""
    return metric.labels(*labels)


COMMANDS = Counter(
    "mqtt_service_commands",
    "Attempts at commands, by outcome: sent, failed, released (given back uncounted), expired.",
    ["outcome"],
    registry=REGISTRY,
)
ACKNOWLEDGEMENTS = Counter(
    "mqtt_service_acknowledgements",
    "Devices' answers, by what they did to their command; reply: they were about no command.",
    ["result"],
    registry=REGISTRY,
)
DROPPED_MESSAGES = Counter(
    "mqtt_service_dropped_messages",
    "Inbound messages that were not used: malformed, last_will (the broker says that a device is gone), own "
    "(sent by this service), reply_id (its id has "
    "no row in device_commands), refused (by the database), late (for a picture that was stored or failed), "
    "standby (another service answers them).",
    ["reason"],
    registry=REGISTRY,
)
FOREIGN_IDS = Counter(
    "mqtt_service_foreign_device_ids",
    "Messages whose device_id names another device than their topic; the topic was used.",
    registry=REGISTRY,
)
HEARTBEATS = Counter(
    "mqtt_service_hellos",
    "Devices' HELLOs: known, created (registered itself), refused (registration is off or over its limit).",
    ["result"],
    registry=REGISTRY,
)
IMAGES = Counter(
    "mqtt_service_images",
    "Pictures, by how their upload ended: complete, failed, duplicate (stored before), refused (by a limit); "
    "given_up: failed or refused for the last time.",
    ["result"],
    registry=REGISTRY,
)
REFUSED_WRITES = Counter(
    "mqtt_service_refused_writes",
    "What the project's tables did not take, by what was written: HELLO, picture, welcome, readings. The log "
    "says why.",
    ["kind"],
    registry=REGISTRY,
)
CHUNKS = Counter("mqtt_service_image_chunks", "Chunks of pictures that were received.", registry=REGISTRY)
BUFFERED_BYTES = Gauge(
    "mqtt_service_image_buffered_bytes", "Bytes of unfinished pictures in memory.", registry=REGISTRY
)
REPAIRED_MESSAGES = Counter(
    "mqtt_service_repaired_messages",
    "Inbound messages that were used though they are no strict JSON, by channel and by each kind of repair.",
    ["channel", "kind"],
    registry=REGISTRY,
)
TELEMETRY = Counter(
    "mqtt_service_telemetry",
    "Readings that came without a picture: recorded, duplicate (brought before), unknown_device, refused.",
    ["result"],
    registry=REGISTRY,
)
UNUSABLE_VALUES = Counter(
    "mqtt_service_unusable_values",
    "Values in pictures' metadata that could not be used: reading (no finite number), time (before 2020, far "
    "in the future, or no time). The picture is received without them.",
    ["kind"],
    registry=REGISTRY,
)
HANDOVER = Counter(
    "mqtt_service_handover",
    "Inbound messages for the edge function: taken (by it), refused (by it), given_up (after attempts), "
    "dropped (the buffer was full).",
    ["outcome"],
    registry=REGISTRY,
)
REMOVED_ROWS = Counter(
    "mqtt_service_removed_rows",
    "Old rows that were removed (RETENTION_…), by kind; own: of the worker's own tables.",
    ["kind"],
    registry=REGISTRY,
)
RETENTION_RUNS = Counter(
    "mqtt_service_retention_runs",
    "Runs that remove old rows: done, failed (the log says why), another (another worker is at it).",
    ["outcome"],
    registry=REGISTRY,
)
COMMAND_OUTCOMES = Counter(
    "mqtt_service_command_outcomes",
    "Commands, by type and what became of an attempt: sent, failed (it is tried again), failed_for_good, "
    "released, expired; or by what the device answered: device_acknowledged, device_failed, device_rejected.",
    ["type", "outcome"],
    registry=REGISTRY,
)
SEND_SECONDS = Histogram(
    "mqtt_service_command_send_seconds",
    "From when a command was to be sent (inserted, or scheduled for) until its row said sent.",
    ["type"],
    buckets=(0.05, *_SLOW),
    registry=REGISTRY,
)
ANSWER_SECONDS = Histogram(
    "mqtt_service_command_answer_seconds",
    "From when a command was sent until its device had acknowledged it.",
    ["type"],
    buckets=_SLOW,
    registry=REGISTRY,
)
REDELIVERIES = Counter(
    "mqtt_service_command_redeliveries",
    "Commands without an answer that go out again because their device woke.",
    registry=REGISTRY,
)
QUEUED_COMMANDS = Gauge(
    "mqtt_service_queued_commands",
    "Commands in the database now, of all workers: due, scheduled, leased, retry (failed, tried again), "
    "held (until a window opens), sent (without an answer yet). Each is counted up to 100000.",
    ["state"],
    registry=REGISTRY,
)
QUEUED = {
    state: QUEUED_COMMANDS.labels(state) for state in ("due", "scheduled", "leased", "retry", "held", "sent")
}
OLDEST_DUE = Gauge(
    "mqtt_service_oldest_due_command_seconds",
    "For how long the oldest command that is due has been so; 0: none is.",
    registry=REGISTRY,
)
IN_FLIGHT = Gauge(
    "mqtt_service_commands_in_flight",
    "Commands that this worker has claimed and not settled yet, now.",
    registry=REGISTRY,
)
REFUSED_COMMANDS = Gauge(
    "mqtt_service_refused_commands",
    "Commands that the database refuses to change, now; /health names one.",
    registry=REGISTRY,
)
HELLO_SECONDS = Histogram(
    "mqtt_service_hello_seconds",
    "From a HELLO until the broker had the first reply to it; not of devices that commands waited for.",
    buckets=_FAST,
    registry=REGISTRY,
)
IMAGE_BYTES = Counter(
    "mqtt_service_image_stored_bytes", "Bytes of pictures that were stored.", registry=REGISTRY
)
CALL_SECONDS = Histogram(
    "mqtt_service_supabase_call_seconds",
    "Calls of database functions, by function and outcome: answered, failed (no answer, or an error).",
    ["function", "outcome"],
    buckets=_FAST,
    registry=REGISTRY,
)
BROKER_CONNECTIONS = Counter(
    "mqtt_service_broker_connections", "Connections to the broker that came up.", registry=REGISTRY
)
BROKER_CONNECTED = Gauge(
    "mqtt_service_broker_connected", "1 while the broker is connected.", registry=REGISTRY
)
REALTIME_CONNECTIONS = Counter(
    "mqtt_service_realtime_connections", "Subscriptions to Realtime that came up.", registry=REGISTRY
)
REALTIME_CONNECTED = Gauge("mqtt_service_realtime_connected", "1 while Realtime delivers.", registry=REGISTRY)
SUPABASE_CONNECTED = Gauge(
    "mqtt_service_supabase_connected", "1 while the database answers polls.", registry=REGISTRY
)
LOOP_LAG = Histogram(
    "mqtt_service_event_loop_lag_seconds",
    "By how much a timer of one second is late.",
    buckets=_FAST,
    registry=REGISTRY,
)
BUILD = Gauge(
    "mqtt_service_build_info", "1, with the version of the service and of Python.", ["version", "python"],
    registry=REGISTRY,
)  # fmt: skip
BUILD.labels(__version__, platform.python_version()).set(1)
ALERTS = Counter(
    "mqtt_service_alerts",
    "Alerts for ALERT_URL: told, failed (a request that was not taken; it is sent again).",
    ["outcome"],
    registry=REGISTRY,
)
AWAKE = Gauge("mqtt_service_devices_awake", "Devices whose visit is under way.", registry=REGISTRY)

for _type in _TYPES:
    SEND_SECONDS.labels(_type)
    ANSWER_SECONDS.labels(_type)
    for _outcome in ("sent", "failed", "failed_for_good", "released", "expired"):
        COMMAND_OUTCOMES.labels(_type, _outcome)
    for _result in ("acknowledged", "failed", "rejected"):
        COMMAND_OUTCOMES.labels(_type, f"device_{_result}")
# A series that exists from the start shows its first increase; any other appears with its first event.
for _outcome in ("sent", "failed", "released", "expired"):
    COMMANDS.labels(_outcome)
for _result in ("acknowledged", "failed", "rejected", "reply", "duplicate"):
    ACKNOWLEDGEMENTS.labels(_result)
for _result in ("known", "created", "refused"):
    HEARTBEATS.labels(_result)
for _result in ("complete", "failed", "duplicate", "refused", "given_up"):
    IMAGES.labels(_result)
for _kind in ("HELLO", "picture", "welcome", "readings"):
    REFUSED_WRITES.labels(_kind)
for _result in ("recorded", "duplicate", "unknown_device", "refused"):
    TELEMETRY.labels(_result)
for _kind in ("reading", "time"):
    UNUSABLE_VALUES.labels(_kind)
for _outcome in ("taken", "refused", "given_up", "dropped"):
    HANDOVER.labels(_outcome)
for _reason in ("malformed", "last_will", "own", "reply_id", "refused", "late", "standby"):
    DROPPED_MESSAGES.labels(_reason)
for _kind in ("commands", "history", "telemetry", "images", "own"):
    REMOVED_ROWS.labels(_kind)
for _outcome in ("told", "failed"):
    ALERTS.labels(_outcome)
for _outcome in ("done", "failed", "another"):
    RETENTION_RUNS.labels(_outcome)
