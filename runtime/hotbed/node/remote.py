"""A node agent of a cluster: the same agent, its frames and commands on one gRPC stream.

When the stream is lost, containers go on for a grace shorter than the lease; after it they are killed, because by then
the control plane may have given their inputs to others (fencing).
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Final

import grpc
import grpc.aio

from hotbed.node.agent import NodeAgent
from hotbed.node.backend import Backend
from hotbed.node.settings import NodeSettings, RemoteSettings
from hotbed_proto import frames
from hotbed_proto.errors import AuthError, InternalError, ServiceError
from hotbed_proto.v1 import client_pb2, node_pb2, node_pb2_grpc

_QUEUE_MAX: Final = 100_000
_PART_BYTES: Final = 1024 * 1024
_BLOB_TIMEOUT_S: Final = 600.0
_log = logging.getLogger(__name__)


class Remote:
    """One agent's connection, opened again and again."""

    def __init__(self, settings: NodeSettings, remote: RemoteSettings, backends: Mapping[str, Backend]) -> None:
        self._remote = remote
        self._metadata = (("authorization", f"Bearer {remote.token}"),)
        self._queue: asyncio.Queue[node_pb2.NodeFrame] = asyncio.Queue(_QUEUE_MAX)
        self.agent = NodeAgent(settings, backends, self._enqueue, self._fetch_blob, self._put_blob)
        self._channel = grpc.aio.insecure_channel(
            remote.address,
            options=[
                ("grpc.max_receive_message_length", frames.MESSAGE_BYTES_MAX),
                ("grpc.max_send_message_length", frames.MESSAGE_BYTES_MAX),
                ("grpc.keepalive_time_ms", 10_000),
            ],
        )
        self._stub = node_pb2_grpc.NodePlaneStub(self._channel)

    def _enqueue(self, frame: node_pb2.NodeFrame) -> None:
        if self._queue.full():
            # Logs and heartbeats may be lost, reports may not: without room for them the stream is no longer worth keeping.
            if frame.WhichOneof("body") in ("log", "heartbeat"):
                return
            raise ServiceError(f"{_QUEUE_MAX} reports wait for the control plane", why="it does not read its stream")
        self._queue.put_nowait(frame)

    async def run(self) -> None:
        """Serve until cancelled.

        Raises:
            AuthError: The control plane refuses the token.
        """
        await self.agent.start()
        backoff_s = 0.1
        try:
            while True:
                started_s = time.monotonic()
                try:
                    await self._serve()
                except grpc.aio.AioRpcError as error:
                    if error.code() in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
                        raise AuthError("the control plane refuses this node's token", why=error.details() or "") from error
                    _log.warning("the stream to %s ended: %s", self._remote.address, error.details())
                if time.monotonic() - started_s > 5.0:
                    backoff_s = 0.1
                await self._wait_fenced(backoff_s)
                backoff_s = min(self._remote.backoff_max_s, backoff_s * 2)
        finally:
            await self.agent.close(2.0)
            await self._channel.close()

    async def _wait_fenced(self, backoff_s: float) -> None:
        """Wait for the channel at most the grace, then kill what runs and go on trying."""
        await asyncio.sleep(backoff_s)
        try:
            await asyncio.wait_for(self._channel_ready(), self._remote.reconnect_grace_s)
        except TimeoutError:
            _log.warning("no control plane for %.1f s: killing the containers", self._remote.reconnect_grace_s)
            await self.agent.kill_all("crashed")
            while not self._queue.empty():
                self._queue.get_nowait()  # reports of a registration that has lapsed

    async def _channel_ready(self) -> None:
        state = self._channel.get_state(try_to_connect=True)
        while state is not grpc.ChannelConnectivity.READY:
            await self._channel.wait_for_state_change(state)
            state = self._channel.get_state(try_to_connect=True)

    async def _serve(self) -> None:
        async def frames_up() -> AsyncIterator[node_pb2.NodeFrame]:
            yield self.agent.register_frame()
            while True:
                yield await self._queue.get()

        async for command in self._stub.Attach(frames_up(), metadata=self._metadata):
            self.agent.handle(command)

    async def _fetch_blob(self, digest: str, path: Path) -> None:
        request = client_pb2.GetBlobRequest(digest=digest)
        checksum = hashlib.sha256()
        try:
            with open(path, "wb") as file:
                async for part in self._stub.GetBlob(request, metadata=self._metadata, timeout=_BLOB_TIMEOUT_S):
                    checksum.update(part.data)
                    file.write(part.data)
        except grpc.aio.AioRpcError as error:
            raise ServiceError(f"blob {digest} cannot be fetched", why=error.details() or str(error.code())) from error
        if f"sha256:{checksum.hexdigest()}" != digest:
            raise InternalError(f"blob {digest} arrived with other bytes than its digest says")

    async def _put_blob(self, path: Path) -> str:
        checksum = hashlib.sha256()
        size = 0
        file = open(path, "rb")  # noqa: SIM115 - a result file may be unlinked meanwhile: opened once, read twice
        with file:
            while data := file.read(_PART_BYTES):
                checksum.update(data)
                size += len(data)
            file.seek(0)
            digest = f"sha256:{checksum.hexdigest()}"

            async def parts() -> AsyncIterator[client_pb2.BlobPart]:
                yield client_pb2.BlobPart(digest=digest, size_bytes=size, data=file.read(_PART_BYTES))
                while more := file.read(_PART_BYTES):
                    yield client_pb2.BlobPart(data=more)

            try:
                info = await self._stub.PutBlob(parts(), metadata=self._metadata, timeout=_BLOB_TIMEOUT_S)
            except grpc.aio.AioRpcError as error:
                raise ServiceError("a result cannot be stored", why=error.details() or str(error.code())) from error
        return info.digest


async def run_node(settings: NodeSettings, remote: RemoteSettings, backends: Mapping[str, Backend]) -> None:
    """Attach this machine to a control plane until cancelled. See `Remote.run` for errors."""
    await Remote(settings, remote, backends).run()
