"""The node agent: carries out the control plane's commands on this machine and reports what happens.

`handle` takes a command and never blocks; everything that lasts runs as a task on the agent's loop. In the embedded server
frames and commands are handed over directly; `remote.run_node` moves the same objects over a gRPC stream.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final

from hotbed.node.backend import Backend
from hotbed.node.container import Container, Host
from hotbed.node.gpu import find_gpus, gpu_environ
from hotbed.node.payload_files import PayloadDir
from hotbed.node.settings import NodeSettings
from hotbed.node.sources import build_worker_lib, unpack_source
from hotbed_proto import ids
from hotbed_proto.errors import ContainerFailedError, Error, InvalidError
from hotbed_proto.resources import GpuDevice
from hotbed_proto.v1 import common_pb2, node_pb2

_WATCH_S: Final = 0.1
_HEARTBEAT_S: Final = 2.0
_log = logging.getLogger(__name__)

Send = Callable[[node_pb2.NodeFrame], None]
FetchBlob = Callable[[str, Path], Awaitable[None]]
PutBlob = Callable[[Path], Awaitable[str]]


class NodeAgent:
    """All containers of one node.

    Args:
        backends: By isolation name ("container", "process").
        send: Takes every report; must not block. Replaced by `set_send` when a stream is opened anew.
        fetch_blob: Writes the plain bytes of a digest to a path.
        put_blob: Stores a file and returns its digest.
        nvml: A stand-in for `pynvml` in tests.
    """

    def __init__(
        self,
        settings: NodeSettings,
        backends: Mapping[str, Backend],
        send: Send,
        fetch_blob: FetchBlob,
        put_blob: PutBlob,
        nvml: Any = None,
    ) -> None:
        self.settings = settings
        self.incarnation = os.urandom(8).hex()
        self._backends = backends
        self._send = send
        self._fetch_blob = fetch_blob
        self._put_blob = put_blob
        self._nvml = nvml
        self._containers: dict[str, Container] = {}
        self._sources: dict[str, asyncio.Task[Path]] = {}
        self._published: dict[str, tuple[str, str]] = {}
        self._gpus: list[GpuDevice] = []
        self._host: Host | None = None
        self._ticker: asyncio.Task[None] | None = None
        self._heartbeat_s = _HEARTBEAT_S
        self._draining = False
        self.node_id = _load_node_id(settings.state_dir)

    async def start(self) -> None:
        """Remove what a former agent left, take stock of the machine, be ready for commands. Cost: about 0.5 s."""
        settings = self.settings
        for backend in self._backends.values():
            for container_id in await backend.list_leftovers():
                _log.warning("removing container %s of a former agent", container_id)
                await backend.remove(container_id)
        payloads = PayloadDir(settings.payload_dir)
        payloads.clear_stale()
        worker_lib = await asyncio.to_thread(build_worker_lib, settings.state_dir / "lib")
        if settings.detect_gpus or self._nvml is not None:
            self._gpus = await asyncio.to_thread(find_gpus, self._nvml)
        self._host = Host(
            settings=settings,
            payloads=payloads,
            worker_lib=worker_lib,
            send=self._emit,
            fetch_blob=self._fetch_blob,
            put_blob=self._put_blob,
            source=self._source,
            gpu_environ=lambda indices: gpu_environ(self._gpus, indices),
            published=self._published,
            on_gone=self._on_gone,
        )
        self._ticker = asyncio.get_running_loop().create_task(self._tick())

    def set_send(self, send: Send) -> None:
        """Where reports go from now on."""
        self._send = send

    def _emit(self, frame: node_pb2.NodeFrame) -> None:
        self._send(frame)

    def register_frame(self) -> node_pb2.NodeFrame:
        """The first frame of a stream; after `start`."""
        settings = self.settings
        frame = node_pb2.NodeFrame()
        register = frame.register
        register.node_id, register.incarnation, register.name = self.node_id, self.incarnation, settings.name
        register.version, register.host_id = settings.version, settings.host_id
        register.payload_dir = str(settings.payload_dir) if settings.share_payload_dir else ""
        register.isolations.extend(sorted(self._backends))
        register.python_version = ".".join(str(part) for part in _python_version())
        inventory = register.inventory
        inventory.milli_cpu = settings.milli_cpu or len(os.sched_getaffinity(0)) * 1000
        inventory.memory_bytes = settings.memory_total_bytes()
        inventory.disk_bytes = settings.disk_bytes or shutil.disk_usage(settings.state_dir).free
        inventory.labels.update(settings.labels)
        for gpu in self._gpus:
            inventory.gpus.add(index=gpu.index, uuid=gpu.uuid, model=gpu.model, memory_bytes=gpu.memory_bytes)
        return frame

    def handle(self, command: node_pb2.NodeCommand) -> None:
        """Carry out one command. Commands for containers that are gone are ignored: their end was reported."""
        kind = command.WhichOneof("body")
        if kind == "inputs":
            container = self._containers.get(command.inputs.container_id)
            if container is not None:
                container.dispatch(command.inputs)
        elif kind == "start":
            self._start_container(command.start)
        elif kind == "assign":
            if (container := self._containers.get(command.assign.container_id)) is not None:
                container.assign(command.assign)
        elif kind == "cancel":
            if (container := self._containers.get(command.cancel.container_id)) is not None:
                container.cancel(command.cancel)
        elif kind == "stop":
            if (container := self._containers.get(command.stop.container_id)) is not None:
                container.stop(command.stop.reason, command.stop.grace_s)
        elif kind == "nested":
            if (container := self._containers.get(command.nested.container_id)) is not None:
                container.nested(command.nested)
        elif kind == "release":
            self._release(command.release)
        elif kind == "registered":
            self._heartbeat_s = command.registered.heartbeat_interval_s or _HEARTBEAT_S
        elif kind == "drain":
            self._draining = True
            for container in list(self._containers.values()):
                if not container.busy:
                    container.stop("stopped", 5.0)

    def _start_container(self, start: node_pb2.StartContainer) -> None:
        assert self._host is not None, "start() comes first"
        if start.container_id in self._containers:
            return
        isolation = start.spec.isolation or self.settings.default_isolation
        backend = self._backends.get(isolation)
        problem = ""
        if not ids.is_id(start.container_id, "co"):
            problem = f"{start.container_id[:60]!r} is not a container id"  # it names folders here
        elif backend is None:
            problem = f"this node has no backend for isolation {isolation!r}, only {', '.join(sorted(self._backends))}"
        elif self._draining or len(self._containers) >= self.settings.containers_max:
            problem = "this node takes no more containers"
        if problem or backend is None:
            frame = node_pb2.NodeFrame()
            state = frame.container
            state.container_id, state.state = start.container_id, "failed"
            state.error.code, state.error.message = ContainerFailedError.code, problem
            self._emit(frame)
            return
        self._containers[start.container_id] = Container(self._host, backend, start)

    def _release(self, release: Any) -> None:
        assert self._host is not None
        for file in release.files:
            self._host.payloads.release_result(file)
            container_id, name = self._published.pop(file, ("", ""))
            if (container := self._containers.get(container_id)) is not None:
                container.release((name,))

    def _on_gone(self, container_id: str) -> None:
        self._containers.pop(container_id, None)

    async def _source(self, mount: common_pb2.SourceMount) -> Path:
        """The unpacked folder of a source archive; fetched once however many containers ask."""
        task = self._sources.get(mount.digest)
        if task is None or (task.done() and (task.cancelled() or task.exception() is not None)):
            task = asyncio.get_running_loop().create_task(self._unpack(mount.digest))
            self._sources[mount.digest] = task
        return await asyncio.shield(task)

    async def _unpack(self, digest: str) -> Path:
        algorithm, _, name = digest.partition(":")
        if algorithm != "sha256" or len(name) != 64 or not name.isalnum():
            raise InvalidError(f"{digest[:80]!r} is not a digest")
        folder = self.settings.state_dir / "sources"
        folder.mkdir(parents=True, exist_ok=True)
        target = folder / name
        if not target.exists():
            archive = folder / f"{name}.zip"
            try:
                await self._fetch_blob(digest, archive)
                limits = {"bytes_max": self.settings.source_bytes_max, "files_max": self.settings.source_files_max}
                await asyncio.to_thread(unpack_source, archive, target, **limits)
            finally:
                archive.unlink(missing_ok=True)
        return target

    async def _tick(self) -> None:
        """Watch busy containers; every few seconds say that we live. Idle: one wake-up a heartbeat."""
        sequence = 0
        next_beat_s = time.monotonic()
        while True:
            now_s = time.monotonic()
            busy = False
            for container in list(self._containers.values()):
                if container.busy:
                    busy = True
                    container.watch(now_s)
            if now_s >= next_beat_s:
                next_beat_s = now_s + self._heartbeat_s
                sequence += 1
                frame = node_pb2.NodeFrame()
                frame.heartbeat.sequence = sequence
                frame.heartbeat.memory_available_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
                frame.heartbeat.load_1m = os.getloadavg()[0]
                self._emit(frame)
            # An input may start right after this look; it is then seen at most 0.5 s late, and its start is on the page.
            await asyncio.sleep(_WATCH_S if busy else min(0.5 if self._containers else 60.0, next_beat_s - now_s + 0.001))

    async def kill_all(self, reason: str) -> None:
        """Kill every container now (fencing) and wait until each is reported gone."""
        containers = list(self._containers.values())
        for container in containers:
            container.stop(reason, 0.0)
        await asyncio.gather(*(container.wait_gone(10.0) for container in containers))

    async def close(self, grace_s: float) -> None:
        """Stop all containers (SIGTERM, a kill after `grace_s`), then remove every trace."""
        containers = list(self._containers.values())
        for container in containers:
            container.stop("stopped", grace_s)
        await asyncio.gather(*(container.wait_gone(grace_s + 10.0) for container in containers))
        if self._ticker is not None:
            self._ticker.cancel()
            await asyncio.wait((self._ticker,))
        for backend in self._backends.values():
            try:
                await backend.close()
            except (Error, OSError) as error:
                _log.warning("a backend did not close: %s", error)


def _python_version() -> tuple[int, int]:
    import sys

    return sys.version_info[:2]


def _load_node_id(state_dir: Path) -> str:
    state_dir.mkdir(parents=True, exist_ok=True)
    path = state_dir / "node_id"
    try:
        node_id = path.read_text().strip()
    except FileNotFoundError:
        node_id = ""
    if not ids.is_id(node_id, "no"):
        node_id = ids.mint("no")
        path.write_text(node_id)
    return node_id
