"""The worker's main loop: read the socket when idle, run inputs one after the other, send results in batches.

One thread does all of it, so a single call costs no hand-over between threads. A batch is sent when the local queue is
empty, at 512 results, or 2 ms after the last one. What must move while user code runs is the service thread's.
"""

from __future__ import annotations

import _signal  # pyright: ignore[reportMissingImports] - `signal` itself imports enum, milliseconds at boot
import os
import sys
from _pickle import loads
from _thread import allocate_lock, get_ident
from array import array
from time import monotonic
from typing import TYPE_CHECKING, Final

from hotbed.worker import context, nested, wire
from hotbed.worker.calls import CallKind, Calls
from hotbed.worker.channel import Channel, Closed
from hotbed.worker.loader import load_function
from hotbed.worker.payloads import PayloadFiles
from hotbed.worker.results import ResultPickler, exception_payload, system_error_payload, traceback_text
from hotbed.worker.service import Service
from hotbed.worker.status import PAGE

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_BATCH_MAX: Final = 512
_BATCH_BYTES_MAX: Final = 1024 * 1024
_FLUSH_S: Final = 0.002
_OK: Final = 0
_USER_EXCEPTION: Final = 1
_SYSTEM_ERROR: Final = 2
_IS_REF: Final = 0x80
_NO_INPUT: Final = -1
_UNSET: Final = object()


class Leave(BaseException):
    """Raised in the idle main thread by SIGTERM."""


class Runner:
    """State of one worker.

    Attributes:
        busy: Inputs are being run (or a batch is being sent); read by the service thread.
        sequence: Odd while an input runs.
        streaming: A generator runs, so results should leave soon.
        phase: Step of the running input that is not plain: arguments, call or result.
    """

    def __init__(self, channel: Channel, files: PayloadFiles, page: memoryview, mounts: dict[str, str]) -> None:
        self.busy = False
        self.sequence = 0
        self.streaming = False
        self.phase = "call"
        self._channel = channel
        self._files = files
        self._page = page
        self._mounts = mounts
        self._service = Service(self, channel)
        self._pickler = ResultPickler(files, 64 * 1024)
        self._function: Callable[..., Any] | None = None
        self._calls = Calls(self)
        self._queue: list[wire.WorkerInputs] = []
        self._out: list[tuple[int, int, bytes]] = []
        self._out_bytes = 0
        self._out_lane = 0
        self._flush_lock = allocate_lock()
        self._last_flush_s = 0.0
        self._busy_since_s = 0.0
        self._batch: wire.WorkerInputs | None = None
        self.current = _NO_INPUT
        self._next_at = 0
        self._cancelled: set[tuple[int, int]] = set()
        self._interrupt: tuple[int, int] | None = None
        self._leaving = False
        self._idle = False
        self._main = get_ident()
        self._here = os.path.dirname(__file__)
        _signal.signal(_signal.SIGTERM, self._on_terminate)
        _signal.signal(_signal.SIGUSR1, self._on_interrupt)
        context.set_current_source(self._current_input)
        nested.install(nested.NestedLink(self._service, files.write_bytes, files.read_input))

    def run(self) -> None:
        """Serve until told to leave or the node is gone. Exit handlers are the caller's."""
        try:
            while not self._leaving:
                if self._queue:
                    self._run_batch(self._queue.pop(0))
                    if self._queue:
                        continue
                self.flush()
                self.busy = False
                if not self._wait():
                    break
            self.flush()
        except Closed:
            return
        finally:
            self._calls.close()

    def _wait(self) -> bool:
        try:
            self._idle = True
            if self._leaving:
                return False
            messages = self._channel.receive(self._has_work)
            self._idle = False
        except Leave:
            return False
        for message in messages:
            self.handle(message, from_service=False)
        return True

    def _has_work(self) -> bool:
        return bool(self._queue) or self._leaving

    def handle_beside(self, message: wire.Message) -> None:
        """Take one frame on the service thread."""
        self.handle(message, from_service=True)

    def handle(self, message: wire.Message, *, from_service: bool) -> None:
        """Take one frame. From the service thread too, while the main thread is inside user code."""
        if isinstance(message, wire.WorkerInputs):
            self._queue.append(message)
        elif isinstance(message, wire.NestedDown):
            link = nested.link()
            if link is not None:
                link.deliver(message)
        elif isinstance(message, wire.WorkerCancel):
            self._cancel(message)
        elif isinstance(message, wire.WorkerRelease):
            self._files.release(message.files)
        elif isinstance(message, wire.WorkerShutdown):
            self._leaving = True
        elif isinstance(message, wire.LoadFunction) and not from_service:
            self._load(message)

    def _load(self, message: wire.LoadFunction) -> None:
        self._function, reply = load_function(message, self._mounts)
        self._pickler = ResultPickler(self._files, message.inline_limit_bytes or 64 * 1024)
        if self._function is not None:
            self._calls.set_function(self._function, message.is_generator, message.is_async)
        self._flush_streams()
        self._channel.send(reply)

    # --- running ----------------------------------------------------------------------------------------------------

    def _run_batch(self, batch: wire.WorkerInputs) -> None:
        data, sizes, flags, lane = batch.data, batch.sizes, batch.flags, batch.lane
        if lane != self._out_lane:
            with self._flush_lock:
                self._flush_locked()
                self._out_lane = lane
        self._batch = batch
        self.busy = True
        now_s = monotonic()
        if not self._out:
            self._busy_since_s = now_s
        self._service.activity(now_s)
        simple = self._calls.kind == CallKind.PLAIN
        function = self._function
        page, pack, out, dump = self._page, PAGE.pack_into, self._out, self._pickler.dump
        offset = 0
        at = 0
        for index, size in zip(batch.indices, sizes, strict=True):
            at += 1
            self._next_at = at
            payload = data[offset : offset + size]
            offset += size
            if self._leaving:
                break
            if self._cancelled and (lane, index) in self._cancelled:
                self._cancelled.discard((lane, index))
                self._answer_cancelled(index)
                continue
            sequence = self.sequence = self.sequence + 1
            pack(page, 0, lane, index, sequence, now_s)
            self.current = index
            args = value = _UNSET
            try:
                if simple and not (flags and at <= len(flags) and flags[at - 1]):
                    args, kwargs = loads(payload)
                    value = function(*args, **kwargs)  # type: ignore[misc]
                    bit, payload = dump(value)
                    self.current = _NO_INPUT
                    out.append((index, bit, payload))
                    self._out_bytes += len(payload)
                else:
                    self._run_other(index, payload, bool(flags and at <= len(flags) and flags[at - 1] & _IS_REF))
            except Closed:
                raise
            except BaseException as error:  # noqa: BLE001 - whatever user code raises is its result
                self.current = _NO_INPUT
                if simple and not (flags and at <= len(flags) and flags[at - 1]):
                    self.phase = "arguments" if args is _UNSET else "call" if value is _UNSET else "result"
                self._answer_exception(index, error)
            self.sequence = sequence + 1
            now_s = monotonic()
            if now_s - self._last_flush_s >= _FLUSH_S or len(out) >= _BATCH_MAX or self._out_bytes >= _BATCH_BYTES_MAX:
                self.flush()
        pack(page, 0, lane, 0, self.sequence, now_s)
        self._batch = None

    def _run_other(self, index: int, payload: bytes, is_ref: bool) -> None:
        self.phase = "arguments"
        args, kwargs = self._arguments(payload, is_ref)
        self.phase = "call"
        if self._calls.kind == CallKind.PLAIN:
            assert self._function is not None
            value = self._function(*args, **kwargs)
        elif self._calls.kind == CallKind.ASYNC:
            value = self._calls.run_async(args, kwargs)
        else:
            count = self._calls.run_generator(index, args, kwargs)
            self.current = _NO_INPUT
            self.append(index, 4, count.to_bytes(8, "little"))
            return
        self.phase = "result"
        bit, data = self._pickler.dump(value)
        self.current = _NO_INPUT
        self.append(index, bit, data)

    def _arguments(self, payload: bytes, is_ref: bool) -> Any:
        if not is_ref:
            return loads(payload)
        from pickle import Unpickler

        with self._files.open_input(payload) as file:
            # Reading through the file puts large bytes straight into the new object: one copy.
            return Unpickler(file).load()

    def dump(self, value: Any) -> tuple[int, bytes]:
        """Pickle a generator's item."""
        return self._pickler.dump(value)

    def append(self, index: int, status: int, payload: bytes) -> None:
        """Queue one output of the current lane."""
        self._out.append((index, status, payload))
        self._out_bytes += len(payload)

    def flush_if_due(self) -> None:
        """For generators: send when the last send is 2 ms ago."""
        if monotonic() - self._last_flush_s >= _FLUSH_S or self._out_bytes >= _BATCH_BYTES_MAX:
            self.flush()

    # --- answers ----------------------------------------------------------------------------------------------------

    def _answer_exception(self, index: int, error: BaseException) -> None:
        from hotbed_proto.errors import InputCancellation, SerializationError

        if self._interrupt == (self._out_lane, index) and isinstance(error, (InputCancellation, *self._calls.cancel_types())):
            self._interrupt = None
            self._answer_cancelled(index)
            return
        name = context.function_name or "the function"
        if self.phase == "arguments":
            self.append(
                index,
                _SYSTEM_ERROR,
                system_error_payload(
                    "not-unpicklable",
                    f"an argument of {name} cannot be unpickled in the container: {type(error).__name__}",
                    traceback_text(error, self._here),
                    "make its class importable in the container: ship its module, or define it where the function is",
                ),
            )
            return
        if self.phase == "result":
            cause = error
            error = SerializationError(
                f"the result of {name} cannot be pickled",
                why=traceback_text(cause, self._here).strip().rpartition("\n")[2],
                fix="return plain data, or give its class a __reduce__",
            )
        try:
            data = exception_payload(error, hidden_frames_of=self._here)
        except Exception as broken:  # noqa: BLE001 - a user's exception class may break in any way; the input still ends
            data = exception_payload(RuntimeError(f"{type(error).__name__} (reporting it failed: {type(broken).__name__})"))
        if len(data) > self._pickler.inline_limit_bytes:
            self.append(index, _USER_EXCEPTION | _IS_REF, self._files.write_bytes(data))
        else:
            self.append(index, _USER_EXCEPTION, data)

    def _answer_cancelled(self, index: int) -> None:
        self.append(index, _SYSTEM_ERROR, system_error_payload("cancelled", "the input was cancelled"))

    # --- cancelling -------------------------------------------------------------------------------------------------

    def _cancel(self, message: wire.WorkerCancel) -> None:
        wanted = set(message.indices)
        batch = self._batch
        if batch is not None and batch.lane == message.lane:
            current = self.current
            for index in batch.indices[self._next_at :]:
                if index in wanted:
                    self._cancelled.add((message.lane, index))
            if current in wanted:
                self._interrupt = (message.lane, current)
                if not self._calls.cancel_running():
                    _signal.pthread_kill(self._main, _signal.SIGUSR1)
        for queued in list(self._queue):
            if queued.lane == message.lane:
                self._cancelled.update((message.lane, index) for index in queued.indices if index in wanted)

    def _on_interrupt(self, number: int, frame: object) -> None:
        # The input may have ended between the service thread's look and this moment: then it is not to be raised.
        if self._interrupt is not None and self._interrupt == (self._out_lane, self.current):
            from hotbed_proto.errors import InputCancellation

            raise InputCancellation("the input was cancelled")

    def _on_terminate(self, number: int, frame: object) -> None:
        self._leaving = True
        if self._idle:
            raise Leave

    # --- sending ----------------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Send what is finished; prints go first so that logs precede results."""
        with self._flush_lock:
            self._flush_locked()

    def _flush_locked(self) -> None:
        count = len(self._out)
        if not count:
            return
        self._flush_streams()
        rows = self._out[:count]
        del self._out[:count]
        self._out_bytes = 0
        now_s = monotonic()
        self._last_flush_s = now_s
        start = 0
        while start < count:  # one frame, unless results of many bytes piled up
            stop, size = start, 0
            while stop < count and (size == 0 or size + len(rows[stop][2]) <= 8 * _BATCH_BYTES_MAX):
                size += len(rows[stop][2])
                stop += 1
            part = rows if stop - start == count else rows[start:stop]
            indices, statuses, payloads = zip(*part, strict=True)
            self._channel.send(
                wire.WorkerOutputs(
                    lane=self._out_lane,
                    indices=array("I", indices),
                    sizes=array("I", map(len, payloads)),
                    data=b"".join(payloads),
                    statuses=bytes(statuses) if any(statuses) else b"",
                    busy_s=max(0.0, now_s - self._busy_since_s),
                )
            )
            self._busy_since_s = now_s
            start = stop

    def _flush_streams(self) -> None:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (AttributeError, OSError, ValueError):
                continue  # closed or replaced by user code: nothing of it to order before the results

    def _current_input(self) -> tuple[str, int] | None:
        batch, index = self._batch, self.current
        return None if batch is None or index == _NO_INPUT else (batch.lane_id, index)
