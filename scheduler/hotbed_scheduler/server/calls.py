"""One connection of a client (or the nested calls of one container): its frames, checked and passed on."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hotbed_proto import ids
from hotbed_proto.errors import (
    Error,
    InternalError,
    InvalidError,
    NotFoundError,
    OutputExpiredError,
    PermissionDeniedError,
    ResourceExhaustedError,
    ServiceError,
)
from hotbed_proto.frames import FRAME_ITEMS_MAX, INLINE_LOCAL_LIMIT_BYTES, INLINE_REMOTE_LIMIT_BYTES
from hotbed_proto.v1 import client_pb2, common_pb2

from ..events import InputsCancelled, InputsSubmitted
from ..store import InputsRecord, LaneClosedRecord, LaneRecord, ResultsRecord
from .convert import error_info
from .lanes import ABSENT, DONE, Lane, pick
from .sessions import Client, Outbox

if TYPE_CHECKING:
    from .shell import ControlPlane

FRAME_ITEMS_ACCEPTED = 16 * FRAME_ITEMS_MAX


class ClientSession:
    """Frames of one connection. A newer connection with the same client id takes over."""

    def __init__(self, plane: ControlPlane, hello: client_pb2.Hello, container_id: str = "", app_id: str = "") -> None:
        self._plane = plane
        client = plane.clients.get(hello.client_id)
        if client is None:
            client = plane.clients[hello.client_id] = Client(hello.client_id, container_id, app_id)
        self.client = client
        self.outbox = client.outbox = Outbox(plane.settings.log_buffer_bytes)
        settings = plane.settings
        client.same_host = bool(settings.payload_dir) and hello.host_id == settings.host_id
        client.want_logs = hello.want_logs
        client.app_ids.update(app_id for app_id in hello.app_ids if app_id in plane.apps)
        if not container_id:
            frame = client_pb2.ServerFrame()
            welcome = frame.welcome
            welcome.server_version, welcome.server_incarnation = settings.version, plane.incarnation
            welcome.host_id = settings.host_id
            welcome.payload_dir = settings.payload_dir if client.same_host else ""
            welcome.inline_limit_bytes = INLINE_LOCAL_LIMIT_BYTES if client.same_host else INLINE_REMOTE_LIMIT_BYTES
            self.outbox.send(frame)
        for lane in client.lanes.values():
            if lane.subscribed and lane.undelivered:
                self.outbox.outputs(lane)

    def closed(self) -> None:
        """The connection ended; the client has its grace to come back."""
        if self.client.outbox is self.outbox:
            self.client.outbox = None
            self.client.gone_since_s = time.monotonic()
            self.client.subscriptions.clear()

    async def receive(self, frame: client_pb2.ClientFrame) -> None:
        """Act on a frame. What is wrong with it goes back as Rejected; nothing is raised for it.

        Waits while results pile up unread or the store is behind: that is the back-pressure on submissions.
        """
        plane = self._plane
        while self.client.undelivered_bytes > plane.settings.undelivered_bytes_max and self.client.outbox is self.outbox:
            self.outbox.drained.clear()
            await self.outbox.drained.wait()
        kind = frame.WhichOneof("body")
        lane_id = getattr(getattr(frame, kind), "lane_id", "") if kind else ""
        try:
            match kind:
                case "submit":
                    await self._submit(frame.submit)
                case "subscribe":
                    await self._subscribe(frame.subscribe)
                case "cancel":
                    self._cancel(frame.cancel)
                case "release":
                    plane.release_files(frame.release.files)
                case "ping":
                    answer = client_pb2.ServerFrame()
                    answer.pong.nonce = frame.ping.nonce
                    self.outbox.send(answer)
                case "hello":
                    raise InvalidError("a second Hello on one stream")
                case _:
                    raise InvalidError("an empty frame")
        except Error as error:
            self._reject(lane_id, (), error)
        except Exception as error:  # noqa: BLE001 - one client's frame must not end the server or its other clients
            self._reject(lane_id, (), InternalError("the server failed on this frame", why=f"{type(error).__name__}: {error}"))

    def _reject(self, lane_id: str, indices: Sequence[int], error: Error) -> None:
        frame = client_pb2.ServerFrame()
        frame.rejected.lane_id = lane_id
        frame.rejected.indices.extend(indices)
        frame.rejected.error.CopyFrom(error_info(error))
        self.outbox.send(frame)

    async def _submit(self, submit: client_pb2.Submit) -> None:
        plane, client = self._plane, self.client
        payloads = list(submit.payloads)
        count, first = len(payloads), submit.first_index
        lane = client.lanes.get(submit.lane_id) or await self._open_lane(submit)
        if count > FRAME_ITEMS_ACCEPTED or first + count > 2**32:
            raise InvalidError(f"a frame of {count} inputs from {first}", fix=f"at most {FRAME_ITEMS_ACCEPTED} in a frame")
        if lane.closed and any(lane.state(i) == ABSENT for i in range(first, first + count)):
            raise InvalidError(f"lane {lane.lane_id} was closed and takes no more inputs")
        limits = plane.settings
        if client.live_inputs + count > limits.client_inputs_max or client.live_bytes > limits.client_bytes_max:
            error = ResourceExhaustedError(
                f"{client.live_inputs} inputs of this client are unfinished", fix="wait for results before submitting more"
            )
            self._reject(lane.lane_id, range(first, first + count), error)
            return
        bytes_before = lane.bytes_live
        runs = lane.add(first, payloads, submit.flags) if count else []
        new = sum(n for _, n in runs)
        client.live_inputs += new
        client.live_bytes += lane.bytes_live - bytes_before
        lane.subscribed = lane.subscribed or submit.subscribe
        closing = submit.closed and not lane.closed
        lane.closed = lane.closed or submit.closed
        if lane.durable:
            await self._store_inputs(lane, submit, runs, closing)
        else:
            self._accepted(lane, submit, runs)
            if new < count:
                self._send_again(lane, range(first, first + count))

    def _accepted(self, lane: Lane, submit: client_pb2.Submit, runs: list[tuple[int, int]]) -> None:
        frame = client_pb2.ServerFrame()
        frame.accepted.lane_id, frame.accepted.first_index = lane.lane_id, submit.first_index
        frame.accepted.count = len(submit.payloads)
        if lane.durable:  # a synchronous caller waits for results only; a frame less on its way
            self.outbox.send(frame)
        for first, count in runs:
            self._plane.feed(
                InputsSubmitted(
                    lane.lane_id, lane.function_id, first, count, lane.durable, self.client.client_id, submit.priority
                )
            )

    async def _open_lane(self, submit: client_pb2.Submit) -> Lane:
        plane, client, lane_id = self._plane, self.client, submit.lane_id
        if not ids.is_id(lane_id, "fc"):
            raise InvalidError(f"lane id {lane_id[:80]!r}", fix="an id that begins with 'fc-'")
        spec = plane.functions.get(submit.function_id)
        if spec is None:
            raise NotFoundError(f"no function {submit.function_id[:80]}", fix="register the function first")
        if client.container_id and spec.app_id != client.nested_app_id:
            raise PermissionDeniedError("a container may call functions of its own app only")
        lane = plane.lanes.get(lane_id)
        if lane is None and submit.durable:
            lane = await plane.load_lane(lane_id)
        if lane is None:
            lane = plane.lanes[lane_id] = Lane(lane_id, submit.function_id, client.client_id, submit.durable)
        elif lane.function_id != submit.function_id or not lane.durable or lane.owner not in ("", client.client_id):
            raise PermissionDeniedError(f"lane {lane_id} is not this client's lane of this function")
        lane.owner = client.client_id
        lane.result_files = client.same_host and not lane.durable
        client.lanes[lane_id] = lane
        client.live_inputs += lane.num_live
        client.live_bytes += lane.bytes_live
        return lane

    async def _store_inputs(self, lane: Lane, submit: client_pb2.Submit, runs: list[tuple[int, int]], closing: bool) -> None:
        plane = self._plane
        if submit.subscribe and lane.lane_id not in self.client.subscriptions:
            if runs == [(submit.first_index, len(submit.payloads))] and lane.num_done == 0:
                self.client.subscriptions[lane.lane_id] = None
            else:
                await self._subscribe(client_pb2.Subscribe(lane_id=lane.lane_id))
        records: list[InputsRecord | LaneClosedRecord] = []
        for first, count in runs:
            offset = first - submit.first_index
            part = client_pb2.Submit(lane_id=lane.lane_id, first_index=first)
            part.payloads.extend(submit.payloads[offset : offset + count])
            part.flags = submit.flags[offset : offset + count]
            records.append(InputsRecord(lane.lane_id, lane.function_id, first, count, part.SerializeToString(), time.time()))
        if closing:
            records.append(LaneClosedRecord(lane.lane_id))

        def stored(error: BaseException | None) -> None:
            if error is None:
                self._accepted(lane, submit, runs)
                return
            refused = ServiceError("the inputs could not be stored", why=str(error), fix="look at the server's disk and log")
            indices = [i for first, count in runs for i in range(first, first + count)]
            # Never submitted to the core and not on disk: final here, so that they hold no memory.
            before = lane.bytes_live
            gone = lane.finish(common_pb2.OutputColumns(indices=indices))
            self.client.live_inputs -= gone
            self.client.live_bytes -= before - lane.bytes_live
            self._reject(lane.lane_id, indices, refused)

        plane.store.write(records, stored)
        await plane.store.room()

    def _send_again(self, lane: Lane, indices: range) -> None:
        """A reconnected client asks for inputs that are final: what was written just before the break goes out again."""
        waiting = {i for columns in lane.undelivered for i in columns.indices}
        lost = {i for i in indices if lane.state(i) == DONE} - waiting
        if not lost:
            return
        for columns in list(lane.recent.values()):
            positions = [p for p, index in enumerate(columns.indices) if index in lost]
            if positions:
                lane.push(pick(columns, positions))
                lost.difference_update(columns.indices)
        self.outbox.outputs(lane)
        if lost:
            error = ServiceError("the result was sent on a connection that broke, and is no longer held", fix="call again")
            self._reject(lane.lane_id, sorted(lost), error)

    async def _subscribe(self, request: client_pb2.Subscribe) -> None:
        plane, client, lane_id = self._plane, self.client, request.lane_id
        own = client.lanes.get(lane_id)
        if own is not None and not own.durable:
            own.subscribed = not request.off
            if own.subscribed and own.undelivered:
                self.outbox.outputs(own)
            return
        if client.container_id and own is None:
            raise PermissionDeniedError("a container may wait for its own calls only")
        if request.off:
            client.subscriptions.pop(lane_id, None)
            return
        wanted = set(request.indices)

        def send(found: tuple[LaneRecord | None, list[ResultsRecord]]) -> None:
            record, rows = found
            if record is None and own is None:
                raise NotFoundError(f"no call {lane_id[:80]}")
            if record is not None and record.expired:
                raise OutputExpiredError(f"the results of {lane_id} are past their retention")
            known = client.subscriptions.get(lane_id, set())
            client.subscriptions[lane_id] = set(wanted) or None
            for row in rows:
                plane.send_stored(client, common_pb2.OutputColumns.FromString(row.data))
            left = client.subscriptions.get(lane_id, set())
            client.subscriptions[lane_id] = None if known is None or left is None else known | left

        # Registered in the same step that sends what is stored: no result committed meanwhile is lost or sent twice.
        await plane.store.read(lambda s: (s.lane(lane_id), s.results(lane_id, sorted(wanted) or None)), send)

    def _cancel(self, request: client_pb2.Cancel) -> None:
        lane = self._plane.lanes.get(request.lane_id)
        if lane is None:
            raise NotFoundError(f"no unfinished call {request.lane_id[:80]}")
        if lane.lane_id not in self.client.lanes and (self.client.container_id or not lane.durable):
            raise PermissionDeniedError("not this client's call")
        indices = tuple(request.indices) or None
        self._plane.feed(InputsCancelled(lane.lane_id, indices, request.terminate_containers))
