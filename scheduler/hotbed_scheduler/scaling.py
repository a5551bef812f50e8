"""Containers come and go: how many each function should have, where they start, which idle ones end. Not on the hot path."""

from __future__ import annotations

import heapq

from hotbed_proto.states import ContainerState
from hotbed_scheduler.actions import AssignFunction, StartContainer
from hotbed_scheduler.autoscale import desired_containers, keep_value
from hotbed_scheduler.cluster import Cluster
from hotbed_scheduler.dispatching import Dispatcher
from hotbed_scheduler.fairness import claim, may_displace
from hotbed_scheduler.feasibility import Free, rejections, shortage, unfit
from hotbed_scheduler.placement import place
from hotbed_scheduler.state import Container, FunctionState, Node, Pool, Reservation

_STARTS_MAX = 64
"""Containers one function may ask for in one go: starting hundreds at once starves the ones that are nearly ready."""
_RESCALE_S = 0.05


class Scaler:
    """Starts, specialises, evicts and retires containers."""

    def __init__(self, cluster: Cluster, dispatcher: Dispatcher) -> None:
        self._cluster = cluster
        self._dispatcher = dispatcher

    # --- up ---------------------------------------------------------------------------------------------------------

    def scale(self, function: FunctionState, now_s: float) -> None:
        """Start what is missing of one function, as far as there is room."""
        self._scale_all([function], now_s)

    def _scale_all(self, functions: list[FunctionState], now_s: float) -> None:
        """One container at a time to whoever has the smallest claim, until all have what they want or there is no room."""
        cluster = self._cluster
        cores = cluster.cores()
        heap: list[tuple[tuple[int, int, int], FunctionState, int]] = []
        for function in functions:
            if function.removed or now_s < function.retry_at_s:
                continue
            missing = desired_containers(function, now_s, cores, cluster.settings) - function.supply
            if function.definition.max_containers:
                # Those that are ending still run inputs: the limit holds for them too.
                missing = min(missing, function.definition.max_containers - len(function.containers))
            function.next_scale_s = now_s + _RESCALE_S
            if missing > 0:
                heap.append((self._claim(function), function, min(missing, _STARTS_MAX)))
            elif not function.queued:
                cluster.report(function, "")
        heapq.heapify(heap)
        while heap:
            _, function, missing = heapq.heappop(heap)
            if not (self._take_pooled(function, now_s) or self._start(function, now_s)):
                self._cannot(function, now_s)
            elif missing > 1:
                heapq.heappush(heap, (self._claim(function), function, missing - 1))
            else:
                cluster.report(function, "")

    def _claim(self, function: FunctionState) -> tuple[int, int, int]:
        held = self._cluster.app_containers.get(function.definition.app_id, 0)
        return claim(held, len(function.containers), function.order)

    def _start(self, function: FunctionState, now_s: float) -> bool:
        cluster, definition = self._cluster, function.definition
        avoid = {node_id for node_id, until_s in function.avoid.items() if until_s > now_s}
        warm = {container.node.node_id for container in function.containers.values()}
        spot = place(
            cluster.nodes.values(),
            definition,
            spread_above_milli=cluster.settings.spread_above_milli,
            avoid=avoid,
            warm=warm,
        )
        if spot is None:
            return False
        amount = Reservation.of(definition.resources, spot.gpu_indices, spot.gpu_milli_share)
        container = Container(cluster.next_container_id(), spot.node, function, definition.pool_key, amount, now_s)
        container.deadline_s = now_s + definition.startup_timeout_s
        cluster.attach(container)
        cluster.out.append(
            StartContainer(
                container.container_id,
                spot.node.node_id,
                definition.function_id,
                definition.pool_key,
                definition.function_id,
                spot.gpu_indices,
                spot.gpu_milli_share,
            )
        )
        if definition.pool_key and not definition.resources.gpus:
            self._use_pool(function, now_s)
        return True

    def _cannot(self, function: FunctionState, now_s: float) -> None:
        """No room: ask idle containers of others to leave; say why nothing starts."""
        cluster = self._cluster
        found = rejections(cluster.nodes.values(), function.definition)
        if not found.never and self._make_room(function, now_s):
            return
        if function.supply:
            cluster.report(function, "")
            return
        reason = str(found)
        cluster.report(function, reason)
        if found.never and function.definition.fail_if_unplaceable:
            cluster.fail_queued(
                function,
                "call-unplaceable",
                f"no node can hold a container of {function.definition.name}",
                reason,
                "ask for less, add a node that has it, or let calls wait with unplaceable='queue'",
            )

    # --- pools ------------------------------------------------------------------------------------------------------

    def _take_pooled(self, function: FunctionState, now_s: float) -> bool:
        cluster, definition = self._cluster, function.definition
        if not definition.pool_key or definition.resources.gpus:
            return False
        pool = self._use_pool(function, now_s)
        for container in list(pool.containers.values()):
            node = container.node
            if container.state is not ContainerState.POOLED or node.state != "joined" or unfit(node, definition):
                continue
            free = Free.now(node)
            free.add(container.reservation)
            if shortage(node, definition, None, free):
                continue
            del pool.containers[container.container_id]
            node.release(container.reservation)
            container.reservation = Reservation.of(definition.resources)
            node.reserve(container.reservation)
            container.started_s = now_s
            container.deadline_s = now_s + definition.startup_timeout_s
            container.to(ContainerState.LOADING)
            cluster.adopt(container, function)
            cluster.starting[container] = None
            cluster.out.append(AssignFunction(container.container_id, node.node_id, definition.function_id))
            return True
        return False

    def _use_pool(self, function: FunctionState, now_s: float) -> Pool:
        key = function.definition.pool_key
        pool = self._cluster.pools.get(key)
        if pool is None:
            pool = self._cluster.pools[key] = Pool(key, function, now_s)
        pool.like, pool.last_used_s = function, now_s
        return pool

    def tend_pools(self, now_s: float) -> None:
        """Fill pools that are in use, drop those that are not. Nothing is started while some function waits for room."""
        cluster = self._cluster
        crowded = any(function.reported for function in cluster.live)
        for pool in list(cluster.pools.values()):
            if now_s - pool.last_used_s > cluster.settings.pool_idle_s:
                for container in list(pool.containers.values()):
                    self._dispatcher.stop(container, "the pool is not used any more", now_s)
                del cluster.pools[pool.key]
                continue
            if crowded or now_s < pool.retry_at_s:
                continue
            busy = any(f.queued or cluster_starting(f) for f in cluster.live if f.definition.pool_key == pool.key)
            while not busy and len(pool.containers) < cluster.settings.pool_size:
                spot = place(cluster.nodes.values(), pool.like.definition)
                if spot is None:
                    break
                definition = pool.like.definition
                container = Container(
                    cluster.next_container_id(), spot.node, None, pool.key, Reservation.of(definition.resources), now_s
                )
                container.deadline_s = now_s + definition.startup_timeout_s
                cluster.attach(container)
                pool.containers[container.container_id] = container
                cluster.out.append(
                    StartContainer(container.container_id, spot.node.node_id, "", pool.key, definition.function_id)
                )

    # --- down -------------------------------------------------------------------------------------------------------

    def retire(self, function: FunctionState, now_s: float) -> None:
        """Stop containers that have been idle for the scaledown window, down to what is wanted."""
        definition = function.definition
        spare = function.supply - desired_containers(function, now_s, self._cluster.cores(), self._cluster.settings)
        for container in list(function.idle):
            if spare <= 0 or now_s - container.idle_since_s < definition.scaledown_window_s:
                return
            self._dispatcher.stop(container, "idle", now_s)
            spare -= 1

    def _make_room(self, function: FunctionState, now_s: float) -> bool:
        """Stop the idle containers of least worth until one of the function fits; else ask a busy one to finish and leave.

        True when room is on its way.
        """
        cluster, definition = self._cluster, function.definition
        requests = definition.resources.gpus or (None,)
        best: tuple[float, list[Container]] | None = None
        for node in cluster.nodes.values():
            if node.state != "joined" or unfit(node, definition):
                continue
            free = Free.now(node)
            for container in node.containers.values():
                if container.state is ContainerState.STOPPING or container.yielding:
                    free.add(container.reservation)
            if any(not shortage(node, definition, request, free) for request in requests):
                return True  # enough is leaving already
            victims: list[Container] = []
            for container in sorted(
                self._evictable(node, function), key=lambda c: (keep_value(c, cluster.evict_clock), c.started_s)
            ):
                free.add(container.reservation)
                victims.append(container)
                if any(not shortage(node, definition, request, free) for request in requests):
                    worth = sum(keep_value(victim, 0.0) for victim in victims)
                    if best is None or worth < best[0]:
                        best = (worth, victims)
                    break
        if best is None:
            return self._ask_to_yield(function, now_s)
        for container in best[1]:
            cluster.evict_clock = max(cluster.evict_clock, keep_value(container, cluster.evict_clock))
            self._dispatcher.stop(container, "its place is needed elsewhere", now_s)
        return True

    def _evictable(self, node: Node, claimant: FunctionState) -> list[Container]:
        found = []
        for container in node.containers.values():
            owner = container.function
            if container.state is ContainerState.POOLED or (
                container.state is ContainerState.READY
                and owner is not None
                and owner is not claimant
                and not container.inflight
                and not owner.queued
                and owner.supply > owner.definition.min_containers
            ):
                found.append(container)
        return found

    def _ask_to_yield(self, function: FunctionState, now_s: float) -> bool:
        cluster, definition = self._cluster, function.definition
        mine = cluster.app_containers.get(definition.app_id, 0)
        candidates: list[tuple[int, int, float, Container]] = []
        for node in cluster.nodes.values():
            if node.state != "joined" or unfit(node, definition):
                continue
            for container in node.containers.values():
                owner = container.function
                if owner is None or owner is function or container.state is not ContainerState.READY or container.yielding:
                    continue
                if now_s - container.ready_since_s < cluster.settings.yield_after_s:
                    continue
                if owner.supply <= owner.definition.min_containers:
                    continue
                theirs = cluster.app_containers.get(owner.definition.app_id, 0)
                same_app = owner.definition.app_id == definition.app_id
                if not may_displace(
                    len(function.containers) if same_app else mine, len(owner.containers) if same_app else theirs
                ):
                    continue
                free = Free.now(node)
                free.add(container.reservation)
                if any(not shortage(node, definition, request, free) for request in definition.resources.gpus or (None,)):
                    candidates.append((-theirs, -len(owner.containers), container.ready_since_s, container))
        if not candidates:
            return False
        self._dispatcher.retire(min(candidates, key=lambda c: c[:3])[3], "its place is needed elsewhere", now_s)
        return True

    def rescale_live(self, now_s: float) -> None:
        """Once a tick: functions that wait, in the order of their claims; idle containers retire; what is quiet is let go."""
        cluster = self._cluster
        self._scale_all(list(cluster.live), now_s)
        for function in cluster.live:
            if function.idle:
                self.retire(function, now_s)
        for function in list(cluster.live):
            quiet = not (function.queued or function.running or function.delayed or function.containers)
            if quiet and (function.removed or not function.definition.min_containers):
                del cluster.live[function]


def cluster_starting(function: FunctionState) -> bool:
    """Whether containers of the function are on their way."""
    return any(c.state in (ContainerState.STARTING, ContainerState.LOADING) for c in function.containers.values())
