"""The agent end to end on the process backend: start, inputs, outputs, and every way a container ends."""

from __future__ import annotations

import asyncio
import hashlib
import os
import pickle
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
import uvloop

from hotbed.node.agent import NodeAgent
from hotbed.node.backend_process import ProcessBackend
from hotbed.node.settings import NodeSettings
from hotbed_proto import frames, ids
from hotbed_proto.v1 import common_pb2, node_pb2

LANE = "fc-abcdefgh1234"
FUNCTION = "fu-abcdefgh1234"


class Bench:
    """An agent, everything it sent, and commands in short form."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sent: list[node_pb2.NodeFrame] = []
        self.blobs: dict[str, bytes] = {}
        self.agent = NodeAgent(
            NodeSettings(folder / "state", folder / "payload", default_isolation="process", detect_gpus=False),
            {"process": ProcessBackend(folder / "backend")},
            self.sent.append,
            self._fetch,
            self._put,
        )
        self.epoch = 0

    async def _fetch(self, digest: str, path: Path) -> None:
        path.write_bytes(self.blobs[digest])

    async def _put(self, path: Path) -> str:
        data = path.read_bytes()
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        self.blobs[digest] = data
        return digest

    def spec(self, function: Callable[..., Any], **fields: Any) -> common_pb2.FunctionSpec:
        fields.setdefault("python_version", f"{sys.version_info.major}.{sys.version_info.minor}")
        fields.setdefault("timeout_s", 60.0)
        return common_pb2.FunctionSpec(pickled=cloudpickle.dumps(function), name="f", **fields)

    async def until(self, check: Callable[[], Any], timeout_s: float = 15.0) -> Any:
        deadline = time.monotonic() + timeout_s
        while not (found := check()):
            assert time.monotonic() < deadline, [str(frame)[:300] for frame in self.sent]
            await asyncio.sleep(0.002)
        return found

    def states(self, container_id: str) -> list[node_pb2.ContainerState]:
        return [f.container for f in self.sent if f.HasField("container") and f.container.container_id == container_id]

    async def state(self, container_id: str, *names: str) -> node_pb2.ContainerState:
        return await self.until(lambda: next((s for s in self.states(container_id) if s.state in names), None))

    async def start(self, function: Callable[..., Any], **fields: Any) -> str:
        container_id = ids.mint("co")
        start = node_pb2.StartContainer(container_id=container_id, function_id=FUNCTION, spec=self.spec(function, **fields))
        self.agent.handle(node_pb2.NodeCommand(start=start))
        state = await self.state(container_id, "ready", "failed", "exited")
        assert state.state == "ready", state
        return container_id

    def send(self, container_id: str, payloads: list[bytes], first: int = 0, flags: bytes = b"", files: bool = False) -> None:
        self.epoch += 1
        command = node_pb2.NodeCommand()
        inputs = command.inputs
        inputs.container_id, inputs.epoch, inputs.function_id, inputs.result_files = container_id, self.epoch, FUNCTION, files
        inputs.inputs.lane_id = LANE
        inputs.inputs.indices.extend(range(first, first + len(payloads)))
        inputs.inputs.payloads.extend(payloads)
        inputs.inputs.flags = flags
        self.agent.handle(command)

    def outputs(self) -> list[tuple[int, int, bytes]]:
        rows: list[tuple[int, int, bytes]] = []
        for frame in self.sent:
            if frame.HasField("outputs"):
                columns = frame.outputs.outputs
                statuses = columns.statuses or bytes(len(columns.indices))
                rows += zip(columns.indices, statuses, columns.payloads, strict=True)
        return rows

    async def wait_outputs(self, count: int, timeout_s: float = 15.0) -> list[tuple[int, int, bytes]]:
        return await self.until(lambda: rows if len(rows := self.outputs()) >= count else None, timeout_s)


def run(folder: Path, story: Callable[[Bench], Awaitable[None]]) -> None:
    async def main() -> None:
        bench = Bench(folder)
        await bench.agent.start()
        try:
            await story(bench)
        finally:
            await bench.agent.close(0.0)
        assert not list((folder / "payload" / "c").iterdir())

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


def call(*args: Any) -> bytes:
    return pickle.dumps((args, {}))


def test_inputs_become_outputs(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        container_id = await bench.start(lambda x: x * 2)
        bench.send(container_id, [call(number) for number in range(100)])
        rows = await bench.wait_outputs(100)
        assert [(index, pickle.loads(payload)) for index, _, payload in rows] == [(n, 2 * n) for n in range(100)]
        assert bench.states(container_id)[-1].breakdown.boot_s > 0

    run(tmp_path, story)


def test_a_killed_container_names_the_input_that_ran(tmp_path: Path) -> None:
    def die(x: int) -> int:
        if x == 3:
            import os
            import signal

            os.kill(os.getpid(), signal.SIGKILL)
        return x

    async def story(bench: Bench) -> None:
        container_id = await bench.start(die)
        bench.send(container_id, [call(number) for number in range(6)])
        state = await bench.state(container_id, "exited")
        assert (state.exit_reason, state.exit_code) == ("crashed", -9)
        assert (state.running_lane_id, list(state.running_indices)) == (LANE, [3])

    run(tmp_path, story)


def test_timeout_kills_and_blames_the_slow_input(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        container_id = await bench.start(lambda s: time.sleep(s), timeout_s=0.3)
        bench.send(container_id, [call(0), call(30), call(0)])
        state = await bench.state(container_id, "exited")
        assert (state.exit_reason, list(state.running_indices)) == ("timeout", [1])
        assert [index for index, _, _ in bench.outputs()] == [0]

    run(tmp_path, story)


def test_cancel_spares_a_willing_container_and_kills_a_deaf_one(tmp_path: Path) -> None:
    def deaf(stubborn: bool) -> None:
        while True:
            try:
                time.sleep(30)
            except BaseException:
                if not stubborn:
                    raise

    async def story(bench: Bench) -> None:
        container_id = await bench.start(deaf)
        bench.send(container_id, [call(False)])
        await asyncio.sleep(0.2)
        cancel = node_pb2.CancelInputs(container_id=container_id, lane_id=LANE, indices=[0], kill_after_s=5.0)
        bench.agent.handle(node_pb2.NodeCommand(cancel=cancel))
        ((_, status, payload),) = await bench.wait_outputs(1)
        assert status == frames.SYSTEM_ERROR
        assert common_pb2.ErrorInfo.FromString(payload).code == "cancelled"
        bench.send(container_id, [call(True)], first=1)
        await asyncio.sleep(0.2)
        cancel = node_pb2.CancelInputs(container_id=container_id, lane_id=LANE, indices=[1], kill_after_s=0.3)
        bench.agent.handle(node_pb2.NodeCommand(cancel=cancel))
        assert (await bench.state(container_id, "exited")).exit_reason == "cancelled"

    run(tmp_path, story)


def test_a_function_that_cannot_be_loaded_fails_with_its_traceback(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        container_id = ids.mint("co")
        spec = common_pb2.FunctionSpec(module="no_such_module_xyz", qualname="f", name="f")
        start = node_pb2.StartContainer(container_id=container_id, function_id=FUNCTION, spec=spec)
        bench.agent.handle(node_pb2.NodeCommand(start=start))
        state = await bench.state(container_id, "failed", "exited")
        assert (state.state, state.error.code) == ("failed", "container-failed")
        assert "no_such_module_xyz" in state.error.message

    run(tmp_path, story)


def test_startup_timeout_is_named(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        container_id = ids.mint("co")
        spec = bench.spec(lambda: None, startup_timeout_s=0.001)
        start = node_pb2.StartContainer(container_id=container_id, function_id=FUNCTION, spec=spec)
        bench.agent.handle(node_pb2.NodeCommand(start=start))
        assert (await bench.state(container_id, "failed", "exited")).error.code == "startup-timeout"

    run(tmp_path, story)


def test_pool_container_becomes_a_function(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        container_id = ids.mint("co")
        bench.agent.handle(node_pb2.NodeCommand(start=node_pb2.StartContainer(container_id=container_id)))
        await bench.state(container_id, "booted")
        spec = bench.spec(lambda x: -x)
        assign = node_pb2.AssignFunction(container_id=container_id, function_id=FUNCTION, spec=spec)
        bench.agent.handle(node_pb2.NodeCommand(assign=assign))
        assert (await bench.state(container_id, "ready")).breakdown.level == "L1"
        bench.send(container_id, [call(5)])
        assert pickle.loads((await bench.wait_outputs(1))[0][2]) == -5
        stop = node_pb2.StopContainer(container_id=container_id, reason="idle", grace_s=5.0)
        bench.agent.handle(node_pb2.NodeCommand(stop=stop))
        state = await bench.state(container_id, "exited")
        assert (state.exit_reason, state.exit_code) == ("idle", 0)

    run(tmp_path, story)


@pytest.mark.parametrize("files", [True, False])
def test_large_payloads_go_by_file_or_blob(tmp_path: Path, files: bool) -> None:
    async def story(bench: Bench) -> None:
        container_id = await bench.start(lambda data: data + b"!")
        folder = bench.folder / "payload" / "in" / FUNCTION
        folder.mkdir()
        data = os.urandom(5_000_000)
        (folder / "p1").write_bytes(call(data))
        ref = common_pb2.PayloadRef(file=f"{FUNCTION}/p1", size_bytes=(folder / "p1").stat().st_size)
        for round_ in range(2):
            bench.sent.clear()
            bench.send(container_id, [ref.SerializeToString()], first=round_, flags=b"\x80", files=files)
            ((_, status, payload),) = await bench.wait_outputs(1)
            assert status == frames.PAYLOAD_IS_REF
            result = common_pb2.PayloadRef.FromString(payload)
            if files:
                raw = (bench.folder / "payload" / result.file).read_bytes()
                release = node_pb2.NodeCommand()
                release.release.files.append(result.file)
                bench.agent.handle(release)
                assert not (bench.folder / "payload" / result.file).exists()
            else:
                raw = bench.blobs[result.digest]
            assert pickle.loads(raw) == data + b"!"
            assert not list((bench.folder / "payload" / "c" / container_id / "in").iterdir())

    run(tmp_path, story)


def test_a_payload_of_another_function_is_refused(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        container_id = await bench.start(lambda data: data)
        ref = common_pb2.PayloadRef(file="fu-other1234/p1", size_bytes=1).SerializeToString()
        bench.send(container_id, [ref, call(1)], flags=b"\x80\x00")
        rows = await bench.wait_outputs(2)
        assert sorted((index, status) for index, status, _ in rows) == [(0, frames.SYSTEM_ERROR), (1, frames.OK)]

    run(tmp_path, story)


def test_a_worker_that_breaks_the_protocol_is_killed(tmp_path: Path) -> None:
    def rogue() -> None:
        os.write(100, (8).to_bytes(4, "little") + b"\xff" * 8)
        time.sleep(30)

    async def story(bench: Bench) -> None:
        container_id = await bench.start(rogue)
        bench.send(container_id, [call()])
        state = await bench.state(container_id, "exited")
        assert state.exit_reason == "crashed"
        assert "protocol" in state.error.message

    run(tmp_path, story)


def test_logs_arrive_before_the_end_and_a_flood_is_counted(tmp_path: Path) -> None:
    def flood() -> None:
        print("first line")
        for _ in range(300):
            print("x" * 100_000)

    async def story(bench: Bench) -> None:
        container_id = await bench.start(flood)
        bench.send(container_id, [call()])
        await bench.wait_outputs(1)
        bench.agent.handle(node_pb2.NodeCommand(stop=node_pb2.StopContainer(container_id=container_id, grace_s=5.0)))
        await bench.state(container_id, "exited")
        logs = [frame.log for frame in bench.sent if frame.HasField("log")]
        assert logs[0].data.startswith(b"first line\n")
        kept, dropped = sum(len(log.data) for log in logs), sum(log.dropped_bytes for log in logs)
        assert kept + dropped == len("first line\n") + 300 * 100_001
        assert dropped > 10_000_000

    run(tmp_path, story)


def test_a_nested_call_goes_up_and_its_answer_comes_down(tmp_path: Path) -> None:
    def outer() -> bytes:
        import threading

        from hotbed.worker import context, nested

        link = nested.link()
        assert link is not None
        answered = threading.Event()
        got = []
        link.set_receiver(lambda down: (got.append(down), answered.set()))
        link.send(nested.SUBMIT, lane_id="fc-nested12345", function_id="fu-other", sizes=[3], data=b"abc", subscribe=True)
        assert answered.wait(10)
        assert context.is_remote and context.current_input() == ("fc-abcdefgh1234", 0)
        return got[0].data

    async def story(bench: Bench) -> None:
        container_id = await bench.start(outer)
        bench.send(container_id, [call()])
        up = await bench.until(lambda: next((f.nested for f in bench.sent if f.HasField("nested")), None))
        assert list(up.frame.submit.payloads) == [b"abc"]
        command = node_pb2.NodeCommand()
        command.nested.container_id = container_id
        outputs = command.nested.frame.outputs
        outputs.lane_id = up.frame.submit.lane_id
        outputs.indices.append(0)
        outputs.payloads.append(b"result")
        bench.agent.handle(command)
        assert pickle.loads((await bench.wait_outputs(1))[0][2]) == b"result"

    run(tmp_path, story)


def test_a_new_agent_removes_what_the_former_left(tmp_path: Path) -> None:
    async def story() -> None:
        first = Bench(tmp_path)
        await first.agent.start()
        container_id = await first.start(lambda: None)
        process = first.agent._backends["process"]._processes[container_id]  # type: ignore[attr-defined]
        second = Bench(tmp_path)
        assert second.agent.node_id == first.agent.node_id
        assert second.agent.incarnation != first.agent.incarnation
        await second.agent.start()
        assert await asyncio.wait_for(process.wait(), 5) == -9
        await first.agent.close(0.0)
        await second.agent.close(0.0)

    asyncio.run(story())
