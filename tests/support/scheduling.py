"""A core to talk to in tests: events in, actions out, every invariant checked after each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from hotbed_proto.resources import GpuDevice, NodeInventory
from hotbed_scheduler import actions as ac
from hotbed_scheduler import events as ev
from hotbed_scheduler.core import Core, CoreSettings

A = TypeVar("A")
GIB = 2**30


def gpus(model: str, count: int, memory_bytes: int = 80 * GIB) -> tuple[GpuDevice, ...]:
    """`count` devices of one model."""
    return tuple(GpuDevice(i, f"GPU-{i}", model, memory_bytes) for i in range(count))


class CoreBench:
    """Holds a core and a clock; `actions` are those of the last event."""

    def __init__(self, **settings: Any) -> None:
        settings.setdefault("pool_size", 0)
        self.core = Core(CoreSettings(**settings), 0)
        self.now_s = 0.0
        self.actions: list[ac.Action] = []

    def __call__(self, event: ev.Event, now_s: float | None = None) -> list[ac.Action]:
        if now_s is not None:
            self.now_s = now_s
        self.actions = self.core.handle(event, self.now_s)
        self.core.check()
        return self.actions

    def of(self, kind: type[A]) -> list[A]:
        """Actions of one kind among the last ones."""
        return [action for action in self.actions if isinstance(action, kind)]

    def one(self, kind: type[A]) -> A:
        """The only action of a kind."""
        (action,) = self.of(kind)
        return action

    def tick(self, now_s: float) -> list[ac.Action]:
        """Time passes, and every node says that it is there."""
        self.now_s = now_s
        for view in self.core.node_views():
            self.core.handle(ev.NodeHeartbeat(view.node_id, 1), now_s)
        return self(ev.Tick())

    def node(
        self, node_id: str = "no-1", *, milli_cpu: int = 4000, memory_bytes: int = 8 * GIB, epoch: int = 1, **more: Any
    ) -> None:
        isolations = more.pop("isolations", ("container",))
        inventory = NodeInventory(
            milli_cpu, memory_bytes, more.pop("disk_bytes", 0), more.pop("gpus", ()), more.pop("labels", {})
        )
        assert not more, more
        self(ev.NodeJoined(node_id, epoch, node_id, inventory, isolations))

    def function(self, function_id: str = "fu-1", app_id: str = "ap-1", **more: Any) -> ev.FunctionDef:
        """A function is registered."""
        definition = ev.FunctionDef(function_id, app_id, more.pop("name", function_id), **more)
        self(ev.FunctionRegistered(definition))
        return definition

    def submit(
        self, first: int = 0, count: int = 1, *, lane: str = "fc-1", function: str = "fu-1", **more: Any
    ) -> list[ac.Action]:
        return self(ev.InputsSubmitted(lane, function, first, count, **more))

    def start(self, *container_ids: str) -> list[ac.Action]:
        """The named containers (all that were just asked for) boot and get ready; actions of all that."""
        ids = container_ids or tuple(action.container_id for action in self.of(ac.StartContainer))
        gathered: list[ac.Action] = []
        for container_id in ids:
            gathered += self(ev.ContainerBooted(container_id))
            gathered += self(ev.ContainerReady(container_id))
        self.actions = gathered
        return gathered

    def answer(
        self, dispatch: ac.Dispatch, indices: Sequence[int] | None = None, statuses: bytes = b"", each_s: float = 1e-5
    ) -> list[ac.Action]:
        """The container answers (all of) a dispatch."""
        indices = list(dispatch.indices if indices is None else indices)
        event = ev.OutputsReceived(
            dispatch.container_id, dispatch.epoch, dispatch.lane_id, indices, statuses, each_s * len(indices)
        )
        return self(event)

    def warm(self, *, each_s: float = 1e-5, **more: Any) -> str:
        """A node, a function, and one ready container that has proven how fast it is; the container's id."""
        self.node()
        self.function(**{"max_containers": 1, **more})
        self.submit(lane="fc-warm")
        container_id = self.one(ac.StartContainer).container_id
        self.start()
        for index in range(8):
            if index:
                self.submit(index, lane="fc-warm")
            self.answer(self.one(ac.Dispatch), each_s=each_s)
        return container_id
