"""The `process` backend: a plain subprocess in a session of its own. No isolation; for tests and unprivileged CI.

There is no mount namespace, so mounts are names only: a path in `argv` or `env` below a mount's target is rewritten to its
source, and the table itself goes along in `HOTBED_MOUNTS` so that the worker can do the same with paths it is told later.
`HOTBED_LIB`, `HOTBED_IN` and `HOTBED_OUT` name the three folders of hotbed's own.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal as signals
from asyncio.subprocess import Process
from collections.abc import Sequence
from pathlib import Path

from hotbed.node.backend import Capabilities, ContainerSpec, ExitStatus, Mount
from hotbed_proto.errors import ContainerFailedError, NotFoundError

HIDDEN_ROOT = "/__hotbed"
_KILL_WAIT_S = 5.0


class ProcessBackend:
    """Containers that are not: children in their own session, found again by a pid file after a crash of the agent.

    Args:
        state_dir: Holds one file a container; created when missing.
    """

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir
        self._processes: dict[str, Process] = {}
        state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)

    @property
    def capabilities(self) -> Capabilities:
        """Nothing is isolated and no limit is held."""
        return Capabilities(name="process", isolated=False, enforces_limits=False, network=frozenset({"full"}), rootless=True)

    async def create(self, spec: ContainerSpec) -> int:
        """Start the process; returns its pid. Cost: about 2 ms."""
        environ = {name: _rewrite(value, spec.mounts) for name, value in spec.env.items()} | _mount_environ(spec.mounts)
        argv = [_rewrite(argument, spec.mounts) for argument in spec.argv]
        workdir = _rewrite(spec.workdir, spec.mounts)
        try:
            process = await asyncio.create_subprocess_exec(
                *argv,
                stdin=spec.stdin_fd,
                stdout=spec.stdout_fd,
                stderr=spec.stderr_fd,
                env=environ,
                cwd=workdir if Path(workdir).is_dir() else "/",
                start_new_session=True,
            )
        except OSError as error:
            raise ContainerFailedError(
                f"the process of container {spec.container_id} did not start", why=str(error), container=spec.container_id
            ) from error
        self._processes[spec.container_id] = process
        self._pid_file(spec.container_id).write_text(f"{process.pid} {_start_time(process.pid)}")
        return process.pid

    async def wait(self, container_id: str) -> ExitStatus:
        """Return when the first process has ended."""
        return ExitStatus(await self._get(container_id).wait())

    async def signal(self, container_id: str, number: int) -> None:
        """Send a signal; SIGKILL goes to the whole session."""
        process = self._processes.get(container_id)
        if process is None:
            return
        if number == signals.SIGKILL:
            _kill_session(process.pid)
        elif process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, number)

    async def pause(self, container_id: str) -> None:
        """Stop the session's processes with SIGSTOP."""
        _signal_session(self._get(container_id).pid, signals.SIGSTOP)

    async def resume(self, container_id: str) -> None:
        """Continue them."""
        _signal_session(self._get(container_id).pid, signals.SIGCONT)

    async def memory_bytes(self, container_id: str) -> int:
        """Resident memory of the first process."""
        try:
            fields = Path(f"/proc/{self._get(container_id).pid}/statm").read_text().split()
        except OSError:
            return 0
        return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")

    async def remove(self, container_id: str) -> None:
        """Kill the session and forget it; also one that a former agent left behind."""
        process = self._processes.pop(container_id, None)
        pid_file = self._pid_file(container_id)
        if process is not None:
            _kill_session(process.pid)
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(process.wait(), _KILL_WAIT_S)
        elif (former := _read_pid_file(pid_file)) is not None:
            pid, start_time = former
            # The number may belong to someone else by now: the start time tells.
            if _start_time(pid) == start_time:
                _kill_session(pid)
        pid_file.unlink(missing_ok=True)

    async def list_leftovers(self) -> list[str]:
        """Ids with a pid file that this process did not write."""
        return sorted(path.stem for path in self._state_dir.glob("*.pid") if path.stem not in self._processes)

    async def close(self) -> None:
        """Remove everything this process created."""
        for container_id in list(self._processes):
            await self.remove(container_id)

    def _get(self, container_id: str) -> Process:
        process = self._processes.get(container_id)
        if process is None:
            raise NotFoundError(f"no container {container_id} in the process backend", container=container_id)
        return process

    def _pid_file(self, container_id: str) -> Path:
        return self._state_dir / f"{container_id}.pid"


def _mount_environ(mounts: Sequence[Mount]) -> dict[str, str]:
    environ = {"HOTBED_MOUNTS": "\n".join(f"{mount.target}={mount.source}" for mount in mounts)}
    for name in ("lib", "in", "out"):
        for mount in mounts:
            if mount.target == f"{HIDDEN_ROOT}/{name}":
                environ[f"HOTBED_{name.upper()}"] = str(mount.source)
    return environ


def _rewrite(text: str, mounts: Sequence[Mount]) -> str:
    best: Mount | None = None
    for mount in mounts:
        inside = text == mount.target or text.startswith(mount.target.rstrip("/") + "/")
        if inside and (best is None or len(mount.target) > len(best.target)):
            best = mount
    return text if best is None else str(best.source) + text[len(best.target.rstrip("/")) :]


def _stat_fields(pid: int) -> list[str]:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return []
    return text[text.rindex(")") + 2 :].split()  # the name may hold spaces and brackets


def _start_time(pid: int) -> int:
    fields = _stat_fields(pid)
    return int(fields[19]) if fields else 0


def _session_pids(leader: int) -> list[int]:
    members = []
    for name in os.listdir("/proc"):
        if name.isdecimal() and (fields := _stat_fields(int(name))) and int(fields[3]) == leader:
            members.append(int(name))
    return members


def _signal_session(leader: int, number: int) -> None:
    for pid in _session_pids(leader):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def _kill_session(leader: int) -> None:
    # Members may fork between the listing and the kill; a few rounds catch them, a daemon with its own session escapes.
    for _ in range(3):
        if not _session_pids(leader):
            return
        _signal_session(leader, signals.SIGKILL)


def _read_pid_file(path: Path) -> tuple[int, int] | None:
    try:
        pid, start_time = path.read_text().split()
        return int(pid), int(start_time)
    except (OSError, ValueError):
        return None
