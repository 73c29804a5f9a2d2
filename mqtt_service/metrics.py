"""What the worker counts, for /metrics (Prometheus text format)."""

from prometheus_client import CollectorRegistry, Counter

REGISTRY = CollectorRegistry()

COMMANDS = Counter(
    "mqtt_service_commands",
    "Attempts at commands, by outcome: sent, failed, released (given back uncounted), expired.",
    ["outcome"],
    registry=REGISTRY,
)
ACKNOWLEDGEMENTS = Counter(
    "mqtt_service_acknowledgements",
    "Devices' answers, by what they did to their command.",
    ["result"],
    registry=REGISTRY,
)
DROPPED_MESSAGES = Counter(
    "mqtt_service_dropped_messages",
    "Inbound messages that were not used: malformed, own (sent by this service), refused (by the database).",
    ["reason"],
    registry=REGISTRY,
)
# A series that is there from the start shows its first increase; the rest appear with their first event.
for _outcome in ("sent", "failed", "released", "expired"):
    COMMANDS.labels(_outcome)
for _result in ("acknowledged", "failed", "rejected"):
    ACKNOWLEDGEMENTS.labels(_result)
for _reason in ("malformed", "own", "refused"):
    DROPPED_MESSAGES.labels(_reason)

FOREIGN_IDS = Counter(
    "mqtt_service_foreign_device_ids",
    "Messages whose device_id names another device than their topic; the topic was believed.",
    registry=REGISTRY,
)
