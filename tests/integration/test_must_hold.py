"""What goes wrong in real life, each ending in its documented result or error, and the next call works."""

from __future__ import annotations

import concurrent.futures
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import hotbed
from hotbed import exception

pytestmark = [pytest.mark.container, pytest.mark.root]

app = hotbed.App("must-hold")


@app.function(serialized=True)
def identity(x: Any) -> Any:
    return x


@app.function(serialized=True, memory=(128, 192))
def allocate(mib: int) -> int:
    block = bytearray(mib * 2**20)
    for offset in range(0, len(block), 4096):
        block[offset] = 1
    return len(block) // 2**20


@app.function(serialized=True, timeout=1)
def sleep_for(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


@app.function(serialized=True)
def raise_local() -> None:
    class LocalError(Exception):
        pass

    try:
        {}["missing"]
    except KeyError as error:
        raise LocalError("outer") from error


@app.function(serialized=True)
def leave(code: int) -> None:
    sys.exit(code)


@app.function(serialized=True)
def kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@app.function(serialized=True)
def one_percent(x: int) -> int:
    if x % 100 == 17:
        raise ValueError(f"item {x}")
    return x


@app.function(serialized=True)
def unloadable() -> Any:
    import types

    module = types.ModuleType("only_in_the_container")
    exec("class Thing:\n    def __reduce__(self):\n        import only_in_the_container\n", module.__dict__)

    class Reducer:
        def __reduce__(self) -> Any:
            import importlib

            return importlib.import_module, ("only_in_the_container",)

    sys.modules["only_in_the_container"] = module
    return Reducer()


@app.function(serialized=True)
def count_to(n: int) -> Any:
    yield from range(n)


@app.function(serialized=True)
def print_gigabyte() -> str:
    line = "x" * 1023 + "\n"
    for _ in range(1024 * 1024):
        sys.stdout.write(line)
    return "printed"


@app.function(serialized=True, memory=(64, 512))
def fork_bomb() -> str:
    children = []
    try:
        while len(children) < 100_000:
            pid = os.fork()
            if pid == 0:
                time.sleep(60)
                os._exit(0)
            children.append(pid)
    except OSError as error:
        return type(error).__name__
    finally:
        for pid in children:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    return "unbounded"


@app.function(serialized=True)
def inner(x: int) -> int:
    return x + 1


@app.function(serialized=True)
def outer(x: int) -> list[int]:
    return [inner.remote(x), *inner.map(range(3))]


@pytest.fixture(scope="module", autouse=True)
def _running(server: Any) -> Any:
    with app.run():
        yield


@pytest.fixture(autouse=True)
def _next_call_works(_running: None) -> Any:
    yield
    assert identity.remote("still here") == "still here"


def test_memory_limit_is_named() -> None:
    """A function over its memory limit ends with OutOfMemoryError, not with a lost container."""
    assert allocate.remote(8) == 8
    with pytest.raises(exception.OutOfMemoryError):
        allocate.remote(400)


def test_timeout_is_named_and_bounded() -> None:
    started_s = time.monotonic()
    with pytest.raises(exception.FunctionTimeoutError):
        sleep_for.remote(30)
    assert time.monotonic() - started_s < 10


def test_a_function_that_lies_about_its_progress_cannot_outlive_its_timeout() -> None:
    """The page on which the worker says what runs is writable by the function: wiping it buys about a second."""
    own = hotbed.App("liar")

    @own.function(serialized=True, timeout=1)
    def lie() -> str:
        end_s = time.monotonic() + 20
        while time.monotonic() < end_s:
            with open("/__hotbed/out/.status", "r+b") as page:
                page.write(bytes(4096))
            time.sleep(0.01)
        return "got away"

    with own.run(), pytest.raises(exception.Error) as caught:
        lie.remote()
    assert isinstance(caught.value, exception.FunctionTimeoutError)


def test_argument_that_cannot_be_pickled() -> None:
    with pytest.raises(exception.SerializationError):
        identity.remote(i for i in range(3))


def test_result_the_client_cannot_load() -> None:
    with pytest.raises(exception.DeserializationError, match="only_in_the_container"):
        unloadable.remote()


def test_exception_of_a_local_class_keeps_its_cause() -> None:
    with pytest.raises(Exception, match="outer") as caught:
        raise_local.remote()
    assert type(caught.value).__name__ == "LocalError"
    assert isinstance(caught.value.__cause__, KeyError)


@pytest.mark.parametrize("code", [0, 3])
def test_sys_exit_ends_the_input_only(code: int) -> None:
    with pytest.raises(BaseException, match=f"SystemExit|{code}") as caught:
        leave.remote(code)
    assert isinstance(caught.value, (exception.Error, SystemExit))


def test_sigkill_without_retries_is_container_lost() -> None:
    with pytest.raises(exception.ContainerLostError):
        kill_self.remote()


def test_only_the_killer_pays_in_a_map() -> None:
    """One item of a map kills its container: it alone fails, every neighbour has its result."""

    own = hotbed.App("own")

    @own.function(serialized=True)
    def perhaps_kill(x: int) -> int:
        if x == 50:
            os.kill(os.getpid(), signal.SIGKILL)
        return x

    with own.run():
        results = list(perhaps_kill.map(range(200), return_exceptions=True))
    assert [i for i, result in enumerate(results) if isinstance(result, Exception)] == [50]
    assert isinstance(results[50], exception.ContainerLostError)
    assert [r for r in results if not isinstance(r, Exception)] == [i for i in range(200) if i != 50]


def test_ten_thousand_inputs_with_one_percent_failing() -> None:
    results = list(one_percent.map(range(10_000), return_exceptions=True))
    for i, result in enumerate(results):
        if i % 100 == 17:
            assert isinstance(result, ValueError), result
            assert str(result).startswith(f"item {i}")
        else:
            assert result == i


def test_first_failure_ends_a_map_by_default() -> None:
    with pytest.raises(ValueError, match="item 17"):
        list(one_percent.map(range(1000)))


def test_two_hundred_concurrent_callers() -> None:
    with concurrent.futures.ThreadPoolExecutor(200) as threads:
        assert list(threads.map(identity.remote, range(1000), timeout=60)) == list(range(1000))


def test_large_argument_and_result() -> None:
    payload = os.urandom(64 * 2**20)
    assert identity.remote(payload) == payload


def test_generator_closed_early() -> None:
    stream = count_to.remote_gen(1_000_000)
    assert [next(stream) for _ in range(3)] == [0, 1, 2]
    stream.close()
    assert list(count_to.remote_gen(4)) == [0, 1, 2, 3]


def test_a_worker_that_prints_a_gigabyte() -> None:
    assert print_gigabyte.remote() == "printed"


def test_fork_bomb_is_contained() -> None:
    """Its processes reach the memory limit before their own; that one is in the contract of the backends."""
    with pytest.raises(exception.OutOfMemoryError):
        fork_bomb.remote()


def test_calls_from_inside_a_container() -> None:
    assert outer.remote(41) == [42, 1, 2, 3]


def test_cancel_stops_the_work() -> None:
    call = sleep_for.spawn(0.9)
    call.cancel()
    with pytest.raises(exception.InputCancellation):
        call.get(timeout=10)


def test_get_timeout_names_itself() -> None:
    call = sleep_for.spawn(0.8)
    with pytest.raises(exception.OutputExpiredError):
        call.get(timeout=0)
    assert call.get(timeout=10) == 0.8
    assert hotbed.FunctionCall.from_id(call.object_id).get(timeout=10) == 0.8


def test_unplaceable_gpu_says_why() -> None:
    own = hotbed.App("own")

    @own.function(serialized=True, gpu="B300:8", unplaceable="fail")
    def on_gpu() -> int:
        return 1

    with own.run(), pytest.raises(exception.UnplaceableError, match=r"GPU|gpu"):
        on_gpu.remote()


def test_host_is_not_visible(tmp_path: Path) -> None:
    """From inside: no host processes, homes, environment or network."""
    secret = tmp_path / "secret"
    secret.write_text("host only")

    own = hotbed.App("own")

    @own.function(serialized=True)
    def look(path: str) -> dict[str, Any]:
        import socket

        interfaces = [name for _, name in socket.if_nameindex()]
        processes = [p for p in os.listdir("/proc") if p.isdigit()]
        return {
            "secret": os.path.exists(path),
            "home": os.path.exists("/home") and os.listdir("/home"),
            "environment": sorted(os.environ),
            "interfaces": interfaces,
            "processes": len(processes),
        }

    os.environ["HOST_ONLY_MARKER"] = "1"
    with own.run():
        seen = look.remote(str(secret))
    assert not seen["secret"]
    assert not seen["home"]
    assert "HOST_ONLY_MARKER" not in seen["environment"]
    assert seen["interfaces"] == ["lo"]
    assert seen["processes"] < 5
