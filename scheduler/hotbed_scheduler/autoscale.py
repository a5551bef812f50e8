"""How many containers a function should have, and what an idle one is worth. Pure arithmetic."""

from __future__ import annotations

from math import ceil

from hotbed_scheduler.state import Container, CoreSettings, FunctionState

_STALL_S = 0.05
_STALL_FACTOR = 4
"""A container without news for this long, and for four times what an input usually takes, is held up by a slow one."""


_COMPUTING_S = 0.002
"""Inputs shorter than this are taken to be bound by the processor."""
_FEED_S = 5e-6
"""What one input costs the control plane at best: a container this quick keeps up alone."""


def stalled_containers(function: FunctionState, now_s: float) -> int:
    """Busy containers that are held up. Cost: one look at each ready container of the function."""
    limit_s = max(_STALL_S, _STALL_FACTOR * (function.service_s or 0.0))
    return sum(1 for container in function.ready if container.inflight and now_s - container.progress_s >= limit_s)


def desired_containers(function: FunctionState, now_s: float, cores: int, settings: CoreSettings) -> int:
    """Containers that would finish what is queued and running in about `drain_target_s`, within the function's bounds.

    Quick inputs need few containers (ten thousand no-ops fit into one); inputs slower than the target, one each. As long as
    nothing is known of the cost, no more than the cluster has cores. Every container that is held up while inputs wait
    justifies one more: what is really slow doubles the number again and again, one slow first call does not.
    """
    definition = function.definition
    backlog = function.queued + function.running
    slots = 1 if definition.single_use else max(1, definition.max_concurrent_inputs)
    desired = 0
    if backlog:
        service_s = function.service_s
        desired = cores if service_s is None else ceil(backlog * service_s / slots / settings.drain_target_s)
        if service_s is not None and service_s < _COMPUTING_S:
            # Such inputs compute, they do not wait. More containers than cores make each of them slower, which would look
            # like a reason for yet more; and more than the control plane can feed only idle.
            desired = min(desired, max(1, cores), ceil(service_s / _FEED_S))
        if function.queued:
            desired += stalled_containers(function, now_s)
        desired = min(max(1, desired), ceil(backlog / slots))
        if definition.buffer_containers:
            desired = max(desired, len(function.ready) - len(function.idle)) + definition.buffer_containers
    desired = max(desired, definition.min_containers)
    if definition.max_containers:
        desired = min(desired, definition.max_containers)
    return desired


def keep_value(container: Container, clock: float) -> float:
    """Greedy-dual worth of an idle container: what a new start would cost, times how often it is used, per GiB it holds.

    `clock` is the worth of the container evicted last, so that what was valuable long ago ages.
    """
    function = container.function
    if function is None:
        return clock  # a pool container serves nobody yet
    gib = max(container.reservation.memory_bytes / 2**30, 1 / 1024)
    return clock + function.start_s * container.uses / gib
