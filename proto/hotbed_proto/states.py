"""States and the moves between them. Everything that changes a state asks `move` first.

1. A state has one owner: the scheduling core owns container and node states, nobody else writes them.
2. A move that is not in the table is a bug of ours and raises AssertionError with both states.
3. Final states have no way out.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TypeVar


class ContainerState(StrEnum):
    """A container as the control plane sees it."""

    STARTING = "starting"  # asked for; nothing heard yet
    POOLED = "pooled"  # booted without a function
    LOADING = "loading"  # booted; the function is being loaded
    READY = "ready"  # takes inputs
    STOPPING = "stopping"  # takes no more; told to end
    GONE = "gone"


CONTAINER_MOVES: dict[ContainerState, frozenset[ContainerState]] = {
    ContainerState.STARTING: frozenset(
        {ContainerState.POOLED, ContainerState.LOADING, ContainerState.READY, ContainerState.STOPPING, ContainerState.GONE}
    ),
    ContainerState.POOLED: frozenset({ContainerState.LOADING, ContainerState.STOPPING, ContainerState.GONE}),
    ContainerState.LOADING: frozenset({ContainerState.READY, ContainerState.STOPPING, ContainerState.GONE}),
    ContainerState.READY: frozenset({ContainerState.STOPPING, ContainerState.GONE}),
    ContainerState.STOPPING: frozenset({ContainerState.GONE}),
    ContainerState.GONE: frozenset(),
}


class NodeState(StrEnum):
    """A node as the control plane sees it."""

    JOINED = "joined"
    DRAINING = "draining"
    LOST = "lost"


NODE_MOVES: dict[NodeState, frozenset[NodeState]] = {
    NodeState.JOINED: frozenset({NodeState.DRAINING, NodeState.LOST}),
    NodeState.DRAINING: frozenset({NodeState.JOINED, NodeState.LOST}),
    NodeState.LOST: frozenset(),
}


class InputState(StrEnum):
    """One input of a lane."""

    QUEUED = "queued"
    DELAYED = "delayed"  # waits for its retry
    DISPATCHED = "dispatched"
    DONE = "done"


INPUT_MOVES: dict[InputState, frozenset[InputState]] = {
    InputState.QUEUED: frozenset({InputState.DISPATCHED, InputState.DONE}),
    InputState.DELAYED: frozenset({InputState.QUEUED, InputState.DONE}),
    InputState.DISPATCHED: frozenset({InputState.QUEUED, InputState.DELAYED, InputState.DONE}),
    InputState.DONE: frozenset(),
}

S = TypeVar("S", ContainerState, NodeState, InputState)


def move(table: dict[S, frozenset[S]], old: S, new: S) -> S:
    """Return `new` after checking that the table allows the step."""
    assert new in table[old], f"no move from {old!r} to {new!r}"
    return new
