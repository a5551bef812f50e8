"""Where a container goes: filter, then score. A pure function over the nodes; ties go to the node that joined first.

Cost: one pass over the nodes for each GPU alternative, about 2 us a node.
"""

from __future__ import annotations

from collections.abc import Container as Holds
from collections.abc import Iterable
from dataclasses import dataclass

from hotbed_proto.resources import GPU_WHOLE, GpuRequest
from hotbed_scheduler.events import FunctionDef
from hotbed_scheduler.feasibility import Free, gpu_choice, obstacle
from hotbed_scheduler.ranking import load_milli, score
from hotbed_scheduler.state import Node


@dataclass(frozen=True, slots=True)
class Placement:
    """A node and, for GPU functions, the devices there."""

    node: Node
    gpu_indices: tuple[int, ...] = ()
    gpu_milli_share: int = 0


def place(
    nodes: Iterable[Node],
    function: FunctionDef,
    *,
    spread_above_milli: int = 800,
    avoid: Holds[str] = (),
    warm: Holds[str] = (),
) -> Placement | None:
    """The best node for one more container of the function now; None when none has room.

    GPU alternatives are tried in the user's order: a later one is taken only where no node satisfies an earlier one.
    Nodes in `avoid` (a start failed there) come last; CPU functions keep off GPU nodes while others have room.
    """
    members = [node for node in nodes if node.state == "joined"]
    if not members:
        return None
    spread = sum(map(load_milli, members)) > spread_above_milli * len(members)
    need = function.resources
    requests: tuple[GpuRequest | None, ...] = need.gpus or (None,)
    for request in requests:
        best: tuple[tuple[bool, bool, int, int], Placement] | None = None
        for node in members:
            if node.free_cpu < need.milli_cpu or node.free_memory < need.memory_bytes:
                continue
            if obstacle(node, function, request, Free(node.free_cpu, node.free_memory, node.free_disk, node.free_gpu)):
                continue
            indices, share = (), 0
            if request is not None:
                chosen = gpu_choice(node, request, node.free_gpu)
                assert chosen is not None, "obstacle() found devices"
                indices, share = chosen, request.milli_share if request.count == 1 else GPU_WHOLE
            rank = score(node, need, indices, share, warm=node.node_id in warm, spread=spread)
            key = (node.node_id in avoid, request is None and bool(node.inventory.gpus), rank, node.order)
            if best is None or key < best[0]:
                best = (key, Placement(node, indices, share))
        if best is not None:
            return best[1]
    return None
