"""Every error the service raises on purpose.

ServiceError
├── ConfigurationError        the operator must change a setting; exit status 2
├── RetryableError            waiting can help: the network, the broker, an overloaded project
│   ├── BrokerUnavailableError
│   │   └── OutcomeUnknownError   the broker may have the message all the same
│   └── SupabaseUnavailableError
│       └── RowLockedError        another transaction holds a row that the call needs
├── PermanentError            the same call will be refused again: a row that the database refuses
│   └── ProjectMisconfiguredError   until a person mends it: a wrong key, a missing grant
│       └── MigrationMissingError
└── ProtocolError             bytes or rows that do not say what PROTOCOL requires
    ├── LocalProtocolError    our side: a row that cannot be encoded
    └── RemoteProtocolError   the device's side: a message that cannot be read

Every message says what happened and what to do about it.
"""


class ServiceError(Exception):
    """The root of what the service raises on purpose."""


class ConfigurationError(ServiceError):
    """Settings are wrong; `faults` names each, in the order of the settings."""

    def __init__(self, faults: list[str]) -> None:
        self.faults = faults
        super().__init__("; ".join(faults))


class RetryableError(ServiceError):
    """Waiting can help; `retry_after` is the peer's own wish in seconds, where it named one."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        self.retry_after = retry_after
        super().__init__(message)


class BrokerUnavailableError(RetryableError):
    """The MQTT broker cannot be reached, refused us for now, or did not acknowledge in time."""


class OutcomeUnknownError(BrokerUnavailableError):
    """A message was sent, and the broker's word for it did not come: it may have it, and so the device."""


class SupabaseUnavailableError(RetryableError):
    """The Supabase project cannot be reached or is overloaded; the outcome of the call is unknown."""


class RowLockedError(SupabaseUnavailableError):
    """Another transaction of the project holds a row: nothing was changed; calls about other rows go on."""


class PermanentError(ServiceError):
    """Trying again without a change by a person cannot help."""


class ProjectMisconfiguredError(PermanentError):
    """Every call is refused until a person mends the key or the project; a worker waits for that."""


class MigrationMissingError(ProjectMisconfiguredError):
    """A function or table that the migrations create is not there."""


class ProtocolError(ServiceError):
    """A message or a row breaks the device protocol."""


class LocalProtocolError(ProtocolError):
    """What we were asked to send cannot be put on the wire."""


class RemoteProtocolError(ProtocolError):
    """What a device sent cannot be read."""
