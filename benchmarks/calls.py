"""Calls, maps, spawns and large payloads against ProcessPoolExecutor and Ray.

Run: `python benchmarks/calls.py [--no-ray]`."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import harness
import hotbed

app = hotbed.App("bench-calls")
PAYLOAD = os.urandom(64 * 2**20)


def identity(x: Any) -> Any:
    return x


remote_identity = app.function(name="identity", serialized=True)(identity)


def rate(count: int, run: Callable[[], object]) -> float:
    return count / harness.timed(run)


def in_threads(threads: int, calls: int, call: Callable[[int], Any]) -> float:
    """Calls per second of `threads` threads making `calls` calls each, all started at once."""
    barrier = threading.Barrier(threads + 1)
    wrong: list[object] = []

    def work(base: int) -> None:
        barrier.wait()
        for i in range(base, base + calls):
            if call(i) != i:
                wrong.append(i)

    running = [threading.Thread(target=work, args=(n * calls,)) for n in range(threads)]
    for thread in running:
        thread.start()
    barrier.wait()
    started_s = time.perf_counter()
    for thread in running:
        thread.join(timeout=300)
    elapsed_s = time.perf_counter() - started_s
    assert not wrong, wrong[:5]
    return threads * calls / elapsed_s


def in_tasks(tasks: int, calls: int) -> float:
    """Calls per second of `tasks` asyncio tasks, each awaiting `calls` calls one after the other."""

    async def work(base: int) -> None:
        for i in range(base, base + calls):
            assert await remote_identity.remote.aio(i) == i

    async def main() -> float:
        started_s = time.perf_counter()
        await asyncio.gather(*(work(n * calls) for n in range(tasks)))
        return tasks * calls / (time.perf_counter() - started_s)

    return asyncio.run(main())


def map_rate(count: int) -> float:
    started_s = time.perf_counter()
    results = list(remote_identity.map(range(count)))
    elapsed_s = time.perf_counter() - started_s
    assert results == list(range(count))
    return count / elapsed_s


def spawn_map_rate(count: int) -> float:
    started_s = time.perf_counter()
    results = list(remote_identity.spawn_map(range(count)).iter())
    elapsed_s = time.perf_counter() - started_s
    assert results == list(range(count))
    return count / elapsed_s


def spawn_tasks_rate(count: int, tasks: int = 1000) -> float:
    async def work(base: int) -> int:
        calls = [await remote_identity.spawn.aio(i) for i in range(base, base + count // tasks)]
        return sum(await hotbed.FunctionCall.gather.aio(*calls))

    async def main() -> float:
        started_s = time.perf_counter()
        sums = await asyncio.gather(*(work(n * (count // tasks)) for n in range(tasks)))
        elapsed_s = time.perf_counter() - started_s
        assert sum(sums) == count * (count - 1) // 2
        return count / elapsed_s

    return asyncio.run(main())


def echo(call: Callable[[Any], Any]) -> float:
    started_s = time.perf_counter()
    result = call(PAYLOAD)
    elapsed_s = time.perf_counter() - started_s
    assert result == PAYLOAD
    return elapsed_s


def against_pool(rows: list[harness.Row], pool: ProcessPoolExecutor) -> None:
    def submit(i: Any) -> Any:
        return pool.submit(identity, i).result()

    def fan_out(count: int) -> float:
        started_s = time.perf_counter()
        futures = [pool.submit(identity, i) for i in range(count)]
        results = [future.result() for future in futures]
        elapsed_s = time.perf_counter() - started_s
        assert results == list(range(count))
        return count / elapsed_s

    def pool_map(count: int) -> float:
        started_s = time.perf_counter()
        results = list(pool.map(identity, range(count), chunksize=100))
        elapsed_s = time.perf_counter() - started_s
        assert results == list(range(count))
        return count / elapsed_s

    name = "ProcessPoolExecutor"
    add = rows.append
    add(
        harness.compare(
            "warm no-op call p50",
            lambda: 1e3 * harness.latency_s(remote_identity.remote, 400),
            f"{name}.submit().result()",
            lambda: 1e3 * harness.latency_s(submit, 400),
            unit="ms",
            target=2.5,
        )
    )
    add(
        harness.compare(
            "1,000 threads calling at once",
            lambda: in_threads(1000, 10, remote_identity.remote),
            f"{name}, the same threads",
            lambda: in_threads(1000, 10, submit),
            unit="calls/s",
            target=2,
            better="higher",
            rounds=3,
        )
    )
    add(
        harness.absolute(
            "1,000 async tasks calling at once",
            lambda: in_tasks(1000, 50),
            unit="calls/s",
            target=50_000,
            better="higher",
        )
    )
    add(
        harness.compare(
            "map of 10,000 no-ops",
            lambda: map_rate(10_000),
            f"{name}.submit fan-out",
            lambda: fan_out(10_000),
            unit="items/s",
            target=10,
            better="higher",
        )
    )
    add(
        harness.compare(
            "map of 100,000 no-ops",
            lambda: map_rate(100_000),
            f"{name}.map(chunksize=100)",
            lambda: pool_map(100_000),
            unit="items/s",
            target=0.2,
            better="higher",
            rounds=3,
        )
    )
    for measure, run in (
        ("10,000 spawned by spawn_map, durable, gathered", lambda: spawn_map_rate(10_000)),
        ("10,000 spawned by 1,000 tasks, durable, gathered", lambda: spawn_tasks_rate(10_000)),
    ):
        add(
            harness.compare(
                measure,
                run,
                f"{name}.submit fan-out",
                lambda: fan_out(10_000),
                unit="items/s",
                target=3,
                better="higher",
                rounds=3,
            )
        )
    add(
        harness.compare(
            "64 MiB bytes there and back",
            lambda: 1e3 * echo(remote_identity.remote),
            name,
            lambda: 1e3 * echo(submit),
            unit="ms",
            target=0.4,
        )
    )


def against_ray(rows: list[harness.Row]) -> None:
    import ray

    # Before hotbed connects: Ray starts its processes by fork, which gRPC's threads do not like.
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    with contextlib.ExitStack() as stack:
        stack.callback(ray.shutdown)
        stack.enter_context(harness.quiet_home())
        stack.enter_context(app.run())
        assert remote_identity.remote(1) == 1
        task = ray.remote(identity)

        @ray.remote
        class Echo:
            def call(self, x: Any) -> Any:
                return x

        actor: Any = Echo.remote()  # type: ignore[attr-defined]

        def fan_out(count: int) -> float:
            started_s = time.perf_counter()
            results = ray.get([task.remote(i) for i in range(count)])
            elapsed_s = time.perf_counter() - started_s
            assert results == list(range(count))
            return count / elapsed_s

        def call(i: Any) -> Any:
            return ray.get(actor.call.remote(i))

        ours = lambda: 1e3 * harness.latency_s(remote_identity.remote, 300)  # noqa: E731
        add = rows.append
        add(
            harness.compare(
                "warm no-op call p50",
                ours,
                "Ray actor call",
                lambda: 1e3 * harness.latency_s(call, 300),
                unit="ms",
                target=0.75,
            )
        )
        add(
            harness.compare(
                "warm no-op call p50",
                ours,
                "Ray task",
                lambda: 1e3 * harness.latency_s(lambda i: ray.get(task.remote(i)), 300),
                unit="ms",
                target=0.3,
            )
        )
        add(
            harness.compare(
                "map of 10,000 no-ops",
                lambda: map_rate(10_000),
                "Ray tasks",
                lambda: fan_out(10_000),
                unit="items/s",
                target=40,
                better="higher",
                rounds=2,
            )
        )
        add(
            harness.compare(
                "64 MiB bytes there and back",
                lambda: 1e3 * echo(remote_identity.remote),
                "Ray actor",
                lambda: 1e3 * echo(call),
                unit="ms",
                target=1.2,
            )
        )


def main(arguments: list[str] | None = None) -> list[harness.Row]:
    parser = argparse.ArgumentParser()
    parser.add_argument("--no-ray", action="store_true", help="skip the rows against Ray")
    options = parser.parse_args(arguments)
    rows: list[harness.Row] = []
    # The pool forks its processes before gRPC has threads here: forking later is what breaks it.
    with ProcessPoolExecutor(2) as pool:
        assert pool.submit(identity, 1).result() == 1
        with harness.quiet_home(), app.run():
            assert remote_identity.remote(1) == 1
            against_pool(rows, pool)
    if not options.no_ray:
        try:
            import ray  # noqa: F401
        except ImportError:
            print("Ray is not installed (pip install ray): its rows are left out")
        else:
            against_ray(rows)
    harness.save("calls", rows)
    return rows


if __name__ == "__main__":
    print(harness.markdown(main()))
