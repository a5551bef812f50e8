"""A control plane and its containers in one object: runs inputs in this process, over a real gRPC unix socket."""

from __future__ import annotations

import asyncio
import pickle
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc.aio

from hotbed.worker.results import exception_payload
from hotbed_proto import frames
from hotbed_proto.v1 import client_pb2 as pb
from hotbed_proto.v1 import client_pb2_grpc as rpc
from hotbed_proto.v1 import common_pb2 as common


class FakeServer(rpc.ControlPlaneServicer):
    """Answers every input at once; functions named `held...` are never answered (only cancelled)."""

    def __init__(self, path: Path) -> None:
        self.address = f"unix:{path}"
        self.functions: dict[str, Any] = {}
        self.specs: dict[str, common.FunctionSpec] = {}
        self.blobs: dict[str, bytes] = {}
        self.stored: dict[str, dict[int, tuple[int, bytes]]] = {}
        self.cancelled: list[tuple[str, list[int]]] = []
        self.submit_frames = 0
        self.incarnation = "one"
        self.payload_dir = ""
        self.cut_after_inputs = 0
        self.streams: list[Any] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._run(self._start())

    def _run(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10)

    async def _start(self) -> None:
        options = [("grpc.max_receive_message_length", frames.MESSAGE_BYTES_MAX)]
        self._server = grpc.aio.server(options=options)
        rpc.add_ControlPlaneServicer_to_server(self, self._server)
        self._server.add_insecure_port(self.address)
        await self._server.start()

    def stop(self) -> None:
        self._run(self._server.stop(0))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)

    def restart(self, incarnation: str) -> None:
        self._run(self._server.stop(0))
        self.incarnation = incarnation
        self.functions.clear()
        self._run(self._start())

    async def CreateApp(self, request: Any, context: Any) -> Any:
        return pb.CreateAppResponse(app_id=request.app_id)

    async def StopApp(self, request: Any, context: Any) -> Any:
        return pb.StopAppResponse()

    async def RegisterFunction(self, request: Any, context: Any) -> Any:
        spec = request.spec
        self.specs[spec.name] = spec
        if spec.pickled:
            self.functions[request.function_id] = (pickle.loads(spec.pickled), spec)
        return pb.RegisterFunctionResponse(function_id=request.function_id)

    async def MissingBlobs(self, request: Any, context: Any) -> Any:
        return pb.MissingBlobsResponse(digests=[d for d in request.digests if d not in self.blobs])

    async def PutBlob(self, request_iterator: Any, context: Any) -> Any:
        digest, data = "", b""
        async for part in request_iterator:
            digest = digest or part.digest
            data += part.data
        self.blobs[digest] = data
        return pb.BlobInfo(digest=digest, size_bytes=len(data))

    async def CallInfo(self, request: Any, context: Any) -> Any:
        lane = self.stored.get(request.lane_id)
        return pb.CallInfoResponse(found=lane is not None, num_inputs=len(lane or ()))

    async def Stream(self, request_iterator: Any, context: Any) -> AsyncIterator[Any]:
        hello = await anext(request_iterator)
        assert hello.hello.client_id
        welcome = pb.ServerFrame()
        welcome.welcome.server_incarnation = self.incarnation
        welcome.welcome.payload_dir = self.payload_dir
        yield welcome
        async for frame in request_iterator:
            kind = frame.WhichOneof("body")
            if kind == "submit":
                self.submit_frames += 1
                submit = frame.submit
                if self.cut_after_inputs and submit.payloads:
                    self.cut_after_inputs -= 1
                    return
                outputs = [
                    (submit.first_index + at, status, data)
                    for at, payload in enumerate(submit.payloads)
                    for status, data in self._outputs(submit, at, payload)
                ]
                if submit.durable:
                    lane = self.stored.setdefault(submit.lane_id, {})
                    lane.update({index: (status, data) for index, status, data in outputs})
                    accepted = pb.ServerFrame()
                    accepted.accepted.lane_id, accepted.accepted.first_index = submit.lane_id, submit.first_index
                    accepted.accepted.count = len(submit.payloads)
                    yield accepted
                elif outputs:
                    # Backwards: the order of outputs must not matter.
                    last_first = outputs[::-1] if not any(s == frames.GENERATOR_ITEM for _, s, _ in outputs) else outputs
                    yield _outputs_frame(submit.lane_id, last_first)
            elif kind == "subscribe":
                lane = self.stored.get(frame.subscribe.lane_id)
                if lane is None:
                    if frame.subscribe.lane_id.startswith("fc-unknown"):
                        rejected = pb.ServerFrame()
                        rejected.rejected.lane_id = frame.subscribe.lane_id
                        rejected.rejected.error.code, rejected.rejected.error.message = "not-found", "no such call"
                        yield rejected
                    continue
                found = [(i, *lane[i]) for i in frame.subscribe.indices if i in lane]
                if found:
                    yield _outputs_frame(frame.subscribe.lane_id, found)
            elif kind == "cancel":
                self.cancelled.append((frame.cancel.lane_id, list(frame.cancel.indices)))
            elif kind == "ping":
                pong = pb.ServerFrame()
                pong.pong.nonce = frame.ping.nonce
                yield pong

    def _outputs(self, submit: Any, at: int, payload: bytes) -> list[tuple[int, bytes]]:
        function, spec = self.functions[submit.function_id]
        if spec.name.startswith("held"):
            return []
        if at < len(submit.flags) and submit.flags[at]:
            ref = common.PayloadRef.FromString(payload)
            payload = Path(self.payload_dir, "in", ref.file).read_bytes() if ref.file else self.blobs[ref.digest]
        try:
            args, kwargs = pickle.loads(payload)
            value = function(*args, **kwargs)
            if spec.is_generator:
                items = [(frames.GENERATOR_ITEM, pickle.dumps(item, 5)) for item in value]
                return [*items, (frames.GENERATOR_END, len(items).to_bytes(8, "little"))]
            data = pickle.dumps(value, 5)
        except Exception as error:
            return [(frames.USER_EXCEPTION, exception_payload(error))]
        if self.payload_dir and len(data) > frames.INLINE_LOCAL_LIMIT_BYTES:
            Path(self.payload_dir, "out").mkdir(exist_ok=True)
            Path(self.payload_dir, "out", "r1").write_bytes(data)
            ref = common.PayloadRef(file="out/r1", size_bytes=len(data))
            return [(frames.OK | frames.PAYLOAD_IS_REF, ref.SerializeToString())]
        return [(frames.OK, data)]


def _outputs_frame(lane_id: str, rows: list[tuple[int, int, bytes]]) -> Any:
    frame = pb.ServerFrame()
    frame.outputs.lane_id = lane_id
    frame.outputs.indices.extend(row[0] for row in rows)
    frame.outputs.payloads.extend(row[2] for row in rows)
    frame.outputs.statuses = bytes(row[1] for row in rows)
    return frame
