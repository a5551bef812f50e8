"""Scores: which of the nodes that can hold a container should. Lower is better; integers, so that replay is exact."""

from __future__ import annotations

from hotbed_proto.resources import GPU_WHOLE, Resources
from hotbed_scheduler.state import Node

_WARM_BONUS = 150
"""A node that already runs the function has its image and source at hand; worth 15 % of one dimension's fill."""


def load_milli(node: Node) -> int:
    """How full a node is, by its fullest of CPU, memory and GPUs, in thousandths."""
    total = node.inventory
    load = 0
    if total.milli_cpu:
        load = 1000 - node.free_cpu * 1000 // total.milli_cpu
    if total.memory_bytes:
        load = max(load, 1000 - node.free_memory * 1000 // total.memory_bytes)
    if total.gpus:
        load = max(load, 1000 - sum(node.free_gpu.values()) * 1000 // (len(total.gpus) * GPU_WHOLE))
    return load


def score(node: Node, need: Resources, gpu_indices: tuple[int, ...], milli_share: int, *, warm: bool, spread: bool) -> int:
    """Room left after placing, each dimension in thousandths of the node: best fit wants little left, spreading wants much.

    A share of a GPU weighs what it leaves on its own device, so that partly used devices fill up first.
    """
    total = node.inventory
    left = 0
    if total.milli_cpu:
        left += (node.free_cpu - need.milli_cpu) * 1000 // total.milli_cpu
    if total.memory_bytes:
        left += (node.free_memory - need.memory_bytes) * 1000 // total.memory_bytes
    if need.disk_bytes and total.disk_bytes:
        left += (node.free_disk - need.disk_bytes) * 1000 // total.disk_bytes
    if gpu_indices:
        taken = milli_share * len(gpu_indices)
        left += (sum(node.free_gpu.values()) - taken) * 1000 // (len(total.gpus) * GPU_WHOLE)
        if milli_share < GPU_WHOLE:
            left += 2 * (node.free_gpu[gpu_indices[0]] - milli_share)
    if spread:
        left = -left
    return left - _WARM_BONUS if warm else left
