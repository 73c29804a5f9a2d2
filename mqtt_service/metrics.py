"""What the worker counts, for /metrics (Prometheus text format)."""

from prometheus_client import CollectorRegistry, Counter, Gauge, disable_created_metrics

# Before the first counter: each would otherwise have a second series, the time at which it was made.
disable_created_metrics()  # type: ignore[no-untyped-call]
REGISTRY = CollectorRegistry()

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
    "Inbound messages that were not used: malformed, own (sent by this service), reply_id (its id has "
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
    "Pictures, by how their upload ended: complete, failed, duplicate (stored before), refused (by a limit).",
    ["result"],
    registry=REGISTRY,
)
REFUSED_WRITES = Counter(
    "mqtt_service_refused_writes",
    "What the project's tables did not take, by what was written: HELLO, picture, welcome. The log says why.",
    ["kind"],
    registry=REGISTRY,
)
CHUNKS = Counter("mqtt_service_image_chunks", "Chunks of pictures that were received.", registry=REGISTRY)
BUFFERED_BYTES = Gauge(
    "mqtt_service_image_buffered_bytes", "Bytes of unfinished pictures in memory.", registry=REGISTRY
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
AWAKE = Gauge("mqtt_service_devices_awake", "Devices whose visit is under way.", registry=REGISTRY)

# A series that exists from the start shows its first increase; any other appears with its first event.
for _outcome in ("sent", "failed", "released", "expired"):
    COMMANDS.labels(_outcome)
for _result in ("acknowledged", "failed", "rejected", "reply", "duplicate"):
    ACKNOWLEDGEMENTS.labels(_result)
for _result in ("known", "created", "refused"):
    HEARTBEATS.labels(_result)
for _result in ("complete", "failed", "duplicate", "refused"):
    IMAGES.labels(_result)
for _kind in ("HELLO", "picture", "welcome"):
    REFUSED_WRITES.labels(_kind)
for _kind in ("reading", "time"):
    UNUSABLE_VALUES.labels(_kind)
for _outcome in ("taken", "refused", "given_up", "dropped"):
    HANDOVER.labels(_outcome)
for _reason in ("malformed", "own", "reply_id", "refused", "late", "standby"):
    DROPPED_MESSAGES.labels(_reason)
for _kind in ("commands", "history", "telemetry", "images", "own"):
    REMOVED_ROWS.labels(_kind)
for _outcome in ("done", "failed", "another"):
    RETENTION_RUNS.labels(_outcome)
