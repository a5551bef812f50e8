"""One tree of errors for every part of hotbed, each with a code that survives pickling, gRPC and languages.

    Error
    ├── InvalidError             bad-argument          you passed something that cannot work
    │   ├── SerializationError   not-picklable         an argument, result or function cannot be pickled
    │   └── RequestSizeError     too-large
    ├── DeserializationError     not-unpicklable       bytes came, but cannot be turned into objects here
    ├── AuthError                not-authenticated
    ├── PermissionDeniedError    not-permitted
    ├── NotFoundError            not-found
    ├── AlreadyExistsError       already-exists
    ├── ConflictError            conflict
    ├── ExecutionError           execution-failed      the function could not be run to an end
    │   ├── ContainerFailedError container-failed      it never became ready
    │   ├── ContainerLostError   container-lost        it died while the input ran
    │   ├── OutOfMemoryError     out-of-memory         the kernel killed it at its memory limit
    │   ├── UnplaceableError     call-unplaceable      no node can ever (or now) hold it
    │   └── InputCancellation    cancelled
    ├── RemoteError              remote-failed         the function raised, and the exception itself cannot be brought here
    ├── TimeoutError             timeout               (also a builtin TimeoutError)
    │   ├── FunctionTimeoutError function-timeout
    │   ├── StartupTimeoutError  startup-timeout
    │   └── OutputExpiredError   output-expired        no result within `get(timeout=)`, or it is past its retention
    ├── ResourceExhaustedError   limit-reached         a queue or quota is full
    ├── ServiceError             service-unavailable   the server cannot be reached or has gone away
    └── InternalError            internal              a bug of ours

Fields: what (the message), `why`, `fix`, `ids` (named ids as a dict). Equal on both ends of a wire.
"""

from __future__ import annotations

import builtins
from collections.abc import Mapping
from typing import Any, ClassVar

__all__ = [
    "ERRORS_BY_CODE",
    "AlreadyExistsError",
    "AuthError",
    "ConflictError",
    "ContainerFailedError",
    "ContainerLostError",
    "DeserializationError",
    "Error",
    "ExecutionError",
    "FunctionTimeoutError",
    "InputCancellation",
    "InternalError",
    "InvalidError",
    "NotFoundError",
    "OutOfMemoryError",
    "OutputExpiredError",
    "PermissionDeniedError",
    "RemoteError",
    "RequestSizeError",
    "ResourceExhaustedError",
    "SerializationError",
    "ServiceError",
    "StartupTimeoutError",
    "TimeoutError",
    "UnplaceableError",
    "grpc_status_name",
    "make_error",
]


class Error(Exception):
    """Root of everything hotbed raises.

    Args:
        what: One sentence: what failed, with the values that matter.
        why: The cause, where known.
        fix: What the reader can do about it.
        ids: Named ids, e.g. `input="in-..."`.
    """

    code: ClassVar[str] = "error"
    retryable: ClassVar[bool] = False
    """Whether trying the same again, unchanged, may succeed."""

    def __init__(self, what: str = "", *, why: str = "", fix: str = "", **ids: str) -> None:
        super().__init__(what)
        self.what = what
        self.why = why
        self.fix = fix
        self.ids: dict[str, str] = ids

    def __str__(self) -> str:
        text = self.what
        if self.why:
            text += f"\n  why: {self.why}"
        if self.fix:
            text += f"\n  fix: {self.fix}"
        if self.ids:
            text += "\n  " + ", ".join(f"{name}: {value}" for name, value in self.ids.items())
        return text

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.what, self.why, self.fix, self.ids), self.__dict__


def _rebuild(cls: type[Error], what: str, why: str, fix: str, ids: dict[str, str]) -> Error:
    return cls(what, why=why, fix=fix, **ids)


class InvalidError(Error):
    """An argument or a combination of them that cannot work."""

    code = "bad-argument"


class SerializationError(InvalidError):
    """Something cannot be pickled; names the part where it can be found out."""

    code = "not-picklable"


class RequestSizeError(InvalidError):
    """A payload or a frame is over its limit."""

    code = "too-large"


class DeserializationError(Error):
    """Bytes arrived whole but cannot be unpickled in this process (a missing module, another Python)."""

    code = "not-unpicklable"


class AuthError(Error):
    """No token, or one that is not known."""

    code = "not-authenticated"


class PermissionDeniedError(Error):
    """A known caller without the right."""

    code = "not-permitted"


class NotFoundError(Error):
    """No such thing by that id or name."""

    code = "not-found"


class AlreadyExistsError(Error):
    """The name is taken."""

    code = "already-exists"


class ConflictError(Error):
    """The thing changed meanwhile, or its state does not allow this."""

    code = "conflict"


class ExecutionError(Error):
    """The function could not be run to an end."""

    code = "execution-failed"


class ContainerFailedError(ExecutionError):
    """The container never became ready: its runtime refused, or the function could not be loaded in it."""

    code = "container-failed"


class ContainerLostError(ExecutionError):
    """The container (or its node) died while the input was running, on the last attempt."""

    code = "container-lost"
    retryable = True


class OutOfMemoryError(ExecutionError):
    """The kernel killed the container's process at its memory limit."""

    code = "out-of-memory"


class UnplaceableError(ExecutionError):
    """No node can hold a container of this function; `why` counts the nodes by reason."""

    code = "call-unplaceable"
    retryable = True


class InputCancellation(ExecutionError):
    """The input was cancelled; also raised inside the function that is running it."""

    code = "cancelled"


class RemoteError(Error):
    """The function raised and the exception object cannot be brought here; carries its traceback text."""

    code = "remote-failed"


class TimeoutError(Error, builtins.TimeoutError):
    """Some wait ended without its event."""

    code = "timeout"


class FunctionTimeoutError(TimeoutError):
    """An attempt ran longer than the function's `timeout=`."""

    code = "function-timeout"


class StartupTimeoutError(TimeoutError):
    """A container was not ready within the function's `startup_timeout=`."""

    code = "startup-timeout"


class OutputExpiredError(TimeoutError):
    """No output within the caller's `timeout=`, or the output is past its retention."""

    code = "output-expired"


class ResourceExhaustedError(Error):
    """A queue or a quota is full."""

    code = "limit-reached"
    retryable = True


class ServiceError(Error):
    """The server cannot be reached, or went away and did not come back in time."""

    code = "service-unavailable"
    retryable = True


class InternalError(Error):
    """A bug in hotbed."""

    code = "internal"


def _walk(cls: type[Error]) -> list[type[Error]]:
    return [cls, *(leaf for child in cls.__subclasses__() for leaf in _walk(child))]


ERRORS_BY_CODE: dict[str, type[Error]] = {cls.code: cls for cls in _walk(Error)}

_GRPC_STATUS: dict[str, str] = {
    "bad-argument": "INVALID_ARGUMENT",
    "not-picklable": "INVALID_ARGUMENT",
    "too-large": "OUT_OF_RANGE",
    "not-unpicklable": "DATA_LOSS",
    "not-authenticated": "UNAUTHENTICATED",
    "not-permitted": "PERMISSION_DENIED",
    "not-found": "NOT_FOUND",
    "already-exists": "ALREADY_EXISTS",
    "conflict": "FAILED_PRECONDITION",
    "timeout": "DEADLINE_EXCEEDED",
    "cancelled": "CANCELLED",
    "limit-reached": "RESOURCE_EXHAUSTED",
    "service-unavailable": "UNAVAILABLE",
    "internal": "INTERNAL",
}


def grpc_status_name(error: Error | type[Error]) -> str:
    """The one gRPC status a kind of error maps to: its own entry, else its nearest ancestor's, else UNKNOWN."""
    cls = error if isinstance(error, type) else type(error)
    for ancestor in cls.__mro__:
        name = _GRPC_STATUS.get(getattr(ancestor, "code", ""))
        if name is not None:
            return name
    return "UNKNOWN"


def make_error(code: str, what: str, *, why: str = "", fix: str = "", ids: Mapping[str, str] | None = None) -> Error:
    """The error a code names; an unknown code (a newer server) becomes a plain `Error` that keeps the code in its text."""
    cls = ERRORS_BY_CODE.get(code)
    if cls is None:
        return Error(f"{what} [{code}]", why=why, fix=fix, **(ids or {}))
    return cls(what, why=why, fix=fix, **(ids or {}))
