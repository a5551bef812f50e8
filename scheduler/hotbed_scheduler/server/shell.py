"""The control plane: feeds the core with what clients and nodes say, and carries out what it answers."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import grpc
import grpc.aio

from hotbed_proto import ids
from hotbed_proto.errors import InternalError, InvalidError
from hotbed_proto.frame_stream import FrameStream, listen
from hotbed_proto.frames import FINAL_STATUSES, PAYLOAD_IS_REF, STATUS_MASK, SYSTEM_ERROR
from hotbed_proto.v1 import client_pb2, common_pb2, node_pb2

from .. import actions as act
from .. import events as ev
from ..blobs import BlobStore
from ..settings import ServerSettings
from ..store import AppRecord, ResultsRecord, Store
from ..tokens import TokenFile
from .calls import ClientSession
from .convert import function_def
from .durable import StoreThread
from .lanes import Lane, pick
from .nodes import NodeSession
from .requests import Requests
from .rpc import CHANNEL_OPTIONS, add_services, serve_client
from .sessions import Client

__all__ = ["ControlPlane", "NodeSession", "SchedulingCore"]
_log = logging.getLogger(__name__)
TICK_S, IDLE_TICK_S, KEPT_LANES = 0.1, 0.5, 64


class SchedulingCore(Protocol):
    """What the shell needs of the core."""

    def handle(self, event: ev.Event, now_s: float) -> list[Any]:
        """Take an event, answer with actions."""
        ...

    def function_stats(self, function_id: str) -> Any:
        """queued, running, containers of a function."""
        ...

    def node_views(self) -> Sequence[Any]:
        """Nodes for the status page."""
        ...


class ControlPlane:
    """One control plane; everything runs in the loop that called `start`.

    Args:
        core: Makes the scheduling core for a generation (counts server starts); its container ids and epochs must differ
            between generations.
    """

    def __init__(
        self, settings: ServerSettings, store: Store, blobs: BlobStore, core: Callable[[int], SchedulingCore] | None = None
    ) -> None:
        self.settings = settings
        self.blobs = blobs
        self.incarnation = ids.mint("no")[3:]
        self.started_unix_s = time.time()
        self.tokens = TokenFile(settings.home / "tokens.json")
        self.shutdown_requested = asyncio.Event()
        self._store = store
        self._make_core = core or _default_core
        self.core: SchedulingCore
        self.store: StoreThread
        self.generation = 0
        self.clients: dict[str, Client] = {}
        self.lanes: dict[str, Lane] = {}
        self.apps: dict[str, AppRecord] = {}
        self.functions: dict[str, common_pb2.FunctionSpec] = {}
        self._pool_specs: dict[str, common_pb2.FunctionSpec] = {}
        self.unplaceable: dict[str, str] = {}
        self.containers: dict[str, tuple[str, str]] = {}  # id -> (node_id, function_id)
        self.nodes: dict[str, NodeSession] = {}
        self.missing_isolations: dict[str, str] | None = None
        """Of an embedded server, whose one node is all there will ever be: why it lacks an isolation, by name."""
        self._events: deque[tuple[ev.Event, common_pb2.OutputColumns | None]] = deque()
        self._handling = False
        self._servers: list[grpc.aio.Server] = []
        self._lane_server: asyncio.AbstractServer | None = None
        self._ticker: asyncio.Task[None] | None = None
        self._states: dict[str, tuple[int, int, int, str]] = {}
        self._needed_s = time.monotonic()
        self._complete_since: dict[str, float] = {}
        self._next_node_epoch = 0

    # --- Life ---------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Open the state, take up unfinished durable lanes, start ticking."""
        self.generation = self._store.next_generation()
        self._next_node_epoch = self.generation << 40
        self.core = self._make_core(self.generation)
        self.store = StoreThread(self._store, asyncio.get_running_loop(), self.settings.durable_backlog_bytes_max)
        apps, functions, unfinished = await self.store.read(lambda s: (s.apps(), s.functions(), s.unfinished_lanes()))
        self.apps = {app.app_id: app for app in apps}
        for record in functions:
            spec = common_pb2.FunctionSpec.FromString(record.spec)
            self.functions[record.function_id] = spec
            app = self.apps.get(record.app_id)
            self.feed(ev.FunctionRegistered(function_def(record.function_id, spec, bool(app and app.detach))))
        for lane in unfinished:
            await self.load_lane(lane.lane_id, resubmit=True)
        self._ticker = asyncio.create_task(self._tick_forever())

    async def serve_unix(self, path: Path | str) -> None:
        """Listen on a unix socket of mode 0600; needs no token."""
        path = Path(path)
        path.unlink(missing_ok=True)
        server = grpc.aio.server(options=CHANNEL_OPTIONS)
        add_services(server, self, Requests(self), None)
        mask = os.umask(0o177)
        try:
            server.add_insecure_port(f"unix:{path}")
        finally:
            os.umask(mask)
        await server.start()
        os.chmod(path, 0o600)
        self._servers.append(server)

    async def serve_lane(self, path: Path) -> None:
        """Listen for client streams on a raw unix socket of mode 0600: the frames of the Stream RPC, without gRPC."""

        async def refuse(error: BaseException) -> None:
            _log.warning("a local client was refused: %s", error)

        async def serve(stream: FrameStream) -> None:
            await serve_client(self, stream.read, stream.write, refuse)

        self._lane_server = await listen(path, serve)

    async def serve_tcp(self, address: str, tls: grpc.ServerCredentials | None = None) -> int:
        """Listen on host:port with bearer tokens; returns the port. InvalidError when the address cannot be used."""
        server = grpc.aio.server(options=CHANNEL_OPTIONS)
        add_services(server, self, Requests(self), self.tokens)
        try:
            port = server.add_secure_port(address, tls) if tls else server.add_insecure_port(address)
        except RuntimeError as error:
            raise InvalidError(f"cannot listen on {address}", why=str(error), fix="choose a free address") from error
        await server.start()
        self._servers.append(server)
        return port

    async def close(self, grace_s: float = 5.0) -> None:
        """Stop listening, commit what is queued, close the store. Nodes stop their containers as their streams end."""
        if self._ticker is not None:
            self._ticker.cancel()
        if self._lane_server is not None:
            self._lane_server.close()
        await asyncio.gather(*(server.stop(grace_s) for server in self._servers))
        await self.store.close()

    # --- The core -----------------------------------------------------------------------------------------------

    def feed(self, event: ev.Event, columns: common_pb2.OutputColumns | None = None) -> None:
        """Give the core an event and carry out its actions; an event raised meanwhile waits its turn."""
        self._events.append((event, columns))
        if self._handling:
            return
        self._handling = True
        try:
            while self._events:
                event, columns = self._events.popleft()
                for action in self.core.handle(event, time.monotonic()):
                    self._carry_out(action, columns)
        finally:
            self._handling = False

    def _carry_out(self, action: act.Action, columns: common_pb2.OutputColumns | None) -> None:
        match action:
            case act.Accept():
                lane = self.lanes.get(action.lane_id)
                if lane is not None and columns is not None:
                    self.deliver(lane, columns if action.positions is None else pick(columns, action.positions))
            case act.Dispatch():
                lane = self.lanes.get(action.lane_id)
                node = self.nodes.get(action.node_id)
                if lane is not None and node is not None:
                    command = node_pb2.NodeCommand()
                    inputs = command.inputs
                    inputs.container_id, inputs.epoch, inputs.function_id = action.container_id, action.epoch, lane.function_id
                    inputs.result_files = lane.result_files and node.same_host
                    lane.fill(inputs.inputs, action.indices)
                    node.send(command)
            case act.Fail():
                lane = self.lanes.get(action.lane_id)
                if lane is not None and action.indices:
                    self.deliver(lane, _failures(action))
            case act.ReportPlacement():
                self.unplaceable[action.function_id] = action.reason
            case _:
                self._command(action)

    def _command(self, action: Any) -> None:
        node = self.nodes.get(action.node_id)
        command = node_pb2.NodeCommand()
        match action:
            case act.StartContainer():
                self.containers[action.container_id] = (action.node_id, action.function_id)
                # A pool outlives the function it was made for, so that the next run of the same script starts warm.
                spec = self.functions.get(action.like_function_id) or self._pool_specs[action.pool_key]
                if action.pool_key:
                    self._pool_specs[action.pool_key] = spec
                start = command.start
                start.container_id, start.function_id = action.container_id, action.function_id
                start.gpu_indices.extend(action.gpu_indices)
                start.gpu_milli_share = action.gpu_milli_share
                if action.function_id:
                    start.spec.CopyFrom(spec)
                else:
                    start.spec.isolation, start.spec.python_version = spec.isolation, spec.python_version
                    start.spec.image.CopyFrom(spec.image)
                    start.spec.resources.CopyFrom(spec.resources)
            case act.AssignFunction():
                self.containers[action.container_id] = (action.node_id, action.function_id)
                command.assign.container_id, command.assign.function_id = action.container_id, action.function_id
                command.assign.spec.CopyFrom(self.functions[action.function_id])
            case act.CancelOnContainer():
                cancel = command.cancel
                cancel.container_id, cancel.lane_id, cancel.kill_after_s = (
                    action.container_id,
                    action.lane_id,
                    action.kill_after_s,
                )
                cancel.indices.extend(action.indices)
            case act.StopContainer():
                stop = command.stop
                stop.container_id, stop.reason, stop.grace_s = action.container_id, action.reason, action.grace_s
            case _:
                raise InternalError(f"the core asked for {type(action).__name__}, which nobody carries out")
        if node is not None:
            node.send(command)

    # --- Lanes and results --------------------------------------------------------------------------------------

    async def load_lane(self, lane_id: str, resubmit: bool = False) -> Lane | None:
        """Bring a stored durable lane into memory (None: not stored, or expired)."""
        record, stored, rows = await self.store.read(lambda s: (s.lane(lane_id), s.inputs(lane_id), s.results(lane_id)))
        if record is None or record.expired or lane_id in self.lanes:
            return self.lanes.get(lane_id)
        lane = Lane(lane_id, record.function_id, "", durable=True)
        lane.closed = record.closed
        for frame in stored:
            submit = client_pb2.Submit.FromString(frame.data)
            lane.add(submit.first_index, list(submit.payloads), submit.flags)
        for row in rows:
            lane.finish(common_pb2.OutputColumns.FromString(row.data))
        self.lanes[lane_id] = lane
        if resubmit:
            for first, count in _live_runs(lane):
                self.feed(ev.InputsSubmitted(lane_id, lane.function_id, first, count, durable=True))
        return lane

    def deliver(self, lane: Lane, columns: common_pb2.OutputColumns) -> None:
        """Accepted outputs: stored first where the lane is durable, then on their way to whoever wants them."""
        bytes_before = lane.bytes_live
        final = lane.finish(columns)
        owner = self.clients.get(lane.owner)
        if owner is not None:
            owner.live_inputs -= final
            owner.live_bytes -= bytes_before - lane.bytes_live
        if lane.durable:
            low, high = min(columns.indices), max(columns.indices)
            record = ResultsRecord(lane.lane_id, low, high, final, columns.SerializeToString(), time.time())
            self._store_results(lane, columns, record)
            return
        lane.push(columns)
        if owner is not None and lane.subscribed and owner.outbox is not None:
            owner.outbox.outputs(lane)

    def _store_results(self, lane: Lane, columns: common_pb2.OutputColumns, record: ResultsRecord) -> None:
        def stored(error: BaseException | None) -> None:
            if error is not None:  # a full disk: no result is lost while this process lives
                asyncio.get_running_loop().call_later(1.0, self._store_results, lane, columns, record)
                return
            for client in self.clients.values():
                if lane.lane_id in client.subscriptions and client.outbox is not None:
                    self.send_stored(client, columns)

        self.store.write([record], stored)

    def send_stored(self, client: Client, columns: common_pb2.OutputColumns) -> None:
        """Send committed outputs to a subscriber: all, or those of the indices it asked for."""
        wanted = client.subscriptions.get(columns.lane_id)
        if client.outbox is None:
            return
        if wanted is not None:
            hits = wanted.intersection(columns.indices)
            if not hits:
                return
            if len(hits) < len(columns.indices):
                columns = pick(columns, [p for p, index in enumerate(columns.indices) if index in hits])
            if not columns.statuses:
                wanted -= hits
                client.outbox.stored_outputs(columns)
                return
            statuses = columns.statuses
            wanted.difference_update(
                i for i, s in zip(columns.indices, statuses, strict=True) if s & STATUS_MASK in FINAL_STATUSES
            )
        client.outbox.stored_outputs(columns)

    def forget_lane(self, lane: Lane) -> None:
        """Drop a lane from memory and from the core, and give back the result files nobody will read."""
        self.lanes.pop(lane.lane_id, None)
        self._complete_since.pop(lane.lane_id, None)
        owner = self.clients.get(lane.owner)
        if owner is not None and owner.lanes.pop(lane.lane_id, None) is not None:
            owner.live_inputs -= lane.num_live
            owner.live_bytes -= lane.bytes_live
        self.feed(ev.LaneForgotten(lane.lane_id))
        files = [
            common_pb2.PayloadRef.FromString(payload).file
            for columns in lane.undelivered
            for payload, status in zip(columns.payloads, columns.statuses, strict=False)
            if status & PAYLOAD_IS_REF
        ]
        self.release_files([file for file in files if file])

    def release_files(self, files: Sequence[str]) -> None:
        """Tell the node on this host that result files have been read."""
        local = next((node for node in self.nodes.values() if node.same_host), None)
        if files and local is not None:
            command = node_pb2.NodeCommand()
            command.release.files.extend(files)
            local.send(command)

    # --- Sessions -----------------------------------------------------------------------------------------------

    def attach_node(self, send: Callable[[node_pb2.NodeCommand], None]) -> NodeSession:
        """A node's connection: commands go to `send`; give its frames to `receive` and its end to `closed`."""
        return NodeSession(self, send)

    def next_node_epoch(self) -> int:
        """A fencing token for a node's registration."""
        self._next_node_epoch += 1
        return self._next_node_epoch

    def open_client(self, hello: client_pb2.Hello | None) -> ClientSession:
        """A client's connection, from its first frame. InvalidError when that is not a Hello with a client id."""
        if hello is None or not ids.is_id(hello.client_id, "cl"):
            raise InvalidError("the first frame of a stream is a Hello with a client id")
        return ClientSession(self, hello)

    def forget_client(self, client: Client, reason: str) -> None:
        """A client is gone for good: its synchronous lanes and ephemeral apps end."""
        for lane in list(client.lanes.values()):
            if not lane.durable:
                self.forget_lane(lane)
            else:
                lane.owner = ""
        for app_id in list(client.app_ids):
            app = self.apps.get(app_id)
            if app is not None and not app.detach:
                self.end_app(app, reason)
        self.clients.pop(client.client_id, None)

    def end_app(self, app: AppRecord, reason: str) -> None:
        self.feed(ev.AppStopped(app.app_id, reason))
        self.apps.pop(app.app_id, None)
        for function_id in [f for f, spec in self.functions.items() if spec.app_id == app.app_id]:
            del self.functions[function_id]
            self.unplaceable.pop(function_id, None)
            self._states.pop(function_id, None)
        for client in self.clients.values():
            client.app_ids.discard(app.app_id)
        stopped = AppRecord(app.app_id, app.name, app.detach, app.created_unix_s, stopped=True)
        self.store.write([stopped], lambda error: None)

    # --- Time ---------------------------------------------------------------------------------------------------

    async def _tick_forever(self) -> None:
        swept_s = housekept_s = 0.0
        while True:
            busy = bool(self.containers) or any(lane.num_live for lane in self.lanes.values())
            await asyncio.sleep(TICK_S if busy else IDLE_TICK_S)
            try:
                now = time.monotonic()
                self.feed(ev.Tick())
                self._tell_states()
                if now - housekept_s >= 1.0:
                    housekept_s = now
                    self._housekeep(now)
                if now - swept_s >= 600.0:
                    swept_s = now
                    await self.store.read(lambda s: s.sweep(time.time() - self.settings.retention_s))
            except Exception:  # noqa: BLE001 - logged; the next tick goes on
                _log.exception("a tick failed")

    def _housekeep(self, now: float) -> None:
        for client in list(self.clients.values()):
            if client.outbox is None and not client.container_id and now - client.gone_since_s > self.settings.client_grace_s:
                self.forget_client(client, "its client is gone")
            finished = [x for x in client.lanes.values() if x.closed and not x.durable and not x.num_live and not x.undelivered]
            for lane in finished[:-KEPT_LANES]:
                self.forget_lane(lane)
        self._end_orphans()
        for lane in list(self.lanes.values()):
            if lane.durable and not lane.num_live:
                if now - self._complete_since.setdefault(lane.lane_id, now) > 60.0:
                    self.forget_lane(lane)
            else:
                self._complete_since.pop(lane.lane_id, None)
        # A client that has gone and left no app is kept for its grace in case it comes back; that is no need.
        needed = any(not c.container_id and (c.outbox is not None or c.app_ids) for c in self.clients.values())
        if needed or any(lane.num_live for lane in self.lanes.values()):
            self._needed_s = now
        if self.settings.on_idle is not None:
            self.settings.on_idle(now - self._needed_s)

    def _end_orphans(self) -> None:
        """Ephemeral apps whose client never came (back), e.g. after a restart, once nothing durable of theirs is open."""
        kept = set().union(*(client.app_ids for client in self.clients.values()))
        open_functions = {lane.function_id for lane in self.lanes.values() if lane.durable and lane.num_live}
        kept.update(self.functions[f].app_id for f in open_functions if f in self.functions)
        for app in list(self.apps.values()):
            age_s = time.time() - max(app.created_unix_s, self.started_unix_s)
            if not app.detach and app.app_id not in kept and age_s > self.settings.client_grace_s:
                self.end_app(app, "no client keeps it alive")

    def state_of(self, function_id: str) -> tuple[int, int, int, str]:
        stats = self.core.function_stats(function_id)
        if stats is None:
            return 0, 0, 0, ""
        return stats.queued, stats.running, stats.containers, self.unplaceable.get(function_id, "")

    def _tell_states(self) -> None:
        watchers = [c for c in self.clients.values() if c.outbox is not None and c.app_ids]
        if not watchers:
            return
        for function_id, spec in self.functions.items():
            state = self.state_of(function_id)
            if self._states.get(function_id, (0, 0, 0, "")) == state:
                continue
            self._states[function_id] = state
            for client in watchers:
                if spec.app_id in client.app_ids and client.outbox is not None:
                    frame = client_pb2.ServerFrame()
                    told = frame.function_state
                    told.function_id = function_id
                    told.queued, told.running, told.containers, told.unplaceable_reason = state
                    client.outbox.send(frame)


def _failures(action: act.Fail) -> common_pb2.OutputColumns:
    columns = common_pb2.OutputColumns(lane_id=action.lane_id)
    info = common_pb2.ErrorInfo(code=action.code, message=action.message, why=action.why, fix=action.fix)
    columns.indices.extend(action.indices)
    columns.payloads.extend([info.SerializeToString()] * len(action.indices))
    columns.statuses = bytes([SYSTEM_ERROR]) * len(action.indices)
    return columns


def _live_runs(lane: Lane) -> list[tuple[int, int]]:
    runs: list[tuple[int, int]] = []
    at = lane.states.find(1)
    while at >= 0:
        end = at
        while end < len(lane.states) and lane.states[end] == 1:
            end += 1
        runs.append((lane.base + at, end - at))
        at = lane.states.find(1, end)
    return runs


def _default_core(generation: int) -> SchedulingCore:
    from ..core import Core, CoreSettings  # here, so that tests of the shell run with a core of their own

    return Core(CoreSettings(id_prefix=f"g{generation}", epoch_base=generation << 40), seed=generation)
