"""The gRPC face of a control plane: authorisation, errors and streams; no decisions."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import grpc.aio

from hotbed_proto.errors import Error, InternalError, InvalidError, grpc_status_name
from hotbed_proto.frames import MESSAGE_BYTES_MAX
from hotbed_proto.v1 import client_pb2, node_pb2

from ..tokens import Role, TokenFile
from .convert import error_info

ERROR_METADATA = "hotbed-error-bin"
CHANNEL_OPTIONS = [
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    ("grpc.so_reuseport", 0),
]
_log = logging.getLogger(__name__)


async def _abort(context: Any, error: BaseException) -> None:
    if not isinstance(error, Error):
        _log.error("an RPC failed", exc_info=error)
        error = InternalError("the server failed on this request", why=f"{type(error).__name__}: {error}")
    status = getattr(grpc.StatusCode, grpc_status_name(error))
    await context.abort(status, error.what, ((ERROR_METADATA, error_info(error).SerializeToString()),))


async def serve_client(
    plane: Any,
    read: Callable[[], Awaitable[bytes]],
    write: Callable[[client_pb2.ServerFrame], Awaitable[None]],
    refuse: Callable[[BaseException], Awaitable[None]],
) -> None:
    """One client's connection, of whichever kind: frames in on this task, frames out on a second.

    Args:
        read: The next serialised ClientFrame; StopAsyncIteration or ConnectionError at the end.
        refuse: Tell the client why its connection ends.
    """
    session = None
    pump = None
    reader = asyncio.current_task()
    try:
        while True:
            try:
                raw = await read()
            except (StopAsyncIteration, ConnectionError):
                break
            try:
                frame = client_pb2.ClientFrame.FromString(raw)
            except Exception as error:  # noqa: BLE001 - DecodeError of either protobuf implementation
                raise InvalidError("a frame cannot be parsed", why=str(error)) from None
            if session is None:
                session = plane.open_client(frame.hello if frame.HasField("hello") else None)
                pump = asyncio.create_task(session.outbox.pump(write))
                # A broken or replaced connection ends the read side too.
                pump.add_done_callback(lambda _: reader.cancel() if reader else None)
                continue
            await session.receive(frame)
    except asyncio.CancelledError:
        if pump is None or not pump.done():
            raise
    except Exception as error:  # noqa: BLE001 - mapped to a status for this caller alone
        if session is not None:
            session.closed()
            session = None
        await refuse(error)
    finally:
        if session is not None:
            session.closed()
        if pump is not None:
            if not pump.done():
                pump.cancel()
            with contextlib.suppress(asyncio.CancelledError, ConnectionError):
                await pump


class Face:
    """Every RPC of both services. `tokens` None: a unix socket, guarded by its file mode."""

    def __init__(self, plane: Any, tokens: TokenFile | None) -> None:
        self._plane = plane
        self._tokens = tokens

    def _authorise(self, context: Any, role: Role) -> None:
        if self._tokens is not None:
            metadata = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
            self._tokens.check(metadata.get("authorization"), role)

    def unary(self, role: Role, call: Callable[[Any], Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        """Authorise, call, map errors."""

        async def handler(request: Any, context: Any) -> Any:
            try:
                self._authorise(context, role)
                return await call(request)
            except Exception as error:  # noqa: BLE001 - mapped to a status for this caller alone
                await _abort(context, error)

        return handler

    async def put_blob(self, role: Role, parts: AsyncIterator[client_pb2.BlobPart], context: Any) -> client_pb2.BlobInfo | None:
        """Stream a blob into the store; one part in memory."""
        writer = None
        try:
            self._authorise(context, role)
            async for part in parts:
                if writer is None:
                    writer = await asyncio.to_thread(self._plane.blobs.writer, part.size_bytes, part.digest)
                await asyncio.to_thread(writer.write, part.data)
            if writer is None:
                raise InvalidError("an upload without a part")
            digest = await asyncio.to_thread(writer.commit)
            return client_pb2.BlobInfo(digest=digest, size_bytes=writer.size_bytes)
        except Exception as error:  # noqa: BLE001 - mapped to a status for this caller alone
            await _abort(context, error)
        finally:
            if writer is not None and not writer.digest:
                await asyncio.to_thread(writer.discard)

    async def get_blob(
        self, role: Role, request: client_pb2.GetBlobRequest, context: Any
    ) -> AsyncIterator[client_pb2.BlobPart]:
        """Stream a blob out."""
        try:
            self._authorise(context, role)
            size = await asyncio.to_thread(self._plane.blobs.size, request.digest)
            yield client_pb2.BlobPart(digest=request.digest, size_bytes=size)
            parts = self._plane.blobs.parts(request.digest)
            while (data := await asyncio.to_thread(next, parts, None)) is not None:
                yield client_pb2.BlobPart(data=data)
        except Exception as error:  # noqa: BLE001 - mapped to a status for this caller alone
            await _abort(context, error)

    async def stream(self, requests: AsyncIterator[bytes], context: Any) -> None:
        """A client's stream: frames in on this task, frames out on a second."""
        try:
            self._authorise(context, "client")
        except Error as error:
            await _abort(context, error)
        reader = aiter(requests)
        await serve_client(self._plane, lambda: anext(reader), context.write, functools.partial(_abort, context))

    async def attach(self, requests: AsyncIterator[node_pb2.NodeFrame], context: Any) -> None:
        """A node's stream."""
        queue: asyncio.Queue[node_pb2.NodeCommand] = asyncio.Queue()
        waiting = 0
        limit = self._plane.settings.node_queue_bytes_max
        reader = asyncio.current_task()

        def send(command: node_pb2.NodeCommand) -> None:
            nonlocal waiting
            waiting += command.ByteSize()
            if waiting > limit and reader is not None:
                reader.cancel()
                return
            queue.put_nowait(command)

        async def pump() -> None:
            nonlocal waiting
            while True:
                command = await queue.get()
                waiting -= command.ByteSize()
                await context.write(command)

        session = None
        task = None
        try:
            self._authorise(context, "node")
            session = self._plane.attach_node(send)
            task = asyncio.create_task(pump())
            async for frame in requests:
                session.receive(frame)
        except asyncio.CancelledError:
            if waiting <= limit:
                raise
        except Exception as error:  # noqa: BLE001 - mapped to a status for this caller alone
            await _abort(context, error)
        finally:
            if session is not None:
                session.closed("its commands were not read" if waiting > limit else "the connection ended")
            if task is not None:
                task.cancel()


def add_services(server: grpc.aio.Server, plane: Any, requests: Any, tokens: TokenFile | None) -> None:
    """Register both services on a server."""
    face = Face(plane, tokens)
    methods: dict[str, Any] = {
        # Raw request bytes, so that a frame that cannot be parsed gets a named error and not a bare INTERNAL.
        "Stream": grpc.stream_stream_rpc_method_handler(
            face.stream, request_deserializer=None, response_serializer=client_pb2.ServerFrame.SerializeToString
        ),
        **_blob_methods(face, "client"),
    }
    for name in ("CreateApp", "StopApp", "RegisterFunction", "MissingBlobs", "CallInfo", "Status", "Shutdown"):
        methods[name] = grpc.unary_unary_rpc_method_handler(
            face.unary("client", getattr(requests, _snake(name))),
            request_deserializer=getattr(client_pb2, f"{name}Request").FromString,
            response_serializer=getattr(client_pb2, f"{name}Response").SerializeToString,
        )
    node_methods = {
        "Attach": grpc.stream_stream_rpc_method_handler(
            face.attach,
            request_deserializer=node_pb2.NodeFrame.FromString,
            response_serializer=node_pb2.NodeCommand.SerializeToString,
        ),
        **_blob_methods(face, "node"),
    }
    server.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler("hotbed.v1.ControlPlane", methods),
            grpc.method_handlers_generic_handler("hotbed.v1.NodePlane", node_methods),
        )
    )


def _blob_methods(face: Face, role: Role) -> dict[str, Any]:
    return {
        "PutBlob": grpc.stream_unary_rpc_method_handler(
            functools.partial(face.put_blob, role),
            request_deserializer=client_pb2.BlobPart.FromString,
            response_serializer=client_pb2.BlobInfo.SerializeToString,
        ),
        "GetBlob": grpc.unary_stream_rpc_method_handler(
            functools.partial(face.get_blob, role),
            request_deserializer=client_pb2.GetBlobRequest.FromString,
            response_serializer=client_pb2.BlobPart.SerializeToString,
        ),
    }


def _snake(name: str) -> str:
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in name).lstrip("_")
