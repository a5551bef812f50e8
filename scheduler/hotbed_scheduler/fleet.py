"""Containers: starting, assigning, scaling, evicting, pooling, and what their failures mean."""

from __future__ import annotations

import heapq

from hotbed_proto.states import ContainerState, NodeState
from hotbed_scheduler.actions import AssignFunction, StartContainer, StopContainer
from hotbed_scheduler.autoscale import desired_containers, keep_value
from hotbed_scheduler.cluster import Cluster
from hotbed_scheduler.dispatching import Dispatcher
from hotbed_scheduler.fairness import claim, may_displace
from hotbed_scheduler.feasibility import Free, obstacle, rejections, unfit
from hotbed_scheduler.placement import Placement, place
from hotbed_scheduler.state import Container, FunctionState, Node, Pool, Reservation

_BACKOFF_FIRST_S = 0.5
_BACKOFF_MAX_S = 30.0
_AVOID_NODE_S = 30.0
_RESCALE_S = 0.05
"""Between two looks at the same function's scale on the hot path; a Tick looks anyway."""


class Fleet:
    """Decides which containers exist. Runs on Ticks and where a queue, a node or a container changes."""

    def __init__(self, cluster: Cluster, dispatcher: Dispatcher) -> None:
        self._cluster = cluster
        self._dispatcher = dispatcher

    # --- scaling up -------------------------------------------------------------------------------------------------
    def scale_one(self, function: FunctionState, now_s: float) -> None:
        """After a submission that found no room: look at this function, at most once in `_RESCALE_S`."""
        if function.containers and now_s < function.next_scale_s:
            return
        function.next_scale_s = now_s + _RESCALE_S
        self.rebalance(now_s, [function])

    def rebalance(self, now_s: float, only: list[FunctionState] | None = None) -> None:
        """Start containers for functions that want more, smallest claim first. Cost: the live functions and each start."""
        cluster = self._cluster
        cores = cluster.cores()
        heap: list[tuple[tuple[int, int, int], FunctionState, int]] = []
        for function in only if only is not None else list(cluster.live):
            if function.removed or now_s < function.retry_at_s or now_s < function.broken_until_s:
                continue
            missing = desired_containers(function, now_s, cores, cluster.settings) - function.supply
            if missing > 0:
                heap.append((self._claim(function), function, missing))
        heapq.heapify(heap)
        while heap:
            _, function, missing = heapq.heappop(heap)
            if self._start_one(function, now_s) and missing > 1:
                heapq.heappush(heap, (self._claim(function), function, missing - 1))

    def _claim(self, function: FunctionState) -> tuple[int, int, int]:
        app_containers = self._cluster.app_containers.get(function.definition.app_id, 0)
        return claim(app_containers, len(function.containers), function.order)

    def _start_one(self, function: FunctionState, now_s: float) -> bool:
        """One more container for the function, pooled or new; False when there is no room now."""
        cluster, definition = self._cluster, function.definition
        if definition.max_containers and len(function.containers) >= definition.max_containers:
            return False
        if self._assign_pooled(function, now_s):
            cluster.report(function, "")
            return True
        placement = place(
            cluster.nodes.values(),
            definition,
            spread_above_milli=cluster.settings.spread_above_milli,
            avoid={node_id for node_id, until_s in function.avoid.items() if until_s > now_s},
            warm={container.node.node_id for container in function.containers.values()},
        )
        if placement is None:
            self._no_room(function, now_s)
            return False
        self._start(function, placement, now_s)
        cluster.report(function, "")
        return True

    def _start(self, function: FunctionState, placement: Placement, now_s: float, pool: Pool | None = None) -> None:
        cluster, definition = self._cluster, function.definition
        reservation = Reservation.of(definition.resources, placement.gpu_indices, placement.gpu_milli_share)
        owner = None if pool else function
        container = Container(cluster.next_container_id(), placement.node, owner, definition.pool_key, reservation, now_s)
        container.deadline_s = now_s + definition.startup_timeout_s
        cluster.attach(container)
        if pool is not None:
            pool.containers[container.container_id] = container
        cluster.out.append(
            StartContainer(
                container.container_id,
                placement.node.node_id,
                "" if pool else definition.function_id,
                definition.pool_key,
                definition.function_id,
                placement.gpu_indices,
                placement.gpu_milli_share,
            )
        )

    def _assign_pooled(self, function: FunctionState, now_s: float) -> bool:
        cluster, definition = self._cluster, function.definition
        if not definition.pool_key or definition.resources.gpus:
            return False
        pool = cluster.pools.get(definition.pool_key)
        if pool is None:
            pool = cluster.pools[definition.pool_key] = Pool(definition.pool_key, function, now_s)
        pool.last_used_s, pool.like = now_s, function
        wanted = Reservation.of(definition.resources)
        for container in pool.containers.values():
            node = container.node
            if container.state is not ContainerState.POOLED:
                continue
            free = Free.now(node)
            free.add(container.reservation)
            if obstacle(node, definition, None, free):
                continue
            node.release(container.reservation)
            node.reserve(wanted)
            container.reservation = wanted
            del pool.containers[container.container_id]
            container.to(ContainerState.LOADING)
            container.started_s = now_s
            container.deadline_s = now_s + definition.startup_timeout_s
            cluster.starting[container] = None
            cluster.adopt(container, function)
            cluster.out.append(AssignFunction(container.container_id, node.node_id, definition.function_id))
            return True
        return False

    # --- no room ----------------------------------------------------------------------------------------------------
    def _no_room(self, function: FunctionState, now_s: float) -> None:
        """Say why; fail if it never can be placed and the user wants that; make room if others hold more than their share."""
        cluster, definition = self._cluster, function.definition
        found = rejections(cluster.nodes.values(), definition)
        if found.never:
            cluster.report(function, str(found))
            if definition.fail_if_unplaceable:
                message = f"no node can ever hold a container of {definition.name}"
                fix = "lower what the function asks for, or add a node that has it"
                cluster.fail_queued(function, "call-unplaceable", message, str(found), fix)
            return
        if not function.containers:
            cluster.report(function, str(found))
        if cluster.nodes and (function.queued or len(function.containers) < definition.min_containers):
            self._make_room(function, now_s)

    def _make_room(self, function: FunctionState, now_s: float) -> None:
        """Stop idle containers of others, the least worth first; failing that, ask a busy one of a bigger holder to yield."""
        idle: dict[Node, list[Container]] = {}
        busy: dict[Node, list[Container]] = {}
        for container in self._cluster.containers.values():
            if container.function is function or container.state is ContainerState.STOPPING or container.yielding:
                continue
            if self._expendable(container):
                idle.setdefault(container.node, []).append(container)
            elif self._displaceable(container, function, now_s):
                busy.setdefault(container.node, []).append(container)
        best: tuple[tuple[int, float, int], list[Container]] | None = None
        for node in self._cluster.nodes.values():
            if node.state is not NodeState.JOINED or unfit(node, function.definition):
                continue
            chosen = self._cheapest(node, function, idle.get(node, []), busy.get(node, []))
            if chosen is None:
                continue
            key = (sum(1 for c in chosen if c.inflight), sum(c.value for c in chosen), node.order)
            if best is None or key < best[0]:
                best = (key, chosen)
        for container in best[1] if best else ():
            if container.inflight:
                self._yield(container)
            else:
                self._cluster.evict_clock = max(self._cluster.evict_clock, container.value)
                self._dispatcher.stop(container, "its place is needed elsewhere", now_s)

    def _cheapest(
        self, node: Node, function: FunctionState, idle: list[Container], busy: list[Container]
    ) -> list[Container] | None:
        """Containers to give up so that the function fits; empty when those already ending will do; None when none will."""
        free = Free.now(node)
        requests = function.definition.resources.gpus or (None,)

        def fits() -> bool:
            return any(not obstacle(node, function.definition, request, free) for request in requests)

        for container in node.containers.values():
            if container.state is ContainerState.STOPPING or container.yielding:
                free.add(container.reservation)
        chosen: list[Container] = []
        idle.sort(key=lambda c: (c.function is not None, c.value, c.container_id))
        busy.sort(key=lambda c: (-self._holding(c), c.ready_since_s, c.container_id))
        for container in [*idle, *busy]:
            if fits():
                break
            free.add(container.reservation)
            chosen.append(container)
        return chosen if fits() else None

    def _expendable(self, container: Container) -> bool:
        function = container.function
        if function is None:
            return True
        if container.state is not ContainerState.READY or container.inflight:
            return False
        return not function.queued and len(function.ready) > function.definition.min_containers

    def _holding(self, container: Container) -> int:
        assert container.function is not None
        return self._cluster.app_containers[container.function.definition.app_id]

    def _displaceable(self, container: Container, function: FunctionState, now_s: float) -> bool:
        holder, settings = container.function, self._cluster.settings
        if holder is None or container.state is not ContainerState.READY or not container.inflight:
            return False
        if now_s < container.ready_since_s + settings.yield_after_s:
            return False
        mine, theirs = function.definition.app_id, holder.definition.app_id
        if mine == theirs:
            return may_displace(len(function.containers), len(holder.containers))
        return may_displace(self._cluster.app_containers.get(mine, 0), self._cluster.app_containers[theirs])

    def _yield(self, container: Container) -> None:
        """No more inputs for a busy container; it stops when those it has are done."""
        container.yielding = True
        assert container.function is not None
        container.function.open.pop(container, None)
        container.function.idle.pop(container, None)

    def retire(self, container: Container, reason: str, now_s: float) -> None:
        """Stop a container now if nothing runs in it, otherwise when it is done."""
        if container.state is ContainerState.STOPPING:
            return
        if container.inflight:
            self._yield(container)
        else:
            self._dispatcher.stop(container, reason, now_s)

    # --- life of a container ------------------------------------------------------------------------------------------
    def booted(self, container: Container, now_s: float) -> None:
        """The worker answers."""
        if container.state is not ContainerState.STARTING:
            return
        if container.function is not None:
            container.to(ContainerState.LOADING)
            return
        container.to(ContainerState.POOLED)
        self._cluster.starting.pop(container, None)
        pool = self._cluster.pools.get(container.pool_key)
        if pool is None or container.container_id not in pool.containers:
            self._dispatcher.stop(container, "its pool is not in use", now_s)
            return
        pool.failures = 0
        self.rebalance(now_s)

    def ready(self, container: Container, now_s: float) -> None:
        """The function is loaded: give it work."""
        function = container.function
        if function is None or container.state not in (ContainerState.STARTING, ContainerState.LOADING):
            return
        container.to(ContainerState.READY)
        self._cluster.starting.pop(container, None)
        container.ready_since_s = container.idle_since_s = container.progress_s = now_s
        function.start_s += 0.3 * (now_s - container.started_s - function.start_s)
        function.failures, function.retry_at_s, function.broken_until_s = 0, 0.0, 0.0
        function.avoid.clear()
        function.ready[container] = None
        if container.yielding:
            self._dispatcher.stop(container, "its place is needed elsewhere", now_s)
            return
        function.idle[container] = None
        self._dispatcher.pump(function, now_s)

    def failed(self, container: Container, code: str, message: str, user_error: bool, now_s: float) -> None:
        """It never became ready. The container is gone."""
        function, settings = container.function, self._cluster.settings
        wanted = container.state is not ContainerState.STOPPING
        self._gone(container)
        if not wanted:
            return
        if function is None:
            pool = self._cluster.pools.get(container.pool_key)
            if pool is not None:
                pool.failures += 1
                pool.retry_at_s = now_s + backoff_s(pool.failures)
            return
        if user_error and not function.ready:
            function.broken_message, function.broken_until_s = message, now_s + settings.broken_retry_s
            self._cluster.fail_queued(function, code or "container-failed", message)
            return
        self.start_failed(function, container, code or "container-failed", message, now_s)

    def start_failed(self, function: FunctionState, container: Container, code: str, message: str, now_s: float) -> None:
        """Back off, keep off the node for a while, and give up on what is queued after several failures in a row."""
        function.failures += 1
        function.retry_at_s = now_s + backoff_s(function.failures)
        function.avoid[container.node.node_id] = now_s + _AVOID_NODE_S
        if function.ready:
            return
        if code == "startup-timeout" or function.failures >= self._cluster.settings.failures_max:
            fix = "raise startup_timeout= of the function" if code == "startup-timeout" else ""
            self._cluster.fail_queued(function, code if code == "startup-timeout" else "container-failed", message, fix=fix)

    def exited(
        self, container: Container, reason: str, message: str, running: tuple[tuple[str, int], ...], now_s: float
    ) -> None:
        """It is gone; settle what it had and use its room."""
        function = container.function
        was = container.state
        if was in (ContainerState.STARTING, ContainerState.LOADING, ContainerState.POOLED):
            self.failed(
                container, "container-failed", message or f"the container ended before it was ready ({reason})", False, now_s
            )
        else:
            blame = reason in ("crashed", "oom", "timeout")
            self._dispatcher.settle_lost(container, reason, message, running, now_s, blame=blame)
            self._gone(container)
        if function is not None:
            self._dispatcher.pump(function, now_s)
        self.rebalance(now_s)

    def _gone(self, container: Container) -> None:
        self._cluster.detach(container)
        container.to(ContainerState.GONE)

    def node_lost(self, node: Node, now_s: float) -> None:
        """All its containers are gone; their inputs are queued again and pay nothing."""
        touched: dict[FunctionState, None] = {}
        for container in list(node.containers.values()):
            self._dispatcher.settle_lost(container, "node-lost", f"node {node.name} was lost", (), now_s, blame=False)
            self._gone(container)
            if container.function is not None:
                touched[container.function] = None
        node.state = NodeState.LOST
        del self._cluster.nodes[node.node_id]
        for function in touched:
            self._dispatcher.pump(function, now_s)
        self.rebalance(now_s)

    # --- time -------------------------------------------------------------------------------------------------------
    def tick(self, now_s: float) -> None:
        """Deadlines of starts, repeated stops, idle expiry, pools, scaling. Cost: live functions and pools."""
        cluster = self._cluster
        for container in [c for c in cluster.starting if c.deadline_s <= now_s]:
            function = container.function
            self._dispatcher.stop(container, "it was not ready in time", now_s)
            if function is not None:
                limit_s = function.definition.startup_timeout_s
                message = f"a container of {function.definition.name} was not ready within {limit_s:g} s"
                self.start_failed(function, container, "startup-timeout", message, now_s)
        for container in [c for c, due_s in cluster.stopping.items() if due_s <= now_s]:
            container_id, node_id = container.container_id, container.node.node_id
            cluster.stopping[container] = now_s + cluster.settings.stop_repeat_s
            cluster.out.append(StopContainer(container_id, node_id, "it has not ended yet", 0.0))
        for function in list(cluster.live):
            self._expire_idle(function, now_s)
        self.rebalance(now_s)
        self._tend_pools(now_s)

    def _expire_idle(self, function: FunctionState, now_s: float) -> None:
        definition = function.definition
        if not (function.containers or function.queued or function.delayed or function.running or definition.min_containers):
            del self._cluster.live[function]
            return
        # A buffer is for a function in use: the idle ones beyond min_containers end when nothing has come for a window.
        surplus = len(function.ready) - definition.min_containers
        for container in list(function.idle):
            if surplus <= 0 or container.idle_since_s + definition.scaledown_window_s > now_s:
                break
            self._dispatcher.stop(container, "idle", now_s)
            surplus -= 1
        for container in function.idle:
            if container.valued_uses != container.uses:
                container.valued_uses = container.uses
                container.value = keep_value(container, self._cluster.evict_clock)

    def _tend_pools(self, now_s: float) -> None:
        cluster, settings = self._cluster, self._cluster.settings
        for pool in list(cluster.pools.values()):
            if pool.like.removed:
                other = next((f for f in cluster.functions.values() if f.definition.pool_key == pool.key), None)
                pool.like = other if other is not None else pool.like
            if pool.like.removed or pool.last_used_s + settings.pool_idle_s <= now_s:
                for container in list(pool.containers.values()):
                    self._dispatcher.stop(container, "its pool is not in use", now_s)
                del cluster.pools[pool.key]
                continue
            waiting = any(f.queued and not f.ready for f in cluster.live)
            while len(pool.containers) < settings.pool_size and now_s >= pool.retry_at_s and not waiting:
                placement = place(cluster.nodes.values(), pool.like.definition, spread_above_milli=settings.spread_above_milli)
                if placement is None or placement.gpu_indices:
                    break
                self._start(pool.like, placement, now_s, pool)


def backoff_s(failures: int) -> float:
    """Wait after this many failed starts in a row."""
    return min(_BACKOFF_FIRST_S * 2 ** min(failures - 1, 10), _BACKOFF_MAX_S)
