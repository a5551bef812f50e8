"""`map` and its relatives: inputs are pulled, pickled and cut into frames in the caller's thread, results unpickled there.

At most `WINDOW` inputs are outstanding, so an endless iterator is fine. Closing the generator cancels what is left.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final

from hotbed import serialize
from hotbed.lanes import MapLane, SpawnMapLane
from hotbed_proto import frames
from hotbed_proto.errors import Error

if TYPE_CHECKING:
    from hotbed.client import Client

WINDOW: Final = 16_384
CHUNK: Final = 512
CHUNK_S: Final = 0.005
CHUNK_BYTES: Final = 4 * 1024 * 1024

_MISSING: Final = object()


class _Chunker:
    """Pickles inputs into chunks."""

    def __init__(self, client: Client, function_id: str, kwargs: dict[str, Any], *, durable: bool) -> None:
        self._client = client
        self._function_id = function_id
        self._kwargs = kwargs
        self._durable = durable
        transport = client.transport
        self._limit = transport.durable_limit_bytes if durable else transport.inline_limit_bytes
        self._started_s = 0.0
        self.payloads: list[bytes] = []
        self.refs: list[int] = []
        self.bytes = 0

    def add(self, args: tuple[Any, ...]) -> bool:
        """Whether the chunk should go now. Cost: 1 us for a plain argument."""
        if not self.payloads:
            self._started_s = time.monotonic()
        if serialize.looks_large(args, self._kwargs, self._limit):
            payload, flag = self._client.encode(self._function_id, args, self._kwargs, durable=self._durable)
        else:
            payload, flag = serialize.dumps_call(args, self._kwargs), 0
            if len(payload) > self._limit:
                payload, flag = self._client.transport.store_bytes(self._function_id, payload, self._durable), 1
        if flag:
            self.refs.append(len(self.payloads))
        self.payloads.append(payload)
        self.bytes += len(payload)
        return len(self.payloads) >= CHUNK or self.bytes >= CHUNK_BYTES or time.monotonic() - self._started_s >= CHUNK_S

    def take(self) -> tuple[list[bytes], list[int]]:
        taken = self.payloads, self.refs
        self.payloads, self.refs, self.bytes = [], [], 0
        return taken


class _Results:
    """Results in the order that was asked for."""

    def __init__(self, client: Client, ordered: bool, return_exceptions: bool) -> None:
        self._client = client
        self._ordered = ordered
        self._return_exceptions = return_exceptions
        self._next = 0
        self._early: dict[int, tuple[int, bytes]] = {}
        self.received = 0

    def decode(self, status: int, payload: bytes) -> Any:
        try:
            return serialize.decode(status, payload, self._client.transport.load_ref)
        except Exception as error:
            if not self._return_exceptions:
                raise
            return error

    def take(self, item: Any) -> Iterator[tuple[int, bytes]]:
        """(status, payload) of what may be yielded now."""
        if isinstance(item, Error):
            raise item
        indices, payloads, statuses = item
        self.received += len(payloads)
        rows = zip(payloads, statuses or bytes(len(payloads)), strict=True)
        if not self._ordered:
            for payload, status in rows:
                yield status, payload
            return
        early = self._early
        for index, (payload, status) in zip(indices, rows, strict=True):
            if index == self._next:
                self._next += 1
                yield status, payload
                while early and self._next in early:
                    entry = early.pop(self._next)
                    self._next += 1
                    yield entry
            else:
                early[index] = (status, payload)


def map_sync(
    client: Client,
    function_id: str,
    rows: Iterable[tuple[Any, ...]],
    kwargs: dict[str, Any],
    *,
    ordered: bool,
    return_exceptions: bool,
) -> Iterator[Any]:
    """Run the function on every row of arguments."""
    lane = MapLane(function_id)
    client.open(lane)
    mailbox = lane.mailbox
    chunker = _Chunker(client, function_id, kwargs, durable=False)
    results = _Results(client, ordered, return_exceptions)
    source = iter(rows)
    exhausted = finished = False
    sent = yielded = 0
    try:
        while True:
            # `yielded`, not `received`: a slow consumer, too, slows the producer down.
            while not exhausted and sent - yielded < WINDOW and not mailbox.items:
                row = next(source, _MISSING)
                if row is _MISSING:
                    exhausted = True
                    due = bool(chunker.payloads)
                else:
                    due = chunker.add(row) or sent + len(chunker.payloads) - yielded >= WINDOW  # type: ignore[arg-type]
                if due:
                    payloads, refs = chunker.take()
                    client.push(lane, payloads, refs)
                    sent += len(payloads)
                if exhausted:
                    client.close(lane)
            if chunker.payloads and (mailbox.items or sent == results.received):
                payloads, refs = chunker.take()
                client.push(lane, payloads, refs)
                sent += len(payloads)
            if exhausted and results.received == sent:
                finished = True
                return
            for status, payload in results.take(mailbox.get()):
                value = results.decode(status, payload)
                yielded += 1
                yield value
    finally:
        if not finished:
            client.cancel(lane, None)
        client.forget(lane)


async def map_async(
    client: Client,
    function_id: str,
    rows: AsyncIterator[tuple[Any, ...]],
    kwargs: dict[str, Any],
    *,
    ordered: bool,
    return_exceptions: bool,
) -> AsyncIterator[Any]:
    """The same on a loop: a feeder task pulls the inputs while results are yielded."""
    lane = MapLane(function_id)
    client.open(lane)
    results = _Results(client, ordered, return_exceptions)
    room = asyncio.Semaphore(WINDOW)
    sent = 0
    ended = False

    async def feed() -> None:
        nonlocal sent, ended
        chunker = _Chunker(client, function_id, kwargs, durable=False)

        def push() -> None:
            nonlocal sent
            payloads, refs = chunker.take()
            if payloads:
                client.push(lane, payloads, refs)
                sent += len(payloads)

        error: BaseException | None = None
        pull = asyncio.ensure_future(anext(rows, _MISSING))
        try:
            while True:
                if not pull.done():
                    done, _ = await asyncio.wait([pull], timeout=CHUNK_S if chunker.payloads else None)
                    if not done:
                        push()
                        continue
                row = pull.result()
                if row is _MISSING:
                    break
                if room.locked():
                    push()
                await room.acquire()
                if client.is_large(row, kwargs):  # type: ignore[arg-type]
                    due = await asyncio.to_thread(chunker.add, row)  # type: ignore[arg-type]
                else:
                    due = chunker.add(row)  # type: ignore[arg-type]
                if due:
                    push()
                    await asyncio.sleep(0)
                pull = asyncio.ensure_future(anext(rows, _MISSING))
        except Exception as caught:  # noqa: BLE001 - the user's iterator failed: the consumer raises it
            error = caught
        finally:
            pull.cancel()
        push()
        ended = True
        client.close(lane)
        lane.mailbox.put(error)  # None: look again whether all has come

    feeder = asyncio.ensure_future(feed())
    finished = False
    try:
        while not (ended and results.received == sent):
            item = await lane.mailbox.aget()
            if item is None:
                continue
            if isinstance(item, BaseException):
                raise item
            for status, payload in results.take(item):
                if status & frames.PAYLOAD_IS_REF:
                    value = await asyncio.to_thread(results.decode, status, payload)
                else:
                    value = results.decode(status, payload)
                room.release()
                yield value
        finished = True
    finally:
        feeder.cancel()
        if not finished:
            client.cancel(lane, None)
        client.forget(lane)


def spawn_map_sync(
    client: Client, function_id: str, rows: Iterable[tuple[Any, ...]], kwargs: dict[str, Any]
) -> tuple[str, int]:
    """Spawn every row; (lane id, count) once all are accepted, that is: stored."""
    lane = SpawnMapLane(function_id)
    client.open(lane)
    chunker = _Chunker(client, function_id, kwargs, durable=True)
    sent = accepted = 0

    def push() -> None:
        nonlocal sent
        payloads, refs = chunker.take()
        client.push(lane, payloads, refs)
        sent += len(payloads)

    def settle(limit: int) -> None:
        nonlocal accepted
        while sent - accepted > limit:
            item = lane.accepted_mailbox.get()
            if isinstance(item, Error):
                raise item
            accepted += item

    try:
        for row in rows:
            if chunker.add(row):
                push()
                settle(WINDOW)
        if chunker.payloads:
            push()
        client.close(lane)
        settle(0)
    except BaseException:
        client.cancel(lane, None)
        raise
    return lane.lane_id, sent


async def rows_async(iterators: tuple[Any, ...]) -> AsyncIterator[tuple[Any, ...]]:
    """Zip plain and async iterables."""
    if len(iterators) == 1 and not isinstance(iterators[0], AsyncIterable):
        for value in iterators[0]:
            yield (value,)
        return
    sources = [(aiter(one), True) if isinstance(one, AsyncIterable) else (iter(one), False) for one in iterators]
    while True:
        row = []
        for source, is_async in sources:
            value = await anext(source, _MISSING) if is_async else next(source, _MISSING)  # type: ignore[arg-type]
            if value is _MISSING:
                return
            row.append(value)
        yield tuple(row)
