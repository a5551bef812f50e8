"""What the core remembers of functions, containers and nodes. Plain records; the decisions are elsewhere."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from hotbed_proto.frames import GENERATOR_END, OK, PAYLOAD_IS_REF, SYSTEM_ERROR, USER_EXCEPTION
from hotbed_proto.resources import GPU_WHOLE, NodeInventory, Resources
from hotbed_proto.states import CONTAINER_MOVES, ContainerState, NodeState, move
from hotbed_scheduler.events import FunctionDef
from hotbed_scheduler.fairness import LaneQueue
from hotbed_scheduler.lanes import DispatchRecord, Lane


@dataclass(frozen=True, slots=True)
class CoreSettings:
    """Limits and times of the core, each with what happens there.

    Attributes:
        id_prefix: Starts every container id; unique to each start of the server, letters and digits only.
        epoch_base: Dispatch epochs count up from here; above every epoch of an earlier start of the server.
        lease_s: A node unheard of for this long is lost.
        pool_size: Generic containers kept booted for each pool key in use; 0 = none.
        pool_idle_s: A pool no function asked for this long is dropped.
        max_queued_per_function: Inputs above it fail with limit-reached.
        dispatch_window_s: A container of a fast function is given about this much work ahead.
        dispatch_items_max: Most inputs out at one container.
        free_requeues_max: Times an input may be requeued without paying before it fails with container-lost.
        failures_max: Starts that may fail in a row, nothing being ready, before queued inputs fail with container-failed.
        broken_retry_s: After a function could not be loaded, submissions fail at once for this long.
        cancel_kill_after_s: Time a worker has to stop working on a cancelled input before its container is killed.
        stop_grace_s: Between SIGTERM and SIGKILL.
        stop_repeat_s: A container told to stop that has not ended is told again after this long.
        yield_after_s: A busy container serves at least this long before another app may ask for its place.
        drain_target_s: Containers are added so that queued work would be done in about this long.
        spread_above_milli: From this cluster load (thousandths) on, the least loaded node is preferred to the fullest.
    """

    id_prefix: str = ""
    epoch_base: int = 0
    lease_s: float = 15.0
    pool_size: int = 1
    pool_idle_s: float = 300.0
    max_queued_per_function: int = 2_000_000
    dispatch_window_s: float = 0.02
    dispatch_items_max: int = 1024
    free_requeues_max: int = 8
    failures_max: int = 3
    broken_retry_s: float = 10.0
    cancel_kill_after_s: float = 5.0
    stop_grace_s: float = 5.0
    stop_repeat_s: float = 15.0
    yield_after_s: float = 1.0
    drain_target_s: float = 1.0
    spread_above_milli: int = 800


@dataclass(frozen=True, slots=True)
class Reservation:
    """What one container takes from its node, exactly."""

    milli_cpu: int = 0
    memory_bytes: int = 0
    disk_bytes: int = 0
    gpu_indices: tuple[int, ...] = ()
    gpu_milli_share: int = 0

    @staticmethod
    def of(resources: Resources, gpu_indices: tuple[int, ...] = (), gpu_milli_share: int = 0) -> Reservation:
        """The reservation for these requests on these devices."""
        return Reservation(resources.milli_cpu, resources.memory_bytes, resources.disk_bytes, gpu_indices, gpu_milli_share)


class Node:
    """A machine and what is left of it. Invariant: total - sum of its containers' reservations == free, all >= 0."""

    __slots__ = (
        "containers",
        "deadline_s",
        "epoch",
        "free_cpu",
        "free_disk",
        "free_gpu",
        "free_memory",
        "inventory",
        "isolations",
        "name",
        "node_id",
        "order",
        "python_version",
        "state",
    )

    def __init__(self, node_id: str, epoch: int, name: str, inventory: NodeInventory, isolations: tuple[str, ...], order: int):
        self.node_id = node_id
        self.epoch = epoch
        self.name = name
        self.inventory = inventory
        self.isolations = isolations
        self.order = order
        self.python_version = ""
        self.state = NodeState.JOINED
        self.deadline_s = 0.0
        self.containers: dict[str, Container] = {}
        self.free_cpu = inventory.milli_cpu
        self.free_memory = inventory.memory_bytes
        self.free_disk = inventory.disk_bytes
        self.free_gpu: dict[int, int] = {gpu.index: GPU_WHOLE for gpu in inventory.gpus}

    def reserve(self, amount: Reservation) -> None:
        """Take this much. AssertionError when it is not there: placement must have looked."""
        self.free_cpu -= amount.milli_cpu
        self.free_memory -= amount.memory_bytes
        self.free_disk -= amount.disk_bytes
        for index in amount.gpu_indices:
            self.free_gpu[index] -= amount.gpu_milli_share
            assert self.free_gpu[index] >= 0, f"GPU {index} of {self.node_id} over-committed"
        assert self.free_cpu >= 0 and self.free_memory >= 0 and self.free_disk >= 0, f"{self.node_id} over-committed"

    def release(self, amount: Reservation) -> None:
        """Give this much back."""
        self.free_cpu += amount.milli_cpu
        self.free_memory += amount.memory_bytes
        self.free_disk += amount.disk_bytes
        for index in amount.gpu_indices:
            self.free_gpu[index] += amount.gpu_milli_share


class Container:
    """One container, from being asked for until it is known to be gone. `function` None = generic, in a pool."""

    __slots__ = (
        "busy_carry_s",
        "container_id",
        "deadline_s",
        "function",
        "idle_since_s",
        "inflight",
        "node",
        "pool_key",
        "progress_s",
        "ready_since_s",
        "records",
        "reservation",
        "solo",
        "started_s",
        "state",
        "uses",
        "value",
        "yielding",
    )

    def __init__(
        self,
        container_id: str,
        node: Node,
        function: FunctionState | None,
        pool_key: str,
        reservation: Reservation,
        now_s: float,
    ) -> None:
        self.container_id = container_id
        self.node = node
        self.function = function
        self.pool_key = pool_key
        self.reservation = reservation
        self.state = ContainerState.STARTING
        self.records: dict[int, DispatchRecord] = {}
        self.inflight = 0
        self.solo = False
        self.yielding = False
        self.uses = 0
        self.value = 0.0
        self.busy_carry_s = 0.0
        self.started_s = now_s
        self.deadline_s = 0.0
        self.ready_since_s = 0.0
        self.idle_since_s = now_s
        self.progress_s = now_s

    def to(self, state: ContainerState) -> None:
        """Change state, checked against the table."""
        self.state = move(CONTAINER_MOVES, self.state, state)


_FINAL_BYTES = bytes(
    [OK, GENERATOR_END, SYSTEM_ERROR, OK | PAYLOAD_IS_REF, GENERATOR_END | PAYLOAD_IS_REF, SYSTEM_ERROR | PAYLOAD_IS_REF]
)
_RAISED_BYTES = bytes([USER_EXCEPTION, USER_EXCEPTION | PAYLOAD_IS_REF])


class FunctionState:
    """A function, its queue and its containers.

    `idle` and `open` hold the ready containers that may get work: nothing out, or little enough out. In `idle` the oldest
    stands first and the latest used is taken, so that surplus containers age out.
    """

    __slots__ = (
        "avoid",
        "broken_message",
        "broken_until_s",
        "completed",
        "containers",
        "definition",
        "delayed",
        "failures",
        "final_bytes",
        "idle",
        "lanes",
        "next_scale_s",
        "open",
        "order",
        "queue",
        "queued",
        "ready",
        "refill_at",
        "removed",
        "reported",
        "retry_at_s",
        "running",
        "service_s",
        "solo",
        "start_s",
        "target",
    )

    def __init__(self, definition: FunctionDef, order: int) -> None:
        self.order = order
        self.lanes: dict[str, Lane] = {}
        self.queue = LaneQueue()
        self.solo: deque[tuple[Lane, int]] = deque()
        self.queued = 0
        self.delayed = 0
        self.running = 0
        self.containers: dict[str, Container] = {}
        self.ready: dict[Container, None] = {}
        self.idle: dict[Container, None] = {}
        self.open: dict[Container, None] = {}
        self.service_s: float | None = None
        self.completed = 0
        self.start_s = 0.2
        self.failures = 0
        self.retry_at_s = 0.0
        self.avoid: dict[str, float] = {}
        self.broken_message = ""
        self.broken_until_s = 0.0
        self.reported = ""
        self.removed = False
        self.next_scale_s = 0.0
        self.target = 1
        self.refill_at = 0
        self.redefine(definition)

    def redefine(self, definition: FunctionDef) -> None:
        """Take a new definition."""
        self.definition = definition
        self.final_bytes = _FINAL_BYTES if definition.retry.max_retries else _FINAL_BYTES + _RAISED_BYTES
        self.target = 1 if definition.single_use else max(1, definition.max_concurrent_inputs)
        self.refill_at = self.target - 1

    @property
    def supply(self) -> int:
        """Containers that serve or soon will."""
        return sum(1 for c in self.containers.values() if c.state is not ContainerState.STOPPING and not c.yielding)

    def observe(self, busy_s: float, count: int, settings: CoreSettings) -> None:
        """Learn from `count` finished inputs that took `busy_s` together, and set how many may be out at a container."""
        each = max(busy_s / count, 1e-6)
        service = self.service_s
        if service is None:
            self.service_s = service = each
        else:
            self.service_s = service = service + (each - service) * (0.3 if count == 1 else 0.7 if count < 8 else 0.9)
        self.completed += count
        slots = 1 if self.definition.single_use else max(1, self.definition.max_concurrent_inputs)
        if service >= settings.dispatch_window_s or self.definition.single_use:
            self.target = slots
        else:
            # Eight times what is proven: a first quick input must not pull a thousand slow ones into one container.
            ahead = min(int(settings.dispatch_window_s / service), settings.dispatch_items_max, 8 * self.completed)
            self.target = max(slots, ahead)
        self.refill_at = max(slots - 1, self.target // 2)


@dataclass(slots=True)
class Pool:
    """Generic containers of one pool key."""

    key: str
    like: FunctionState
    last_used_s: float
    containers: dict[str, Container] = field(default_factory=dict)
    failures: int = 0
    retry_at_s: float = 0.0
