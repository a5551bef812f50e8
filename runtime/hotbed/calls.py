"""`FunctionCall`: a spawned call that outlives its caller."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any, Generic, TypeVar

from hotbed.client import current_client, grpc_transport
from hotbed.dual import Dual, DualIterator, dual
from hotbed.lanes import AsyncSlot, Mailbox, SyncSlot
from hotbed_proto import frames
from hotbed_proto.errors import InvalidError, OutputExpiredError
from hotbed_proto.ids import CallRef, parse_call_id

R = TypeVar("R")
_ITER_BATCH = 1024
_POLL_S = 0.25
"""What `get(timeout=0)` waits for: time for the question to reach the server and come back."""


class FunctionCall(Generic[R]):
    """One spawned input, or all inputs of a `spawn_map`. Results are kept for 7 days."""

    def __init__(self, ref: CallRef, count: int | None = None) -> None:
        self._ref = ref
        self._count = 1 if ref.index is not None else count

    # Made on access: a call that is spawned ten thousand times should cost no four objects and a reference cycle each.

    @property
    def get(self) -> Dual[..., R]:
        """`get(timeout=None, index=0)`: the result, waiting up to `timeout` seconds (None: for ever).

        Raises:
            OutputExpiredError: No result within `timeout`, or it is past its retention.
        """
        return Dual(self._get, self._get_aio)

    @property
    def get_gen(self) -> DualIterator[[], Any]:
        """The items of a spawned generator, as they come."""
        return DualIterator(self._get_gen, self._get_gen_aio)

    @property
    def iter(self) -> DualIterator[..., R]:
        """The results of a `spawn_map`, in order: `iter(start=0, end=None)`."""
        return DualIterator(self._iter, self._iter_aio)

    @property
    def cancel(self) -> Dual[..., None]:
        """`cancel(terminate_containers=False)`: stop the work; waiters get `InputCancellation`."""
        return Dual(self._cancel, self._cancel_aio)

    @property
    def object_id(self) -> str:
        """`fc-...`: give it to `from_id`, also in another process or on another day."""
        return str(self._ref)

    def __repr__(self) -> str:
        return f"FunctionCall({self.object_id!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return FunctionCall.from_id, (self.object_id,)

    @staticmethod
    def from_id(function_call_id: str) -> FunctionCall[Any]:
        """The call with this id. Whether it exists is found out by `get`.

        Raises:
            InvalidError: Not the id of a call.
        """
        try:
            return FunctionCall(parse_call_id(function_call_id))
        except ValueError as error:
            raise InvalidError(str(error)) from None

    def _index(self, index: int) -> int:
        if self._ref.index is not None:
            if index != 0:
                raise InvalidError(f"get(index={index}): this call has one input, index 0")
            return self._ref.index
        if index < 0:
            raise InvalidError(f"get(index={index}) is negative")
        return index

    def _get(self, timeout: float | None = None, index: int = 0) -> R:
        """The result, waiting for it.

        Args:
            timeout: Seconds; None waits as long as it takes, 0 asks for what is there now (within a quarter of a second).

        Raises:
            OutputExpiredError: No result within `timeout`.
        """
        client, number = current_client(), self._index(index)
        lane, slot = client.durable_lane(self._ref.lane_id), SyncSlot()
        client.watch(lane, number, slot)
        try:
            if not slot.wait(None if timeout is None else timeout or _POLL_S):
                raise self._expired(timeout)
        except BaseException:
            client.unwatch(lane, number, slot)
            raise
        return client.decode(slot)

    async def _get_aio(self, timeout: float | None = None, index: int = 0) -> R:
        client, number = await _client_aio(), self._index(index)
        lane, slot = client.durable_lane(self._ref.lane_id), AsyncSlot()
        client.watch(lane, number, slot)
        try:
            await asyncio.wait_for(slot.future, None if timeout is None else timeout or _POLL_S)
        except TimeoutError:
            client.unwatch(lane, number, slot)
            raise self._expired(timeout) from None
        except BaseException:
            client.unwatch(lane, number, slot)
            raise
        if slot.status & frames.PAYLOAD_IS_REF:
            return await asyncio.to_thread(client.decode, slot)
        return client.decode(slot)

    def _expired(self, timeout: float | None) -> OutputExpiredError:
        return OutputExpiredError(
            f"no result of {self.object_id} within {timeout or 0:g} s", fix="call get() again later; the call goes on"
        )

    def _get_gen(self) -> Iterator[Any]:
        """Items of a spawned generator, as they come."""
        client, number = current_client(), self._index(0)
        lane, mailbox = client.durable_lane(self._ref.lane_id), Mailbox()
        client.watch(lane, number, mailbox)
        try:
            while True:
                status, payload, error = mailbox.get()
                if error is None and status == frames.GENERATOR_END:
                    return
                yield client.decode(_Output(status, payload, error))
        finally:
            client.unwatch(lane, number, mailbox)

    async def _get_gen_aio(self) -> AsyncIterator[Any]:
        client, number = await _client_aio(), self._index(0)
        lane, mailbox = client.durable_lane(self._ref.lane_id), Mailbox()
        client.watch(lane, number, mailbox)
        try:
            while True:
                status, payload, error = await mailbox.aget()
                if error is None and status == frames.GENERATOR_END:
                    return
                output = _Output(status, payload, error)
                if status & frames.PAYLOAD_IS_REF:
                    yield await asyncio.to_thread(client.decode, output)
                else:
                    yield client.decode(output)
        finally:
            client.unwatch(lane, number, mailbox)

    def _cancel(self, terminate_containers: bool = False) -> None:
        """Stop working on it; a waiting `get` raises `InputCancellation`.

        Args:
            terminate_containers: End the containers that run its inputs rather than interrupt them.
        """
        client = current_client()
        indices = None if self._ref.index is None else [self._ref.index]
        client.cancel(client.durable_lane(self._ref.lane_id), indices, terminate_containers)

    async def _cancel_aio(self, terminate_containers: bool = False) -> None:
        await _client_aio()
        self._cancel(terminate_containers)

    @dual
    async def num_inputs(self) -> int:
        """How many inputs this call has."""
        if self._count is None:
            self._count = (await grpc_transport().call_info(self._ref.lane_id)).num_inputs
        return self._count

    def _check_range(self, start: int, end: int | None, count: int) -> tuple[int, int]:
        stop = count if end is None else min(end, count)
        if start < 0 or (end is not None and end < start):
            raise InvalidError(f"iter(start={start}, end={end}) is no range of inputs")
        return start, stop

    def _iter(self, *, start: int = 0, end: int | None = None) -> Iterator[R]:
        """Results of inputs start to end, in order, as they come."""
        start, stop = self._check_range(start, end, self.num_inputs())
        for first in range(start, stop, _ITER_BATCH):
            yield from _gather_sync([(self, at) for at in range(first, min(stop, first + _ITER_BATCH))])

    async def _iter_aio(self, *, start: int = 0, end: int | None = None) -> AsyncIterator[R]:
        start, stop = self._check_range(start, end, await self.num_inputs.aio())
        for first in range(start, stop, _ITER_BATCH):
            for pending in [
                asyncio.ensure_future(self._get_aio(None, at)) for at in range(first, min(stop, first + _ITER_BATCH))
            ]:
                yield await pending

    gather: Dual[..., list[Any]]


class _Output:
    __slots__ = ("error", "payload", "status")

    def __init__(self, status: int, payload: bytes, error: Any) -> None:
        self.status, self.payload, self.error = status, payload, error


async def _client_aio() -> Any:
    """The client, connected without blocking the caller's loop."""
    from hotbed import client as module

    present = module._client
    if present is not None and present.lost is None:
        return present
    return await asyncio.to_thread(current_client)


def _gather_sync(wanted: Sequence[tuple[FunctionCall[Any], int]]) -> Iterator[Any]:
    """Ask for all at once, then wait in order."""
    client = current_client()
    waits = []
    for call, index in wanted:
        lane, number, slot = client.durable_lane(call._ref.lane_id), call._index(index), SyncSlot()
        client.watch(lane, number, slot)
        waits.append((lane, number, slot))
    try:
        while waits:
            lane, number, slot = waits[0]
            slot.wait()
            waits.pop(0)
            yield client.decode(slot)
    finally:
        for lane, number, slot in waits:
            client.unwatch(lane, number, slot)


def _gather(*function_calls: FunctionCall[Any]) -> list[Any]:
    """Results of several calls, in their order; raises the first error met."""
    return list(_gather_sync([(call, 0) for call in function_calls]))


async def _gather_aio(*function_calls: FunctionCall[Any]) -> list[Any]:
    return list(await asyncio.gather(*(call._get_aio() for call in function_calls)))


FunctionCall.gather = Dual(_gather, _gather_aio)
