"""The worker's socket is read by two threads in turn: nothing one of them took may be waited for by the other."""

from __future__ import annotations

import socket
import threading
from typing import Any

from hotbed.worker import wire
from hotbed.worker.channel import Channel


def channel_pair() -> tuple[socket.socket, Channel]:
    ours, theirs = socket.socketpair()
    return ours, Channel(theirs.detach())


def test_work_left_by_the_other_thread_ends_a_wait_at_once() -> None:
    """The service thread took the last frame just before the main thread came to wait for it."""
    ours, channel = channel_pair()
    with ours:
        queue: list[Any] = []
        ours.sendall(wire.encode_frame(wire.WorkerCancel(lane=1)))
        while not queue:
            channel.receive_now(queue.append)
        assert channel.receive(lambda: queue) == []


def test_a_wait_that_begins_while_the_other_thread_hands_over_sees_what_it_left() -> None:
    ours, channel = channel_pair()
    with ours:
        queue: list[Any] = []
        handing, may_go = threading.Event(), threading.Event()

        def slow_handover(message: Any) -> None:
            handing.set()
            assert may_go.wait(10)
            queue.append(message)

        ours.sendall(wire.encode_frame(wire.WorkerCancel(lane=1)))
        service = threading.Thread(target=channel.receive_now, args=(slow_handover,))
        service.start()
        assert handing.wait(10)
        got: list[Any] = []
        main = threading.Thread(target=lambda: got.append(channel.receive(lambda: queue)))
        main.start()
        may_go.set()
        main.join(10)
        service.join(10)
        assert got == [[]], "the main thread must come back for the queue, not sleep on the socket"
        assert len(queue) == 1
