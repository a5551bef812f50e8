"""The hot path: queued inputs to ready containers, outputs back. Costs per frame, not per item."""

from __future__ import annotations

from typing import Final

from hotbed_proto.frames import FINAL_STATUSES, GENERATOR_ITEM, STATUS_MASK, USER_EXCEPTION
from hotbed_proto.states import ContainerState
from hotbed_scheduler.actions import Accept, Dispatch, StopContainer
from hotbed_scheduler.cluster import Cluster
from hotbed_scheduler.events import OutputsReceived, Retry
from hotbed_scheduler.lanes import DispatchRecord, Lane
from hotbed_scheduler.state import Container, FunctionState

_ORPHAN_CODES: Final = {"oom": "out-of-memory", "timeout": "function-timeout"}


def retry_delay_s(retry: Retry, attempts_used: int) -> float:
    """Wait before the next attempt after `attempts_used` (>= 1) of them."""
    # The exponent is bounded so that a float cannot overflow; no delay survives a hundred doublings below max_delay_s.
    return min(retry.initial_delay_s * retry.backoff_coefficient ** min(attempts_used - 1, 100), retry.max_delay_s)


class Dispatcher:
    """Gives inputs to containers and settles what comes back, or is lost."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    # --- out --------------------------------------------------------------------------------------------------------
    def pump(self, function: FunctionState, now_s: float) -> None:
        """Give queued inputs to every container that can take some, evenly. Cost: the containers fed."""
        while function.queued and (function.idle or function.open):
            takers = len(function.idle) + len(function.open)
            if function.idle:
                container = next(reversed(function.idle))
            elif function.solo:
                return  # containers must run empty for the inputs that go alone
            else:
                container = min(function.open, key=_inflight)
            if not self._feed(function, container, -(-function.queued // takers), now_s):
                return

    def _feed(self, function: FunctionState, container: Container, share: int, now_s: float) -> int:
        """Give one open container up to `share` inputs, within its room; how many it got."""
        if function.solo:
            return self._feed_solo(function, container, now_s) if container.inflight == 0 else 0
        room = min(share, function.target - container.inflight)
        if function.definition.single_use and (container.inflight or container.uses):
            room = 0
        given = 0
        queue = function.queue
        while given < room:
            lane = queue.head()
            if lane is None:
                break
            lanes = len(queue)
            left = room - given
            indices = lane.take(left if lanes == 1 else -(-left // lanes))
            queue.served(lane, len(indices))
            given += len(indices)
            self._send(function, container, lane, indices, now_s)
        if given:
            self._sort(function, container)
        return given

    def _feed_solo(self, function: FunctionState, container: Container, now_s: float) -> int:
        while function.solo:
            lane, index = function.solo.popleft()
            if index in lane.solo:
                lane.solo.discard(index)
                lane.queued -= 1
                container.solo = True
                self._send(function, container, lane, range(index, index + 1), now_s)
                self._sort(function, container)
                return 1
        return self._feed(function, container, function.target, now_s) if function.queued else 0

    def _send(self, function: FunctionState, container: Container, lane: Lane, indices: range | object, now_s: float) -> None:
        cluster = self._cluster
        assert isinstance(indices, range | list)
        epoch = cluster.next_epoch()
        record = DispatchRecord(epoch, container, lane, indices)
        cluster.records[epoch] = container.records[epoch] = lane.records[epoch] = record
        count = len(indices)
        if not container.inflight:
            container.progress_s = now_s
            container.uses += 1
        container.inflight += count
        lane.dispatched += count
        function.queued -= count
        function.running += count
        cluster.out.append(Dispatch(container.container_id, container.node.node_id, lane.lane_id, indices, epoch))

    def _sort(self, function: FunctionState, container: Container) -> None:
        """Put a ready container where its load belongs: idle, open or neither."""
        if container.inflight == 0:
            container.solo = False
            function.open.pop(container, None)
            function.idle[container] = None
        else:
            function.idle.pop(container, None)
            if container.inflight <= function.refill_at and not container.solo:
                function.open[container] = None
            else:
                function.open.pop(container, None)

    # --- back -------------------------------------------------------------------------------------------------------
    def outputs(self, event: OutputsReceived, now_s: float) -> None:
        """Accept what is outstanding under the epoch, refuse the rest item by item, refill the container."""
        record = self._cluster.records.get(event.epoch)
        if (
            record is None
            or record.container.container_id != event.container_id
            or record.lane.lane_id != event.lane_id
            or (event.statuses and len(event.statuses) != len(event.indices))
        ):
            return
        lane, container = record.lane, record.container
        function = lane.function
        statuses = event.statuses
        count = len(event.indices)
        if count and not (statuses and statuses.translate(None, function.final_bytes)) and record.finish(event.indices):
            lane.dispatched -= count
            lane.done += count
            if lane.attempts or lane.free_requeues:
                lane.forget_exceptions(event.indices)
            function.running -= count
            self._cluster.out.append(Accept(event.lane_id, None))
            freed = count
        else:
            freed, count = self._outputs_each(record, event, now_s)
        container.progress_s = now_s
        if count:
            function.observe(event.busy_s + container.busy_carry_s, count, self._cluster.settings)
            container.busy_carry_s = 0.0
        else:
            container.busy_carry_s += event.busy_s
        if freed:
            container.inflight -= freed
            if not record.outstanding() and not record.ghosts:
                self._close(record)
            self.settle(container, now_s)

    def _outputs_each(self, record: DispatchRecord, event: OutputsReceived, now_s: float) -> tuple[int, int]:
        """The slow way, one by one: (places freed at the container, inputs that ran to an end)."""
        cluster, lane, function = self._cluster, record.lane, record.lane.function
        retry = function.definition.retry
        positions: list[int] = []
        done: list[int] = []
        freed = 0
        for position, index in enumerate(event.indices):
            status = event.statuses[position] & STATUS_MASK if event.statuses else 0
            if index in record.ghosts:
                if status in FINAL_STATUSES:
                    record.ghosts.discard(index)
                    freed += 1
                continue
            if not record.holds(index):
                continue
            if status == GENERATOR_ITEM:
                positions.append(position)
                continue
            if status not in FINAL_STATUSES:
                continue
            record.discard(index)
            freed += 1
            used = lane.attempts.get(index, 0) + 1
            if status == USER_EXCEPTION and used <= retry.max_retries:
                lane.attempts[index] = used
                cluster.delay(lane, index, now_s + retry_delay_s(retry, used))
                lane.dispatched -= 1
                function.running -= 1
                continue
            positions.append(position)
            done.append(index)
        lane.dispatched -= len(done)
        function.running -= len(done)
        cluster.finish(lane, done)
        if positions:
            whole = len(positions) == len(event.indices)
            cluster.out.append(Accept(event.lane_id, None if whole else positions))
        return freed, freed

    def settle(self, container: Container, now_s: float) -> None:
        """After a container's load fell: refill it, let it idle, or stop it if it is wanted no longer."""
        function = container.function
        if function is None or container.state is not ContainerState.READY:
            return
        if container.inflight == 0 and (container.yielding or (function.definition.single_use and container.uses)):
            self.stop(container, "single use" if not container.yielding else "its place is needed elsewhere", now_s)
            return
        if container.yielding:
            return
        if container.inflight > function.refill_at and container.inflight:
            # Not low enough to refill; it may stand in `open` since the target has just shrunk.
            if container in function.open:
                del function.open[container]
            return
        self._sort(function, container)
        if function.queued:
            share = -(-function.queued // len(function.ready))
            if self._feed(function, container, share, now_s):
                return
        if container.inflight == 0:
            function.idle.pop(container, None)
            function.idle[container] = None
            container.idle_since_s = now_s

    def stop(self, container: Container, reason: str, now_s: float, grace_s: float | None = None) -> None:
        """Tell a container to end; it counts until it has."""
        if container.state is ContainerState.STOPPING:
            return
        cluster = self._cluster
        cluster.withdraw(container)
        container.to(ContainerState.STOPPING)
        cluster.stopping[container] = now_s + cluster.settings.stop_repeat_s
        grace_s = cluster.settings.stop_grace_s if grace_s is None else grace_s
        cluster.out.append(StopContainer(container.container_id, container.node.node_id, reason, grace_s))

    def retire(self, container: Container, reason: str, now_s: float) -> None:
        """No more inputs for a container; it stops now if it is empty, otherwise when it has done what it has."""
        if container.state is ContainerState.STOPPING:
            return
        if not container.inflight:
            self.stop(container, reason, now_s)
            return
        container.yielding = True
        self._cluster.withdraw(container)

    def repeat_stop(self, container: Container) -> None:
        """Tell a container again that should have ended by now."""
        self._cluster.out.append(StopContainer(container.container_id, container.node.node_id, "still there", 0.0))

    # --- lost -------------------------------------------------------------------------------------------------------
    def _close(self, record: DispatchRecord) -> None:
        del self._cluster.records[record.epoch]
        del record.container.records[record.epoch]
        del record.lane.records[record.epoch]

    def settle_lost(
        self,
        container: Container,
        reason: str,
        message: str,
        running: tuple[tuple[str, int], ...],
        now_s: float,
        *,
        blame: bool,
    ) -> None:
        """Everything out at a container that is gone: who was running pays (if `blame`), the others are queued again free.

        With nobody known to be running, a single input out was it; of several, each is tried alone next.
        """
        suspects = {(record.lane, index) for record in container.records.values() for index in record.indices()}
        ghosts = {(record.lane, index) for record in container.records.values() for index in record.ghosts}
        culprits = {(lane, index) for lane, index in suspects | ghosts if (lane.lane_id, index) in running} if blame else set()
        solo = False
        if blame and not culprits:
            if len(suspects) + len(ghosts) == 1:
                culprits = set(suspects)
            else:
                solo = True
        by_lane: dict[Lane, list[int]] = {}
        for record in list(container.records.values()):
            lane, indices = record.lane, record.indices()
            lane.dispatched -= len(indices)
            lane.function.running -= len(indices)
            by_lane.setdefault(lane, []).extend(indices)
            self._close(record)
        container.inflight = 0
        for lane, indices in by_lane.items():
            free = []
            for index in sorted(indices):
                if (lane, index) in culprits:
                    self._pay(lane, index, reason, message, now_s)
                else:
                    free.append(index)
            self._requeue_free(lane, free, message, solo)

    def _pay(self, lane: Lane, index: int, reason: str, message: str, now_s: float) -> None:
        retry = lane.function.definition.retry
        used = lane.attempts.get(index, 0) + 1
        if used <= retry.max_retries:
            lane.attempts[index] = used
            self._cluster.delay(lane, index, now_s + retry_delay_s(retry, used))
            return
        code = _ORPHAN_CODES.get(reason, "container-lost")
        name, timeout_s = lane.function.definition.name, lane.function.definition.timeout_s
        what, fix = {
            "out-of-memory": (f"{name} ran out of memory", "raise memory= of the function"),
            "function-timeout": (f"{name} ran longer than its timeout of {timeout_s:g} s", "raise timeout= of the function"),
            "container-lost": (f"the container of {name} died while the input was running", ""),
        }[code]
        self._cluster.fail(lane, [index], code, what, message, fix)

    def _requeue_free(self, lane: Lane, indices: list[int], message: str, solo: bool) -> None:
        limit = self._cluster.settings.free_requeues_max
        again, over = [], []
        for index in indices:
            times = lane.free_requeues.get(index, 0) + 1
            (again if times <= limit else over).append(index)
            if times <= limit:
                lane.free_requeues[index] = times
        self._cluster.requeue(lane, again, solo=solo)
        self._cluster.fail(
            lane,
            over,
            "container-lost",
            f"the container was lost {limit + 1} times before the input could run to an end",
            message,
        )


def _inflight(container: Container) -> int:
    return container.inflight
