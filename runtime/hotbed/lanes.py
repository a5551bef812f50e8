"""Inputs on their way and who waits for them.

1. A lane's inputs are numbered from 0 by the client; the pair (lane, index) names an input for good.
2. A payload is kept until its input is final (sync) or accepted (durable), to be sent again over a new connection.
3. Waiters are woken from the transport's thread: blocking ones by a lock each, those of an event loop by one
   `call_soon_threadsafe` for each frame and loop.
4. An output that nobody waits for (a duplicate, a cancelled input) is dropped.
"""

from __future__ import annotations

import asyncio
import threading
import time
from array import array
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

from hotbed.transport import SubmitFrame
from hotbed_proto import frames
from hotbed_proto.errors import Error, OutputExpiredError
from hotbed_proto.ids import mint

LANE_INPUTS_MAX: Final = 1_000_000
"""Single calls go on in a new lane after this many, so that no lane's record grows for ever."""
_CHECK_S: Final = 60.0

Wakeups = dict[asyncio.AbstractEventLoop, list["AsyncSlot"]]


class SyncSlot:
    """Where one blocking caller waits."""

    __slots__ = ("_lock", "error", "payload", "status")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()
        self.status = -1
        self.payload = b""
        self.error: Error | None = None

    def set(self, status: int, payload: bytes, error: Error | None, wakeups: Wakeups) -> None:
        if self.status >= 0:
            return
        self.payload, self.error, self.status = payload, error, status
        self._lock.release()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Whether the output came in time. Without a timeout the transport's heartbeat is what ends a wait."""
        if timeout_s is not None:
            return self._lock.acquire(timeout=max(0.0, timeout_s))
        while not self._lock.acquire(timeout=_CHECK_S):
            pass
        return True


class AsyncSlot:
    """Where one coroutine waits, on its own loop."""

    __slots__ = ("error", "future", "loop", "payload", "status")

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[None] = self.loop.create_future()
        self.status = -1
        self.payload = b""
        self.error: Error | None = None

    def set(self, status: int, payload: bytes, error: Error | None, wakeups: Wakeups) -> None:
        if self.status >= 0:
            return
        self.payload, self.error, self.status = payload, error, status
        waiting = wakeups.get(self.loop)
        if waiting is None:
            wakeups[self.loop] = [self]
        else:
            waiting.append(self)


def _resolve(slots: list[AsyncSlot]) -> None:
    for slot in slots:
        if not slot.future.done():
            slot.future.set_result(None)


def wake_loops(wakeups: Wakeups) -> None:
    """Tell each loop once."""
    for loop, slots in wakeups.items():
        try:
            loop.call_soon_threadsafe(_resolve, slots)
        except RuntimeError:
            continue  # the user closed that loop: its waiters are gone with it


class Mailbox:
    """Items from the transport's thread to one consumer, blocking or on a loop."""

    __slots__ = ("_guard", "_wake", "items")

    def __init__(self) -> None:
        self.items: deque[Any] = deque()
        self._guard = threading.Lock()
        self._wake: Callable[[], object] | None = None

    def put(self, item: Any) -> None:
        self.items.append(item)
        with self._guard:
            wake, self._wake = self._wake, None
        if wake is not None:
            try:
                wake()
            except RuntimeError:
                return  # the consumer's loop is closed

    def set(self, status: int, payload: bytes, error: Error | None, wakeups: Wakeups) -> None:
        """As a slot: outputs of one generator."""
        self.put((status, payload, error))

    def get(self, timeout_s: float | None = None) -> Any:
        """The next item. Raises OutputExpiredError when none came in time."""
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        while not self.items:
            lock = threading.Lock()
            lock.acquire()
            with self._guard:
                if self.items:
                    break
                self._wake = lock.release
            left_s = _CHECK_S if deadline_s is None else deadline_s - time.monotonic()
            if not lock.acquire(timeout=max(0.0, left_s)) and deadline_s is not None and not self.items:
                raise OutputExpiredError(f"no output within {timeout_s:g} s")
        return self.items.popleft()

    async def aget(self) -> Any:
        """The same on the running loop."""
        while not self.items:
            loop = asyncio.get_running_loop()
            future: asyncio.Future[None] = loop.create_future()

            def finish(future: asyncio.Future[None] = future) -> None:
                if not future.done():
                    future.set_result(None)

            with self._guard:
                if self.items:
                    break
                self._wake = lambda loop=loop, finish=finish: loop.call_soon_threadsafe(finish)
            await future
        return self.items.popleft()


Slot = SyncSlot | AsyncSlot | Mailbox


class Lane:
    """What all kinds share: the buffer of inputs that are not sent yet, and the payloads that may have to be sent again."""

    def __init__(self, function_id: str, *, durable: bool, subscribe: bool, lane_id: str = "") -> None:
        self.lane_id = lane_id or mint("fc")
        self.function_id = function_id
        self.durable = durable
        self.subscribe = subscribe
        self.closed = False
        self.close_sent = False
        self.next_index = 0
        self.dirty = False
        self.buffer: list[bytes] = []
        self.refs: dict[int, bytes] = {}  # index -> reference: the flagged payloads of kept inputs
        self.kept: dict[int, bytes] = {}
        self.to_subscribe: list[int] = []
        self.to_cancel: list[int] = []
        self.cancel_all = False
        self.terminate = False

    # Appending happens under the client's lock.

    def append(self, payload: bytes, flag: int) -> int:
        index = self.next_index
        self.next_index = index + 1
        self.buffer.append(payload)
        self.kept[index] = payload
        if flag:
            self.refs[index] = payload
        return index

    def extend(self, payloads: list[bytes], ref_offsets: Sequence[int]) -> int:
        first = self.next_index
        self.next_index = first + len(payloads)
        self.buffer += payloads
        self.kept.update(zip(range(first, self.next_index), payloads, strict=True))
        for offset in ref_offsets:
            self.refs[first + offset] = payloads[offset]
        return first

    def take_frames(self, out: list[SubmitFrame]) -> None:
        """Cut what is buffered into frames. Called under the client's lock."""
        payloads, self.buffer = self.buffer, []
        closes = self.closed and not self.close_sent
        if payloads or closes:
            self.close_sent = self.close_sent or closes
            self.frames_of(self.next_index - len(payloads), payloads, closes, out)

    def frames_of(self, first: int, payloads: list[bytes], closes: bool, out: list[SubmitFrame]) -> None:
        """Frames of at most FRAME_ITEMS_MAX items and (but for a single larger item) FRAME_BYTES_MAX bytes."""
        at = 0
        while True:
            end = min(at + frames.FRAME_ITEMS_MAX, len(payloads))
            part = payloads[at:end]
            size = sum(map(len, part))
            while size > frames.FRAME_BYTES_MAX and len(part) > 1:
                part = part[: len(part) // 2]
                size = sum(map(len, part))
            flags = b""
            if self.refs:
                start = first + at
                flags = bytes(frames.PAYLOAD_IS_REF if start + n in self.refs else 0 for n in range(len(part)))
            at += len(part)
            last = at >= len(payloads)
            out.append(
                SubmitFrame(
                    self.lane_id,
                    self.function_id,
                    first + at - len(part),
                    part,
                    flags if any(flags) else b"",
                    self.durable,
                    closes and last,
                    self.subscribe,
                )
            )
            if last:
                return

    def resend(self, out: list[SubmitFrame]) -> None:
        """Frames of everything kept, over a new connection. Called under the client's lock."""
        self.buffer = []
        indices = sorted(self.kept)
        start = 0
        for at in range(1, len(indices) + 1):
            if at == len(indices) or indices[at] != indices[at - 1] + 1:
                self.frames_of(indices[start], [self.kept[i] for i in indices[start:at]], False, out)
                start = at
        if self.closed:
            self.close_sent = True
            out.append(
                SubmitFrame(self.lane_id, self.function_id, self.next_index, [], b"", self.durable, True, self.subscribe)
            )

    # What comes back; each kind of lane says what it means.

    def deliver(
        self, indices: Sequence[int] | array[int], payloads: Sequence[bytes], statuses: bytes, final: Callable[[bytes], None]
    ) -> None:
        raise AssertionError("abstract")

    def accepted(self, first: int, count: int) -> None:
        """Only durable lanes wait for it."""

    def fail(self, indices: Sequence[int] | array[int] | None, error: Error) -> None:
        raise AssertionError("abstract")

    def waiting(self) -> list[int] | None:
        """Indices somebody waits for; None = all of the lane."""
        raise AssertionError("abstract")

    def pending(self) -> int:
        """How many answers are awaited."""
        return len(self.kept)

    def on_new_server(self) -> None:
        """Inputs that were running begin anew."""

    def _forget(self, index: int, final: Callable[[bytes], None]) -> None:
        self.kept.pop(index, None)
        if self.refs:
            reference = self.refs.pop(index, None)
            if reference is not None:
                final(reference)


class CallLane(Lane):
    """Single calls of one function: `remote` and `remote_gen` (sync) or `spawn` and `get` (durable)."""

    def __init__(self, function_id: str, *, durable: bool, lane_id: str = "") -> None:
        super().__init__(function_id, durable=durable, subscribe=not durable, lane_id=lane_id)
        self.slots: dict[int, Slot | list[Slot]] = {}
        self.accept_slots: dict[int, SyncSlot | AsyncSlot] = {}
        self.items_seen: dict[int, int] = {}
        self.items_to_skip: dict[int, int] = {}

    def watch(self, index: int, slot: Slot) -> None:
        """Several may wait for one durable output. Called under the client's lock."""
        present = self.slots.get(index)
        if present is None:
            self.slots[index] = slot
        elif isinstance(present, list):
            present.append(slot)
        else:
            self.slots[index] = [present, slot]

    def unwatch(self, index: int, slot: Slot) -> None:
        """Called under the client's lock."""
        present = self.slots.get(index)
        if present is slot:
            del self.slots[index]
        elif isinstance(present, list) and slot in present:
            present.remove(slot)

    def deliver(
        self, indices: Sequence[int] | array[int], payloads: Sequence[bytes], statuses: bytes, final: Callable[[bytes], None]
    ) -> None:
        wakeups: Wakeups = {}
        slots, kept, plain = self.slots, self.kept, not self.durable and not self.refs
        for index, payload, status in zip(indices, payloads, statuses or bytes(len(payloads)), strict=False):
            if status & frames.STATUS_MASK == frames.GENERATOR_ITEM:
                if self._skip_item(index):
                    continue
                slot = slots.get(index)
            else:
                slot = slots.pop(index, None)
                if plain:
                    kept.pop(index, None)
                else:
                    self._forget(index, final)
                if self.items_seen:
                    self.items_seen.pop(index, None)
            if slot is None:
                continue
            if isinstance(slot, list):
                for one in slot:
                    one.set(status, payload, None, wakeups)
            else:
                slot.set(status, payload, None, wakeups)
        if wakeups:
            wake_loops(wakeups)

    def _skip_item(self, index: int) -> bool:
        """A generator that began anew yields again what the consumer has already."""
        if self.items_to_skip.get(index, 0) > 0:
            self.items_to_skip[index] -= 1
            return True
        self.items_seen[index] = self.items_seen.get(index, 0) + 1
        return False

    def on_new_server(self) -> None:
        self.items_to_skip = dict(self.items_seen)

    def accepted(self, first: int, count: int) -> None:
        if not self.durable:
            return
        wakeups: Wakeups = {}
        for index in range(first, first + count):
            self.kept.pop(index, None)
            self.refs.pop(index, None)
            slot = self.accept_slots.pop(index, None)
            if slot is not None:
                slot.set(0, b"", None, wakeups)
        wake_loops(wakeups)

    def fail(self, indices: Sequence[int] | array[int] | None, error: Error) -> None:
        wakeups: Wakeups = {}
        for table in (self.slots, self.accept_slots):
            for index in list(table) if indices is None else indices:
                found: Any = table.pop(index, None)
                for slot in found if isinstance(found, list) else [] if found is None else [found]:
                    slot.set(frames.SYSTEM_ERROR, b"", error, wakeups)
        for index in list(self.kept) if indices is None else indices:
            self.kept.pop(index, None)
            self.refs.pop(index, None)
        wake_loops(wakeups)

    def waiting(self) -> list[int] | None:
        return sorted(self.slots)

    def pending(self) -> int:
        return len(self.slots) + len(self.accept_slots)


class MapLane(Lane):
    """One `map`: whole frames go to the consumer, who unpickles them in its own thread.

    Items of the mailbox: (indices, payloads, statuses), or an Error that ends the map.
    """

    def __init__(self, function_id: str) -> None:
        super().__init__(function_id, durable=False, subscribe=True)
        self.mailbox = Mailbox()

    def deliver(
        self, indices: Sequence[int] | array[int], payloads: Sequence[bytes], statuses: bytes, final: Callable[[bytes], None]
    ) -> None:
        kept = self.kept
        count = len(kept)
        if self.refs:
            fresh = [index in kept for index in indices]
            for index in indices:
                self._forget(index, final)
        else:
            fresh = [kept.pop(index, None) is not None for index in indices]
        if count - len(kept) != len(fresh):  # some were duplicates of a resent frame
            rows = [
                row
                for row, is_fresh in zip(zip(indices, payloads, statuses or bytes(len(fresh)), strict=True), fresh, strict=True)
                if is_fresh
            ]
            if not rows:
                return
            indices, payloads, statuses = [r[0] for r in rows], [r[1] for r in rows], bytes(r[2] for r in rows)
        self.mailbox.put((indices, payloads, statuses))

    def fail(self, indices: Sequence[int] | array[int] | None, error: Error) -> None:
        self.mailbox.put(error)

    def waiting(self) -> list[int] | None:
        return sorted(self.kept)


class SpawnMapLane(CallLane):
    """A `spawn_map`: durable, waits for the acceptance of frames rather than of inputs."""

    def __init__(self, function_id: str) -> None:
        super().__init__(function_id, durable=True)
        self.accepted_mailbox = Mailbox()

    def accepted(self, first: int, count: int) -> None:
        fresh = 0
        for index in range(first, first + count):
            if self.kept.pop(index, None) is not None:
                fresh += 1
                self.refs.pop(index, None)
        self.accepted_mailbox.put(fresh)

    def fail(self, indices: Sequence[int] | array[int] | None, error: Error) -> None:
        if self.kept:
            self.accepted_mailbox.put(error)
        super().fail(indices, error)
