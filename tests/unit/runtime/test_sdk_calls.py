"""The SDK against a server of its own in this process: every way to call, both forms."""

from __future__ import annotations

import asyncio
import itertools
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import hotbed
from hotbed import client, exception

from .fake_server import FakeServer


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    fake = FakeServer(tmp_path / "s.sock")
    monkeypatch.setenv("HOTBED_SERVER", fake.address)
    monkeypatch.setenv("HOTBED_HOME", str(tmp_path))
    client.disconnect()
    yield fake
    client.disconnect()
    fake.stop()


app = hotbed.App("sdk")


@app.function(serialized=True)
def double(x: Any, plus: int = 0) -> Any:
    return x * 2 + plus if isinstance(x, int) else x


@app.function(serialized=True)
def invert(x: int) -> float:
    try:
        return 1 / x
    except ZeroDivisionError as error:
        raise ValueError("no inverse") from error


@app.function(serialized=True)
def count(n: int) -> Iterator[int]:
    yield from range(n)


@app.function(serialized=True)
def held(x: int) -> int:
    return x


def test_remote_in_both_forms(server: FakeServer) -> None:
    async def both() -> list[int]:
        return list(await asyncio.gather(*(double.remote.aio(i) for i in range(200))))

    with app.run():
        assert double.remote(4, plus=1) == 9
        assert asyncio.run(both()) == [i * 2 for i in range(200)]
    assert server.submit_frames < 100  # many concurrent calls share frames


def test_calls_outside_of_a_run_say_so(server: FakeServer) -> None:
    with pytest.raises(exception.ExecutionError, match="not running"):
        double.remote(1)


def test_an_exception_keeps_its_cause_and_carries_the_remote_traceback(server: FakeServer) -> None:
    with app.run():
        with pytest.raises(ValueError, match="no inverse") as caught:
            invert.remote(0)
        assert isinstance(caught.value.__cause__, ZeroDivisionError)
        assert any("Remote traceback" in note for note in caught.value.__notes__)
        assert invert.remote(2) == 0.5


def test_map_orders_returns_exceptions_and_takes_several_iterators(server: FakeServer) -> None:
    with app.run():
        assert list(double.map(range(3000))) == [i * 2 for i in range(3000)]
        assert sorted(double.map(range(700), order_outputs=False)) == [i * 2 for i in range(700)]
        assert list(double.map([1, 2], [10, 20])) == [12, 24]
        assert list(double.starmap([(1, 1), (2, 2)], kwargs={})) == [3, 6]
        values = list(invert.map([1, 0, 2], return_exceptions=True))
        assert values[0] == 1
        assert isinstance(values[1], ValueError)
        with pytest.raises(ValueError, match="no inverse"):
            list(invert.map([1, 0, 2]))
        assert list(double.map([])) == []
        double.for_each(range(5))


def test_map_of_an_endless_iterator_is_lazy_and_cancels_the_rest(server: FakeServer) -> None:
    pulled = itertools.count()
    with app.run():
        results = double.map(pulled)
        assert list(itertools.islice(results, 100)) == [i * 2 for i in range(100)]
        results.close()  # type: ignore[attr-defined]
        assert double.remote(1) == 2  # its frame comes after the cancel's
    assert next(pulled) < 40_000
    assert any(not indices for _, indices in server.cancelled)


def test_async_map_takes_async_iterables(server: FakeServer) -> None:
    async def numbers() -> Any:
        for i in range(1200):
            yield i

    async def run() -> list[Any]:
        async with app.run():
            return [value async for value in double.map.aio(numbers())]

    assert asyncio.run(run()) == [i * 2 for i in range(1200)]


def test_generators(server: FakeServer) -> None:
    async def items() -> list[int]:
        return [item async for item in count.remote_gen.aio(3)]

    with app.run():
        assert list(count.remote_gen(4)) == [0, 1, 2, 3]
        assert asyncio.run(items()) == [0, 1, 2]
        with pytest.raises(exception.InvalidError, match="remote_gen"):
            count.remote(1)


def test_spawn_get_gather_and_from_id(server: FakeServer) -> None:
    async def many() -> list[int]:
        calls = await asyncio.gather(*(double.spawn.aio(i) for i in range(100)))
        return await hotbed.FunctionCall.gather.aio(*calls)

    with app.run():
        calls = [double.spawn(i) for i in range(5)]
        assert hotbed.FunctionCall.gather(*calls) == [0, 2, 4, 6, 8]
        assert hotbed.FunctionCall.from_id(calls[3].object_id).get(timeout=5) == 6
        assert asyncio.run(many()) == [i * 2 for i in range(100)]
        batch = double.spawn_map(range(1500))
        assert batch.num_inputs() == 1500
        assert list(batch.iter()) == [i * 2 for i in range(1500)]
        assert batch.get(index=7) == 14
        with pytest.raises(exception.OutputExpiredError):
            held.spawn(1).get(timeout=0.05)
        with pytest.raises(exception.NotFoundError):
            hotbed.FunctionCall.from_id("fc-unknown00").get(timeout=5)


def test_large_payloads_by_blob_and_by_file(server: FakeServer, tmp_path: Path) -> None:
    big = os.urandom(3 * 2**20)
    with app.run():
        server_limit = client.current_client().transport.inline_limit_bytes
        assert len(big) > server_limit
        assert double.spawn(big).object_id
        assert sum(big[:64] in blob for blob in server.blobs.values()) == 1
    client.disconnect()
    server.payload_dir = str(tmp_path / "shm")
    os.makedirs(server.payload_dir)
    with app.run():
        for _ in range(3):
            assert double.remote(big) == big
        files = [f for f in Path(server.payload_dir, "in").rglob("*") if f.is_file()]
        assert len(files) == 1  # one file, used again
    client.disconnect()
    assert not [f for f in Path(server.payload_dir, "in").rglob("*") if f.is_file()]


def test_a_lost_stream_is_repaired_and_unfinished_inputs_are_sent_again(server: FakeServer) -> None:
    with app.run():
        assert double.remote(1) == 2
        server.cut_after_inputs = 1  # the frame of the next input is lost with its stream
        assert double.remote(2) == 4
        server.restart("two")  # a new server knows no function: they are registered again
        assert double.remote(3) == 6


def test_a_server_that_stays_away_ends_every_wait(tmp_path: Path) -> None:
    from hotbed.settings import Settings

    fake = FakeServer(tmp_path / "s.sock")
    client.disconnect()
    client.current_client(Settings(tmp_path, fake.address, reconnect_s=0.3))
    caught: list[BaseException] = []

    def call() -> None:
        try:
            held.remote(1)
        except exception.Error as error:
            caught.append(error)

    run = app.run()
    run.__enter__()
    try:
        thread = threading.Thread(target=call)
        thread.start()
        while not fake.submit_frames:
            pass
        fake.stop()
        thread.join(10)
        assert isinstance(caught[0], exception.ServiceError)
    finally:
        app.app_id = None
        client.disconnect()


def test_an_abandoned_async_call_is_cancelled(server: FakeServer) -> None:
    async def give_up() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(held.remote.aio(1), 0.1)

    with app.run():
        asyncio.run(give_up())
        assert double.remote(1) == 2
    assert any(indices == [0] for _, indices in server.cancelled)


def test_unpicklable_arguments_are_named_and_the_next_call_works(server: FakeServer) -> None:
    with app.run():
        with pytest.raises(exception.SerializationError, match="argument 1"):
            double.remote(threading.Lock())
        assert double.remote(2) == 4
