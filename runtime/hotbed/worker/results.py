"""Turn return values and exceptions into payload bytes.

Exact builtin scalars and small containers of them go through plain pickle; everything else through one reused
`cloudpickle.Pickler`. Trying pickle first and cloudpickle on failure would be wrong: objects of `__main__` pickle by
reference without an error, and then cannot be found on the other side.
"""

from __future__ import annotations

import io
from _pickle import dumps, loads
from typing import TYPE_CHECKING, Final

from hotbed.worker.wire import ErrorInfo, encode

if TYPE_CHECKING:
    from typing import Any, BinaryIO

    from hotbed.worker.payloads import PayloadFiles

_SCALARS: Final = frozenset({type(None), bool, int, float, complex, str, bytes})
_SMALL: Final = 16
_CHAIN_MAX: Final = 16
_TEXT_MAX: Final = 256 * 1024
_IS_REF: Final = 0x80


class ResultPickler:
    """Pickles results of one function; not thread-safe.

    Args:
        inline_limit_bytes: Larger payloads go by file.
    """

    def __init__(self, files: PayloadFiles, inline_limit_bytes: int) -> None:
        self._files = files
        self.inline_limit_bytes = inline_limit_bytes
        self._buffer = io.BytesIO()
        self._pickler: Any = None

    def dump(self, value: Any) -> tuple[int, bytes]:
        """(0 or the reference bit, payload). Raises whatever pickling raises."""
        kind = type(value)
        if kind in _SCALARS:
            if (kind is bytes or kind is str) and len(value) > self.inline_limit_bytes:
                return _IS_REF, self._files.write_output(lambda file: _dump_plain(value, file))
            data = dumps(value, 5)
        elif (kind is tuple or kind is list) and len(value) <= _SMALL and all(type(entry) in _SCALARS for entry in value):
            data = dumps(value, 5)
        elif getattr(value, "nbytes", 0) > self.inline_limit_bytes or (
            kind is bytearray and len(value) > self.inline_limit_bytes
        ):
            return _IS_REF, self._files.write_output(lambda file: _dump_any(value, file))
        else:
            data = self._dump_reused(value)
        if len(data) > self.inline_limit_bytes:
            return _IS_REF, self._files.write_bytes(data)
        return 0, data

    def _dump_reused(self, value: Any) -> bytes:
        if self._pickler is None:
            import cloudpickle

            self._pickler = cloudpickle.Pickler(self._buffer, protocol=5)
        self._buffer.seek(0)
        self._buffer.truncate()
        self._pickler.clear_memo()
        try:
            self._pickler.dump(value)
        except BaseException:
            self._pickler = None  # a half-written frame must not leak into the next result
            self._buffer = io.BytesIO()
            raise
        return self._buffer.getvalue()


def _dump_plain(value: Any, file: BinaryIO) -> None:
    from pickle import Pickler

    Pickler(file, protocol=5).dump(value)


def _dump_any(value: Any, file: BinaryIO) -> None:
    import cloudpickle

    cloudpickle.Pickler(file, protocol=5).dump(value)


def exception_payload(error: BaseException, *, hidden_frames_of: str = "") -> bytes:
    """The USER_EXCEPTION payload: pickled (exception pickle | None, qualified class name, message, traceback text).

    Args:
        hidden_frames_of: Leading traceback frames from files below this folder are hotbed's own and left out.
    """
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return dumps((_pickle_exception(error), name, _safe_text(error), traceback_text(error, hidden_frames_of)), 5)


def traceback_text(error: BaseException, hidden_frames_of: str = "") -> str:
    """As Python prints it, without the leading frames of the worker itself, cut in the middle at 256 KiB."""
    import traceback

    top = error.__traceback__
    while hidden_frames_of and top is not None and top.tb_frame.f_code.co_filename.startswith(hidden_frames_of):
        top = top.tb_next
    try:
        text = "".join(traceback.format_exception(type(error), error, top))
    except Exception as broken:  # noqa: BLE001 - a user's __str__ or __repr__ may raise anything
        text = f"{type(error).__qualname__} (its traceback cannot be printed: {type(broken).__name__})\n"
    if len(text) > _TEXT_MAX:
        text = f"{text[: _TEXT_MAX // 2]}\n... {len(text) - _TEXT_MAX} characters left out ...\n{text[-_TEXT_MAX // 2 :]}"
    return text


def system_error_payload(code: str, message: str, why: str = "", fix: str = "") -> bytes:
    """The SYSTEM_ERROR payload."""
    return encode(ErrorInfo(code=code, message=message, why=why, fix=fix))


def rebuild_exception(links: list[tuple[bytes, int, int, bool, list[str]]]) -> BaseException:
    """Put a chain together again: (pickle, cause position, context position, suppress, notes) each; -1 = none.

    Called by unpickling, in the client; the first link is the exception itself.
    """
    errors: list[BaseException] = [loads(link[0]) for link in links]
    for error, (_, cause, context, suppress, notes) in zip(errors, links, strict=True):
        if context >= 0:
            error.__context__ = errors[context]
        if cause >= 0:
            error.__cause__ = errors[cause]
        error.__suppress_context__ = suppress
        if notes and not getattr(error, "__notes__", None):
            for note in notes:
                error.add_note(note)
    return errors[0]


class _Chain:
    """Pickles as a call of `rebuild_exception`: pickling an exception alone loses its cause and context."""

    def __init__(self, links: list[tuple[bytes, int, int, bool, list[str]]]) -> None:
        self._links = links

    def __reduce__(self) -> tuple[Any, ...]:
        return rebuild_exception, (self._links,)


def _pickle_exception(error: BaseException) -> bytes | None:
    import cloudpickle

    chain = [error]
    for link in chain:  # grows while it is walked
        for other in (link.__cause__, link.__context__):
            if other is not None and len(chain) < _CHAIN_MAX and not any(other is known for known in chain):
                chain.append(other)
    pickles: dict[int, bytes] = {}
    for link in chain:
        try:
            data = cloudpickle.dumps(link, protocol=5)
            # Many exceptions pickle but do not unpickle (an __init__ with other arguments): find out here.
            if not isinstance(loads(data), BaseException):
                continue
        except Exception:  # noqa: BLE001, S112 - a user's __reduce__ or __init__ may raise anything; the text travels instead
            continue
        pickles[id(link)] = data
    if id(error) not in pickles:
        return None
    kept = [link for link in chain if id(link) in pickles]
    position = {id(link): at for at, link in enumerate(kept)}
    rows = [
        (
            pickles[id(link)],
            position.get(id(link.__cause__), -1),
            position.get(id(link.__context__), -1),
            link.__suppress_context__,
            [str(note) for note in getattr(link, "__notes__", ())],
        )
        for link in kept
    ]
    return dumps(_Chain(rows), 5)


def _safe_text(error: BaseException) -> str:
    try:
        return str(error)[:_TEXT_MAX]
    except Exception as broken:  # noqa: BLE001 - a user's __str__ may raise anything
        return f"(its message cannot be printed: {type(broken).__name__})"
