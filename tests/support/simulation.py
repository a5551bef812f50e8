"""A whole cluster in virtual time around the real scheduling core: nodes, workers, clients and links that misbehave.

Links are streams: what is sent arrives once, in order, after some delay; a broken one is silent until it is attached again
and the rest arrives. Different streams overtake each other. Everything random comes from the seed; a schedule is one life
of a cluster: trouble for a while, then healing, then the end of all apps.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from hotbed_proto import frames
from hotbed_proto.resources import GpuDevice, GpuRequest, NodeInventory, Resources
from hotbed_scheduler import actions as ac
from hotbed_scheduler import events as ev
from hotbed_scheduler.core import Core, CoreSettings

LEASE_S = 3.0
POISON = 7
"""In functions that have poison, the input with this index kills its container each time."""


class Link:
    """One direction of a stream."""

    def __init__(self, sim: Simulation) -> None:
        self.sim = sim
        self.free_s = 0.0

    def send(self, deliver: Callable[[], object]) -> None:
        self.free_s = max(self.free_s, self.sim.now_s + self.sim.delay())
        self.sim.at(self.free_s, deliver)

    def hold(self, until_s: float) -> None:
        """Nothing more arrives before this time; what is on its way already does."""
        self.free_s = max(self.free_s, until_s)


@dataclass
class Running:
    epoch: int
    lane_id: str
    index: int


class SimContainer:
    """A worker: takes dispatches, runs `slots` inputs at a time, reports in small frames."""

    def __init__(self, node: SimNode, container_id: str, function_id: str) -> None:
        self.node, self.container_id, self.function_id = node, container_id, function_id
        self.queue: list[Running] = []
        self.running: list[Running] = []
        self.outbox: dict[tuple[int, str], tuple[list[int], bytearray]] = {}
        self.gone = self.flushing = False

    def feed(self) -> None:
        sim = self.node.sim
        definition = sim.functions[self.function_id]
        while self.queue and len(self.running) < max(1, definition.max_concurrent_inputs) and not self.gone:
            item = self.queue.pop(0)
            self.running.append(item)
            sim.after(sim.cost(definition), lambda item=item: self.finish(item))

    def finish(self, item: Running) -> None:
        sim = self.node.sim
        if self.gone or item not in self.running:
            return
        poisoned = self.function_id in sim.poisoned and item.index == POISON
        if poisoned or (sim.troubled and sim.random.random() < 0.01):
            known = sim.random.random() < 0.7
            where = tuple((r.lane_id, r.index) for r in self.running) if known else ()
            self.exit(sim.random.choice(["crashed", "oom", "timeout"]), where)
            return
        self.running.remove(item)
        raised = sim.random.random() < 0.05
        self.output(item, frames.USER_EXCEPTION if raised else frames.OK)
        self.feed()

    def output(self, item: Running, status: int) -> None:
        indices, statuses = self.outbox.setdefault((item.epoch, item.lane_id), ([], bytearray()))
        indices.append(item.index)
        statuses.append(status | (frames.PAYLOAD_IS_REF if item.index % 5 == 0 else 0))
        if not self.flushing:
            self.flushing = True
            self.node.sim.after(0.002, self.flush)

    def flush(self) -> None:
        self.flushing = False
        if self.gone:
            return
        for (epoch, lane_id), (indices, statuses) in self.outbox.items():
            self.node.tell(ev.OutputsReceived(self.container_id, epoch, lane_id, indices, bytes(statuses), 0.01 * len(indices)))
        self.outbox.clear()

    def cancel(self, lane_id: str, indices: set[int], kill_after_s: float) -> None:
        dropped = [r for r in self.queue if r.lane_id == lane_id and r.index in indices]
        self.queue = [r for r in self.queue if r not in dropped]
        for item in dropped:
            self.output(item, frames.SYSTEM_ERROR)
        hit = [r for r in self.running if r.lane_id == lane_id and r.index in indices]
        stubborn = self.node.sim.random.random() < 0.3
        for item in hit:
            if stubborn:
                self.node.sim.after(kill_after_s, lambda item=item: item in self.running and self.exit("cancelled", ()))
            else:
                self.running.remove(item)
                self.output(item, frames.SYSTEM_ERROR)
        self.feed()

    def exit(self, reason: str, running: tuple[tuple[str, int], ...]) -> None:
        if self.gone:
            return
        self.flush()
        self.gone = True
        self.node.containers.pop(self.container_id, None)
        self.node.tell(ev.ContainerExited(self.container_id, reason, "", running))


class SimNode:
    """A node agent: containers, one stream up and one down, heartbeats, and a new incarnation after each loss."""

    def __init__(self, sim: Simulation, node_id: str, inventory: NodeInventory) -> None:
        self.sim, self.node_id, self.inventory = sim, node_id, inventory
        self.containers: dict[str, SimContainer] = {}
        self.up, self.down = Link(sim), Link(sim)
        self.epoch = 0
        self.alive = False

    def tell(self, event: ev.Event) -> None:
        epoch, generation = self.epoch, self.sim.generation
        self.up.send(lambda: self.sim.from_node(self, epoch, generation, event))

    def join(self) -> None:
        """Start anew: whatever ran is killed, and the control plane hears of a new epoch."""
        for container in self.containers.values():
            container.gone = True
        self.containers.clear()
        self.sim.epochs += 1
        self.epoch, self.alive = self.sim.epochs, True
        self.up, self.down = Link(self.sim), Link(self.sim)
        self.tell(ev.NodeJoined(self.node_id, self.epoch, self.node_id, self.inventory, ("container",)))
        self.beat(self.epoch)

    def beat(self, epoch: int) -> None:
        if self.alive and epoch == self.epoch:
            self.tell(ev.NodeHeartbeat(self.node_id, epoch))
            self.sim.after(LEASE_S / 3, lambda: self.beat(epoch))

    def crash(self) -> None:
        self.alive = False
        for container in self.containers.values():
            container.gone = True
        self.containers.clear()
        if self.sim.random.random() < 0.5:
            self.tell(ev.NodeLost(self.node_id, self.epoch, "the stream ended"))

    def carry_out(self, action: ac.Action) -> None:
        sim = self.sim
        if isinstance(action, ac.StartContainer):
            container = SimContainer(self, action.container_id, action.function_id)
            self.containers[action.container_id] = container
            sim.after(sim.random.uniform(0.01, 0.1), lambda: self.boot(container))
            return
        container = self.containers.get(action.container_id)  # type: ignore[union-attr]
        if container is None:
            return
        if isinstance(action, ac.AssignFunction):
            container.function_id = action.function_id
            sim.after(sim.random.uniform(0.001, 0.02), lambda: self.load(container))
        elif isinstance(action, ac.Dispatch):
            container.queue += [Running(action.epoch, action.lane_id, index) for index in action.indices]
            container.feed()
        elif isinstance(action, ac.CancelOnContainer):
            container.cancel(action.lane_id, set(action.indices), action.kill_after_s)
        elif isinstance(action, ac.StopContainer):
            sim.after(sim.random.uniform(0, 0.1), lambda: container.exit("stopped", ()))

    def boot(self, container: SimContainer) -> None:
        if container.gone:
            return
        if self.sim.troubled and self.sim.random.random() < 0.05:
            self.fail(container, "container-failed", user_error=False)
            return
        self.tell(ev.ContainerBooted(container.container_id))
        if container.function_id:
            self.sim.after(0.01, lambda: self.load(container))

    def load(self, container: SimContainer) -> None:
        if container.gone:
            return
        if container.function_id in self.sim.broken:
            self.fail(container, "container-failed", user_error=True)
        elif not (self.sim.troubled and self.sim.random.random() < 0.02):  # otherwise it hangs: startup timeout
            self.tell(ev.ContainerReady(container.container_id))

    def fail(self, container: SimContainer, code: str, *, user_error: bool) -> None:
        container.gone = True
        self.containers.pop(container.container_id, None)
        self.tell(ev.ContainerFailed(container.container_id, code, "it failed", user_error))


@dataclass
class SimLane:
    """What the user and the store know of a lane."""

    lane_id: str
    function_id: str
    durable: bool
    priority: int
    submitted: int = 0
    cancelled: bool = False
    forgotten: bool = False
    results: dict[int, str] = field(default_factory=dict)

    def open_inputs(self) -> list[int]:
        return [index for index in range(self.submitted) if index not in self.results]


class Simulation:
    """One schedule. `run()` raises AssertionError where a promise is broken; `journal` holds what happened."""

    def __init__(self, seed: int, scale: int = 1) -> None:
        self.random = random.Random(seed)
        self.seed, self.scale = seed, scale
        self.now_s = self.clock_offset_s = 0.0
        self.troubled = True
        self.generation = self.epochs = self.sequence = 0
        self.heap: list[tuple[float, int, Callable[[], object]]] = []
        self.journal: list[tuple[float, ev.Event]] = []
        self.actions: list[list[ac.Action]] = []
        self.functions: dict[str, ev.FunctionDef] = {}
        self.broken: set[str] = set()
        self.poisoned: set[str] = set()
        self.lanes: dict[str, SimLane] = {}
        self.attached: dict[str, int] = {}
        self.stopped = False
        self.client_up = Link(self)
        self.settings = CoreSettings()
        self.core = Core(self.settings)
        self.nodes = [SimNode(self, f"no-{n}", self._inventory(n)) for n in range(self.random.randint(1, 2 + scale))]
        self._define()

    def _inventory(self, number: int) -> NodeInventory:
        gpus = ()
        if number % 2:
            gpus = tuple(GpuDevice(i, f"gpu-{number}-{i}", "A100-80GB", 80 << 30) for i in range(2))
        return NodeInventory(self.random.choice([2000, 3000, 4000]), 4 << 30, 10 << 30, gpus)

    def _define(self) -> None:
        pick = self.random
        for number in range(pick.randint(2, 4)):
            gpus = (GpuRequest("A100", 1, pick.choice([300, 1000])),) if number == 3 else ()
            function_id = f"fu-{number}"
            self.functions[function_id] = ev.FunctionDef(
                function_id,
                f"ap-{number % 2}",
                f"f{number}",
                Resources(pick.choice([250, 500, 1000]), pick.choice([256, 1024]) << 20, 0, gpus),
                ev.Retry(pick.choice([0, 1, 3]), 0.1, 2.0, 1.0),
                pool_key=pick.choice(["", "k"]),
                # What is kept ready for one function must leave room for any other on each node.
                min_containers=pick.choice([0, 1]) if number == 0 else 0,
                max_containers=pick.choice([0, 0, 1, 3]),
                scaledown_window_s=pick.choice([0.5, 2.0]),
                max_concurrent_inputs=pick.choice([1, 1, 1, 4]),
                single_use=pick.random() < 0.1,
                startup_timeout_s=2.0,
                fail_if_unplaceable=bool(gpus),
            )
            if pick.random() < 0.3:
                self.poisoned.add(function_id)
        if pick.random() < 0.1:
            self.broken.add("fu-1")

    # --- time and chance --------------------------------------------------------------------------------------------
    def at(self, when_s: float, what: Callable[[], object]) -> None:
        self.sequence += 1
        heapq.heappush(self.heap, (when_s, self.sequence, what))

    def after(self, delay_s: float, what: Callable[[], object]) -> None:
        self.at(self.now_s + delay_s, what)

    def delay(self) -> float:
        """Of one message; now and then a stream is lost and attached again much later."""
        if self.troubled and self.random.random() < 0.01:
            return self.random.uniform(0.2, 1.6 * LEASE_S)
        return self.random.uniform(0.0001, 0.02)

    def cost(self, definition: ev.FunctionDef) -> float:
        return self.random.uniform(0.0, 0.01) if definition.function_id == "fu-0" else self.random.uniform(0.01, 0.2)

    # --- the control plane's shell ------------------------------------------------------------------------------------
    def handle(self, event: ev.Event) -> None:
        at_s = self.now_s + self.clock_offset_s
        self.journal.append((at_s, event))
        if isinstance(event, ev.NodeJoined):
            self.attached[event.node_id] = event.epoch
        actions = self.core.handle(event, at_s)
        self.actions.append(actions)
        self.core.check()
        for action in actions:
            self.carry_out(event, action)

    def carry_out(self, event: ev.Event, action: ac.Action) -> None:
        if isinstance(action, ac.Accept):
            assert isinstance(event, ev.OutputsReceived)
            positions = range(len(event.indices)) if action.positions is None else action.positions
            for position in positions:
                if event.statuses[position] & frames.STATUS_MASK in frames.FINAL_STATUSES:
                    self.result(action.lane_id, event.indices[position], "accepted")
        elif isinstance(action, ac.Fail):
            for index in action.indices:
                self.result(action.lane_id, index, action.code)
        elif not isinstance(action, ac.ReportPlacement):
            node = next(n for n in self.nodes if n.node_id == action.node_id)
            epoch = self.attached[node.node_id]  # the stream of the incarnation that the core knows
            node.down.send(lambda: node.alive and node.epoch == epoch and node.carry_out(action))

    def result(self, lane_id: str, index: int, outcome: str) -> None:
        lane = self.lanes[lane_id]
        assert not lane.forgotten, f"a result for the forgotten lane {lane_id}"
        assert index not in lane.results, f"second result {outcome} for {lane_id}[{index}], had {lane.results[index]}"
        lane.results[index] = outcome

    def from_node(self, node: SimNode, epoch: int, generation: int, event: ev.Event) -> None:
        if isinstance(event, ev.NodeHeartbeat) and generation == self.generation and node.alive and epoch == node.epoch:
            known = any(view.node_id == node.node_id for view in self.core.node_views())
            if not known:  # its lease ran out meanwhile: it has to start anew
                node.join()
                return
        self.handle(event)

    def restart_control_plane(self) -> None:
        """A new core: functions and durable inputs from the store, the rest from the clients; nodes attach as new ones."""
        self.generation += 1
        self.settings = CoreSettings(
            id_prefix=f"g{self.generation}x", epoch_base=self.generation << 40, lease_s=LEASE_S, pool_idle_s=3.0
        )
        self.core = Core(self.settings, self.generation)
        self.journal.clear()
        self.actions.clear()
        for definition in self.functions.values():
            if not self.stopped:
                self.handle(ev.FunctionRegistered(definition))
        for lane in self.lanes.values():
            if not lane.forgotten:
                self.resubmit(lane, from_store=lane.durable)
        for node in self.nodes:
            if node.alive:
                self.after(self.random.uniform(0, 0.5), node.join)
        self.after(0.1, lambda generation=self.generation: self.tick(generation))

    def tick(self, generation: int) -> None:
        if generation == self.generation:
            self.handle(ev.Tick())
            self.after(0.2, lambda: self.tick(generation))

    def resubmit(self, lane: SimLane, *, from_store: bool) -> None:
        """Unanswered inputs again, in runs; an index the core has is ignored."""
        left = lane.open_inputs()
        while left:
            count = next((n for n in range(1, len(left)) if left[n] != left[0] + n), len(left))
            event = ev.InputsSubmitted(lane.lane_id, lane.function_id, left[0], count, lane.durable, "cl-1", lane.priority)
            left = left[count:]
            if from_store:
                self.handle(event)
            else:
                self.to_core(lane, event)

    def to_core(self, lane: SimLane, event: ev.Event) -> None:
        """From the client. What a dead server was sent is lost; its successor was offered everything unanswered."""
        generation = self.generation

        def deliver() -> None:
            if isinstance(event, ev.InputsSubmitted) and (lane.forgotten or generation != self.generation):
                return
            self.handle(event)

        self.client_up.send(deliver)

    # --- the users ----------------------------------------------------------------------------------------------------
    def submit(self, lane: SimLane) -> None:
        if lane.cancelled or lane.forgotten:
            return
        count = self.random.choice([1, 1, 5, 20 * self.scale])
        first, lane.submitted = lane.submitted, lane.submitted + count
        self.to_core(
            lane, ev.InputsSubmitted(lane.lane_id, lane.function_id, first, count, lane.durable, "cl-1", lane.priority)
        )

    def cancel(self, lane: SimLane) -> None:
        whole = self.random.random() < 0.5
        if not lane.submitted or lane.forgotten:
            return
        lane.cancelled |= whole
        some = tuple(sorted(self.random.sample(range(lane.submitted), min(3, lane.submitted))))
        terminate = self.random.random() < 0.2
        self.to_core(lane, ev.InputsCancelled(lane.lane_id, None if whole else some, terminate))

    def forget(self, lane: SimLane) -> None:
        if not lane.durable:
            lane.forgotten = True
            self.handle(ev.LaneForgotten(lane.lane_id))

    # --- a life -------------------------------------------------------------------------------------------------------
    def plan_trouble(self, until_s: float) -> None:
        pick = self.random
        for number in range(pick.randint(1, 3 + 2 * self.scale)):
            lane = SimLane(f"fc-{number}", pick.choice(list(self.functions)), pick.random() < 0.5, pick.choice([0, 0, 0, 1]))
            self.lanes[lane.lane_id] = lane
            for _ in range(pick.randint(1, 3)):
                self.at(pick.uniform(0, until_s), lambda lane=lane: self.submit(lane))
            if pick.random() < 0.2:
                self.at(pick.uniform(0, until_s), lambda lane=lane: self.cancel(lane))
            if pick.random() < 0.05:
                self.at(pick.uniform(0, until_s), lambda lane=lane: self.forget(lane))
            if pick.random() < 0.3:  # the client lost its stream and sends again
                self.at(pick.uniform(0, until_s), lambda lane=lane: self.resubmit(lane, from_store=False))
        for node in self.nodes:
            if pick.random() < 0.3:
                crash_s = pick.uniform(0.5, until_s)
                self.at(crash_s, node.crash)
                self.at(crash_s + pick.uniform(0.1, 2 * LEASE_S), node.join)
            if pick.random() < 0.2:
                self.at(pick.uniform(0.5, until_s), lambda node=node: self.handle(ev.NodeDrain(node.node_id)))
            if pick.random() < 0.2:
                hold = pick.uniform(0.5, 2 * LEASE_S)
                self.at(pick.uniform(0.5, until_s), lambda node=node, hold=hold: node.up.hold(self.now_s + hold))
        for _ in range(pick.choice([0, 0, 0, 1, 2])):
            self.at(pick.uniform(0.5, until_s), self.restart_control_plane)
        for _ in range(pick.choice([0, 0, 1])):
            jump_s = pick.choice([-30.0, 2.0, 100.0])
            self.at(pick.uniform(0.5, until_s), lambda jump_s=jump_s: self.jump(jump_s))

    def jump(self, jump_s: float) -> None:
        self.clock_offset_s += jump_s

    def advance(self, until: Callable[[], bool], limit_s: float, promise: str) -> None:
        while not until():
            assert self.heap and self.heap[0][0] <= limit_s, f"{promise} not within {limit_s:g} s"
            self.now_s, _, what = heapq.heappop(self.heap)
            what()

    def finished(self) -> bool:
        return all(lane.forgotten or len(lane.results) == lane.submitted for lane in self.lanes.values())

    def run(self) -> None:
        until_s = 3.0 * self.scale
        self.restart_control_plane()
        for node in self.nodes:
            self.at(self.random.uniform(0, 0.5), node.join)
        self.plan_trouble(until_s)
        self.advance(lambda: self.now_s >= until_s + 2 * LEASE_S + 0.5, 10_000.0, "trouble ends")
        # Healed: no more losses; drained nodes come back as new ones; the clock runs on from where it stood at most.
        self.troubled = False
        self.clock_offset_s = max(self.clock_offset_s, self.core._now_s - self.now_s)
        for node in self.nodes:
            node.join()
        self.advance(self.finished, self.now_s + 300.0 * self.scale, f"all inputs finished ({self.open_lanes()})")
        self.stopped = True
        for app_id in ("ap-0", "ap-1"):
            self.handle(ev.AppStopped(app_id))
        self.advance(self.empty, self.now_s + 60.0, "all containers gone")
        assert self.finished()

    def open_lanes(self) -> str:
        return ", ".join(f"{lane.lane_id} of {lane.function_id}" for lane in self.lanes.values() if lane.open_inputs())

    def empty(self) -> bool:
        return not any(node.containers for node in self.nodes) and not any(v.containers for v in self.core.node_views())
