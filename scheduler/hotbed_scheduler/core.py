"""The scheduling core: `Core.handle(event, now_s) -> list[Action]`. No clock, no I/O, nothing unseeded.

The same events with the same times give the same actions; `journal` relies on it. What an event costs is proportional to
what it affects: a frame of a thousand inputs or outputs costs a few microseconds, only `Tick` looks at everything alive.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hotbed_proto.resources import NodeInventory
from hotbed_proto.states import ContainerState, NodeState
from hotbed_scheduler import events as ev
from hotbed_scheduler.actions import Action, CancelOnContainer, Fail
from hotbed_scheduler.cluster import Cluster
from hotbed_scheduler.dispatching import Dispatcher
from hotbed_scheduler.fleet import Fleet
from hotbed_scheduler.lanes import Lane
from hotbed_scheduler.state import CoreSettings, FunctionState, Node

__all__ = ["Core", "CoreSettings", "FunctionStats", "NodeView"]


@dataclass(frozen=True, slots=True)
class FunctionStats:
    """Counts of one function, for people. `queued` includes inputs that wait for a retry."""

    queued: int = 0
    running: int = 0
    containers: int = 0
    unplaceable_reason: str = ""


@dataclass(frozen=True, slots=True)
class NodeView:
    """One node, for people."""

    node_id: str
    name: str
    state: str
    inventory: NodeInventory
    free_milli_cpu: int
    free_memory_bytes: int
    free_disk_bytes: int
    free_gpu_milli: dict[int, int]
    containers: int


class Core:
    """All scheduling state and the one way to change it.

    Args:
        settings: Limits and times.
        seed: Kept for the journal; the present policies break every tie by order and need no randomness.
    """

    def __init__(self, settings: CoreSettings | None = None, seed: int = 0) -> None:
        self.settings = settings or CoreSettings()
        self.seed = seed
        self._cluster = Cluster(self.settings)
        self._dispatcher = Dispatcher(self._cluster)
        self._fleet = Fleet(self._cluster, self._dispatcher)
        self._now_s = float("-inf")
        self._last_tick_s: float | None = None
        self._handlers: dict[type, Callable[[Any, float], None]] = {
            ev.OutputsReceived: self._dispatcher.outputs,
            ev.InputsSubmitted: self._submitted,
            ev.Tick: self._tick,
            ev.NodeHeartbeat: self._heartbeat,
            ev.NodeJoined: self._joined,
            ev.NodeLost: self._node_lost,
            ev.NodeDrain: self._drain,
            ev.FunctionRegistered: self._registered,
            ev.AppStopped: self._app_stopped,
            ev.InputsCancelled: self._cancelled,
            ev.LaneForgotten: self._forgotten,
            ev.ContainerBooted: self._booted,
            ev.ContainerReady: self._ready,
            ev.ContainerFailed: self._failed,
            ev.ContainerExited: self._exited,
        }

    def handle(self, event: ev.Event, now_s: float) -> list[Action]:
        """Take in one event; what to do, in order. A `now_s` before an earlier one counts as that one."""
        if now_s > self._now_s:
            self._now_s = now_s
        out: list[Action] = []
        self._cluster.out = out
        self._handlers[type(event)](event, self._now_s)
        return out

    def check(self) -> None:
        """Assert every invariant. Cost: the whole state; tests call it after every event."""
        self._cluster.check()

    # --- views ------------------------------------------------------------------------------------------------------
    def function_stats(self, function_id: str) -> FunctionStats:
        """Counts of a function; zeros for one that is not known. Cost: O(1)."""
        function = self._cluster.functions.get(function_id)
        if function is None:
            return FunctionStats()
        queued = function.queued + function.delayed
        return FunctionStats(queued, function.running, len(function.containers), function.reported)

    def node_views(self) -> list[NodeView]:
        """The nodes that hold a lease."""
        return [
            NodeView(
                node.node_id,
                node.name,
                str(node.state),
                node.inventory,
                node.free_cpu,
                node.free_memory,
                node.free_disk,
                dict(node.free_gpu),
                len(node.containers),
            )
            for node in self._cluster.nodes.values()
        ]

    def lane_done(self, lane_id: str) -> bool:
        """Whether every input submitted so far has its final result; True for a lane that is not known. Cost: O(1)."""
        lane = self._cluster.lanes.get(lane_id)
        return lane is None or not (lane.queued or lane.delayed or lane.dispatched)

    # --- inputs -----------------------------------------------------------------------------------------------------
    def _submitted(self, event: ev.InputsSubmitted, now_s: float) -> None:
        cluster = self._cluster
        if event.count <= 0:
            return
        lane = cluster.lanes.get(event.lane_id)
        if lane is None:
            function = cluster.functions.get(event.function_id)
            if function is None:
                indices = range(event.first_index, event.first_index + event.count)
                why = "it was never registered here, or its app was stopped"
                cluster.out.append(Fail(event.lane_id, indices, "not-found", f"no function {event.function_id}", why))
                return
            lane = Lane(event.lane_id, function, event.durable, event.client_id, event.priority)
            cluster.lanes[event.lane_id] = function.lanes[event.lane_id] = lane
        function = lane.function
        for start, stop in lane.admit(event.first_index, event.count):
            if lane.cancelled:
                cluster.fail(lane, range(start, stop), "cancelled", "the call was cancelled")
                continue
            if now_s < function.broken_until_s:
                cluster.fail(lane, range(start, stop), "container-failed", function.broken_message)
                continue
            room = self.settings.max_queued_per_function - function.queued - function.delayed
            if stop - start > room:
                cut = start + max(0, room)
                message = (
                    f"{function.definition.name} has {self.settings.max_queued_per_function} inputs queued, the most allowed"
                )
                cluster.fail(lane, range(cut, stop), "limit-reached", message, fix="submit more when some are done")
                stop = cut
                if start == stop:
                    continue
            lane.append(start, stop)
            function.queued += stop - start
            function.queue.wake(lane)
        if not function.queued:
            return
        cluster.live[function] = None
        if function.idle or function.open:
            self._dispatcher.pump(function, now_s)
        if function.queued or not function.containers:
            self._fleet.scale_one(function, now_s)

    def _cancelled(self, event: ev.InputsCancelled, now_s: float) -> None:
        lane = self._cluster.lanes.get(event.lane_id)
        if lane is None:
            return
        if event.indices is None:
            lane.cancelled = True
        self._end_inputs(lane, event.indices, event.terminate_containers, now_s, "the call was cancelled")

    def _forgotten(self, event: ev.LaneForgotten, now_s: float) -> None:
        lane = self._cluster.lanes.get(event.lane_id)
        if lane is not None:
            lane.forgotten = True
            self._end_inputs(lane, None, False, now_s, "the client is gone")
            self._drop_lane(lane)

    def _end_inputs(self, lane: Lane, indices: tuple[int, ...] | None, terminate: bool, now_s: float, message: str) -> None:
        """Cancel: queued and running inputs end now; running ones keep their place until the worker is rid of them."""
        cluster, settings = self._cluster, self.settings
        wanted = None if indices is None else set(indices)
        ended = cluster.drop_queued(lane, wanted)
        for record in list(lane.records.values()):
            hit = list(record.indices()) if wanted is None else sorted(wanted.intersection(record.indices()))
            if not hit:
                continue
            record.banish(hit)
            lane.dispatched -= len(hit)
            lane.function.running -= len(hit)
            ended += hit
            container = record.container
            if terminate:
                self._dispatcher.stop(container, "its input was cancelled", now_s)
            else:
                cluster.out.append(
                    CancelOnContainer(
                        container.container_id, container.node.node_id, lane.lane_id, hit, settings.cancel_kill_after_s
                    )
                )
        cluster.fail(lane, sorted(ended), "cancelled", message)

    def _drop_lane(self, lane: Lane) -> None:
        self._cluster.lanes.pop(lane.lane_id, None)
        lane.function.lanes.pop(lane.lane_id, None)

    # --- functions --------------------------------------------------------------------------------------------------
    def _registered(self, event: ev.FunctionRegistered, now_s: float) -> None:
        cluster, definition = self._cluster, event.function
        function = cluster.functions.get(definition.function_id)
        if function is None:
            function = FunctionState(definition, cluster.next_order())
            cluster.functions[definition.function_id] = function
        elif function.definition != definition:
            # Containers count for the app they were started under, so an id never moves between apps.
            assert function.definition.app_id == definition.app_id, f"{definition.function_id} belongs to another app"
            function.redefine(definition)
            for container in list(function.containers.values()):
                self._fleet.retire(container, "its function was defined anew", now_s)
        function.broken_until_s = function.retry_at_s = 0.0
        function.failures = 0
        if definition.min_containers or function.queued:
            cluster.live[function] = None
            self._fleet.rebalance(now_s, [function])

    def _app_stopped(self, event: ev.AppStopped, now_s: float) -> None:
        cluster = self._cluster
        for function in [f for f in cluster.functions.values() if f.definition.app_id == event.app_id]:
            function.removed = True
            for lane in list(function.lanes.values()):
                self._end_inputs(lane, None, False, now_s, event.reason)
                self._drop_lane(lane)
            for container in list(function.containers.values()):
                self._dispatcher.stop(container, event.reason, now_s)
            del cluster.functions[function.definition.function_id]
            cluster.live.pop(function, None)

    # --- nodes ------------------------------------------------------------------------------------------------------
    def _joined(self, event: ev.NodeJoined, now_s: float) -> None:
        cluster = self._cluster
        node = cluster.nodes.get(event.node_id)
        if node is not None and node.epoch != event.epoch:
            self._fleet.node_lost(node, now_s)
            node = None
        if node is None:
            node = Node(event.node_id, event.epoch, event.name, event.inventory, event.isolations, cluster.next_order())
            node.python_version = event.python_version
            cluster.nodes[event.node_id] = node
        node.deadline_s = now_s + self.settings.lease_s
        self._fleet.rebalance(now_s)

    def _heartbeat(self, event: ev.NodeHeartbeat, now_s: float) -> None:
        node = self._cluster.nodes.get(event.node_id)
        if node is not None and node.epoch == event.epoch:
            node.deadline_s = now_s + self.settings.lease_s

    def _node_lost(self, event: ev.NodeLost, now_s: float) -> None:
        node = self._cluster.nodes.get(event.node_id)
        if node is not None and node.epoch == event.epoch:
            self._fleet.node_lost(node, now_s)

    def _drain(self, event: ev.NodeDrain, now_s: float) -> None:
        node = self._cluster.nodes.get(event.node_id)
        if node is None:
            return
        node.state = NodeState.DRAINING
        for container in list(node.containers.values()):
            self._fleet.retire(container, "the node is draining", now_s)
        self._fleet.rebalance(now_s)

    # --- containers -------------------------------------------------------------------------------------------------
    def _booted(self, event: ev.ContainerBooted, now_s: float) -> None:
        container = self._cluster.containers.get(event.container_id)
        if container is not None:
            self._fleet.booted(container, now_s)

    def _ready(self, event: ev.ContainerReady, now_s: float) -> None:
        container = self._cluster.containers.get(event.container_id)
        if container is not None:
            self._fleet.ready(container, now_s)

    def _failed(self, event: ev.ContainerFailed, now_s: float) -> None:
        container = self._cluster.containers.get(event.container_id)
        if container is None:
            return
        if container.state is ContainerState.READY or container.records:
            self._fleet.exited(container, "crashed", event.message, (), now_s)
            return
        self._fleet.failed(container, event.error_code, event.message, event.user_error, now_s)
        self._fleet.rebalance(now_s)

    def _exited(self, event: ev.ContainerExited, now_s: float) -> None:
        container = self._cluster.containers.get(event.container_id)
        if container is not None:
            self._fleet.exited(container, event.reason, event.message, event.running, now_s)

    # --- time -------------------------------------------------------------------------------------------------------
    def _tick(self, event: ev.Tick, now_s: float) -> None:
        del event
        cluster, last_s = self._cluster, self._last_tick_s
        self._last_tick_s = now_s
        # After a gap in the ticks (a suspended machine) the heartbeats could not be heard either: leases get it back.
        gap_s = now_s - last_s if last_s is not None else 0.0
        if gap_s > self.settings.lease_s / 2:
            for node in cluster.nodes.values():
                node.deadline_s = max(node.deadline_s, now_s + self.settings.lease_s / 2)
        for node in [n for n in cluster.nodes.values() if n.deadline_s <= now_s]:
            self._fleet.node_lost(node, now_s)
        for function in cluster.release_due(now_s):
            self._dispatcher.pump(function, now_s)
        self._fleet.tick(now_s)
