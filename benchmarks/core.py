"""What one event costs the scheduling core, alone: `python benchmarks/core.py`. No I/O, so a quiet core is all it needs."""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Callable

from hotbed_proto.resources import NodeInventory
from hotbed_scheduler import events as ev
from hotbed_scheduler.actions import Dispatch, StartContainer
from hotbed_scheduler.core import Core, CoreSettings


def warm_core(containers: int = 1, lanes: int = 0) -> Core:
    """A core with ready containers of one fast function that has been seen to be fast."""
    core = Core(CoreSettings(), 0)
    core.handle(ev.NodeJoined("no-1", 1, "n", NodeInventory(64_000, 64 << 30), ("container",)), 0.0)
    core.handle(
        ev.FunctionRegistered(ev.FunctionDef("fu-1", "ap-1", "f", min_containers=containers, max_containers=containers)), 0.0
    )
    core.handle(ev.Tick(), 0.0)
    for container_id in list(core.container_ids()):
        core.handle(ev.ContainerBooted(container_id), 0.1)
        core.handle(ev.ContainerReady(container_id), 0.1)
    drain(core, core.handle(ev.InputsSubmitted("fc-warm", "fu-1", 0, 20_000), 0.2), 0.2)
    for lane in range(lanes):
        core.handle(ev.InputsSubmitted(f"fc-{lane}", "fu-1", 0, 1), 0.2)
    assert core.lane_done("fc-warm") == 20_000
    return core


def drain(core: Core, actions: list, now_s: float) -> None:
    """Answer every dispatch at once until nothing is left."""
    while actions:
        action = actions.pop(0)
        assert not isinstance(action, StartContainer), "the containers are there already"
        if isinstance(action, Dispatch):
            count = len(action.indices)
            event = ev.OutputsReceived(
                action.container_id, action.epoch, action.lane_id, list(action.indices), b"", 1e-5 * count
            )
            actions += core.handle(event, now_s)


def timed(repeat: int, run: Callable[[], float]) -> float:
    """Least seconds of several runs."""
    gc.collect()
    return min(run() for _ in range(repeat))


def single_calls(count: int) -> tuple[float, float]:
    """Seconds per InputsSubmitted of one input with its Dispatch, and per OutputsReceived of one."""
    core = warm_core()
    submit_s = output_s = 0.0
    clock = time.perf_counter
    for index in range(count):
        event = ev.InputsSubmitted("fc-single", "fu-1", index, 1)
        start = clock()
        actions = core.handle(event, 1.0)
        submit_s += clock() - start
        (dispatch,) = actions
        output = ev.OutputsReceived(dispatch.container_id, dispatch.epoch, "fc-single", [index], b"", 1e-5)
        start = clock()
        core.handle(output, 1.0)
        output_s += clock() - start
    assert core.lane_done("fc-single") == count
    return submit_s / count, output_s / count


def framed_map(items: int, frame: int, *, mixed: bool = False) -> float:
    """Seconds per item of a map: submitted, dispatched and answered in frames."""
    core = warm_core(2)
    clock = time.perf_counter
    spent, first = 0.0, 0
    pending: list[Dispatch] = []
    while first < items or pending:
        if first < items:
            event: ev.Event = ev.InputsSubmitted("fc-map", "fu-1", first, frame)
            first += frame
        else:
            dispatch = pending[0]
            part = list(dispatch.indices[:frame])
            statuses = bytes(1 if mixed and i % 100 == 0 else 0 for i in range(len(part))) if mixed else b""
            event = ev.OutputsReceived(dispatch.container_id, dispatch.epoch, "fc-map", part, statuses, 1e-5 * len(part))
            rest = dispatch.indices[frame:]
            if rest:
                pending[0] = Dispatch(dispatch.container_id, dispatch.node_id, "fc-map", rest, dispatch.epoch)
            else:
                del pending[0]
        start = clock()
        actions = core.handle(event, 1.0)
        spent += clock() - start
        pending += [action for action in actions if isinstance(action, Dispatch)]
    assert core.lane_done("fc-map") == items
    return spent / items


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=3)
    repeat = parser.parse_args().repeat
    singles = [single_calls(20_000) for _ in range(repeat)]
    print(f"submit of one input, with its dispatch   {min(s for s, _ in singles) * 1e6:7.2f} us   (aim: <= 10)")
    print(f"output of one input                      {min(o for _, o in singles) * 1e6:7.2f} us   (aim: <= 6)")
    items = 512 * 400
    whole = timed(repeat, lambda: framed_map(items, 512)) * 1e6
    print(f"map in frames of 512, per item           {whole:7.3f} us   (aim: <= 0.3)")
    each = timed(repeat, lambda: framed_map(items, 512, mixed=True)) * 1e6
    print(f"the same, 1 % raising, no retries        {each:7.3f} us")
    print(f"map in frames of 16, per item            {timed(repeat, lambda: framed_map(16 * 4000, 16)) * 1e6:7.3f} us")


if __name__ == "__main__":
    main()
