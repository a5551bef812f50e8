"""Processes killed with SIGKILL: spawned inputs still end in exactly one result; waiting calls get theirs or a named error."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import Any

import pytest

import hotbed
from hotbed import exception

pytestmark = [pytest.mark.container, pytest.mark.root]

app = hotbed.App("recovery")


@app.function(serialized=True)
def slow(x: int) -> int:
    time.sleep(0.3)
    return x


@app.function(serialized=True)
def quick(x: int) -> int:
    return x


def test_spawned_inputs_survive_the_server(server: Any) -> None:
    """The server dies with most of the inputs unfinished; a new one finishes them all, each once."""
    with app.run(detach=True):
        calls = [slow.spawn(i) for i in range(12)]
        done = slow.spawn_map(range(5))
        assert calls[0].get(timeout=60) == 0
        os.kill(server.pid(), signal.SIGKILL)
        assert [call.get(timeout=90) for call in calls] == list(range(12))
        assert list(done.iter()) == list(range(5))
    again = hotbed.FunctionCall.from_id(calls[3].object_id)
    assert again.get(timeout=30) == 3


def test_a_waiting_call_gets_its_result_over_a_server_kill(server: Any) -> None:
    results: list[Any] = []

    def call(i: int) -> None:
        try:
            results.append(slow.remote(i))
        except exception.Error as error:
            results.append(error)

    with app.run():
        assert quick.remote(1) == 1
        threads = [threading.Thread(target=call, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(0.15)  # let some be running and some queued: the point is to kill in between
        os.kill(server.pid(), signal.SIGKILL)
        for thread in threads:
            thread.join(timeout=90)
            assert not thread.is_alive(), "a waiting call hung"
    assert len(results) == 4
    assert all(isinstance(result, (int, exception.Error)) for result in results)
    assert sorted(r for r in results if isinstance(r, int)) == [0, 1, 2, 3]


def test_second_run_finds_warm_containers(server: Any) -> None:
    with app.run():
        assert quick.remote(1) == 1
    started_s = time.monotonic()
    with app.run():
        assert quick.remote(2) == 2
    assert time.monotonic() - started_s < 5
