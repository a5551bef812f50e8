"""What can happen to the cluster. Plain frozen records; `now_s` comes beside them, never from a clock in here.

Payload bytes never enter the core: it knows inputs as (lane_id, index) and speaks of runs of them, so that a frame of a
thousand inputs costs about as much as one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from hotbed_proto.resources import NodeInventory, Resources


@dataclass(frozen=True, slots=True)
class Retry:
    """`max_retries` further attempts; delay before retry n (0-based) = min(initial * backoff**n, max)."""

    max_retries: int = 0
    initial_delay_s: float = 1.0
    backoff_coefficient: float = 2.0
    max_delay_s: float = 60.0


@dataclass(frozen=True, slots=True)
class FunctionDef:
    """What the scheduler needs to know of a function."""

    function_id: str
    app_id: str
    name: str
    resources: Resources = field(default_factory=Resources)
    retry: Retry = field(default_factory=Retry)
    isolation: str = "container"
    pool_key: str = ""
    """Containers of equal pool_key (image, isolation, Python) can be specialised to this function; "" = never pooled."""
    min_containers: int = 0
    max_containers: int = 0
    buffer_containers: int = 0
    scaledown_window_s: float = 60.0
    max_concurrent_inputs: int = 1
    single_use: bool = False
    timeout_s: float = 300.0
    startup_timeout_s: float = 300.0
    regions: tuple[str, ...] = ()
    fail_if_unplaceable: bool = False
    durable_app: bool = False
    """Deployed or detached: lives on without a client."""


@dataclass(frozen=True, slots=True)
class NodeJoined:
    """A node registered. A known node_id with another epoch first counts as lost."""

    node_id: str
    epoch: int
    name: str
    inventory: NodeInventory
    isolations: tuple[str, ...]
    python_version: str = ""


@dataclass(frozen=True, slots=True)
class NodeHeartbeat:
    """Extends the node's lease to now + lease_s."""

    node_id: str
    epoch: int


@dataclass(frozen=True, slots=True)
class NodeLost:
    """The stream ended for good or the lease ran out: its containers no longer count, whatever they still do."""

    node_id: str
    epoch: int
    reason: str


@dataclass(frozen=True, slots=True)
class NodeDrain:
    """Place nothing new there; idle containers stop, busy ones finish."""

    node_id: str


@dataclass(frozen=True, slots=True)
class FunctionRegistered:
    """A new function, or a new definition for a known id."""

    function: FunctionDef


@dataclass(frozen=True, slots=True)
class AppStopped:
    """All functions of the app go: queued and running inputs are cancelled, containers stop."""

    app_id: str
    reason: str = "the app was stopped"


@dataclass(frozen=True, slots=True)
class InputsSubmitted:
    """`count` inputs of a lane, contiguous from first_index. Indices the lane already has are ignored."""

    lane_id: str
    function_id: str
    first_index: int
    count: int
    durable: bool = False
    client_id: str = ""
    priority: int = 0


@dataclass(frozen=True, slots=True)
class InputsCancelled:
    """The user no longer wants these (None: the whole lane, inputs to come included)."""

    lane_id: str
    indices: tuple[int, ...] | None = None
    terminate_containers: bool = False


@dataclass(frozen=True, slots=True)
class LaneForgotten:
    """The client that owned a synchronous lane is gone: as cancelled, and all record of the lane is dropped."""

    lane_id: str


@dataclass(frozen=True, slots=True)
class ContainerBooted:
    """The worker of a container answers; a pool container is now ready to be specialised."""

    container_id: str


@dataclass(frozen=True, slots=True)
class ContainerReady:
    """The function is loaded."""

    container_id: str


@dataclass(frozen=True, slots=True)
class ContainerFailed:
    """It never became ready.

    Attributes:
        user_error: True when the function itself could not be loaded (retrying elsewhere will not help).
    """

    container_id: str
    error_code: str
    message: str
    user_error: bool = False


@dataclass(frozen=True, slots=True)
class ContainerExited:
    """It was ready, and is no more.

    Attributes:
        reason: "stopped", "crashed", "oom", "timeout" or "cancelled".
        running: Inputs that were being executed; only these pay with an attempt. The others outstanding are requeued free.
    """

    container_id: str
    reason: str
    message: str = ""
    running: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class OutputsReceived:
    """Outputs a container sent for one dispatch.

    Attributes:
        epoch: The dispatch's; a stale one is refused item by item.
        statuses: One byte an output (`hotbed_proto.frames`); b"" = all OK.
        busy_s: Seconds the container spent running these inputs.
    """

    container_id: str
    epoch: int
    lane_id: str
    indices: Sequence[int]
    statuses: bytes = b""
    busy_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Tick:
    """Time passes: retries come due, leases and start deadlines run out, idle containers end. Sent every 50-250 ms."""


Event = (
    NodeJoined
    | NodeHeartbeat
    | NodeLost
    | NodeDrain
    | FunctionRegistered
    | AppStopped
    | InputsSubmitted
    | InputsCancelled
    | LaneForgotten
    | ContainerBooted
    | ContainerReady
    | ContainerFailed
    | ContainerExited
    | OutputsReceived
    | Tick
)
