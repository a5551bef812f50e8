"""One thread that owns the store: group commit of everything queued, and reads in order with the writes."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

from hotbed_proto.errors import InternalError

from ..store import FunctionRecord, InputsRecord, Record, ResultsRecord, Store

T = TypeVar("T")
_log = logging.getLogger(__name__)
Done = Callable[[BaseException | None], None]


class StoreThread:
    """Writes are committed in groups; their callbacks run in the event loop, in the order of the calls.

    A `read` sees every write queued before it, and its answer arrives after their callbacks.
    """

    def __init__(self, store: Store, loop: asyncio.AbstractEventLoop, backlog_bytes_max: int) -> None:
        self._store = store
        self._loop = loop
        self._backlog_max = backlog_bytes_max
        self._backlog = 0
        self._room = asyncio.Event()
        self._room.set()
        self._wake = threading.Condition()
        self._queue: list[tuple[Sequence[Record], Done] | Callable[[], None]] = []
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="hotbed-store", daemon=True)
        self._thread.start()

    def write(self, records: Sequence[Record], done: Done) -> None:
        """Queue records; `done(error or None)` is called in the loop once they are committed or have failed."""
        size = sum(map(_size, records))
        self._backlog += size
        if self._backlog > self._backlog_max:
            self._room.clear()

        def finished(error: BaseException | None) -> None:
            self._backlog -= size
            if self._backlog <= self._backlog_max:
                self._room.set()
            done(error)

        self._put((records, finished))

    async def write_wait(self, records: Sequence[Record]) -> None:
        """Queue records and wait for the commit; raises what went wrong."""
        future: asyncio.Future[None] = self._loop.create_future()

        def done(error: BaseException | None) -> None:
            if not future.done():
                if error is None:
                    future.set_result(None)
                else:
                    future.set_exception(error)

        self.write(records, done)
        await future

    async def read(self, query: Callable[[Store], T], then: Callable[[T], None] | None = None) -> T:
        """Run a query in the store's thread.

        `then` is called with the answer before the callback of any later write, which the awaiting task cannot promise.
        """
        future: asyncio.Future[T] = self._loop.create_future()

        def deliver(value: T | None, error: BaseException | None) -> None:
            if future.done():
                return
            if error is not None:
                future.set_exception(error)
                return
            try:
                if then is not None:
                    then(value)  # type: ignore[arg-type]
            except Exception as failure:  # noqa: BLE001 - handed to the caller
                future.set_exception(failure)
            else:
                future.set_result(value)  # type: ignore[arg-type]

        def run() -> None:
            try:
                value = query(self._store)
            except Exception as error:  # noqa: BLE001 - handed to the caller
                self._loop.call_soon_threadsafe(deliver, None, error)
            else:
                self._loop.call_soon_threadsafe(deliver, value, None)

        self._put(run)
        return await future

    async def room(self) -> None:
        """Wait until the uncommitted backlog is under its limit."""
        await self._room.wait()

    def _put(self, job: tuple[Sequence[Record], Done] | Callable[[], None]) -> None:
        with self._wake:
            if self._closing:
                raise InternalError("the store is closed")
            self._queue.append(job)
            self._wake.notify()

    def _run(self) -> None:
        while True:
            with self._wake:
                while not self._queue and not self._closing:
                    self._wake.wait()
                jobs, self._queue = self._queue, []
                if not jobs:
                    return
            group: list[tuple[Sequence[Record], Done]] = []
            for job in jobs:
                if isinstance(job, tuple):
                    group.append(job)
                    continue
                self._commit(group)
                group = []
                job()
            self._commit(group)

    def _commit(self, group: list[tuple[Sequence[Record], Done]]) -> None:
        if not group:
            return
        failure: BaseException | None = None
        try:
            self._store.write([record for records, _ in group for record in records])
        except Exception as error:  # noqa: BLE001 - each caller is told
            _log.exception("a group of %d writes could not be stored", len(group))
            failure = error
        callbacks = [done for _, done in group]
        self._loop.call_soon_threadsafe(_call_all, callbacks, failure)

    async def close(self) -> None:
        """Commit what is queued, end the thread and close the store."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        await asyncio.to_thread(self._thread.join, 30.0)
        self._store.close()


def _call_all(callbacks: list[Done], failure: BaseException | None) -> None:
    for done in callbacks:
        done(failure)


def _size(record: Record) -> int:
    if isinstance(record, InputsRecord | ResultsRecord):
        return len(record.data) + 100
    return len(record.spec) if isinstance(record, FunctionRecord) else 100
