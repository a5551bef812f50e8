"""Filters: why a node cannot hold a container, for now or for ever. Pure functions over read-only views."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from hotbed_proto.resources import GPU_WHOLE, GpuRequest, gpu_model_matches
from hotbed_proto.states import NodeState
from hotbed_scheduler.events import FunctionDef
from hotbed_scheduler.state import Node, Reservation


@dataclass(slots=True)
class Free:
    """What is free on a node, or would be if some containers were gone."""

    milli_cpu: int
    memory_bytes: int
    disk_bytes: int
    gpu: dict[int, int]

    @staticmethod
    def now(node: Node) -> Free:
        """As it is; a copy."""
        return Free(node.free_cpu, node.free_memory, node.free_disk, dict(node.free_gpu))

    @staticmethod
    def empty(node: Node) -> Free:
        """As if nothing ran there."""
        total = node.inventory
        return Free(total.milli_cpu, total.memory_bytes, total.disk_bytes, {gpu.index: GPU_WHOLE for gpu in total.gpus})

    def add(self, amount: Reservation) -> None:
        """As if a container with this reservation were gone."""
        self.milli_cpu += amount.milli_cpu
        self.memory_bytes += amount.memory_bytes
        self.disk_bytes += amount.disk_bytes
        for index in amount.gpu_indices:
            self.gpu[index] += amount.gpu_milli_share


@dataclass(slots=True)
class Rejections:
    """Reasons counted by node. `never` is False if some node could hold it once it is emptier (or back)."""

    nodes: int = 0
    never: bool = True
    counts: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        if not self.nodes:
            return "no node has joined"
        parts = [f"{count} {text}" for text, count in sorted(self.counts.items(), key=lambda item: (-item[1], item[0]))]
        return f"of {self.nodes} node{'' if self.nodes == 1 else 's'}: {', '.join(parts)}"


def _gib(number: int) -> str:
    return f"{number / 2**30:.3g} GiB"


def gpu_choice(node: Node, request: GpuRequest, free: dict[int, int]) -> tuple[int, ...] | None:
    """Devices of the node that satisfy the request, the tightest fit; None when there are not enough.

    A share goes to the fullest device that still has room (ties: the lower index). Whole devices: those with the least memory.
    """
    fitting = [
        gpu
        for gpu in node.inventory.gpus
        if gpu.memory_bytes >= request.memory_bytes
        and gpu_model_matches(request.model, gpu.model)
        and free[gpu.index] >= request.milli_share
    ]
    if len(fitting) < request.count:
        return None
    if request.milli_share < GPU_WHOLE:
        return (min(fitting, key=lambda gpu: (free[gpu.index], gpu.memory_bytes, gpu.index)).index,)
    fitting.sort(key=lambda gpu: (gpu.memory_bytes, gpu.index))
    return tuple(sorted(gpu.index for gpu in fitting[: request.count]))


def obstacle(node: Node, function: FunctionDef, request: GpuRequest | None, free: Free) -> str:
    """The first filter that refuses, in words that follow "N of M nodes"; "" when the container fits into `free`."""
    if node.state is not NodeState.JOINED:
        return "draining"
    return unfit(node, function) or shortage(node, function, request, free)


def unfit(node: Node, function: FunctionDef) -> str:
    """What no amount of free room mends: the region or the isolation."""
    if function.regions and node.inventory.labels.get("region", "") not in function.regions:
        return f"not in region {' or '.join(function.regions)}"
    if function.isolation not in node.isolations:
        return f"without isolation {function.isolation!r}"
    return ""


def shortage(node: Node, function: FunctionDef, request: GpuRequest | None, free: Free) -> str:
    """What `free` lacks for one container; "" for nothing."""
    need = function.resources
    if request is not None and gpu_choice(node, request, free.gpu) is None:
        models = [gpu for gpu in node.inventory.gpus if gpu_model_matches(request.model, gpu.model)]
        if not models:
            return "without a GPU" if not node.inventory.gpus else f"without GPU {request.model}"
        if request.memory_bytes and not any(gpu.memory_bytes >= request.memory_bytes for gpu in models):
            return f"lacking {_gib(request.memory_bytes)} GPU memory"
        return f"lacking free GPU {request}"
    if free.milli_cpu < need.milli_cpu:
        return f"lacking {need.milli_cpu / 1000:g} CPU cores"
    if free.memory_bytes < need.memory_bytes:
        return f"lacking {_gib(need.memory_bytes)} memory"
    if free.disk_bytes < need.disk_bytes:
        return f"lacking {_gib(need.disk_bytes)} disk"
    return ""


def rejections(nodes: Iterable[Node], function: FunctionDef) -> Rejections:
    """Why no node takes the container now. Called when placement failed, for the user to read."""
    found = Rejections(never=True)
    requests: tuple[GpuRequest | None, ...] = function.resources.gpus or (None,)
    for node in nodes:
        found.nodes += 1
        possible = not unfit(node, function) and any(not shortage(node, function, r, Free.empty(node)) for r in requests)
        if possible:
            found.never = False
        free = Free.now(node)
        reason = next((text for r in requests if (text := obstacle(node, function, r, free))), "")
        if reason.startswith("lacking") and possible:
            reason += " free" if "free" not in reason else ""
        found.counts[reason or "busy"] += 1
    if not found.nodes:
        found.never = False
    return found
