"""The scheduling core: `handle(event, now_s) -> actions`. No clock, no I/O, no randomness: equal events give equal actions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from hotbed_proto.states import NODE_MOVES, ContainerState, NodeState, move
from hotbed_scheduler import events as ev
from hotbed_scheduler.actions import Action, CancelOnContainer, Fail
from hotbed_scheduler.cluster import Cluster
from hotbed_scheduler.dispatching import Dispatcher
from hotbed_scheduler.lanes import Lane
from hotbed_scheduler.scaling import Scaler
from hotbed_scheduler.state import Container, CoreSettings, FunctionState, Node

__all__ = ["Core", "CoreSettings", "FunctionStats", "NodeView"]

_BACKOFF_FIRST_S = 0.25
_BACKOFF_MAX_S = 30.0
_AVOID_S = 30.0


@dataclass(frozen=True, slots=True)
class FunctionStats:
    """What a function's status shows."""

    queued: int
    running: int
    containers: int
    unplaceable_reason: str


@dataclass(frozen=True, slots=True)
class NodeView:
    """What a node's status shows."""

    node_id: str
    name: str
    state: str
    free_milli_cpu: int
    free_memory_bytes: int
    containers: int


class Core:
    """One cluster's scheduler. Not thread-safe; everything is decided inside `handle`.

    Args:
        settings: Times and limits.
        seed: Kept for strategies that draw lots; the present ones need none.
    """

    def __init__(self, settings: CoreSettings, seed: int = 0) -> None:
        self.settings = settings
        self.seed = seed
        self._cluster = Cluster(settings)
        self._dispatcher = Dispatcher(self._cluster)
        self._scaler = Scaler(self._cluster, self._dispatcher)
        self._now_s = float("-inf")
        self._last_tick_s = float("inf")

    # --- views ------------------------------------------------------------------------------------------------------

    def function_stats(self, function_id: str) -> FunctionStats | None:
        """Counts of one function; None for one that is not known."""
        function = self._cluster.functions.get(function_id)
        if function is None:
            return None
        return FunctionStats(function.queued + function.delayed, function.running, len(function.containers), function.reported)

    def node_views(self) -> list[NodeView]:
        """All nodes in the order they joined."""
        return [
            NodeView(n.node_id, n.name, str(n.state), n.free_cpu, n.free_memory, len(n.containers))
            for n in self._cluster.nodes.values()
        ]

    def lane_done(self, lane_id: str) -> int:
        """How many inputs of a lane have ended; 0 for an unknown one."""
        lane = self._cluster.lanes.get(lane_id)
        return 0 if lane is None else lane.done

    def container_ids(self) -> Iterator[str]:
        """Every container that still counts."""
        return iter(self._cluster.containers)

    def check(self) -> None:
        """Assert every invariant; for tests. Cost: the whole state."""
        self._cluster.check()

    # --- events -----------------------------------------------------------------------------------------------------

    def handle(self, event: ev.Event, now_s: float) -> list[Action]:
        """Take one event; returns what is to be done, in order. A `now_s` before an earlier one counts as that one.

        Cost: a frame of outputs or inputs of any length about 6-10 us; other events may look at nodes and containers.
        """
        now_s = self._now_s = max(now_s, self._now_s)
        out: list[Action] = []
        self._cluster.out = out
        match event:
            case ev.OutputsReceived():
                self._outputs(event, now_s)
            case ev.InputsSubmitted():
                self._submitted(event, now_s)
            case ev.Tick():
                self._tick(now_s)
            case ev.NodeHeartbeat(node_id, epoch):
                node = self._cluster.nodes.get(node_id)
                if node is not None and node.epoch == epoch:
                    node.deadline_s = now_s + self.settings.lease_s
            case ev.ContainerBooted(container_id):
                self._booted(container_id, now_s)
            case ev.ContainerReady(container_id):
                self._ready(container_id, now_s)
            case ev.ContainerFailed():
                self._failed(event, now_s)
            case ev.ContainerExited():
                self._exited(event, now_s)
            case ev.InputsCancelled():
                self._cancelled(event, now_s)
            case ev.LaneForgotten(lane_id):
                self._forgotten(lane_id, now_s)
            case ev.FunctionRegistered(definition):
                self._registered(definition, now_s)
            case ev.AppStopped(app_id, reason):
                self._app_stopped(app_id, reason, now_s)
            case ev.NodeJoined():
                self._joined(event, now_s)
            case ev.NodeLost(node_id, epoch, reason):
                node = self._cluster.nodes.get(node_id)
                if node is not None and node.epoch == epoch:
                    self._lose(node, reason, now_s)
            case ev.NodeDrain(node_id):
                self._drain(node_id, now_s)
        return out

    # --- inputs -----------------------------------------------------------------------------------------------------

    def _submitted(self, event: ev.InputsSubmitted, now_s: float) -> None:
        cluster = self._cluster
        function = cluster.functions.get(event.function_id)
        whole = range(event.first_index, event.first_index + event.count)
        if function is None or function.removed:
            cluster.out.append(
                Fail(
                    event.lane_id,
                    whole,
                    "not-found",
                    f"function {event.function_id} is not known (any more)",
                    "",
                    "is its app running?",
                )
            )
            return
        lane = cluster.lanes.get(event.lane_id)
        if lane is None:
            lane = Lane(event.lane_id, function, event.durable, event.client_id, event.priority)
            cluster.lanes[event.lane_id] = function.lanes[event.lane_id] = lane
        for start, stop in lane.admit(event.first_index, event.count):
            self._admit(function, lane, start, stop, now_s)
        self._dispatcher.pump(function, now_s)
        # A backlog beyond what runs is looked at now only when something may change: at the first input, or a while later.
        if function.queued and (not function.containers or now_s >= function.next_scale_s):
            self._scaler.scale(function, now_s)

    def _admit(self, function: FunctionState, lane: Lane, start: int, stop: int, now_s: float) -> None:
        cluster = self._cluster
        indices = range(start, stop)
        if lane.cancelled:
            cluster.fail(lane, indices, "cancelled", "the call was cancelled")
            return
        if function.broken_message and now_s < function.broken_until_s:
            cluster.fail(
                lane, indices, "container-failed", f"{function.definition.name} cannot be loaded", function.broken_message
            )
            return
        room = max(0, self.settings.max_queued_per_function - function.queued - function.delayed)
        if stop - start > room:
            indices, stop = range(start + room, stop), start + room
            cluster.fail(
                lane,
                indices,
                "limit-reached",
                f"{function.definition.name} has {function.queued} inputs queued",
                f"the limit is {self.settings.max_queued_per_function}",
                "wait for results before submitting more",
            )
        if stop > start:
            lane.append(start, stop)
            function.queued += stop - start
            function.queue.wake(lane)
            cluster.live[function] = None

    def _outputs(self, event: ev.OutputsReceived, now_s: float) -> None:
        self._dispatcher.outputs(event, now_s)
        container = self._cluster.containers.get(event.container_id)
        function = container.function if container is not None else None
        if function is not None and function.queued and now_s >= function.next_scale_s:
            self._scaler.scale(function, now_s)

    def _cancelled(self, event: ev.InputsCancelled, now_s: float) -> None:
        lane = self._cluster.lanes.get(event.lane_id)
        if lane is None:
            return
        wanted = None if event.indices is None else set(event.indices)
        if wanted is None:
            lane.cancelled = True
        self._cancel(lane, wanted, now_s, terminate=event.terminate_containers, why="")

    def _cancel(self, lane: Lane, wanted: set[int] | None, now_s: float, *, terminate: bool, why: str) -> None:
        cluster = self._cluster
        dropped = cluster.drop_queued(lane, wanted)
        stop: dict[Container, None] = {}
        out: list[int] = []
        for record in list(lane.records.values()):
            here = [index for index in record.indices() if wanted is None or index in wanted]
            if not here:
                continue
            record.banish(here)
            lane.dispatched -= len(here)
            lane.function.running -= len(here)
            out += here
            container = record.container
            if container.state is ContainerState.STOPPING:
                continue
            if terminate:
                stop[container] = None
            else:
                kill_after_s = self.settings.cancel_kill_after_s
                cluster.out.append(
                    CancelOnContainer(container.container_id, container.node.node_id, lane.lane_id, here, kill_after_s)
                )
        cluster.fail(lane, sorted([*dropped, *out]), "cancelled", "the input was cancelled", why)
        for container in stop:
            self._dispatcher.stop(container, "cancelled", now_s, grace_s=0.0)

    def _forgotten(self, lane_id: str, now_s: float) -> None:
        lane = self._cluster.lanes.get(lane_id)
        if lane is None:
            return
        lane.cancelled = lane.forgotten = True
        self._cancel(lane, None, now_s, terminate=False, why="")
        del self._cluster.lanes[lane_id]
        lane.function.lanes.pop(lane_id, None)

    # --- functions --------------------------------------------------------------------------------------------------

    def _registered(self, definition: ev.FunctionDef, now_s: float) -> None:
        cluster = self._cluster
        function = cluster.functions.get(definition.function_id)
        if function is None:
            function = cluster.functions[definition.function_id] = FunctionState(definition, cluster.next_order())
        else:
            if function.definition != definition:
                self._redefine(function, definition, now_s)
            function.removed = False
        function.failures, function.retry_at_s = 0, 0.0
        function.broken_message, function.broken_until_s = "", 0.0
        if definition.min_containers or function.queued:
            cluster.live[function] = None
            self._scaler.scale(function, now_s)

    def _redefine(self, function: FunctionState, definition: ev.FunctionDef, now_s: float) -> None:
        """Containers of the old definition finish what they have and end."""
        counts, held = self._cluster.app_containers, len(function.containers)
        before, after = function.definition.app_id, definition.app_id
        if held and before != after:
            counts[before] -= held
            counts[after] = counts.get(after, 0) + held
            if not counts[before]:
                del counts[before]
        function.redefine(definition)
        for container in list(function.containers.values()):
            self._dispatcher.retire(container, "its function was defined anew", now_s)

    def _app_stopped(self, app_id: str, reason: str, now_s: float) -> None:
        cluster = self._cluster
        for function in [f for f in cluster.functions.values() if f.definition.app_id == app_id]:
            function.removed = True
            for lane in list(function.lanes.values()):
                self._cancel(lane, None, now_s, terminate=False, why=reason)
                cluster.lanes.pop(lane.lane_id, None)
            function.lanes.clear()
            for container in list(function.containers.values()):
                self._dispatcher.stop(container, reason, now_s)
            cluster.report(function, "")
            del cluster.functions[function.definition.function_id]
            cluster.live[function] = None

    # --- containers -------------------------------------------------------------------------------------------------

    def _booted(self, container_id: str, now_s: float) -> None:
        container = self._cluster.containers.get(container_id)
        if container is None or container.state is not ContainerState.STARTING:
            return
        if container.function is None:
            container.to(ContainerState.POOLED)
            self._cluster.starting.pop(container, None)
            pool = self._cluster.pools.get(container.pool_key)
            if pool is not None:
                pool.failures = 0
                self._scaler.rescale_live(now_s)
        else:
            container.to(ContainerState.LOADING)

    def _ready(self, container_id: str, now_s: float) -> None:
        container = self._cluster.containers.get(container_id)
        if container is None or container.function is None:
            return
        if container.state not in (ContainerState.STARTING, ContainerState.LOADING):
            return
        function = container.function
        container.to(ContainerState.READY)
        self._cluster.starting.pop(container, None)
        container.ready_since_s = container.idle_since_s = now_s
        function.start_s += (now_s - container.started_s - function.start_s) * 0.3
        function.failures, function.retry_at_s = 0, 0.0
        function.broken_message = ""
        function.avoid.pop(container.node.node_id, None)
        function.ready[container] = None
        function.idle[container] = None
        self._dispatcher.pump(function, now_s)

    def _failed(self, event: ev.ContainerFailed, now_s: float) -> None:
        cluster = self._cluster
        container = cluster.containers.get(event.container_id)
        if container is None:
            return
        self._remove(container, "crashed", event.message, (), now_s, blame=False)
        function = container.function
        if function is None:
            pool = cluster.pools.get(container.pool_key)
            if pool is not None:
                pool.failures += 1
                pool.retry_at_s = now_s + _backoff_s(pool.failures)
            return
        if function.removed or container.state is ContainerState.STOPPING:
            return
        name = function.definition.name
        if event.user_error and not function.ready:
            function.retry_at_s = now_s + self.settings.broken_retry_s
            function.broken_message = event.message
            function.broken_until_s = now_s + self.settings.broken_retry_s
            cluster.fail_queued(function, event.error_code, f"{name} cannot be loaded in its container", event.message)
            return
        function.failures += 1
        function.retry_at_s = now_s + _backoff_s(function.failures)
        function.avoid[container.node.node_id] = now_s + _AVOID_S
        if function.failures >= self.settings.failures_max and not function.ready:
            function.failures = 0
            cluster.fail_queued(
                function, event.error_code or "container-failed", f"no container of {name} could be started", event.message
            )

    def _exited(self, event: ev.ContainerExited, now_s: float) -> None:
        container = self._cluster.containers.get(event.container_id)
        if container is None:
            return
        if container.state in (ContainerState.STARTING, ContainerState.LOADING):
            message = event.message or f"the container ended before it was ready ({event.reason})"
            self._failed(ev.ContainerFailed(event.container_id, "container-failed", message), now_s)
            return
        meant = container.state is ContainerState.STOPPING or event.reason in ("stopped", "idle", "cancelled")
        self._remove(container, event.reason, event.message, event.running, now_s, blame=not meant)
        function = container.function
        if function is not None and not function.removed:
            self._dispatcher.pump(function, now_s)
        # Its room goes to whoever has the best claim, not to the function that had it.
        self._scaler.rescale_live(now_s)

    def _remove(
        self,
        container: Container,
        reason: str,
        message: str,
        running: tuple[tuple[str, int], ...],
        now_s: float,
        *,
        blame: bool,
    ) -> None:
        self._dispatcher.settle_lost(container, reason, message, running, now_s, blame=blame)
        if container.state is not ContainerState.GONE:
            stopping = container.state is ContainerState.STOPPING
            self._cluster.detach(container)
            if not stopping:
                container.to(ContainerState.GONE)

    # --- nodes ------------------------------------------------------------------------------------------------------

    def _joined(self, event: ev.NodeJoined, now_s: float) -> None:
        cluster = self._cluster
        before = cluster.nodes.get(event.node_id)
        if before is not None:
            if before.epoch == event.epoch:
                before.deadline_s = now_s + self.settings.lease_s
                return
            self._lose(before, "the node started anew", now_s)
        node = Node(event.node_id, event.epoch, event.name, event.inventory, event.isolations, cluster.next_order())
        node.python_version = event.python_version
        node.deadline_s = now_s + self.settings.lease_s
        cluster.nodes[event.node_id] = node
        self._scaler.rescale_live(now_s)

    def _lose(self, node: Node, reason: str, now_s: float) -> None:
        cluster = self._cluster
        functions: dict[FunctionState, None] = {}
        for container in list(node.containers.values()):
            if container.function is not None:
                functions[container.function] = None
            self._remove(container, "crashed", f"its node was lost: {reason}", (), now_s, blame=False)
        node.state = move(NODE_MOVES, node.state, NodeState.LOST)
        del cluster.nodes[node.node_id]
        for function in functions:
            if not function.removed:
                self._dispatcher.pump(function, now_s)
                self._scaler.scale(function, now_s)

    def _drain(self, node_id: str, now_s: float) -> None:
        node = self._cluster.nodes.get(node_id)
        if node is None or node.state is not NodeState.JOINED:
            return
        node.state = move(NODE_MOVES, node.state, NodeState.DRAINING)
        for container in list(node.containers.values()):
            self._dispatcher.retire(container, "the node is draining", now_s)
        self._scaler.rescale_live(now_s)

    # --- time -------------------------------------------------------------------------------------------------------

    def _tick(self, now_s: float) -> None:
        cluster = self._cluster
        # After a gap in the ticks (a suspended machine) the heartbeats could not be heard either: leases get some of it back.
        gap_s, self._last_tick_s = now_s - self._last_tick_s, now_s
        if gap_s > self.settings.lease_s / 2:
            for node in cluster.nodes.values():
                node.deadline_s = max(node.deadline_s, now_s + self.settings.lease_s / 2)
        for node in list(cluster.nodes.values()):
            if node.deadline_s < now_s:
                self._lose(node, f"nothing was heard of it for {self.settings.lease_s:g} s", now_s)
        for function in cluster.release_due(now_s):
            self._dispatcher.pump(function, now_s)
        for container in [c for c in cluster.starting if c.deadline_s < now_s]:
            self._too_slow(container, now_s)
        for container, again_s in list(cluster.stopping.items()):
            if again_s < now_s:
                cluster.stopping[container] = now_s + self.settings.stop_repeat_s
                self._dispatcher.repeat_stop(container)
        self._scaler.rescale_live(now_s)
        self._scaler.tend_pools(now_s)

    def _too_slow(self, container: Container, now_s: float) -> None:
        function = container.function
        self._dispatcher.stop(container, "startup timeout", now_s, grace_s=0.0)
        if function is None:
            pool = self._cluster.pools.get(container.pool_key)
            if pool is not None:
                pool.failures += 1
                pool.retry_at_s = now_s + _backoff_s(pool.failures)
            return
        if function.removed:
            return
        limit_s = function.definition.startup_timeout_s
        function.failures += 1
        function.retry_at_s = now_s + _backoff_s(function.failures)
        function.avoid[container.node.node_id] = now_s + _AVOID_S
        # Others may still make it; but not for ever, since each that is late is followed by a new one.
        hope = any(c.function is function for c in self._cluster.starting)
        if not function.ready and (not hope or function.failures >= self.settings.failures_max):
            self._cluster.fail_queued(
                function,
                "startup-timeout",
                f"no container of {function.definition.name} was ready within {limit_s:g} s",
                "",
                "raise startup_timeout=, or make its imports lighter",
            )


def _backoff_s(failures: int) -> float:
    return min(_BACKOFF_FIRST_S * 2 ** min(failures - 1, 20), _BACKOFF_MAX_S)
