"""One connection of this process to its server, shared by every app and call.

Callers append inputs to lanes under one lock and wake the transport only when it is not awake already, so a burst of calls
costs one wake-up and leaves in whole frames.
"""

from __future__ import annotations

import importlib
import os
import sys
import threading
from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from hotbed import serialize
from hotbed.lanes import LANE_INPUTS_MAX, CallLane, Lane, Slot
from hotbed.transport import SubmitFrame, Transport
from hotbed_proto import frames
from hotbed_proto.errors import Error, ServiceError

if TYPE_CHECKING:
    from hotbed.settings import Settings
    from hotbed.transport_grpc import GrpcTransport

SUBSCRIBE_MAX: Final = 4096
"""Most indices in one Subscribe or Cancel frame."""


class Client:
    """Lanes over one transport. Thread-safe."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self._lock = threading.Lock()
        self._dirty: list[Lane] = []
        self._awake = False
        self._lanes: dict[str, Lane] = {}
        self._call_lanes: dict[tuple[str, bool], CallLane] = {}
        self.lost: Error | None = None

    # --- payloads ---------------------------------------------------------------------------------------------------

    def is_large(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether pickling these belongs on another thread than an event loop's."""
        return serialize.looks_large(args, kwargs, self.transport.inline_limit_bytes)

    def encode(self, function_id: str, args: tuple[Any, ...], kwargs: dict[str, Any], *, durable: bool) -> tuple[bytes, int]:
        """(payload, flag) of one input. Blocks while a large one is stored."""
        transport = self.transport
        limit = transport.durable_limit_bytes if durable else transport.inline_limit_bytes
        if serialize.looks_large(args, kwargs, limit):
            return transport.store_call(function_id, args, kwargs, durable), frames.PAYLOAD_IS_REF
        payload = serialize.dumps_call(args, kwargs)
        if len(payload) > limit:
            return transport.store_bytes(function_id, payload, durable), frames.PAYLOAD_IS_REF
        return payload, 0

    def decode(self, slot: Any) -> Any:
        """The value in a slot that is set, or raise its error."""
        if slot.error is not None:
            raise copy_of(slot.error)
        return serialize.decode(slot.status, slot.payload, self.transport.load_ref)

    # --- lanes ------------------------------------------------------------------------------------------------------

    def submit(self, function_id: str, durable: bool, payload: bytes, flag: int, slot: Slot) -> tuple[CallLane, int]:
        """Queue one single input; `slot` gets its output, or (durable) its acceptance."""
        with self._lock:
            if self.lost is not None:
                raise copy_of(self.lost)
            lane = self._call_lanes.get((function_id, durable))
            if lane is None or lane.next_index >= LANE_INPUTS_MAX:
                lane = self._call_lanes[function_id, durable] = CallLane(function_id, durable=durable)
                self._lanes[lane.lane_id] = lane
            index = lane.append(payload, flag)
            if durable:
                lane.accept_slots[index] = slot  # type: ignore[assignment]  # a Mailbox never waits for acceptance
            else:
                lane.slots[index] = slot
            if not lane.dirty:
                lane.dirty = True
                self._dirty.append(lane)
            wake = not self._awake
            self._awake = True
        if wake:
            self.transport.wake(self._flush)
        return lane, index

    def open(self, lane: Lane) -> None:
        """Make a lane's outputs arrive."""
        with self._lock:
            if self.lost is not None:
                raise copy_of(self.lost)
            self._lanes[lane.lane_id] = lane

    def durable_lane(self, lane_id: str) -> CallLane:
        """The lane with this id, also one of another process or an earlier run."""
        with self._lock:
            lane = self._lanes.get(lane_id)
            if not isinstance(lane, CallLane):
                lane = self._lanes[lane_id] = CallLane("", durable=True, lane_id=lane_id)
            return lane

    def push(self, lane: Lane, payloads: list[bytes], ref_offsets: Sequence[int] = ()) -> int:
        """Queue a run of inputs; returns the first index."""
        with self._lock:
            if self.lost is not None:
                raise copy_of(self.lost)
            first = lane.extend(payloads, ref_offsets)
        self._touch(lane)
        return first

    def close(self, lane: Lane) -> None:
        """No more inputs will come."""
        lane.closed = True
        self._touch(lane)

    def forget(self, lane: Lane) -> None:
        """Outputs of this lane are dropped from now on."""
        with self._lock:
            if not lane.dirty:
                self._lanes.pop(lane.lane_id, None)
            lane.kept.clear()

    def watch(self, lane: CallLane, index: int, slot: Slot) -> None:
        """Have an output of a durable input sent here."""
        with self._lock:
            if self.lost is not None:
                raise copy_of(self.lost)
            lane.watch(index, slot)
            lane.to_subscribe.append(index)
        self._touch(lane)

    def unwatch(self, lane: CallLane, index: int, slot: Slot) -> None:
        """Nobody waits there any more."""
        with self._lock:
            lane.unwatch(index, slot)

    def cancel(self, lane: Lane, indices: Sequence[int] | None, terminate_containers: bool = False) -> None:
        """Cancel inputs (None: all of the lane). Returns at once; waiters get `InputCancellation`."""
        with self._lock:
            if indices is None:
                lane.cancel_all = True
            else:
                lane.to_cancel += indices
            lane.terminate = lane.terminate or terminate_containers
        self._touch(lane)

    def _touch(self, lane: Lane) -> None:
        with self._lock:
            if not lane.dirty:
                lane.dirty = True
                self._dirty.append(lane)
            wake = not self._awake
            self._awake = True
        if wake:
            self.transport.wake(self._flush)

    def _flush(self) -> None:
        """Send what is queued. Runs where the transport says."""
        submits: list[SubmitFrame] = []
        subscribes: list[tuple[str, list[int]]] = []
        cancels: list[tuple[str, list[int], bool]] = []
        with self._lock:
            self._awake = False
            lanes, self._dirty = self._dirty, []
            for lane in lanes:
                lane.dirty = False
                lane.take_frames(submits)
                if lane.to_subscribe:
                    subscribes.append((lane.lane_id, lane.to_subscribe))
                    lane.to_subscribe = []
                if lane.cancel_all or lane.to_cancel:
                    cancels.append((lane.lane_id, [] if lane.cancel_all else lane.to_cancel, lane.terminate))
                    lane.to_cancel, lane.cancel_all, lane.terminate = [], False, False
        transport = self.transport
        transport.set_pending(1)
        for frame in submits:
            transport.submit(frame)
        for lane_id, indices in subscribes:
            for at in range(0, len(indices), SUBSCRIBE_MAX):
                transport.subscribe(lane_id, indices[at : at + SUBSCRIBE_MAX], False)
        for lane_id, indices, terminate in cancels:
            for at in range(0, max(1, len(indices)), SUBSCRIBE_MAX):
                transport.cancel(lane_id, indices[at : at + SUBSCRIBE_MAX], terminate)

    # --- what comes back (Receiver) ---------------------------------------------------------------------------------

    def on_outputs(self, lane_id: str, indices: Sequence[int] | array[int], payloads: Sequence[bytes], statuses: bytes) -> None:
        lane = self._lanes.get(lane_id)
        if lane is not None:
            lane.deliver(indices, payloads, statuses, self.transport.release_input)
            self._count_pending()

    def on_accepted(self, lane_id: str, first_index: int, count: int) -> None:
        lane = self._lanes.get(lane_id)
        if lane is not None:
            lane.accepted(first_index, count)
            self._count_pending()

    def on_rejected(self, lane_id: str, indices: Sequence[int] | array[int], error: Error) -> None:
        lane = self._lanes.get(lane_id)
        if lane is not None:
            lane.fail(indices or None, error)
            self._count_pending()

    def _count_pending(self) -> None:
        if "hotbed.worker.nested" in sys.modules:
            with self._lock:
                lanes = list(self._lanes.values())
            self.transport.set_pending(sum(lane.pending() for lane in lanes))

    def on_reconnected(self, server_is_new: bool) -> None:
        submits: list[SubmitFrame] = []
        subscribes: list[tuple[str, list[int]]] = []
        with self._lock:
            lanes = list(self._lanes.values())
            for lane in lanes:
                if server_is_new:
                    lane.on_new_server()
                if lane.function_id:
                    lane.resend(submits)
                waiting = lane.waiting()
                if waiting:
                    subscribes.append((lane.lane_id, waiting))
        for frame in submits:
            self.transport.submit(frame)
        for lane_id, indices in subscribes:
            for at in range(0, len(indices), SUBSCRIBE_MAX):
                self.transport.subscribe(lane_id, indices[at : at + SUBSCRIBE_MAX], False)

    def on_lost(self, error: Error) -> None:
        with self._lock:
            self.lost = error
            lanes = list(self._lanes.values())
        for lane in lanes:
            lane.fail(None, error)


def copy_of(error: Error) -> Error:
    """One exception object must not be raised by several waiters: tracebacks would grow into each other."""
    clone = type(error)(error.what, why=error.why, fix=error.fix)
    clone.ids = dict(error.ids)
    return clone


_client: Client | None = None
_client_lock = threading.RLock()


def current_client(settings: Settings | None = None) -> Client:
    """This process's client; connects on first use, starting the embedded server where no other is configured.

    Raises:
        ServiceError: The server cannot be reached.
    """
    global _client
    client = _client
    if client is not None and client.lost is None:
        return client
    with _client_lock:
        if _client is None or _client.lost is not None:
            _client = _connect(settings)
        return _client


def _connect(settings: Settings | None) -> Client:
    nested = sys.modules.get("hotbed.worker.nested")
    link = nested.link() if nested is not None else None
    if link is not None:
        from hotbed.transport_worker import WorkerTransport

        worker_transport = WorkerTransport(link)
        client = Client(worker_transport)
        worker_transport.start(client)
        return client
    from hotbed.settings import current
    from hotbed.transport_grpc import GrpcTransport

    chosen = settings or current()
    transport = GrpcTransport(chosen, lambda: find_server(chosen))
    client = Client(transport)
    transport.start(client)
    return client


def find_server(settings: Settings) -> str:
    """The address to connect to, as gRPC spells it. Blocks while the embedded server starts."""
    if settings.server:
        return settings.server
    # By name: the SDK may not import the composition root, which sees every layer.
    local = importlib.import_module("hotbed.local")
    address = str(local.ensure_server(settings))
    return address if address.startswith("unix:") or ":" in address else f"unix:{address}"


def grpc_transport() -> GrpcTransport:
    """The transport for what is not a call: apps, functions, blobs.

    Raises:
        ServiceError: Inside a container, which may only call.
    """
    from hotbed.transport_grpc import GrpcTransport

    transport = current_client().transport
    if not isinstance(transport, GrpcTransport):
        raise ServiceError("this is not possible inside a container", why="a container holds no credentials of its own")
    return transport


def disconnect() -> None:
    """Close the connection, for tests and at the end of a run."""
    global _client
    with _client_lock:
        client, _client = _client, None
    if client is not None:
        stop = getattr(client.transport, "stop", None)
        if stop is not None:
            stop()


def _forget_after_fork() -> None:
    global _client, _client_lock
    _client = None
    _client_lock = threading.RLock()


os.register_at_fork(after_in_child=_forget_after_fork)
