"""The shell with a small core, a fake node and a real gRPC client on a unix socket."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import grpc.aio
import pytest

from hotbed_proto import ids
from hotbed_proto.v1 import client_pb2, client_pb2_grpc, common_pb2, node_pb2
from hotbed_scheduler import actions as act
from hotbed_scheduler import events as ev
from hotbed_scheduler.blobs import BlobStore
from hotbed_scheduler.server import ControlPlane
from hotbed_scheduler.settings import ServerSettings
from hotbed_scheduler.store import Store
from hotbed_scheduler.store_sqlite import SqliteStore


class OneContainerCore:
    """Starts one container per function and sends it everything; enough of a core to test what surrounds one."""

    def __init__(self, generation: int) -> None:
        self.epoch = generation << 40
        self.prefix = f"co-gen{generation:05d}"
        self.node = ""
        self.containers: dict[str, str] = {}
        self.ready: set[str] = set()
        self.waiting: list[tuple[str, str, range]] = []
        self.outstanding: dict[tuple[str, int], tuple[str, int]] = {}

    def handle(self, event: ev.Event, now_s: float) -> list[Any]:
        out: list[Any] = []
        match event:
            case ev.NodeJoined():
                self.node = event.node_id
                out += self._flush()
            case ev.NodeLost():
                self.containers.clear()
                self.node = ""
            case ev.InputsSubmitted():
                run = range(event.first_index, event.first_index + event.count)
                self.waiting.append((event.function_id, event.lane_id, run))
                out += self._flush()
            case ev.ContainerReady():
                self.ready.add(event.container_id)
                out += self._flush()
            case ev.OutputsReceived():
                key = [(event.lane_id, i) for i in event.indices]
                good = [p for p, k in enumerate(key) if self.outstanding.pop(k, ("", -1))[1] == event.epoch]
                if good:
                    out.append(act.Accept(event.lane_id, None if len(good) == len(key) else good))
            case ev.InputsCancelled():
                out.append(act.Fail(event.lane_id, event.indices or (), "cancelled", "cancelled by the user"))
        return out

    def _flush(self) -> list[Any]:
        out: list[Any] = []
        for function_id, lane_id, run in list(self.waiting):
            container = self.containers.get(function_id)
            if self.node and container is None:
                container = self.containers[function_id] = f"{self.prefix}{len(self.containers)}"
                out.append(act.StartContainer(container, self.node, function_id, "", function_id))
            if container in self.ready and container is not None:
                self.epoch += 1
                self.waiting.remove((function_id, lane_id, run))
                self.outstanding.update(((lane_id, i), (container, self.epoch)) for i in run)
                out.append(act.Dispatch(container, self.node, lane_id, run, self.epoch))
        return out

    def function_stats(self, function_id: str) -> Any:
        return SimpleNamespace(queued=len(self.waiting), running=len(self.outstanding), containers=len(self.containers))

    def node_views(self) -> list[Any]:
        return [SimpleNamespace(node_id=self.node, name="n", state="joined")] if self.node else []


class EchoNode:
    """Boots containers at once and answers each input with its own payload; `hold` keeps inputs unanswered."""

    def __init__(self, plane: ControlPlane, hold: bool = False) -> None:
        self.commands: list[node_pb2.NodeCommand] = []
        self.hold = hold
        self.session = plane.attach_node(self.take)
        register = node_pb2.NodeFrame()
        register.register.node_id = ids.mint("no")
        register.register.python_version = "3.11"
        self.session.receive(register)

    def take(self, command: node_pb2.NodeCommand) -> None:
        self.commands.append(command)
        frame = node_pb2.NodeFrame()
        if command.HasField("start"):
            frame.container.container_id, frame.container.state = command.start.container_id, "ready"
        elif command.HasField("inputs") and not self.hold:
            frame = self.answer(command)
        else:
            return
        asyncio.get_running_loop().call_soon(self.session.receive, frame)

    @staticmethod
    def answer(command: node_pb2.NodeCommand) -> node_pb2.NodeFrame:
        frame = node_pb2.NodeFrame()
        inputs = command.inputs
        frame.outputs.container_id, frame.outputs.epoch = inputs.container_id, inputs.epoch
        frame.outputs.outputs.lane_id = inputs.inputs.lane_id
        frame.outputs.outputs.indices.extend(inputs.inputs.indices)
        frame.outputs.outputs.payloads.extend(inputs.inputs.payloads)
        return frame


class Stream:
    """A client's stream and what it heard."""

    def __init__(self, stub: client_pb2_grpc.ControlPlaneStub, client_id: str, *apps: str) -> None:
        self.call = stub.Stream()
        self.client_id, self.apps = client_id, apps
        self.results: dict[tuple[str, int], bytes] = {}
        self.accepted: list[tuple[str, int, int]] = []
        self.rejected: list[client_pb2.Rejected] = []

    async def open(self) -> Stream:
        hello = client_pb2.Hello(client_id=self.client_id, app_ids=self.apps)
        await self.call.write(client_pb2.ClientFrame(hello=hello))
        assert (await self.frame()).HasField("welcome")
        return self

    async def frame(self) -> client_pb2.ServerFrame:
        frame = await asyncio.wait_for(self.call.read(), 10)
        if frame is grpc.aio.EOF:
            raise ConnectionError("stream ended")
        if frame.HasField("outputs"):
            for index, payload in zip(frame.outputs.indices, frame.outputs.payloads, strict=True):
                key = frame.outputs.lane_id, index
                assert key not in self.results, f"{key} delivered twice"
                self.results[key] = payload
        elif frame.HasField("accepted"):
            self.accepted.append((frame.accepted.lane_id, frame.accepted.first_index, frame.accepted.count))
        elif frame.HasField("rejected"):
            self.rejected.append(frame.rejected)
        return frame

    async def until(self, done: Callable[[], bool]) -> None:
        while not done():
            await self.frame()

    async def submit(self, lane: str, function: str, first: int, payloads: list[bytes], **more: Any) -> None:
        submit = client_pb2.Submit(
            lane_id=lane, function_id=function, first_index=first, payloads=payloads, subscribe=True, **more
        )
        await self.call.write(client_pb2.ClientFrame(submit=submit))


class Rig:
    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder = folder
        store: Store = SqliteStore(folder / "state.db")
        self.plane = ControlPlane(
            ServerSettings(home=folder, **settings), store, BlobStore(str(folder / "blobs")), core=OneContainerCore
        )

    async def __aenter__(self) -> Rig:
        await self.plane.start()
        await self.plane.serve_unix(self.folder / "s")
        self.channel = grpc.aio.insecure_channel(f"unix:{self.folder / 's'}")
        self.stub = client_pb2_grpc.ControlPlaneStub(self.channel)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.channel.close()
        await self.plane.close(0.1)

    async def function(self, app_id: str = "", function_id: str = "", detach: bool = False) -> tuple[str, str]:
        app = await self.stub.CreateApp(client_pb2.CreateAppRequest(name="app", app_id=app_id, detach=detach))
        answer = await self.stub.RegisterFunction(
            client_pb2.RegisterFunctionRequest(spec=spec(app.app_id), function_id=function_id)
        )
        return app.app_id, answer.function_id


def spec(app_id: str) -> common_pb2.FunctionSpec:
    made = common_pb2.FunctionSpec(
        app_id=app_id, name="f", pickled=b"code", timeout_s=60, startup_timeout_s=60, python_version="3.11"
    )
    made.resources.milli_cpu, made.resources.memory_bytes = 100, 2**27
    return made


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        await asyncio.wait_for(test(), 30)

    asyncio.run(limited())


def test_inputs_there_and_back_in_frames(tmp_path: Path) -> None:
    async def test() -> None:
        async with Rig(tmp_path) as rig:
            EchoNode(rig.plane)
            app, function = await rig.function()
            stream = await Stream(rig.stub, ids.mint("cl"), app).open()
            lane = ids.mint("fc")
            for first in range(0, 10_240, 512):
                await stream.submit(lane, function, first, [b"%d" % i for i in range(first, first + 512)])
            await stream.until(lambda: len(stream.results) == 10_240)
            assert all(stream.results[lane, i] == b"%d" % i for i in range(10_240))
            assert rig.plane.lanes[lane].bytes_live == 0
            assert len(rig.plane.lanes[lane].payloads) < 10_240, "finished inputs hold no memory"
            assert (tmp_path / "s").stat().st_mode & 0o777 == 0o600

    run(test)


def test_durable_results_reach_another_client_and_repeat(tmp_path: Path) -> None:
    async def test() -> None:
        async with Rig(tmp_path) as rig:
            EchoNode(rig.plane)
            app, function = await rig.function()
            stream = await Stream(rig.stub, ids.mint("cl"), app).open()
            lane = ids.mint("fc")
            await stream.submit(lane, function, 0, [b"a", b"b"], durable=True)
            await stream.until(lambda: len(stream.results) == 2)
            assert stream.accepted == [(lane, 0, 2)]
            other = await Stream(rig.stub, ids.mint("cl")).open()
            await other.call.write(client_pb2.ClientFrame(subscribe=client_pb2.Subscribe(lane_id=lane, indices=[1])))
            await other.until(lambda: len(other.results) == 1)
            assert other.results == {(lane, 1): b"b"}
            await other.call.write(client_pb2.ClientFrame(subscribe=client_pb2.Subscribe(lane_id="fc-unknown00")))
            await other.until(lambda: bool(other.rejected))
            assert other.rejected[0].error.code == "not-found"
            info = await rig.stub.CallInfo(client_pb2.CallInfoRequest(lane_id=lane))
            assert (info.found, info.num_inputs, info.num_done) == (True, 2, 2)

    run(test)


def test_durable_inputs_survive_the_server(tmp_path: Path) -> None:
    lane = ids.mint("fc")
    client = ids.mint("cl")

    async def first() -> None:
        async with Rig(tmp_path) as rig:
            app, function = await rig.function(detach=True)
            stream = await Stream(rig.stub, client, app).open()
            await stream.submit(lane, function, 0, [b"a", b"b", b"c"], durable=True)
            await stream.until(lambda: bool(stream.accepted))

    async def second() -> None:
        async with Rig(tmp_path) as rig:
            node = EchoNode(rig.plane)
            stream = await Stream(rig.stub, client).open()
            await stream.call.write(client_pb2.ClientFrame(subscribe=client_pb2.Subscribe(lane_id=lane)))
            await stream.until(lambda: len(stream.results) == 3)
            assert [stream.results[lane, i] for i in range(3)] == [b"a", b"b", b"c"]
            sent = [c.inputs for c in node.commands if c.HasField("inputs")]
            assert sent[0].epoch >> 40 == 2, "epochs of two servers never meet"

    run(first)
    run(second)


def test_a_reconnected_client_resubmits_and_gets_everything_once(tmp_path: Path) -> None:
    async def test() -> None:
        async with Rig(tmp_path) as rig:
            node = EchoNode(rig.plane, hold=True)
            app, function = await rig.function()
            client, lane = ids.mint("cl"), ids.mint("fc")
            stream = await Stream(rig.stub, client, app).open()
            await stream.submit(lane, function, 0, [b"a", b"b", b"c"])
            while not any(c.HasField("inputs") for c in node.commands):
                await asyncio.sleep(0.01)
            stream.call.cancel()
            while rig.plane.clients[client].outbox is not None:
                await asyncio.sleep(0.01)
            held = next(c for c in node.commands if c.HasField("inputs"))
            node.session.receive(node.answer(held))  # finished while nobody listened
            again = await Stream(rig.stub, client, app).open()
            await again.submit(lane, function, 0, [b"a", b"b", b"c"])
            await again.until(lambda: len(again.results) == 3)
            again.call.cancel()
            while rig.plane.clients[client].outbox is not None:
                await asyncio.sleep(0.01)
            third = await Stream(rig.stub, client, app).open()  # written, but lost with the connection
            await third.submit(lane, function, 1, [b"b"])
            await third.until(lambda: bool(third.results))
            assert third.results == {(lane, 1): b"b"}
            assert sum(c.HasField("inputs") for c in node.commands) == 1, "nothing ran twice"

    run(test)


def test_a_vanished_client_is_forgotten_after_its_grace(tmp_path: Path) -> None:
    async def test() -> None:
        async with Rig(tmp_path, client_grace_s=0.2) as rig:
            EchoNode(rig.plane, hold=True)
            app, function = await rig.function()
            client, lane = ids.mint("cl"), ids.mint("fc")
            stream = await Stream(rig.stub, client, app).open()
            await stream.submit(lane, function, 0, [b"a"])
            while lane not in rig.plane.lanes:
                await asyncio.sleep(0.01)
            stream.call.cancel()
            while rig.plane.clients or rig.plane.lanes or rig.plane.apps:
                await asyncio.sleep(0.05)
            assert rig.plane.functions == {}

    run(test)


def test_bad_frames_hurt_their_sender_only(tmp_path: Path) -> None:
    async def test() -> None:
        async with Rig(tmp_path, client_inputs_max=10) as rig:
            EchoNode(rig.plane, hold=True)
            app, function = await rig.function()
            good = await Stream(rig.stub, ids.mint("cl"), app).open()
            bad = await Stream(rig.stub, ids.mint("cl"), app).open()
            lane = ids.mint("fc")
            await bad.submit("fc-../../x", function, 0, [b"x"])
            await bad.submit(lane, "fu-unknown00", 0, [b"x"])
            await bad.call.write(client_pb2.ClientFrame())
            await bad.submit(lane, function, 0, [b"x"])
            await bad.submit(lane, function, 2**31, [b"x"])
            await bad.submit(lane, function, 1, [b"x"] * 20)
            await bad.until(lambda: len(bad.rejected) == 5)
            codes = [r.error.code for r in bad.rejected]
            assert codes == ["bad-argument", "not-found", "bad-argument", "too-large", "limit-reached"]
            raw = rig.channel.stream_stream("/hotbed.v1.ControlPlane/Stream")()
            await raw.write(b"\xff\xff\xff\xff")
            with pytest.raises(grpc.aio.AioRpcError) as failure:
                await raw.read()
            assert failure.value.code() == grpc.StatusCode.INVALID_ARGUMENT
            details = dict(failure.value.trailing_metadata() or ())
            assert common_pb2.ErrorInfo.FromString(details["hotbed-error-bin"]).code == "bad-argument"
            await good.call.write(client_pb2.ClientFrame(ping=client_pb2.Ping(nonce=7)))
            while not (frame := await good.frame()).HasField("pong"):
                pass
            assert frame.pong.nonce == 7

    run(test)


def test_specs_are_checked(tmp_path: Path) -> None:
    async def test() -> None:
        async with Rig(tmp_path) as rig:
            app, _ = await rig.function()
            for change, code in (
                ({"timeout_s": 0.5}, "INVALID_ARGUMENT"),
                ({"timeout_s": float("nan")}, "INVALID_ARGUMENT"),
                ({"pickled": b"x" * (16 * 2**20 + 1)}, "OUT_OF_RANGE"),
                ({"name": "../x"}, "INVALID_ARGUMENT"),
                ({"app_id": "ap-unknown00"}, "NOT_FOUND"),
                ({"isolation": "none"}, "INVALID_ARGUMENT"),
            ):
                wrong = spec(app)
                for name, value in change.items():
                    setattr(wrong, name, value)
                with pytest.raises(grpc.aio.AioRpcError) as failure:
                    await rig.stub.RegisterFunction(client_pb2.RegisterFunctionRequest(spec=wrong))
                assert failure.value.code().name == code, change

    run(test)


def test_nested_calls_have_their_containers_rights(tmp_path: Path) -> None:
    async def test() -> None:
        async with Rig(tmp_path) as rig:
            node = EchoNode(rig.plane)
            app, function = await rig.function()
            _, foreign = await rig.function()
            stream = await Stream(rig.stub, ids.mint("cl"), app).open()
            await stream.submit(ids.mint("fc"), function, 0, [b"outer"])
            await stream.until(lambda: len(stream.results) == 1)
            container = next(c.start.container_id for c in node.commands if c.HasField("start"))
            lane, other = ids.mint("fc"), ids.mint("fc")
            for to, into in ((function, lane), (foreign, other)):
                frame = node_pb2.NodeFrame()
                frame.nested.container_id = container
                submit = frame.nested.frame.submit
                submit.lane_id, submit.function_id, submit.subscribe = into, to, True
                submit.payloads.append(b"inner")
                node.session.receive(frame)

            def answers() -> list[client_pb2.ServerFrame]:
                return [c.nested.frame for c in node.commands if c.HasField("nested")]

            while len(answers()) < 2:
                await asyncio.sleep(0.01)
            bodies = {f.WhichOneof("body"): f for f in answers()}
            assert bodies["outputs"].outputs.payloads[0] == b"inner"
            assert bodies["rejected"].rejected.error.code == "not-permitted"
            gone = node_pb2.NodeFrame()
            gone.container.container_id, gone.container.state = container, "exited"
            node.session.receive(gone)
            assert lane not in rig.plane.lanes
            assert len(rig.plane.clients) == 1

    run(test)


def test_tcp_needs_the_right_token(tmp_path: Path) -> None:
    async def test() -> None:
        async with Rig(tmp_path) as rig:
            port = await rig.plane.serve_tcp("127.0.0.1:0")
            client, node = rig.plane.tokens.mint("client"), rig.plane.tokens.mint("node")
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                stub = client_pb2_grpc.ControlPlaneStub(channel)
                for token, code in (("", "UNAUTHENTICATED"), ("nonsense", "UNAUTHENTICATED"), (node, "PERMISSION_DENIED")):
                    with pytest.raises(grpc.aio.AioRpcError) as failure:
                        await stub.Status(client_pb2.StatusRequest(), metadata=(("authorization", f"Bearer {token}"),))
                    assert failure.value.code().name == code
                answer = await stub.Status(client_pb2.StatusRequest(), metadata=(("authorization", f"Bearer {client}"),))
                assert answer.pid > 0
            text = (tmp_path / "tokens.json").read_text()
            assert client not in text and node not in text
            assert (tmp_path / "tokens.json").stat().st_mode & 0o777 == 0o600

    run(test)


def test_blobs_over_the_wire(tmp_path: Path) -> None:
    async def test() -> None:
        async with Rig(tmp_path) as rig:
            data = bytes(range(256)) * 10_000

            async def parts() -> Any:
                yield client_pb2.BlobPart(size_bytes=len(data), data=data[:1_000_000])
                yield client_pb2.BlobPart(data=data[1_000_000:])

            info = await rig.stub.PutBlob(parts())
            got = b"".join([part.data async for part in rig.stub.GetBlob(client_pb2.GetBlobRequest(digest=info.digest))])
            assert got == data
            unknown = "sha256:" + "0" * 64
            missing = await rig.stub.MissingBlobs(client_pb2.MissingBlobsRequest(digests=[info.digest, unknown]))
            assert list(missing.digests) == [unknown]

    run(test)
