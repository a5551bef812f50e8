"""One connection of a node agent: its frames as events. When it ends, everything on the node counts as lost.

A node that reconnects gets a new epoch; containers from before are not taken over (the agent removes them).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from hotbed_proto import ids
from hotbed_proto.errors import InvalidError
from hotbed_proto.v1 import client_pb2, node_pb2

from .. import events as ev
from .calls import ClientSession
from .convert import inventory

if TYPE_CHECKING:
    from .shell import ControlPlane

_log = logging.getLogger(__name__)
NESTED_FRAMES_MAX = 256


class NodeSession:
    """A node as the shell sees it. Frames may be handed over as objects; they belong to the session from then on."""

    def __init__(self, plane: ControlPlane, send: Callable[[node_pb2.NodeCommand], None]) -> None:
        self._plane = plane
        self.send = send
        self.node_id = ""
        self.epoch = 0
        self.python_version = ""
        self.isolations: tuple[str, ...] = ()
        self.same_host = False
        self.inventory = node_pb2.NodeInventory()
        self._nested: dict[str, _Nested] = {}

    def receive(self, frame: node_pb2.NodeFrame) -> None:
        """Act on one frame.

        Raises:
            InvalidError: The first frame is not a Register, or it names an impossible node.
        """
        kind = frame.WhichOneof("body")
        if kind == "register":
            self._register(frame.register)
            return
        if not self.node_id or self._plane.nodes.get(self.node_id) is not self:
            raise InvalidError("the node is not registered on this connection", fix="send Register first")
        plane = self._plane
        match kind:
            case "outputs":
                self._outputs(frame.outputs)
            case "heartbeat":
                plane.feed(ev.NodeHeartbeat(self.node_id, self.epoch))
            case "container":
                if self._owns(frame.container.container_id):
                    self._container(frame.container)
            case "log":
                self._log(frame)
            case "nested":
                if self._owns(frame.nested.container_id):
                    self._nested_frame(frame.nested)
            case "release":
                out = client_pb2.ServerFrame()
                out.release.CopyFrom(frame.release)
                for client in plane.clients.values():
                    if client.same_host and client.outbox is not None:
                        client.outbox.send(out)
            case _:
                _log.warning("node %s sent an empty frame", self.node_id)

    def _register(self, register: node_pb2.Register) -> None:
        if self.node_id or not ids.is_id(register.node_id, "no"):
            raise InvalidError(f"node id {register.node_id[:80]!r}", fix="one Register with an id that begins with 'no-'")
        plane = self._plane
        if (older := plane.nodes.get(register.node_id)) is not None:
            older.closed("the node connected again")
        self.node_id = register.node_id
        self.epoch = plane.next_node_epoch()
        self.python_version = register.python_version
        self.isolations = tuple(register.isolations)
        self.inventory.CopyFrom(register.inventory)
        settings = plane.settings
        self.same_host = bool(settings.payload_dir) and register.host_id == settings.host_id
        plane.nodes[self.node_id] = self
        command = node_pb2.NodeCommand()
        command.registered.epoch = self.epoch
        command.registered.heartbeat_interval_s = settings.heartbeat_interval_s
        command.registered.lease_s = settings.lease_s
        self.send(command)
        plane.feed(
            ev.NodeJoined(
                self.node_id,
                self.epoch,
                register.name,
                inventory(register.inventory),
                self.isolations,
                register.python_version,
            )
        )

    def _owns(self, container_id: str) -> bool:
        known = self._plane.containers.get(container_id)
        if known is not None and known[0] == self.node_id:
            return True
        command = node_pb2.NodeCommand()
        command.stop.container_id, command.stop.reason = container_id, "not known to this server"
        self.send(command)
        return False

    def _outputs(self, outputs: node_pb2.ContainerOutputs) -> None:
        columns = outputs.outputs
        count = len(columns.indices)
        known = self._plane.containers.get(outputs.container_id)
        if known is None or known[0] != self.node_id:
            return  # exited meanwhile, or never ours: the core has requeued or failed its inputs
        if not count or len(columns.payloads) != count or len(columns.statuses) not in (0, count):
            _log.warning("container %s sent outputs of unequal columns; dropped", outputs.container_id)
            return
        self._plane.feed(
            ev.OutputsReceived(
                outputs.container_id,
                outputs.epoch,
                columns.lane_id,
                list(columns.indices),
                columns.statuses,
                outputs.busy_s,
            ),
            columns,
        )

    def _container(self, state: node_pb2.ContainerState) -> None:
        plane, container_id = self._plane, state.container_id
        match state.state:
            case "booted":
                plane.feed(ev.ContainerBooted(container_id))
            case "ready":
                plane.feed(ev.ContainerReady(container_id))
            case "failed":
                error = state.error
                user_error = error.code not in ("container-failed", "startup-timeout", "internal", "")
                message = f"{error.message}: {error.why}" if error.why else error.message
                self._gone(container_id)
                plane.feed(ev.ContainerFailed(container_id, error.code or "container-failed", message, user_error))
            case "exited":
                running = tuple((state.running_lane_id, i) for i in state.running_indices)
                message = state.error.message or f"exit code {state.exit_code}"
                self._gone(container_id)
                plane.feed(ev.ContainerExited(container_id, state.exit_reason or "crashed", message, running))
            case _:
                _log.warning("node %s reports the unknown state %r", self.node_id, state.state[:40])

    def _gone(self, container_id: str) -> None:
        self._plane.containers.pop(container_id, None)
        if (nested := self._nested.pop(container_id, None)) is not None:
            nested.close()

    def _log(self, frame: node_pb2.NodeFrame) -> None:
        app_id = frame.log.app_id
        for client in self._plane.clients.values():
            if client.want_logs and app_id in client.app_ids and client.outbox is not None:
                client.outbox.log(frame.log)

    def _nested_frame(self, message: node_pb2.ContainerClientFrame) -> None:
        nested = self._nested.get(message.container_id)
        if nested is None:
            function_id = self._plane.containers[message.container_id][1]
            spec = self._plane.functions.get(function_id)
            if spec is None:
                return
            nested = self._nested[message.container_id] = _Nested(self, self._plane, message.container_id, spec.app_id)
        nested.put(message.frame)

    def closed(self, reason: str) -> None:
        """The connection ended. Safe to repeat."""
        plane = self._plane
        if not self.node_id or plane.nodes.get(self.node_id) is not self:
            return
        del plane.nodes[self.node_id]
        for container_id in [c for c, (node_id, _) in plane.containers.items() if node_id == self.node_id]:
            self._gone(container_id)
        plane.feed(ev.NodeLost(self.node_id, self.epoch, reason))


class _Nested:
    """Calls from inside one container, with that container's rights. Its lanes end with it."""

    def __init__(self, node: NodeSession, plane: ControlPlane, container_id: str, app_id: str) -> None:
        self._node = node
        self._plane = plane
        self._container_id = container_id
        hello = client_pb2.Hello(client_id=f"cl-{container_id[3:]}")
        self._session = ClientSession(plane, hello, container_id, app_id)
        self._frames: asyncio.Queue[client_pb2.ClientFrame] = asyncio.Queue(NESTED_FRAMES_MAX)
        self._tasks = [asyncio.ensure_future(self._read()), asyncio.ensure_future(self._session.outbox.pump(self._write))]

    def put(self, frame: client_pb2.ClientFrame) -> None:
        """Take a frame; a container with too many unread ones is stopped."""
        try:
            self._frames.put_nowait(frame)
        except asyncio.QueueFull:
            command = node_pb2.NodeCommand()
            command.stop.container_id, command.stop.reason = self._container_id, "too many nested calls at once"
            with contextlib.suppress(Exception):
                self._node.send(command)

    async def _read(self) -> None:
        while True:
            await self._session.receive(await self._frames.get())

    async def _write(self, frame: client_pb2.ServerFrame) -> None:
        command = node_pb2.NodeCommand()
        command.nested.container_id = self._container_id
        command.nested.frame.CopyFrom(frame)
        self._node.send(command)
        await asyncio.sleep(0)

    def close(self) -> None:
        """The container is gone."""
        for task in self._tasks:
            task.cancel()
        self._session.closed()
        self._plane.forget_client(self._session.client, "its container ended")
