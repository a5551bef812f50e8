"""A real worker process, rule by rule."""

from __future__ import annotations

import pickle
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hotbed_proto import frames
from hotbed_proto.v1 import common_pb2
from hotbed_proto.v1 import worker_pb2 as pb

sys.path.insert(0, str(Path(__file__).parent))
from worker_harness import WorkerHarness


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[WorkerHarness]:
    harness = WorkerHarness(tmp_path)
    yield harness
    harness.close()


def error_of(row: tuple[int, int, bytes]) -> tuple[Any, str, str, str]:
    assert row[1] == frames.USER_EXCEPTION, row
    pickled, name, message, trace = pickle.loads(row[2])
    return (pickle.loads(pickled) if pickled is not None else None), name, message, trace


def test_exception_travels_with_cause_notes_and_local_class(worker: WorkerHarness) -> None:
    def fail() -> None:
        class LocalError(Exception):
            pass

        try:
            raise KeyError("inner")
        except KeyError as inner:
            error = LocalError("outer")
            error.add_note("a note")
            raise error from inner

    assert not worker.load(fail).error_code
    worker.inputs(())
    error, name, message, trace = error_of(worker.outputs(1)[0])
    assert type(error).__name__ == "LocalError" and name.endswith("LocalError") and message == "outer"
    assert isinstance(error.__cause__, KeyError) and error.__notes__ == ["a note"]
    assert "direct cause" in trace and "runner.py" not in trace


def test_system_exit_is_a_result_and_the_next_call_works(worker: WorkerHarness) -> None:
    def leave(code: int) -> int:
        if code:
            sys.exit(code)
        return 7

    worker.load(leave)
    worker.inputs((3,), (0,))
    first, second = worker.outputs(2)
    assert error_of(first)[1] == "SystemExit" and pickle.loads(second[2]) == 7


def test_unpicklable_result_and_unreadable_argument_are_named(worker: WorkerHarness) -> None:
    worker.load(lambda kind: __import__("_thread").allocate_lock() if kind else 1)
    worker.inputs((1,))
    error, _, _, _ = error_of(worker.outputs(1)[0])
    assert error.code == "not-picklable"
    worker.send_payloads([b"cno_such_module\nx\n."], first=1)
    ((_, status, payload),) = worker.outputs(1)
    assert status == frames.SYSTEM_ERROR
    assert common_pb2.ErrorInfo.FromString(payload).code == "not-unpicklable"


def test_wrong_minor_version_is_refused(worker: WorkerHarness) -> None:
    loaded = worker.load(lambda: None, python_version="3.7")
    assert loaded.error_code == "container-failed" and "3.7" in loaded.error_message


def test_generator_items_leave_promptly(worker: WorkerHarness) -> None:
    def slowly() -> Iterator[int]:
        for item in range(3):
            yield item
            time.sleep(0.3)

    worker.load(slowly, is_generator=True)
    worker.inputs(())
    started = time.monotonic()
    rows = []
    for item in range(3):
        rows += worker.outputs(1)
        assert time.monotonic() - started < 0.3 * item + 0.2
    rows += worker.outputs(1)
    assert [row[1] for row in rows] == [frames.GENERATOR_ITEM] * 3 + [frames.GENERATOR_END]
    assert int.from_bytes(rows[-1][2], "little") == 3


def test_cancel_closes_a_generator_and_drops_queued_inputs(worker: WorkerHarness, tmp_path: Path) -> None:
    mark = str(tmp_path / "closed")

    def endless(_: int) -> Iterator[int]:
        try:
            yield 1
            time.sleep(30)
        finally:
            Path(mark).write_text("yes")

    worker.load(endless, is_generator=True)
    worker.inputs((0,), (1,))
    worker.outputs(1)
    worker.send(cancel=pb.WorkerCancel(lane=1, indices=[0, 1]))
    rows = worker.outputs(2)
    assert [row[1] for row in rows] == [frames.SYSTEM_ERROR] * 2
    assert Path(mark).read_text() == "yes"


@pytest.mark.parametrize("is_async", [True, False])
def test_cancel_interrupts_the_running_input(worker: WorkerHarness, is_async: bool) -> None:
    async def wait_async(seconds: float) -> str:
        import asyncio

        await asyncio.sleep(seconds)
        return "done"

    def wait(seconds: float) -> str:
        time.sleep(seconds)
        return "done"

    worker.load(wait_async if is_async else wait, is_async=is_async)
    worker.inputs((30,), (0,))
    time.sleep(0.2)
    worker.send(cancel=pb.WorkerCancel(lane=1, indices=[0]))
    first, second = worker.outputs(2)
    assert common_pb2.ErrorInfo.FromString(first[2]).code == "cancelled"
    assert pickle.loads(second[2]) == "done"


def test_results_leave_while_a_later_input_runs(worker: WorkerHarness) -> None:
    worker.load(lambda seconds: time.sleep(seconds))
    worker.inputs((0,), (0,), (1.5,))
    started = time.monotonic()
    worker.outputs(2)
    assert time.monotonic() - started < 0.7
    worker.outputs(1)


def test_shutdown_and_sigterm_leave_cleanly(tmp_path: Path) -> None:
    for number, polite in enumerate((True, False)):
        worker = WorkerHarness(tmp_path / str(number))
        worker.load(lambda: __import__("atexit").register(print, "bye"))
        worker.inputs(())
        worker.outputs(1)
        if polite:
            worker.send(shutdown=pb.WorkerShutdown(grace_s=1))
        else:
            time.sleep(0.1)
            worker.process.send_signal(signal.SIGTERM)
        assert worker.process.wait(10) == 0
        assert worker.process.stdout is not None and b"bye" in worker.process.stdout.read()
        worker.close()


def test_the_socket_is_hidden_and_stdin_is_empty(worker: WorkerHarness) -> None:
    worker.load(lambda: (sys.stdin.read(), __import__("os").readlink("/proc/self/fd/0")))
    worker.inputs(())
    assert pickle.loads(worker.outputs(1)[0][2]) == ("", "/dev/null")
