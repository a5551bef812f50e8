"""Backends for tests, the descriptors a container needs, and the check that nothing is left behind."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from hotbed.node.backend import Backend, ContainerSpec, ExitStatus, Mount
from hotbed.node.backend_oci import OciBackend, OciSettings
from hotbed.node.backend_process import ProcessBackend
from hotbed_images.host import HostImage, host_image

NAMES = ("oci-crun", "oci-runc", "process")
WAIT_S = 30.0


@dataclass
class Bench:
    """A backend in a folder of its own, with what it takes to run things in it."""

    name: str
    folder: Path
    image: HostImage | None
    backend: Any = None
    python: str = sys.executable
    created: list[str] = field(default_factory=list)

    def make(self) -> Backend:
        """Another backend on the same folder, as a restarted agent would have."""
        if self.name == "process":
            return ProcessBackend(self.folder / "state")
        runtime = shutil.which(self.name.removeprefix("oci-"))
        assert runtime and self.image
        return OciBackend(self.folder / "state", Path(runtime), self.image, OciSettings(cgroup_parent="hotbed-test"))

    async def start(
        self,
        code: str | None = None,
        *,
        argv: Sequence[str] | None = None,
        env: Mapping[str, str] | None = None,
        stdin: int | None = None,
        mounts: Sequence[Mount] = (),
        **limits: Any,
    ) -> str:
        """Create a container of Python code or of `argv`; its output goes to a file (`output`)."""
        container_id = f"co-{uuid.uuid4().hex[:16]}"
        null = os.open(os.devnull, os.O_RDWR)
        out = os.open(self.folder / f"{container_id}.out", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            spec = ContainerSpec(
                container_id,
                argv or [self.python, "-I", "-S", "-c", code or ""],
                {"HOME": "/root"} if env is None else env,
                "/",
                mounts,
                null if stdin is None else stdin,
                out,
                out,
                **limits,
            )
            await self.backend.create(spec)
        finally:
            os.close(null)
            os.close(out)
        return container_id

    async def wait(self, container_id: str) -> ExitStatus:
        return await asyncio.wait_for(self.backend.wait(container_id), WAIT_S)

    def output(self, container_id: str) -> str:
        return (self.folder / f"{container_id}.out").read_text()

    async def until_output(self, container_id: str, text: str) -> None:
        for _ in range(int(WAIT_S / 0.01)):
            if text in self.output(container_id):
                return
            await asyncio.sleep(0.01)
        raise AssertionError(f"no {text!r} in {self.output(container_id)!r}")

    async def run(self, code: str, **options: Any) -> str:
        """Run code to its end, expect exit code 0, and return what it printed."""
        container_id = await self.start(code, **options)
        status = await self.wait(container_id)
        text = self.output(container_id)
        assert status.code == 0, (status, text)
        await self.backend.remove(container_id)
        return text.strip()


def skip_unless_possible(name: str) -> None:
    if name == "process":
        return
    if os.geteuid() != 0:
        pytest.skip("needs root")
    if shutil.which(name.removeprefix("oci-")) is None:
        pytest.skip(f"{name.removeprefix('oci-')} is not installed")


def with_bench(name: str, body: Callable[[Bench], Coroutine[Any, Any, None]]) -> None:
    """Run a test's body with a fresh backend and check afterwards that the host is as it was."""
    skip_unless_possible(name)

    async def main() -> None:
        async with _bench(name) as bench:
            await asyncio.wait_for(body(bench), 90)

    before = set(_mount_table())
    asyncio.run(main())
    assert set(_mount_table()) == before, "mounts were left behind"


@asynccontextmanager
async def _bench(name: str) -> AsyncIterator[Bench]:
    folder = Path(tempfile.mkdtemp(prefix="hotbed-backend-", dir="/dev/shm"))
    bench = Bench(name, folder, None if name == "process" else host_image(Path(sys.executable), folder / "image"))
    bench.python = sys.executable if bench.image is None else bench.image.python
    bench.backend = bench.make()
    try:
        yield bench
    finally:
        await bench.backend.close()
        cgroups_left = [] if name == "process" else cgroups_of(bench.backend)
        processes_left = processes_naming(str(folder))
        shutil.rmtree(folder)
        assert not cgroups_left
        assert not processes_left


def cgroups_of(backend: OciBackend) -> list[str]:
    return [str(path) for path in Path("/sys/fs/cgroup").glob(f"*/{backend.cgroup_parent}")] + [
        str(path) for path in Path("/sys/fs/cgroup").glob(backend.cgroup_parent)
    ]


def processes_naming(text: str) -> list[str]:
    listed = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True, check=True).stdout
    return [line for line in listed.splitlines() if text in line]


def socket_pair() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)


def _mount_table() -> list[str]:
    # Of this process only: what others mount meanwhile is theirs.
    return [
        line.split(" - ")[0].split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines() if "hotbed" in line
    ]
