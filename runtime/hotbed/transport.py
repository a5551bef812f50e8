"""The seam between calls and the way they travel: gRPC from a client, the worker's socket from a container."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from hotbed_proto.errors import Error


class SubmitFrame(NamedTuple):
    """A contiguous run of inputs of one lane."""

    lane_id: str
    function_id: str
    first_index: int
    payloads: list[bytes]
    flags: bytes  # empty = all 0
    durable: bool
    closed: bool
    subscribe: bool


class Receiver(Protocol):
    """Gets what comes back. Called on the transport's own thread; must not block."""

    def on_outputs(
        self, lane_id: str, indices: Sequence[int] | array[int], payloads: Sequence[bytes], statuses: bytes
    ) -> None: ...
    def on_accepted(self, lane_id: str, first_index: int, count: int) -> None: ...
    def on_rejected(self, lane_id: str, indices: Sequence[int] | array[int], error: Error) -> None: ...
    def on_reconnected(self, server_is_new: bool) -> None:
        """A new stream stands: what is unfinished must be sent again."""
        ...

    def on_lost(self, error: Error) -> None:
        """The connection is gone for good."""
        ...


class Transport(Protocol):
    """Sends frames in order. All methods but the `large` ones are called from `wake`'s callback only."""

    inline_limit_bytes: int
    """Larger payloads go through `store_large`; of durable inputs, those over `durable_limit_bytes`."""
    durable_limit_bytes: int

    def wake(self, flush: Callable[[], None]) -> None:
        """Have `flush` called once, soon, where sending is allowed."""
        ...

    def submit(self, frame: SubmitFrame) -> None: ...
    def subscribe(self, lane_id: str, indices: Sequence[int], off: bool) -> None: ...
    def cancel(self, lane_id: str, indices: Sequence[int], terminate_containers: bool) -> None: ...
    def set_pending(self, count: int) -> None:
        """How many answers are awaited."""
        ...

    def store_call(self, function_id: str, args: tuple[Any, ...], kwargs: dict[str, Any], durable: bool) -> bytes:
        """Store a large input; returns its serialised `PayloadRef`. May block."""
        ...

    def store_bytes(self, function_id: str, data: bytes, durable: bool) -> bytes:
        """The same for bytes that are pickled already."""
        ...

    def load_ref(self, payload: bytes) -> Any:
        """The object behind the reference of an output. May block."""
        ...

    def release_input(self, payload: bytes) -> None:
        """The input with this reference is final: its file may be used again."""
        ...
