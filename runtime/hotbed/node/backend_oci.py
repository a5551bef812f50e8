"""The `container` backend: crun or runc with every namespace, no capability, a seccomp allow-list and cgroup limits.

One OCI runtime call a container (`run --detach`); after it no process of the runtime stays. The agent is the subreaper of
what it starts, so a container's first process becomes its child and its end is seen through a pidfd (no SIGCHLD handler: uvloop
has its own). Files: `<state>/containers/<id>/` (config, runtime log, pid), `<state>/runtime/` (the runtime's own notes).
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import functools
import hashlib
import json
import os
import re
import resource
import shutil
import signal as signals
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from hotbed.node import cgroups, mounts, oci_spec
from hotbed.node.backend import Capabilities, ContainerSpec, ExitStatus
from hotbed_images.host import HostImage
from hotbed_proto.errors import AlreadyExistsError, ConflictError, ContainerFailedError, InvalidError, NotFoundError

_T = TypeVar("_T")
_PR_SET_CHILD_SUBREAPER = 36
_REAP_AFTER_S = 0.5
_SAFE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_LOG_TAIL_BYTES = 2000
_GONE = ExitStatus(-signals.SIGKILL)
"""What a container is said to have ended with when its status was lost (someone else reaped it)."""


@dataclass(frozen=True, slots=True)
class OciSettings:
    """What may be chosen about containers on this node.

    Attributes:
        user_base: First host id of container 0's user namespace; container n starts 65,536 n above. Nothing else may use them.
        containers_max: Containers at one time, and so the extent of that range.
        stage: Folder in which roots are mounted, out of the host's sight; created, stays empty.
        scratch_bytes: What a container may write to its own root when its spec names no disk_bytes; charged to its memory.
        shm_bytes: Size of a container's /dev/shm.
        runtime_wait_s: How long the runtime may take to start a container.
        cgroup_parent: Below which the agent's own cgroup is made.
    """

    user_base: int = 0x10000000
    containers_max: int = 4096
    stage: Path = Path("/run/hotbed")
    scratch_bytes: int = 1 << 30
    shm_bytes: int = 256 << 20
    runtime_wait_s: float = 30.0
    cgroup_parent: str = "hotbed"


@dataclass(slots=True, eq=False)
class _Container:
    slot: int
    pid: int = 0
    pidfd: int = -1
    started: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Future[ExitStatus] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class OciBackend:
    """Containers by an OCI runtime. Use `probe.choose_backends` to get one that is known to work here.

    Args:
        state_dir: On any filesystem; not shared with another agent that runs at the same time.
        runtime: crun or runc.
        image: The root of every container.
    """

    def __init__(self, state_dir: Path, runtime: Path, image: HostImage, settings: OciSettings = OciSettings()) -> None:
        self._state_dir = state_dir.absolute()
        self._runtime = runtime
        self._image = image
        self._settings = settings
        self._cgroups = cgroups.find()
        # The agent's name: two agents on a host have two state folders.
        self._agent = hashlib.sha256(str(self._state_dir).encode()).hexdigest()[:12]
        self.cgroup_parent = f"{settings.cgroup_parent}/{self._agent}"
        self._stage = settings.stage
        self._containers: dict[str, _Container] = {}
        self._calls = mounts.LinuxSyscalls()
        (self._state_dir / "containers").mkdir(parents=True, exist_ok=True, mode=0o700)
        (self._state_dir / "runtime").mkdir(exist_ok=True, mode=0o700)
        self._stage.mkdir(mode=0o711, parents=True, exist_ok=True)
        self._slots = self._former_slots()
        self._next_slot = 0
        self._stager = ThreadPoolExecutor(1, "hotbed-stager", initializer=self._enter_namespace)
        self._launching: set[int] = set()
        _become_subreaper()
        self._capabilities = Capabilities(
            name=f"oci-{runtime.name}",
            isolated=True,
            enforces_limits=not self._cgroups.missing_controllers(),
            gpu=True,
            pause=self._cgroups.v2 is not None or "freezer" in self._cgroups.v1,
            network=frozenset({"none", "full"}),
            missing=tuple(
                f"the {name} cgroup controller: its limit is not held (enable it on the kernel command line)"
                for name in self._cgroups.missing_controllers()
            ),
        )

    @property
    def capabilities(self) -> Capabilities:
        """Fixed for the life of the backend."""
        return self._capabilities

    def cgroup(self, container_id: str) -> cgroups.ContainerCgroup:
        """Where this container's limits are, for metrics."""
        return cgroups.ContainerCgroup(self._cgroups, self.cgroup_parent, container_id)

    async def create(self, spec: ContainerSpec) -> int:
        """Create and start; returns the host pid of the first process. Only the three descriptors get in.

        The environment is the spec's alone; the runtimes add HOME where it is missing.
        Cost: 16-30 ms with crun, 32-52 ms with runc (2 busy cores).
        """
        container_id = spec.container_id
        self._check(spec)
        container = _Container(self._take_slot())
        self._containers[container_id] = container
        folder = self._folder(container_id)
        # Not cancelled half way: a runtime that was just launched would leave a container nobody knows of.
        start = asyncio.ensure_future(self._start(spec, container, folder))
        try:
            await asyncio.shield(start)
        except BaseException as error:
            why = _last_words(folder / "log") or str(error)
            await asyncio.shield(self._abandon(container_id, start))
            if isinstance(error, (OSError, subprocess.SubprocessError, asyncio.TimeoutError)):
                raise ContainerFailedError(
                    f"{self._runtime.name} did not start container {container_id}", why=why, container=container_id
                ) from error
            raise
        finally:
            container.started.set()
        return container.pid

    async def wait(self, container_id: str) -> ExitStatus:
        """Return when the first process has ended."""
        return await asyncio.shield(self._get(container_id).ended)

    async def signal(self, container_id: str, number: int) -> None:
        """Send a signal to the first process; SIGKILL goes to the whole tree.

        As process 1 of its namespace it gets only signals it handles, and SIGKILL and SIGSTOP: the kernel drops the others.
        """
        container = self._containers.get(container_id)
        if number == signals.SIGKILL:
            cgroup = self.cgroup(container_id)
            cgroup.kill()
            await cgroup.thaw()  # on v1 a frozen process dies only when it moves again
        if container is not None and container.pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signals.pidfd_send_signal(container.pidfd, number)

    async def pause(self, container_id: str) -> None:
        """Freeze the whole tree. ConflictError when it does not stand still within two seconds."""
        self._get(container_id)
        if not await self.cgroup(container_id).freeze():
            raise ConflictError(f"container {container_id} could not be frozen", container=container_id)

    async def resume(self, container_id: str) -> None:
        """Thaw it."""
        self._get(container_id)
        if not await self.cgroup(container_id).thaw():
            raise ConflictError(f"container {container_id} could not be thawed", container=container_id)

    async def memory_bytes(self, container_id: str) -> int:
        """Memory charged to the container now, its scratch space and page cache included."""
        self._get(container_id)
        return self.cgroup(container_id).memory_bytes()

    async def remove(self, container_id: str) -> None:
        """Kill what is left and remove every trace; also of a container that a former agent left.

        Waits for a `create` of the same container that is under way. ConflictError when a process does not end in 5 s.
        """
        container = self._containers.get(container_id)
        if container is not None:
            await container.started.wait()
        if _SAFE_ID.fullmatch(container_id):
            await self._discard(container_id)

    async def _abandon(self, container_id: str, start: asyncio.Future[None]) -> None:
        await asyncio.wait([start])
        if not start.cancelled():
            start.exception()  # told already, or nobody waits any more
        await self._discard(container_id)

    async def _discard(self, container_id: str) -> None:
        cgroup = self.cgroup(container_id)
        container = self._containers.get(container_id)
        if container is not None and container.pidfd >= 0:
            await self.signal(container_id, signals.SIGKILL)
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(asyncio.shield(container.ended), self._settings.runtime_wait_s)
        stuck = await cgroup.remove()
        await self._on_stager(functools.partial(mounts.release_root, self._calls, stage=self._stage, name=container_id))
        shutil.rmtree(self._state_dir / "runtime" / container_id, ignore_errors=True)
        if stuck:
            raise ConflictError(
                f"container {container_id} could not be removed",
                why=f"processes do not end in {stuck[0]}",
                container=container_id,
            )
        shutil.rmtree(self._folder(container_id), ignore_errors=True)
        if self._containers.pop(container_id, None) is not None and container is not None:
            self._slots.discard(container.slot)
            if not container.ended.done():
                container.ended.set_result(_GONE)
        else:
            self._slots = self._former_slots() | {one.slot for one in self._containers.values()}

    async def list_leftovers(self) -> list[str]:
        """Ids of containers with files or cgroups under our names that this process did not create."""
        names = {entry.name for entry in os.scandir(self._state_dir / "containers")}
        names |= cgroups.list_containers(self._cgroups, self.cgroup_parent)
        return sorted(names - self._containers.keys())

    async def close(self) -> None:
        """Remove everything this process created, and its private mount namespace."""
        for container_id in list(self._containers):
            await self.remove(container_id)
        cgroups.remove_parent(self._cgroups, self.cgroup_parent)
        self._stager.shutdown(wait=True)

    def _check(self, spec: ContainerSpec) -> None:
        if not _SAFE_ID.fullmatch(spec.container_id):
            raise InvalidError(f"container id {spec.container_id[:80]!r} has other characters than letters, digits, - and _")
        if spec.container_id in self._containers or self._folder(spec.container_id).exists():
            raise AlreadyExistsError(f"container {spec.container_id} exists", container=spec.container_id)
        if spec.network not in self._capabilities.network:
            raise InvalidError(f"network {spec.network!r} is not one of {sorted(self._capabilities.network)}")

    async def _start(self, spec: ContainerSpec, container: _Container, folder: Path) -> None:
        folder.mkdir(mode=0o700)
        (folder / "slot").write_text(str(container.slot))
        user_base = self._settings.user_base + container.slot * oci_spec.USER_RANGE
        process = await self._on_stager(lambda: self._stage_and_launch(spec, folder, user_base))
        self._launching.add(process.pid)
        try:
            code = await asyncio.wait_for(_end_of(process), self._settings.runtime_wait_s)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
            self._launching.discard(process.pid)
            await self._on_stager(
                functools.partial(mounts.release_root, self._calls, stage=self._stage, name=spec.container_id)
            )
        if code != 0:
            raise subprocess.SubprocessError(f"it ended with {code} and said nothing")
        asyncio.get_running_loop().call_later(_REAP_AFTER_S, self._reap_orphans)
        container.pid = int((folder / "pid").read_text())
        container.pidfd = os.pidfd_open(container.pid)
        asyncio.get_running_loop().add_reader(container.pidfd, self._ended, spec.container_id, container)

    def _stage_and_launch(self, spec: ContainerSpec, folder: Path, user_base: int) -> subprocess.Popen[bytes]:
        """On the stager's thread: prepare the root and start the runtime in that view. Blocks for 2-4 ms."""
        for mount in spec.mounts:
            if not mount.read_only and mount.source.is_dir():
                mounts.give_to_container(mount.source, user_base)
        root = mounts.prepare_root(
            self._calls,
            image=self._image,
            stage=self._stage,
            name=spec.container_id,
            user_base=user_base,
            scratch_bytes=spec.disk_bytes or self._settings.scratch_bytes,
            mounts=[*self._network_files(spec), *spec.mounts],
        )
        document = oci_spec.config(
            spec,
            root=root,
            user_base=user_base,
            cgroup_path=f"/{self.cgroup_parent}/{spec.container_id}",
            shm_bytes=self._settings.shm_bytes,
            swap_limited=self._cgroups.limits_swap(),
            open_files=min(oci_spec.OPEN_FILES, resource.getrlimit(resource.RLIMIT_NOFILE)[1]),
        )
        (folder / "config.json").write_text(json.dumps(document))
        return subprocess.Popen(
            [
                str(self._runtime),
                *("--root", str(self._state_dir / "runtime")),
                *("--log", str(folder / "log")),
                *(["--cgroup-manager", "cgroupfs"] if self._runtime.name == "crun" else []),
                "run",
                "--detach",
                *("--bundle", str(folder)),
                *("--pid-file", str(folder / "pid")),
                spec.container_id,
            ],
            stdin=spec.stdin_fd,
            stdout=spec.stdout_fd,
            stderr=spec.stderr_fd,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
            close_fds=True,
            cwd="/",
        )

    def _network_files(self, spec: ContainerSpec) -> list[mounts.Mount]:
        resolv = Path("/etc/resolv.conf").resolve()
        return [mounts.Mount(resolv, "/etc/resolv.conf")] if spec.network == "full" and resolv.is_file() else []

    def _reap_orphans(self) -> None:
        """A runtime's own helpers die after it, as children of ours: nobody else waits for them."""
        name, me = self._runtime.name, os.getpid()
        for pid in _children(me):
            if pid not in self._launching and _is_zombie_named(pid, name):
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)

    def _ended(self, container_id: str, container: _Container) -> None:
        """The pidfd is readable: reap the first process and tell the waiters."""
        asyncio.get_running_loop().remove_reader(container.pidfd)
        try:
            result = os.waitid(os.P_PIDFD, container.pidfd, os.WEXITED | os.WNOHANG)
        except ChildProcessError:
            result = None
        os.close(container.pidfd)
        container.pidfd = -1
        status = _GONE
        if result is not None:
            code = result.si_status if result.si_code == os.CLD_EXITED else -result.si_status
            status = ExitStatus(code, oom=self.cgroup(container_id).oom_kills() > 0)
        if not container.ended.done():
            container.ended.set_result(status)

    async def _on_stager(self, work: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._stager, work)

    def _enter_namespace(self) -> None:
        hide = self._cgroups.v2 if self._cgroups.mode == "hybrid" else None
        mounts.enter_private_namespace(self._calls, stage=self._stage, hide=hide)

    def _get(self, container_id: str) -> _Container:
        container = self._containers.get(container_id)
        if container is None:
            raise NotFoundError(f"no container {container_id} in this backend", container=container_id)
        return container

    def _folder(self, container_id: str) -> Path:
        return self._state_dir / "containers" / container_id

    def _take_slot(self) -> int:
        """A user range nobody has. Round robin, so that a range is not given again right after its owner ended."""
        for step in range(self._settings.containers_max):
            slot = (self._next_slot + step) % self._settings.containers_max
            if slot not in self._slots:
                self._slots.add(slot)
                self._next_slot = slot + 1
                return slot
        raise ContainerFailedError(
            f"this node has {self._settings.containers_max} containers", why="every range of user ids is taken"
        )

    def _former_slots(self) -> set[int]:
        """Ranges that containers of a former agent may still use."""
        slots: set[int] = set()
        for path in (self._state_dir / "containers").glob("*/slot"):
            with contextlib.suppress(OSError, ValueError):
                slots.add(int(path.read_text()))
        return slots


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += map(int, path.read_text().split())
    return found


def _is_zombie_named(pid: int, name: str) -> bool:
    try:
        before, _, after = Path(f"/proc/{pid}/stat").read_text().rpartition(")")
    except OSError:
        return False
    return before.partition("(")[2] == name and after.split()[0] == "Z"


def _become_subreaper() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


async def _end_of(process: subprocess.Popen[bytes]) -> int:
    """Wait for a child without a thread and without SIGCHLD."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    pidfd = os.pidfd_open(process.pid)
    try:
        loop.add_reader(pidfd, ended.set)
        await ended.wait()
        return process.wait()
    finally:
        loop.remove_reader(pidfd)
        os.close(pidfd)


def _last_words(log: Path) -> str:
    """The end of the runtime's log, as one line."""
    try:
        text = log.read_bytes()[-_LOG_TAIL_BYTES:].decode(errors="replace")
    except OSError:
        return ""
    return " / ".join(line.strip() for line in text.splitlines() if line.strip())
