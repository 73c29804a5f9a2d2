"""Our errors in place of what Storage's client raises."""

import httpx
from storage3.exceptions import StorageApiError

from mqtt_service.adapters.supabase import api_errors
from mqtt_service.errors import (
    PermanentError,
    ProjectMisconfiguredError,
    ServiceError,
    SupabaseUnavailableError,
)

_REFUSED = {httpx.codes.REQUEST_ENTITY_TOO_LARGE, httpx.codes.UNSUPPORTED_MEDIA_TYPE}


def translated(error: Exception, call: str, bucket: str) -> Exception:
    """One of our errors: `call` says what failed, such as `the upload of a picture`.

    SupabaseUnavailableError where waiting can help, ProjectMisconfiguredError where a person must correct the
    project, PermanentError where this file is refused or is not there. Anything else stays what it is.
    """
    if isinstance(error, httpx.HTTPError):
        return api_errors.from_network_error(error, call)
    if isinstance(error, StorageApiError):
        return _from_storage_error(error, call, bucket)
    if isinstance(error, (ValueError, KeyError, TypeError)):
        return SupabaseUnavailableError(f"the answer to {call} is not Storage's: {error!r}")
    return error


def _from_storage_error(error: StorageApiError, call: str, bucket: str) -> ServiceError:
    """Storage puts the status that it means into its body, as text."""
    try:
        status = int(error.status)
    except ValueError:
        status = int(httpx.codes.INTERNAL_SERVER_ERROR)
    if status >= httpx.codes.INTERNAL_SERVER_ERROR:
        return SupabaseUnavailableError(f"Storage could not answer {call} now: {error.message} ({status})")
    if status in _REFUSED:
        return PermanentError(f"Storage refuses {call}: {error.message} ({status})")
    if status == httpx.codes.NOT_FOUND and "bucket" not in error.message.lower():
        return PermanentError(f"Storage has no file for {call}: {error.message} ({status})")
    return ProjectMisconfiguredError(
        f"Storage refuses {call}: {error.message} ({status}); apply the files in supabase/migrations, which "
        f"make the bucket {bucket}, and set SUPABASE_SECRET_KEY to the project's secret key"
    )
