"""Every error the service raises on purpose.

ServiceError
├── ConfigurationError        the operator must change a setting; exit status 2
├── UsageError                a person asked for what is not there, or is not clear; exit status 2
├── RetryableError            waiting can help: the network, the broker, an overloaded project
│   ├── BrokerUnavailableError
│   │   └── OutcomeUnknownError   the broker may have the message nevertheless
│   └── SupabaseUnavailableError
│       └── RowLockedError        another transaction holds a row that the call needs
├── PermanentError            the same call will be refused again: a row that the database refuses
│   └── ProjectMisconfiguredError   until a person corrects it: a wrong key, a missing grant
│       └── MigrationMissingError
└── ProtocolError             bytes or rows that break the device protocol
    ├── LocalProtocolError    our side: a row that cannot be encoded
    └── RemoteProtocolError   the device's side: a message that cannot be read

Every message says what happened and what to do about it.
"""


class ServiceError(Exception):
    """The base class of all errors that the service raises on purpose."""


class ConfigurationError(ServiceError):
    """Settings are wrong; `faults` names each, in the order of the settings."""

    def __init__(self, faults: list[str]) -> None:
        self.faults = faults
        super().__init__("; ".join(faults))


class UsageError(ServiceError):
    """What a person asked for is not there, is more than one thing, or cannot be read; nothing was done."""


class RetryableError(ServiceError):
    """Waiting can help; `retry_after` is the pause in seconds that the peer asked for, None if it did not."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        self.retry_after = retry_after
        super().__init__(message)


class BrokerUnavailableError(RetryableError):
    """The MQTT broker cannot be reached, refused us for now, or did not acknowledge in time."""


class OutcomeUnknownError(BrokerUnavailableError):
    """A message was sent and not acknowledged: the broker may have it, and so may the device."""


class SupabaseUnavailableError(RetryableError):
    """The Supabase project cannot be reached or is overloaded; the outcome of the call is unknown."""


class RowLockedError(SupabaseUnavailableError):
    """Another transaction holds a row that the call needs: nothing was changed; other rows can be."""


class PermanentError(ServiceError):
    """Trying again without a change by a person cannot help."""


class ProjectMisconfiguredError(PermanentError):
    """Every call is refused until a person corrects the key or the project; a worker waits for that."""


class MigrationMissingError(ProjectMisconfiguredError):
    """A function or table that the migrations create is not there."""


class ProtocolError(ServiceError):
    """A message or a row breaks the device protocol."""


class LocalProtocolError(ProtocolError):
    """What we were asked to send cannot be put on the wire."""


class RemoteProtocolError(ProtocolError):
    """What a device sent cannot be read."""
