"""How many containers a function should have, and what an idle one is worth. Pure arithmetic."""

from __future__ import annotations

from math import ceil

from hotbed_scheduler.state import Container, CoreSettings, FunctionState

_PROBE_S = 0.05
"""An input of unknown cost that is out this long counts as slow: its age is the estimate until it comes back."""


def service_estimate_s(function: FunctionState, now_s: float) -> float | None:
    """Seconds an input takes, as far as known: learned, or at least the age of the oldest one that is out; None = no idea.

    Cost: one look at each busy container of the function.
    """
    oldest = 0.0
    for container in function.ready:
        if container.inflight:
            oldest = max(oldest, now_s - container.progress_s)
    learned = function.service_s
    if learned is None:
        return oldest if oldest >= _PROBE_S else None
    return max(learned, oldest) if oldest >= _PROBE_S else learned


def desired_containers(function: FunctionState, now_s: float, cores: int, settings: CoreSettings) -> int:
    """Containers that would finish what is queued and running in about `drain_target_s`, within the function's bounds.

    Quick inputs need few containers (ten thousand no-ops fit into one); an input slower than the target, a container for
    each. As long as nothing is known of the cost, no more containers than the cluster has cores.
    """
    definition = function.definition
    backlog = function.queued + function.running
    slots = 1 if definition.single_use else max(1, definition.max_concurrent_inputs)
    desired = 0
    if backlog:
        by_slot = ceil(backlog / slots)
        estimate = service_estimate_s(function, now_s)
        if estimate is None:
            desired = min(by_slot, max(1, cores))
        else:
            desired = min(by_slot, max(1, ceil(backlog * estimate / slots / settings.drain_target_s)))
        desired += definition.buffer_containers
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
