"""What the user sees while functions run: their logs, and why nothing runs when nothing does."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from hotbed.transport_grpc import GrpcTransport
    from hotbed_proto.v1.client_pb2 import FunctionState
    from hotbed_proto.v1.common_pb2 import LogChunk

_active: Output | None = None


class Output:
    """Prints logs with the function's name before each line; on a terminal also a line of progress."""

    def __init__(self, stdout: TextIO, stderr: TextIO, *, show_progress: bool = True, names: bool = True) -> None:
        self._stdout = stdout
        self._stderr = stderr
        self._names = names
        self._lock = threading.Lock()
        self._open: dict[tuple[str, int], bytes] = {}
        self._reasons: dict[str, str] = {}
        self._states: dict[str, tuple[int, int, int]] = {}
        self._console: Any = None
        self._status: Any = None
        if show_progress and stderr.isatty():
            from rich.console import Console

            self._console = Console(file=stderr)

    def on_log(self, chunk: LogChunk) -> None:
        """Print whole lines; the rest waits for its end."""
        stream = self._stderr if chunk.stream != 1 else self._stdout
        prefix = f"[{chunk.function_name or chunk.function_id}] " if self._names else ""
        key = (chunk.container_id, chunk.stream)
        with self._lock:
            if chunk.dropped_bytes:
                self._print(self._stderr, f"{prefix}... {chunk.dropped_bytes} bytes of output left out ...\n")
            data = self._open.pop(key, b"") + chunk.data
            whole, newline, rest = data.rpartition(b"\n")
            if rest and len(rest) < 64 * 1024:
                self._open[key] = rest
            elif rest:
                whole, newline = whole + newline + rest, b"\n"
            if newline:
                lines = whole.decode("utf-8", "replace").split("\n")
                self._print(stream, "".join(f"{prefix}{line}\n" for line in lines))

    def on_state(self, state: FunctionState) -> None:
        """Say once why a function cannot run; show the counts on a terminal."""
        with self._lock:
            reason = state.unplaceable_reason
            if reason != self._reasons.get(state.function_id, ""):
                self._reasons[state.function_id] = reason
                if reason:
                    self._print(self._stderr, f"[hotbed] waiting: {reason}\n")
            if self._console is not None:
                self._states[state.function_id] = (state.queued, state.running, state.containers)
                self._show()

    def _show(self) -> None:
        queued, running, containers = (sum(row[at] for row in self._states.values()) for at in range(3))
        if not queued and not running:
            if self._status is not None:
                self._status.stop()
                self._status = None
            return
        text = f"{running} running, {queued} queued, {containers} containers"
        if self._status is None:
            self._status = self._console.status(text)
            self._status.start()
        else:
            self._status.update(text)

    def _print(self, stream: TextIO, text: str) -> None:
        if self._status is not None:
            self._console.print(text, end="", markup=False, highlight=False)
            return
        try:
            stream.write(text)
            stream.flush()
        except (OSError, ValueError):
            return  # the user closed their end; the calls matter more

    def close(self) -> None:
        """Print unfinished lines and clear the progress line."""
        with self._lock:
            if self._status is not None:
                self._status.stop()
                self._status = None
            for (_, stream), data in self._open.items():
                self._print(self._stdout if stream == 1 else self._stderr, data.decode("utf-8", "replace") + "\n")
            self._open.clear()


@contextlib.contextmanager
def enable_output(show_progress: bool = True) -> Iterator[None]:
    """Within it, logs of containers and progress are printed."""
    global _active
    before, output = _active, Output(sys.stdout, sys.stderr, show_progress=show_progress)
    _active = output
    from hotbed import client as module
    from hotbed.transport_grpc import GrpcTransport

    def connect() -> None:
        present = module._client
        if present is not None and isinstance(present.transport, GrpcTransport):
            attach(present.transport)

    connect()
    try:
        yield
    finally:
        _active = before
        connect()
        output.close()


def attach(transport: GrpcTransport) -> None:
    """Send what this connection reports to the active output, if there is one."""
    transport.on_log = _active.on_log if _active is not None else None
    transport.on_state = _active.on_state if _active is not None else None
