"""Failures of storage: what they are, which pass by themselves, and what a user can do about the others."""

import errno
from collections.abc import Iterator, Mapping
from typing import Final

_LOCAL_REMEDIES: Final = {
    errno.ENOSPC: "the disk is full: free space there or choose another output.root, then run it again",
    errno.EDQUOT: "the disk quota is used up: free space or choose another output.root, then run it again",
    errno.EROFS: "the file system is mounted read-only: choose another output.root",
    errno.EACCES: "no permission: check the owner and mode of that folder, or choose another output.root",
    errno.EPERM: "the operation is not permitted: check the owner and mode of that folder",
}
_ELSE: Final = "check that the place exists and can be reached"

# Remote file systems raise what their libraries raise, much of it no OSError (botocore's ReadTimeoutError, aiohttp's
# ClientPayloadError, …). Those libraries are extras, so their classes are known here by name: by the package that
# defines them, and by their own name or a base class's. Nothing is imported for it.
_REMOTE_LIBRARIES: Final = {
    "adlfs", "aiobotocore", "aiohttp", "asyncssh", "azure", "botocore", "fsspec", "gcsfs", "google", "paramiko",
    "requests", "s3fs", "urllib3",
}  # fmt: skip
_TRANSIENT_CLASSES: Final = {
    "ClientConnectionError",  # aiohttp: refused, reset, disconnected, timed out
    "ClientPayloadError",  # aiohttp: the connection ended in the middle of an answer
    "ConnectionError",  # Python's own, and botocore's: endpoint not reached
    "HTTPClientError",  # botocore: closed, timed out, ended in the middle of an answer
    "IncompleteRead",
    "IncompleteReadError",
    "ResponseParserError",  # botocore: an answer that is no XML, as overloaded stores send it
    "TimeoutError",
    "TransportError",  # google.auth: its token server was not reached
}
_CREDENTIAL_CLASSES: Final = ("Credential", "NoAuthToken", "TokenRetrieval", "ProfileNotFound", "RefreshError")
_TRANSIENT_STATUSES: Final = {408, 429, 500, 502, 503, 504}
# S3 answers 400 to a body that was cut or damaged on its way, too.
_TRANSIENT_CODES: Final = {"BadDigest", "IncompleteBody", "RequestTimeout", "XAmzContentSHA256Mismatch"}
_NETWORK_ERRNOS: Final = {errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH}
_CREDENTIALS_OF_PROTOCOL: Final = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
    "s3a": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "gcs": "GOOGLE_APPLICATION_CREDENTIALS",
}


class StorageError(OSError):
    """A read or write that failed for a reason outside the program; it names the place and the remedy."""


def is_storage_failure(error: BaseException) -> bool:
    """Whether an error that came out of a file system is the storage's, and not a fault of the code."""
    return any(
        isinstance(cause, OSError) or any(_library(kind) in _REMOTE_LIBRARIES for kind in type(cause).__mro__)
        for cause in _causes(error)
    )


def is_transient(error: BaseException) -> bool:
    """Whether a request to a remote store may succeed if it is sent again: the store, or the way there, had a fault.

    The chain of causes is looked at from the outside in, and the first that tells decides: fsspec's file system for web
    servers reports every failure as a missing file, caused by the true one.
    """
    for cause in _causes(error):
        if (status := _http_status(cause)) is not None:
            return status in _TRANSIENT_STATUSES or _store_code(cause) in _TRANSIENT_CODES
        if getattr(cause, "errno", None) in _NETWORK_ERRNOS:
            return True
        if any(kind.__name__ in _TRANSIENT_CLASSES for kind in type(cause).__mro__):
            return True
    return False


def explained(error: Exception, url: str, action: str, *, after: str = "") -> OSError:
    """The error to raise for one that a file system raised: what was tried where, why it failed, and the remedy.

    Args:
        error: what the file system raised, see `is_storage_failure`.
        url: the place.
        action: read, write, list or remove.
        after: what was done about it already, such as "8 tries in 50 s".

    Returns:
        A StorageError, or a FileNotFoundError where one that reads named no file.
    """
    is_remote = "://" in url and not url.startswith(("file://", "local://"))
    number = error.errno if isinstance(error, OSError) else None
    if number is None and isinstance(error, PermissionError):  # remote file systems raise it without one
        number = errno.EACCES
    if isinstance(error, StorageError):
        return error
    if isinstance(error, FileNotFoundError) and action != "write" and not after:
        if not is_remote:
            return error
        if _store_code(error) != "NoSuchBucket":
            return FileNotFoundError(errno.ENOENT, "there is no such file", url)
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    if is_remote:
        remedy = _remote_remedy(error, url, action, after)
    else:
        remedy = _LOCAL_REMEDIES.get(
            number or 0, f"{_ELSE}, or choose another output.root" if action == "write" else _ELSE
        )
    return StorageError(number or errno.EIO, f"cannot {action} {url}: {reason}; {remedy}")


def _remote_remedy(error: Exception, url: str, action: str, after: str) -> str:
    if after:
        return f"{after} did not help: run the command again when the store can be reached; it goes on from there"
    protocol = url.partition("://")[0]
    credentials = _CREDENTIALS_OF_PROTOCOL.get(protocol, "the variables of this kind of storage")
    names = {kind.__name__ for cause in _causes(error) for kind in type(cause).__mro__}
    if any(part in name for name in names for part in _CREDENTIAL_CLASSES):
        return f"set {credentials}, in the environment of the driver and of every worker"
    if isinstance(error, PermissionError) or any(_http_status(cause) in (401, 403) for cause in _causes(error)):
        return f"check that the credentials in the environment ({credentials}) may {action} there"
    if _store_code(error) == "NoSuchBucket":
        return "create the bucket, or correct the URL"
    return _ELSE


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__


def _library(kind: type) -> str:
    return kind.__module__.partition(".")[0]


def _http_status(error: BaseException) -> int | None:
    """The status that the store answered with, as botocore, aiohttp or gcsfs keep it; None if there was no answer."""
    response = getattr(error, "response", None)
    if isinstance(response, Mapping):
        found = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    else:
        # Of gcsfs alone: aiohttp gives a code to answers that end too early, too.
        found = getattr(error, "code" if _library(type(error)) == "gcsfs" else "status", None)
    return found if isinstance(found, int) else None


def _store_code(error: BaseException) -> str | None:
    """S3's own word for what went wrong, such as NoSuchKey."""
    for cause in _causes(error):
        response = getattr(cause, "response", None)
        if isinstance(response, Mapping) and "Error" in response:
            return response["Error"].get("Code")
    return None
