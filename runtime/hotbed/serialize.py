"""Objects to bytes and back.

Exact builtin values (and small containers of them) go through plain pickle at 1 us; everything else through one reused
`cloudpickle.Pickler` a thread. Plain pickle first and cloudpickle on failure would be wrong: objects of `__main__` pickle
by reference without an error and then cannot be found in the container.
"""

from __future__ import annotations

import io
import pickle
import threading
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, Final

from hotbed_proto import frames
from hotbed_proto.errors import (
    DeserializationError,
    Error,
    ExecutionError,
    InternalError,
    RemoteError,
    SerializationError,
    make_error,
)

_SCALARS: Final = frozenset({type(None), bool, int, float, complex, str, bytes})
_SMALL: Final = 16

_local = threading.local()
_dumps = pickle.dumps
_loads = pickle.loads


def is_plain(value: Any) -> bool:
    """Whether plain pickle is safe: a builtin scalar, or a short flat container of them."""
    kind = type(value)
    if kind in _SCALARS:
        return True
    if kind is tuple or kind is list:
        return len(value) <= _SMALL and all(type(entry) in _SCALARS for entry in value)
    if kind is dict:
        return len(value) <= _SMALL and all(type(k) in _SCALARS and type(v) in _SCALARS for k, v in value.items())
    return False


def dumps_call(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
    """The payload of one input.

    Raises:
        SerializationError: An argument cannot be pickled; it says which.
    """
    for value in args:
        if type(value) not in _SCALARS and not is_plain(value):
            break
    else:
        if not kwargs or all(is_plain(value) for value in kwargs.values()):
            return _dumps((args, kwargs), 5)
    try:
        return dumps_any((args, kwargs))
    except Exception as error:  # a user's __reduce__ may raise anything
        raise argument_error(args, kwargs, error) from error


def argument_error(args: tuple[Any, ...], kwargs: dict[str, Any], error: Exception) -> SerializationError:
    """Names the argument that does not pickle."""
    named: list[tuple[str, Any]] = [(f"argument {at + 1}", value) for at, value in enumerate(args)]
    named += [(f"argument {name!r}", value) for name, value in kwargs.items()]
    for name, value in named:
        try:
            dumps_any(value)
        except Exception:  # noqa: BLE001 - this one is the culprit; a user's __reduce__ may raise anything
            return SerializationError(
                f"{name} ({type(value).__module__}.{type(value).__qualname__}) cannot be pickled",
                why=f"{type(error).__name__}: {error}",
                fix="pass plain data, or make the object inside the function",
            )
    return SerializationError("the arguments cannot be pickled", why=f"{type(error).__name__}: {error}")


def dumps_any(value: Any) -> bytes:
    """cloudpickle with this thread's reused pickler; raises what pickling raises. Cost: 3 us for small values."""
    pair = getattr(_local, "pair", None)
    # Taken while in use, so that a __reduce__ that pickles again gets a pickler of its own.
    _local.pair = None
    if pair is None:
        import cloudpickle

        buffer = io.BytesIO()
        pair = (cloudpickle.Pickler(buffer, protocol=5), buffer)
    pickler, buffer = pair
    buffer.seek(0)
    buffer.truncate()
    pickler.clear_memo()
    pickler.dump(value)
    data = buffer.getvalue()
    if len(data) < 1024 * 1024:
        _local.pair = pair
    return data


def dump_call_to_file(args: tuple[Any, ...], kwargs: dict[str, Any], file: BinaryIO) -> None:
    """Pickle straight into a file: large bytes and buffers are written without a copy in between."""
    try:
        if all(type(value) in _SCALARS for value in args) and not kwargs:
            pickle.Pickler(file, 5).dump((args, kwargs))
            return
        import cloudpickle

        cloudpickle.Pickler(file, protocol=5).dump((args, kwargs))
    except OSError:
        raise
    except Exception as error:  # a user's __reduce__ may raise anything
        raise argument_error(args, kwargs, error) from error


def looks_large(args: tuple[Any, ...], kwargs: dict[str, Any], limit_bytes: int) -> bool:
    """Whether some argument is by itself a buffer over the limit, so that pickling to a file pays. Cost: 0.2 us an argument."""
    for value in (*args, *kwargs.values()) if kwargs else args:
        kind = type(value)
        if kind is bytes or kind is str or kind is bytearray:
            if len(value) > limit_bytes:
                return True
        elif kind is not int:
            nbytes = getattr(value, "nbytes", 0)
            if isinstance(nbytes, int) and nbytes > limit_bytes:
                return True
    return False


def load_error(error: BaseException, what: str) -> DeserializationError:
    """The error for bytes that do not become objects here; names the missing module."""
    missing = getattr(error, "name", None) if isinstance(error, ImportError) else None
    why = f"module {missing!r} is not installed here" if missing else f"{type(error).__name__}: {error}"
    return DeserializationError(
        f"{what} cannot be unpickled by this client",
        why=why,
        fix=f"install {missing!r} here, or return plain data" if missing else "return plain data, or make its class importable",
    )


def decode(status: int, payload: bytes, open_ref: Callable[[bytes], Any]) -> Any:
    """The value of an output, or raise its error.

    Args:
        open_ref: Given a serialised `PayloadRef`, loads and returns the object behind it.
    """
    if status == frames.OK or status == frames.GENERATOR_ITEM:
        try:
            return _loads(payload)
        except Exception as error:  # unpickling runs foreign constructors
            raise load_error(error, "the result") from error
    if status & frames.STATUS_MASK not in _VALUES:
        raise to_error(status, payload, open_ref)
    try:
        return open_ref(payload)
    except (Error, OSError):
        raise
    except Exception as error:  # unpickling runs foreign constructors
        raise load_error(error, "the result") from error


_VALUES: Final = frozenset({frames.OK, frames.GENERATOR_ITEM})


def to_error(status: int, payload: bytes, open_ref: Callable[[bytes], Any]) -> BaseException:
    """The exception an output stands for."""
    kind = status & frames.STATUS_MASK
    if kind == frames.SYSTEM_ERROR:
        from hotbed.wire_errors import error_from_bytes

        return error_from_bytes(payload)
    if kind != frames.USER_EXCEPTION:
        return InternalError(f"an output of unknown kind {kind}")
    try:
        entry = open_ref(payload) if status & frames.PAYLOAD_IS_REF else _loads(payload)
        pickled, name, message, traceback_text = entry
    except Exception as error:  # noqa: BLE001 - a hostile container may send anything
        return load_error(error, "the exception of the function")
    remote = f"Remote traceback:\n{traceback_text}"
    if pickled is not None:
        try:
            found = _loads(pickled)
        except Exception as error:  # noqa: BLE001 - unpickling runs foreign constructors; told in the error below
            return RemoteError(f"{name}: {message}", why=f"{load_error(error, 'the exception').why}\n{traceback_text}")
        if isinstance(found, BaseException):
            # SystemExit and KeyboardInterrupt of a container must not end the caller.
            if isinstance(found, Exception):
                found.add_note(remote)
                return found
            return ExecutionError(f"the function raised {name}({message})", why=traceback_text)
    return RemoteError(f"{name}: {message}", why=traceback_text)


def make_remote_error(code: str, message: str, why: str, fix: str, ids: Mapping[str, str]) -> Error:
    """An infrastructure error from its fields."""
    return make_error(code, message, why=why, fix=fix, ids={k: v for k, v in ids.items() if k not in ("what", "why", "fix")})
