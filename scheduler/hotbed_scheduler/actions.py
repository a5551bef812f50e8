"""What the core asks the shell to do. The shell carries a list out in order.

Durability: for inputs of a durable lane the shell stores what `Accept` and `Fail` say before any client hears of it.
Everything else here is soft state, rebuilt from node reports.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StartContainer:
    """Create a container on a node; function_id "" = a generic one for the pool of `pool_key`."""

    container_id: str
    node_id: str
    function_id: str
    pool_key: str
    like_function_id: str
    """The function whose image, isolation and size a pool container copies (equals function_id otherwise)."""
    gpu_indices: tuple[int, ...] = ()
    gpu_milli_share: int = 0


@dataclass(frozen=True, slots=True)
class AssignFunction:
    """Specialise a booted pool container."""

    container_id: str
    node_id: str
    function_id: str


@dataclass(frozen=True, slots=True)
class Dispatch:
    """Send these inputs (payloads are the shell's) to a ready container; `epoch` names the attempt."""

    container_id: str
    node_id: str
    lane_id: str
    indices: Sequence[int]
    epoch: int


@dataclass(frozen=True, slots=True)
class Accept:
    """Of the outputs of the event being handled, these positions are valid; deliver them.

    Attributes:
        positions: Indices into the event's columns; None = all of them (the usual case).
    """

    lane_id: str
    positions: Sequence[int] | None


@dataclass(frozen=True, slots=True)
class Fail:
    """These inputs end with an infrastructure error (one final result each)."""

    lane_id: str
    indices: Sequence[int]
    code: str
    message: str
    why: str = ""
    fix: str = ""


@dataclass(frozen=True, slots=True)
class CancelOnContainer:
    """Tell the worker to drop or interrupt these; kill the container if it has not by then."""

    container_id: str
    node_id: str
    lane_id: str
    indices: Sequence[int]
    kill_after_s: float


@dataclass(frozen=True, slots=True)
class StopContainer:
    """End a container: SIGTERM, then a kill after grace_s."""

    container_id: str
    node_id: str
    reason: str
    grace_s: float


@dataclass(frozen=True, slots=True)
class ReportPlacement:
    """Whether containers of a function can be placed changed; reason "" = they can."""

    function_id: str
    reason: str


Action = StartContainer | AssignFunction | Dispatch | Accept | Fail | CancelOnContainer | StopContainer | ReportPlacement
