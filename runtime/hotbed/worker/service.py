"""The service thread: keeps results, cancels and nested calls moving while the main thread is inside user code.

The main thread does everything itself as long as inputs are short. Only when one input lasts does this thread flush what
is finished and read the socket. It ticks for a second after the last activity and then sleeps on a lock without a timeout:
an idle container wakes up never.
"""

from __future__ import annotations

import os
import select
from _thread import allocate_lock, start_new_thread
from time import monotonic
from typing import TYPE_CHECKING, Final

from hotbed.worker.channel import Closed
from hotbed.worker.wire import NestedUp

if TYPE_CHECKING:
    from typing import Any

    from hotbed.worker.channel import Channel
    from hotbed.worker.runner import Runner

_TICK_S: Final = 0.010
_STREAM_TICK_S: Final = 0.003
"""While a generator runs: its items leave at most about this late."""
_ACTIVE_S: Final = 1.0


class Service:
    """One thread, started on first need."""

    def __init__(self, runner: Runner, channel: Channel) -> None:
        self._runner = runner
        self._channel = channel
        self._started = False
        self._sleeping = False
        self._sleep = allocate_lock()
        self._sleep.acquire()
        self._wake_fd = -1
        self._nested_pending = 0
        self.last_activity_s = 0.0

    def activity(self, now_s: float) -> None:
        """The main thread begins a batch. Cost: 0.1 us while the thread is awake."""
        self.last_activity_s = now_s
        if not self._started:
            self._started = True
            self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            start_new_thread(self._run, ())
        elif self._sleeping:
            self._sleeping = False
            try:
                self._sleep.release()
            except RuntimeError:
                return  # released already, by a wake-up that the thread did not need in the end

    def send_nested(self, kind: int, columns: dict[str, Any]) -> None:
        """Send a nested call's frame and watch the socket for its answer."""
        self.activity(monotonic())
        if self._nested_pending == 0:
            self._nested_pending = 1
        self._channel.send(NestedUp(kind=kind, **columns))
        os.eventfd_write(self._wake_fd, 1)

    def set_nested_pending(self, count: int) -> None:
        """How many answers are awaited."""
        self._nested_pending = count

    def _run(self) -> None:
        runner = self._runner
        last_sequence = -1
        poll = select.poll()
        poll.register(self._wake_fd, select.POLLIN)
        poll.register(self._channel.fileno(), select.POLLIN)
        only_wake = select.poll()
        only_wake.register(self._wake_fd, select.POLLIN)
        try:
            while True:
                now_s = monotonic()
                # A lasting input keeps the thread ticking however long ago its batch began.
                if now_s - self.last_activity_s > _ACTIVE_S and not runner.busy:
                    self._sleeping = True
                    if runner.busy and self._sleeping:  # it began between the two lines above
                        self._sleeping = False
                        continue
                    self._sleep.acquire()
                    self._sleeping = False
                    continue
                in_user_code = runner.busy and runner.sequence & 1 == 1 and runner.sequence == last_sequence
                last_sequence = runner.sequence
                watch = runner.busy and (in_user_code or self._nested_pending > 0)
                tick_s = _STREAM_TICK_S if runner.streaming else _TICK_S
                ready = (poll if watch else only_wake).poll(tick_s * 1000)
                for descriptor, _ in ready:
                    if descriptor == self._wake_fd:
                        try:
                            os.eventfd_read(self._wake_fd)
                        except BlockingIOError:
                            continue
                if runner.busy and (in_user_code or runner.streaming or self._nested_pending > 0):
                    runner.flush()
                    self._channel.receive_now(runner.handle_beside)
        except Closed:
            os._exit(0)  # the node is gone: nobody can take a result any more
        except ValueError as error:
            os.write(2, f"hotbed worker: {error}\n".encode())
            os._exit(70)
