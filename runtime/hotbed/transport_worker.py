"""Calls from inside a container, over the worker's own socket: no gRPC, no credentials."""

from __future__ import annotations

import threading
from array import array
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from hotbed import runtime_info, serialize
from hotbed.transport import SubmitFrame
from hotbed_proto import frames

if TYPE_CHECKING:
    from hotbed.transport import Receiver
    from hotbed.worker.nested import NestedLink

_SUBMIT, _CANCEL, _SUBSCRIBE = 1, 2, 3
_ACCEPTED, _OUTPUTS, _REJECTED = 1, 2, 3


class WorkerTransport:
    """Sends from the calling thread; answers come on the worker's reading thread."""

    def __init__(self, link: NestedLink) -> None:
        self.inline_limit_bytes = frames.INLINE_LOCAL_LIMIT_BYTES
        self.durable_limit_bytes = frames.INLINE_LOCAL_LIMIT_BYTES
        self._link = link
        self._receiver: Receiver | None = None
        self._sending = threading.RLock()

    def start(self, receiver: Receiver) -> None:
        """From now on answers are handed over."""
        self._receiver = receiver
        self._link.set_receiver(self._on_message)

    def wake(self, flush: Callable[[], None]) -> None:
        with self._sending:
            flush()

    def submit(self, frame: SubmitFrame) -> None:
        self._link.send(
            _SUBMIT,
            lane_id=frame.lane_id,
            function_id=frame.function_id,
            first_index=frame.first_index,
            sizes=array("I", map(len, frame.payloads)),
            data=b"".join(frame.payloads),
            flags=frame.flags,
            durable=frame.durable,
            closed=frame.closed,
            subscribe=frame.subscribe,
            parent_input_id=runtime_info.current_input_id() or "",
        )

    def subscribe(self, lane_id: str, indices: Sequence[int], off: bool) -> None:
        if not off:
            self._link.send(_SUBSCRIBE, lane_id=lane_id, indices=array("I", indices), subscribe=True)

    def cancel(self, lane_id: str, indices: Sequence[int], terminate_containers: bool) -> None:
        self._link.send(_CANCEL, lane_id=lane_id, indices=array("I", indices), terminate_containers=terminate_containers)

    def set_pending(self, count: int) -> None:
        self._link.set_pending(count)

    def store_call(self, function_id: str, args: tuple[Any, ...], kwargs: dict[str, Any], durable: bool) -> bytes:
        return self._link.write_payload_file(serialize.dumps_call(args, kwargs))

    def store_bytes(self, function_id: str, data: bytes, durable: bool) -> bytes:
        return self._link.write_payload_file(data)

    def load_ref(self, payload: bytes) -> Any:
        import pickle

        return pickle.loads(self._link.read_payload_ref(payload))

    def release_input(self, payload: bytes) -> None:
        return  # the node releases a container's files when it has taken them over

    def _on_message(self, message: Any) -> None:
        assert self._receiver is not None
        if message.kind == _OUTPUTS:
            data, at, payloads = message.data, 0, []
            for size in message.sizes:
                payloads.append(data[at : at + size])
                at += size
            self._receiver.on_outputs(message.lane_id, message.indices, payloads, message.statuses)
        elif message.kind == _ACCEPTED:
            self._receiver.on_accepted(message.lane_id, message.first_index, message.count)
        elif message.kind == _REJECTED:
            error = serialize.make_remote_error(
                message.error_code, message.error_message, message.error_why, message.error_fix, {}
            )
            self._receiver.on_rejected(message.lane_id, message.indices, error)
