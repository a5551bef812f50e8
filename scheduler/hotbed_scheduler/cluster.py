"""The one state all parts of the core share, and the moves every part needs: counting a container in or out, failing inputs."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from itertools import count

from hotbed_proto.resources import GPU_WHOLE
from hotbed_scheduler.actions import Action, Fail, ReportPlacement
from hotbed_scheduler.lanes import DispatchRecord, Lane
from hotbed_scheduler.state import Container, CoreSettings, FunctionState, Node, Pool


class Cluster:
    """Nodes, functions, lanes, containers, dispatches, and the actions of the event being handled (`out`)."""

    def __init__(self, settings: CoreSettings) -> None:
        self.settings = settings
        self.out: list[Action] = []
        self.nodes: dict[str, Node] = {}
        self.functions: dict[str, FunctionState] = {}
        self.live: dict[FunctionState, None] = {}
        """Functions with containers, work or a minimum: those a Tick looks at."""
        self.lanes: dict[str, Lane] = {}
        self.containers: dict[str, Container] = {}
        self.records: dict[int, DispatchRecord] = {}
        self.pools: dict[str, Pool] = {}
        self.app_containers: dict[str, int] = {}
        self.starting: dict[Container, None] = {}
        self.stopping: dict[Container, float] = {}
        """Containers told to stop, and when to tell them again."""
        self.delayed: list[tuple[float, int, Lane, int]] = []
        self.evict_clock = 0.0
        self._orders = count()
        self._tickets = count(1)
        self._container_numbers = count(1)
        self._epochs = count(settings.epoch_base + 1)

    def next_order(self) -> int:
        """Position of a new node or function in first-come order."""
        return next(self._orders)

    def next_epoch(self) -> int:
        """A dispatch epoch never given before."""
        return next(self._epochs)

    def next_container_id(self) -> str:
        """An id never given before, as long as `id_prefix` is this server start's own."""
        return f"co-{self.settings.id_prefix}{next(self._container_numbers):08d}"

    def cores(self) -> int:
        """Cores of the nodes that take new containers, at least 1."""
        return max(1, sum(node.inventory.milli_cpu for node in self.nodes.values() if node.state == "joined") // 1000)

    def attach(self, container: Container) -> None:
        """A container begins to count."""
        container.node.reserve(container.reservation)
        container.node.containers[container.container_id] = container
        self.containers[container.container_id] = container
        self.starting[container] = None
        if container.function is not None:
            self.adopt(container, container.function)

    def adopt(self, container: Container, function: FunctionState) -> None:
        """A container begins to count for a function."""
        container.function = function
        function.containers[container.container_id] = container
        app_id = function.definition.app_id
        self.app_containers[app_id] = self.app_containers.get(app_id, 0) + 1
        self.live[function] = None

    def withdraw(self, container: Container) -> None:
        """No more inputs for it: out of all the sets dispatching looks at."""
        self.starting.pop(container, None)
        function = container.function
        if function is None:
            pool = self.pools.get(container.pool_key)
            if pool is not None:
                pool.containers.pop(container.container_id, None)
            return
        function.ready.pop(container, None)
        function.idle.pop(container, None)
        function.open.pop(container, None)

    def detach(self, container: Container) -> None:
        """A container is gone; its dispatches must have been settled before."""
        assert not container.records, "settle dispatches first"
        self.withdraw(container)
        self.stopping.pop(container, None)
        container.node.release(container.reservation)
        del container.node.containers[container.container_id]
        del self.containers[container.container_id]
        function = container.function
        if function is not None:
            del function.containers[container.container_id]
            app_id = function.definition.app_id
            self.app_containers[app_id] -= 1
            if not self.app_containers[app_id]:
                del self.app_containers[app_id]

    def finish(self, lane: Lane, indices: Sequence[int]) -> None:
        """These inputs (already out of queue and dispatch) are done."""
        lane.done += len(indices)
        if lane.attempts or lane.free_requeues:
            lane.forget_exceptions(indices)

    def fail(self, lane: Lane, indices: Sequence[int], code: str, message: str, why: str = "", fix: str = "") -> None:
        """End these inputs, already out of queue and dispatch, with an error."""
        if not indices:
            return
        self.finish(lane, indices)
        if not lane.forgotten:
            self.out.append(Fail(lane.lane_id, indices, code, message, why, fix))

    def drop_queued(self, lane: Lane, wanted: set[int] | None = None) -> list[int]:
        """Take queued and delayed inputs (None: all) out of a lane, with the function's counts; ascending."""
        queued, delayed = lane.queued, len(lane.delayed)
        dropped = lane.drop_queued(wanted)
        lane.function.queued -= queued - lane.queued
        lane.function.delayed -= delayed - len(lane.delayed)
        dropped.sort()
        return dropped

    def fail_queued(self, function: FunctionState, code: str, message: str, why: str = "", fix: str = "") -> None:
        """End everything of a function that is not at a container."""
        for lane in list(function.lanes.values()):
            if lane.queued or lane.delayed:
                self.fail(lane, self.drop_queued(lane), code, message, why, fix)

    def requeue(self, lane: Lane, indices: Iterable[int], *, solo: bool = False) -> None:
        """Queue inputs again, before the others; solo: one at a time in a container of their own."""
        ascending = sorted(indices)
        if not ascending:
            return
        function = lane.function
        function.queued += len(ascending)
        if solo:
            lane.solo.update(ascending)
            lane.queued += len(ascending)
            function.solo.extend((lane, index) for index in ascending)
        else:
            lane.requeue(ascending)
            function.queue.wake(lane)
        self.live[function] = None

    def delay(self, lane: Lane, index: int, due_s: float) -> None:
        """Queue an input again at `due_s`."""
        ticket = next(self._tickets)
        lane.delayed[index] = ticket
        lane.function.delayed += 1
        heapq.heappush(self.delayed, (due_s, ticket, lane, index))

    def release_due(self, now_s: float) -> list[FunctionState]:
        """Queue the delayed inputs that are due; the functions that got some."""
        touched: dict[FunctionState, None] = {}
        while self.delayed and self.delayed[0][0] <= now_s:
            _, ticket, lane, index = heapq.heappop(self.delayed)
            if lane.delayed.get(index) == ticket:
                del lane.delayed[index]
                lane.function.delayed -= 1
                self.requeue(lane, [index])
                touched[lane.function] = None
        return list(touched)

    def report(self, function: FunctionState, reason: str) -> None:
        """Tell whether containers of a function can be placed, when that changed."""
        if function.reported != reason:
            function.reported = reason
            self.out.append(ReportPlacement(function.definition.function_id, reason))

    def check(self) -> None:
        """Assert every invariant of the state. Cost: all of it; for tests and debugging."""
        for node in self.nodes.values():
            cpu, memory, disk = node.inventory.milli_cpu, node.inventory.memory_bytes, node.inventory.disk_bytes
            gpu = {device.index: GPU_WHOLE for device in node.inventory.gpus}
            for container in node.containers.values():
                assert self.containers[container.container_id] is container and container.node is node
                cpu -= container.reservation.milli_cpu
                memory -= container.reservation.memory_bytes
                disk -= container.reservation.disk_bytes
                for index in container.reservation.gpu_indices:
                    gpu[index] -= container.reservation.gpu_milli_share
            assert (cpu, memory, disk, gpu) == (node.free_cpu, node.free_memory, node.free_disk, node.free_gpu), node.node_id
            assert min(cpu, memory, disk, *gpu.values()) >= 0, f"{node.node_id} over-committed"
        for container in self.containers.values():
            self._check_container(container)
        for lane in self.lanes.values():
            self._check_lane(lane)
        for function in self.functions.values():
            lanes = function.lanes.values()
            assert function.queued == sum(lane.queued for lane in lanes), function.definition.name
            assert function.delayed == sum(len(lane.delayed) for lane in lanes)
            assert function.running == sum(lane.dispatched for lane in lanes)
            assert all(lane.active for lane in lanes if lane.runs), "a lane with queued runs is not in the queue"
            for lane in lanes:
                assert all((lane, index) in function.solo for index in lane.solo)
        assert self.records.keys() == {epoch for c in self.containers.values() for epoch in c.records}

    def _check_container(self, container: Container) -> None:
        name, state = container.container_id, container.state
        assert self.nodes.get(container.node.node_id) is container.node, f"{name} is on a lost node"
        assert container.inflight == sum(r.outstanding() + len(r.ghosts) for r in container.records.values()), name
        function = container.function
        if function is None:
            assert not container.inflight
            return
        assert function.containers[name] is container
        serving = state == "ready"
        takes = serving and not container.yielding
        assert (container in function.ready) == takes, f"{name} {state} in ready"
        assert (container in function.idle) == (takes and container.inflight == 0), f"{name} {state} idle"
        if container in function.open:
            assert takes and container.inflight > 0 and not container.solo, name

    def _check_lane(self, lane: Lane) -> None:
        seen = 0
        inputs: set[int] = set()
        groups: list[Iterable[int]] = [range(*run) for run in lane.runs]
        groups += [lane.solo, lane.delayed, *(record.indices() for record in lane.records.values())]
        for group in groups:
            here = set(group)
            assert not inputs & here, f"{lane.lane_id}: an input is in two places"
            inputs |= here
            seen += len(here)
        assert lane.queued == sum(run[1] - run[0] for run in lane.runs) + len(lane.solo), lane.lane_id
        assert lane.dispatched == sum(record.outstanding() for record in lane.records.values()), lane.lane_id
        assert seen + lane.done == lane.known_count, f"{lane.lane_id}: {seen} + {lane.done} done != {lane.known_count}"
        assert lane.attempts.keys() | lane.free_requeues.keys() <= inputs, "notes about finished inputs"
