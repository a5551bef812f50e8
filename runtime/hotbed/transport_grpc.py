"""The client's connection: one long-lived bidirectional stream for calls, unary requests for the rest.

Everything that touches gRPC runs on the portal's loop. A lost stream is repaired for `reconnect_s`; apps and functions are
registered again with their ids when the server is a new one, and unfinished inputs are sent again.
"""

from __future__ import annotations

import asyncio
import hashlib
import pickle
import tempfile
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO, Final, TypeVar

import grpc
import grpc.aio

from hotbed import serialize
from hotbed.payload_files import PayloadFolder
from hotbed.portal import portal
from hotbed.settings import Settings, host_id
from hotbed.transport import SubmitFrame
from hotbed_proto import frames
from hotbed_proto.errors import ERRORS_BY_CODE, Error, NotFoundError, ServiceError, grpc_status_name
from hotbed_proto.frame_stream import LANE_SUFFIX, FrameStream, connect
from hotbed_proto.ids import mint
from hotbed_proto.v1 import client_pb2 as pb
from hotbed_proto.v1 import client_pb2_grpc as rpc
from hotbed_proto.v1 import common_pb2 as common

if TYPE_CHECKING:
    from hotbed.transport import Receiver

T = TypeVar("T")

_OPTIONS: Final = (
    ("grpc.max_receive_message_length", frames.MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", frames.MESSAGE_BYTES_MAX),
    ("grpc.use_local_subchannel_pool", 1),
)
_EOF: Final[Any] = grpc.aio.EOF  # type: ignore[attr-defined]  # its stubs leave it out
_STREAM_METHOD: Final = "/hotbed.v1.ControlPlane/Stream"
_BLOB_PART_BYTES: Final = 1024 * 1024
_HELLO_TIMEOUT_S: Final = 20.0
_BACKOFF_FIRST_S: Final = 0.05
_BACKOFF_MAX_S: Final = 2.0
_SETTLE_TIMEOUT_S: Final = 2.0
_CLOSE_TIMEOUT_S: Final = 5.0


class GrpcTransport:
    """One server. `start` connects; `stop` ends it.

    Args:
        find_server: Blocking; gives the address, starting the embedded server where that is wanted.
    """

    def __init__(self, settings: Settings, find_server: Callable[[], str]) -> None:
        self.inline_limit_bytes = frames.INLINE_REMOTE_LIMIT_BYTES
        self.durable_limit_bytes = frames.INLINE_REMOTE_LIMIT_BYTES
        self.client_id = mint("cl")
        self.on_log: Callable[[common.LogChunk], None] | None = None
        self.on_state: Callable[[pb.FunctionState], None] | None = None
        self._settings = settings
        self._find_server = find_server
        self._receiver: Receiver | None = None
        self._channel: grpc.aio.Channel | None = None
        self._stub: Any = None
        self._stream: Any = None
        self._incarnation = ""
        self._folder: PayloadFolder | None = None
        self._out: deque[pb.ClientFrame] = deque()
        self._has_out: asyncio.Event | None = None
        self._main: asyncio.Task[None] | None = None
        self._heard_s = 0.0
        self._nonce = 0
        self._settling: dict[int, asyncio.Future[None]] = {}
        self._apps: dict[str, pb.CreateAppRequest] = {}
        self._functions: dict[str, pb.RegisterFunctionRequest] = {}
        self._stopped = False

    # --- life -------------------------------------------------------------------------------------------------------

    def start(self, receiver: Receiver) -> None:
        """Connect.

        Raises:
            ServiceError: No server within 20 seconds.
        """
        self._receiver = receiver
        portal().run(self._start())

    async def _start(self) -> None:
        self._has_out = asyncio.Event()
        await self._connect()
        self._main = asyncio.get_running_loop().create_task(self._keep_connected())

    def stop(self) -> None:
        """End the connection; what waits fails."""
        try:
            portal().run(self._stop())
        finally:
            if self._folder is not None:
                self._folder.close()

    async def _stop(self) -> None:
        self._stopped = True
        if self._main is not None:
            self._main.cancel()
            await asyncio.wait([self._main], timeout=_CLOSE_TIMEOUT_S)
        await self._drop()
        if self._receiver is not None:
            self._receiver.on_lost(ServiceError("the connection to the server was closed by this client"))

    async def _drop(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.cancel()
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close()

    async def _connect(self) -> bool:
        """Open channel and stream; True when the server is another than before."""
        address = await asyncio.to_thread(self._find_server)
        self._channel = channel = grpc.aio.insecure_channel(address, options=_OPTIONS)
        self._stub = rpc.ControlPlaneStub(channel)
        try:
            stream = await _lane(address) or _RpcStream(channel, self._metadata())
            hello = pb.ClientFrame()
            hello.hello.client_id = self.client_id
            hello.hello.app_ids.extend(self._apps)
            hello.hello.want_logs = True
            hello.hello.version = "0.1.0"
            hello.hello.host_id = host_id()
            await asyncio.wait_for(stream.write(hello), _HELLO_TIMEOUT_S)
            first = pb.ServerFrame.FromString(await asyncio.wait_for(stream.read(), _HELLO_TIMEOUT_S))
        except (grpc.RpcError, OSError, asyncio.InvalidStateError, TimeoutError, asyncio.CancelledError) as error:
            await self._drop()
            if isinstance(error, asyncio.CancelledError) and _cancelling():
                raise
            raise _service_error(address, error) from error
        if first.WhichOneof("body") != "welcome":
            await self._drop()
            raise ServiceError(f"the server at {address} did not welcome this client", why="it ended the stream at once")
        welcome = first.welcome
        self._stream = stream
        self._heard_s = time.monotonic()
        if welcome.payload_dir and (self._folder is None or self._incarnation != welcome.server_incarnation):
            import os

            usable = os.access(f"{welcome.payload_dir}/in", os.W_OK) or os.access(welcome.payload_dir, os.W_OK)
            self._folder = PayloadFolder(welcome.payload_dir) if usable else None
        if not welcome.payload_dir:
            self._folder = None
        self.inline_limit_bytes = frames.INLINE_LOCAL_LIMIT_BYTES if self._folder else frames.INLINE_REMOTE_LIMIT_BYTES
        is_new = self._incarnation != welcome.server_incarnation
        self._incarnation = welcome.server_incarnation
        return is_new

    async def _keep_connected(self) -> None:
        assert self._receiver is not None
        while True:
            await self._pump()
            lost_s = time.monotonic()
            await self._drop()
            backoff_s = _BACKOFF_FIRST_S
            while True:
                try:
                    is_new = await self._connect()
                    if is_new:
                        await self._register_again()
                    break
                except (Error, grpc.RpcError, OSError) as error:
                    await self._drop()
                    if time.monotonic() - lost_s + backoff_s > self._settings.reconnect_s:
                        self._receiver.on_lost(
                            ServiceError(
                                f"the server went away and did not come back within {self._settings.reconnect_s:g} s",
                                why=str(error),
                                fix="see `hotbed server status` and `hotbed server logs`",
                            )
                        )
                        return
                await asyncio.sleep(backoff_s)
                backoff_s = min(backoff_s * 2, _BACKOFF_MAX_S)
            self._out.clear()  # everything that matters is kept in the lanes
            self._receiver.on_reconnected(is_new)

    async def _register_again(self) -> None:
        for app in list(self._apps.values()):
            await self._ask(self._stub.CreateApp, app)
        for function in list(self._functions.values()):
            await self._ask(self._stub.RegisterFunction, function)

    async def _pump(self) -> None:
        """Read, write and ping until one of them fails."""
        tasks = [asyncio.ensure_future(job) for job in (self._read(), self._write(), self._ping())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=_CLOSE_TIMEOUT_S)

    async def _read(self) -> None:
        stream, receiver = self._stream, self._receiver
        assert receiver is not None
        try:
            while True:
                frame = pb.ServerFrame.FromString(await stream.read())
                self._heard_s = time.monotonic()
                kind = frame.WhichOneof("body")
                if kind == "outputs":
                    columns = frame.outputs
                    receiver.on_outputs(columns.lane_id, columns.indices, columns.payloads, columns.statuses)
                elif kind == "accepted":
                    receiver.on_accepted(frame.accepted.lane_id, frame.accepted.first_index, frame.accepted.count)
                elif kind == "rejected":
                    rejected, info = frame.rejected, frame.rejected.error
                    error = serialize.make_remote_error(info.code, info.message, info.why, info.fix, info.ids)
                    receiver.on_rejected(rejected.lane_id, list(rejected.indices), error)
                elif kind == "pong":
                    settled = self._settling.pop(frame.pong.nonce, None)
                    if settled is not None and not settled.done():
                        settled.set_result(None)
                elif kind == "log" and self.on_log is not None:
                    self.on_log(frame.log)
                elif kind == "function_state" and self.on_state is not None:
                    self.on_state(frame.function_state)
        except (grpc.RpcError, OSError, asyncio.InvalidStateError):
            return

    async def _write(self) -> None:
        stream, out, has_out = self._stream, self._out, self._has_out
        assert has_out is not None
        try:
            while True:
                while out:
                    await stream.write(out.popleft())
                has_out.clear()
                await has_out.wait()
        except (grpc.RpcError, OSError, asyncio.InvalidStateError):
            return

    async def _ping(self) -> None:
        interval_s = self._settings.ping_interval_s
        while True:
            await asyncio.sleep(interval_s)
            if time.monotonic() - self._heard_s > 2 * interval_s:
                return
            self._send_ping()

    def _send_ping(self) -> int:
        self._nonce += 1
        frame = pb.ClientFrame()
        frame.ping.nonce = self._nonce
        self._send(frame)
        return self._nonce

    async def settle(self) -> None:
        """Wait (two seconds at most) until what the server has queued for this client is here: the last lines of logs."""
        if self._stream is None:
            return
        arrived = asyncio.get_running_loop().create_future()
        nonce = self._send_ping()
        self._settling[nonce] = arrived
        await asyncio.wait([arrived], timeout=_SETTLE_TIMEOUT_S)
        self._settling.pop(nonce, None)

    def _metadata(self) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {self._settings.token}"),) if self._settings.token else ()

    # --- frames (Transport) -----------------------------------------------------------------------------------------

    def wake(self, flush: Callable[[], None]) -> None:
        portal().call_soon(flush)

    def _send(self, frame: pb.ClientFrame) -> None:
        self._out.append(frame)
        if self._has_out is not None:
            self._has_out.set()

    def submit(self, frame: SubmitFrame) -> None:
        message = pb.ClientFrame()
        body = message.submit
        body.lane_id = frame.lane_id
        body.function_id = frame.function_id
        body.first_index = frame.first_index
        body.payloads.extend(frame.payloads)
        body.flags = frame.flags
        body.durable = frame.durable
        body.closed = frame.closed
        body.subscribe = frame.subscribe
        self._send(message)

    def subscribe(self, lane_id: str, indices: Sequence[int], off: bool) -> None:
        message = pb.ClientFrame()
        message.subscribe.lane_id = lane_id
        message.subscribe.indices.extend(indices)
        message.subscribe.off = off
        self._send(message)

    def cancel(self, lane_id: str, indices: Sequence[int], terminate_containers: bool) -> None:
        message = pb.ClientFrame()
        message.cancel.lane_id = lane_id
        message.cancel.indices.extend(indices)
        message.cancel.terminate_containers = terminate_containers
        self._send(message)

    def set_pending(self, count: int) -> None:
        return  # the portal always reads

    # --- payloads ---------------------------------------------------------------------------------------------------

    def store_call(self, function_id: str, args: tuple[Any, ...], kwargs: dict[str, Any], durable: bool) -> bytes:
        def fill(file: BinaryIO) -> None:
            serialize.dump_call_to_file(args, kwargs, file)

        return self._store(function_id, fill, durable)

    def store_bytes(self, function_id: str, data: bytes, durable: bool) -> bytes:
        return self._store(function_id, lambda file: file.write(data), durable)

    def _store(self, function_id: str, fill: Callable[[BinaryIO], Any], durable: bool) -> bytes:
        folder = self._folder
        if folder is not None and not durable:
            name, size = folder.write(function_id, fill)
            return common.PayloadRef(file=name, size_bytes=size).SerializeToString()
        with tempfile.TemporaryFile() as file:
            fill(file)  # type: ignore[arg-type]  # a temporary file is a BinaryIO in all but name
            digest, size = portal().run(self._put_file(file))
        return common.PayloadRef(digest=digest, size_bytes=size).SerializeToString()

    def load_ref(self, payload: bytes) -> Any:
        ref = common.PayloadRef.FromString(payload)
        if ref.file:
            folder = self._folder
            if folder is None:
                raise ServiceError("a result lies in a shared file, but this client shares no folder with the server")
            try:
                return folder.load_result(ref.file)
            finally:
                message = pb.ClientFrame()
                message.release.files.append(ref.file)
                portal().call_soon(self._send, message)
        with tempfile.TemporaryFile() as file:
            portal().run(self._get_blob(ref.digest, file))
            file.seek(0)
            return pickle.Unpickler(file).load()

    def release_input(self, payload: bytes) -> None:
        ref = common.PayloadRef.FromString(payload)
        if ref.file and self._folder is not None:
            self._folder.free(ref.file)

    async def _get_blob(self, digest: str, file: Any) -> None:
        hasher = hashlib.sha256()
        try:
            async for part in self._stub.GetBlob(pb.GetBlobRequest(digest=digest), metadata=self._metadata()):
                hasher.update(part.data)
                file.write(part.data)
        except grpc.aio.AioRpcError as error:
            raise request_error("GetBlob", error) from error
        if f"sha256:{hasher.hexdigest()}" != digest:
            raise ServiceError(f"blob {digest} came with other contents", fix="try again; the store may be damaged")

    async def _put_file(self, file: Any) -> tuple[str, int]:
        file.seek(0)
        digest = "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
        size = file.seek(0, 2)  # file_digest leaves the position of an in-memory file where it was
        missing = await self._ask(self._stub.MissingBlobs, pb.MissingBlobsRequest(digests=[digest]))
        if missing.digests:

            async def parts() -> AsyncIterator[pb.BlobPart]:
                file.seek(0)
                yield pb.BlobPart(digest=digest, size_bytes=size, data=file.read(_BLOB_PART_BYTES))
                while data := file.read(_BLOB_PART_BYTES):
                    yield pb.BlobPart(data=data)

            try:
                await self._stub.PutBlob(parts(), metadata=self._metadata(), timeout=None)
            except grpc.aio.AioRpcError as error:
                raise request_error("PutBlob", error) from error
        return digest, size

    # --- requests (on the portal's loop) ------------------------------------------------------------------------------

    async def put_blob(self, data: bytes) -> tuple[str, int]:
        """Store bytes that the server does not have yet; (digest, size)."""
        import io

        return await self._put_file(io.BytesIO(data))

    async def create_app(self, name: str, detach: bool) -> str:
        """A new app; it is made again under this id when the server restarts."""
        app_id = mint("ap")
        request = pb.CreateAppRequest(name=name, detach=detach, client_id=self.client_id, app_id=app_id)
        reply = await self._ask(self._stub.CreateApp, request)
        request.app_id = reply.app_id or app_id
        self._apps[request.app_id] = request
        return request.app_id

    async def stop_app(self, app_id: str, reason: str) -> None:
        """End it; detached apps live on."""
        self._apps.pop(app_id, None)
        for function_id in [f for f, request in self._functions.items() if request.spec.app_id == app_id]:
            del self._functions[function_id]
        await self._ask(self._stub.StopApp, pb.StopAppRequest(app_id=app_id, reason=reason))

    def leave_app(self, app_id: str) -> None:
        """A detached app is not this client's to keep any more."""
        self._apps.pop(app_id, None)

    async def register_function(self, spec: common.FunctionSpec, function_id: str) -> str:
        """Returns the server's warning, "" mostly."""
        request = pb.RegisterFunctionRequest(spec=spec, function_id=function_id)
        reply = await self._ask(self._stub.RegisterFunction, request)
        self._functions[function_id] = request
        return reply.warning

    async def call_info(self, lane_id: str) -> pb.CallInfoResponse:
        """Facts about a durable lane.

        Raises:
            NotFoundError: The server does not know it (any more).
        """
        reply = await self._ask(self._stub.CallInfo, pb.CallInfoRequest(lane_id=lane_id))
        if not reply.found:
            raise NotFoundError(
                f"no function call {lane_id}", why="the server does not know it, or its 7 days of retention are over"
            )
        return reply

    async def server_status(self) -> pb.StatusResponse:
        """What the server runs."""
        return await self._ask(self._stub.Status, pb.StatusRequest())

    async def _ask(self, method: Callable[..., Any], request: Any) -> Any:
        try:
            return await method(request, metadata=self._metadata(), timeout=self._settings.request_timeout_s)
        except grpc.aio.AioRpcError as error:
            raise request_error(type(request).__name__.removesuffix("Request"), error) from error
        except grpc.aio.UsageError as error:
            raise ServiceError("the connection to the server is closed", why=str(error)) from error

    def ask(self, request: Coroutine[Any, Any, T]) -> T:
        """Run one of the requests above from another thread."""
        return portal().run(request)


class _RpcStream:
    """The Stream RPC with the face of a `FrameStream`: raw frames in, so that both are parsed at one place."""

    def __init__(self, channel: grpc.aio.Channel, metadata: tuple[tuple[str, str], ...]) -> None:
        # Without a deserialiser, so that frames arrive as bytes here as they do from the raw socket.
        stream = channel.stream_stream(_STREAM_METHOD, request_serializer=pb.ClientFrame.SerializeToString)
        self._call: Any = stream(metadata=metadata)

    async def write(self, message: Any) -> None:
        await self._call.write(message)

    async def read(self) -> bytes:
        frame = await self._call.read()
        if frame is _EOF:
            raise ConnectionError("the server ended the stream")
        return frame

    def cancel(self) -> None:
        self._call.cancel()


async def _lane(address: str) -> FrameStream | None:
    """The raw socket beside a server's unix socket, where there is one."""
    if not address.startswith("unix:"):
        return None
    try:
        return await connect(address.removeprefix("unix:") + LANE_SUFFIX)
    except OSError:
        return None


def _cancelling() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _service_error(address: str, error: BaseException) -> ServiceError:
    why = error.details() if isinstance(error, grpc.aio.AioRpcError) else str(error)
    return ServiceError(
        f"cannot reach the server at {address}",
        why=f"{why or type(error).__name__}",
        fix="check HOTBED_SERVER, or unset it to use the embedded server",
    )


def request_error(what: str, error: Any) -> Error:
    """A named error from what the server sent: "code: message" in the trailing metadata, or the nearest by status."""
    for key, value in error.trailing_metadata() or ():
        if key == "hotbed-error-bin":
            from hotbed.wire_errors import error_from_bytes

            return error_from_bytes(value if isinstance(value, bytes) else value.encode())
    status = error.code().name
    details = error.details() or status
    if status in ("UNAVAILABLE", "CANCELLED"):
        return ServiceError(f"{what} failed", why=details)
    for cls in ERRORS_BY_CODE.values():
        if grpc_status_name(cls) == status:
            return cls(f"{what}: {details}")
    return Error(f"{what}: {details} [{status}]")
