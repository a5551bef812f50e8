"""What this host can isolate with, found by trying: the runtime is run on a trivial container, not looked up in a table."""

from __future__ import annotations

import asyncio
import os
import shutil
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from hotbed.node import cgroups, seccomp
from hotbed.node.backend import Backend, ContainerSpec
from hotbed.node.backend_oci import OciBackend, OciSettings
from hotbed.node.backend_process import ProcessBackend
from hotbed_images.host import HostImage
from hotbed_proto.errors import Error

RUNTIMES = ("crun", "runc")
"""In order of preference: crun starts a container in about half of runc's time."""

_TRIAL_WAIT_S = 20.0
_TRIAL_MEMORY_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class RuntimeReport:
    """One OCI runtime: where it is and why it cannot be used ("" when it can)."""

    name: str
    path: Path | None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class HostReport:
    """The facts that decide about isolation. `problems` names what keeps containers from working, each with its remedy."""

    root: bool
    cgroup_mode: cgroups.Mode
    missing_controllers: tuple[str, ...]
    user_namespaces: bool
    runtimes: tuple[RuntimeReport, ...] = ()
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BackendChoice:
    """Backends by isolation, and for each isolation that is not there the reason."""

    backends: dict[str, Backend] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    report: HostReport | None = None


def probe_host(search_path: str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin") -> HostReport:
    """What can be told without starting anything; under 1 ms. `choose_backends` also tries the runtimes."""
    host = cgroups.find()
    root = os.geteuid() == 0
    user_namespaces = _has_user_namespaces()
    runtimes: list[RuntimeReport] = []
    for name in RUNTIMES:
        found = shutil.which(name, path=search_path)
        runtimes.append(RuntimeReport(name, Path(found) if found else None, "" if found else f"{name} is not installed"))
    problems: list[str] = []
    if not root:
        problems.append("not root: containers need it for mounts, user ids and cgroups (run the node as root)")
    if not user_namespaces:
        problems.append("the kernel gives no user namespaces (set user.max_user_namespaces above 0)")
    if not seccomp.supported():
        problems.append(f"there is no seccomp list for {os.uname().machine} (use x86_64, aarch64 or riscv64)")
    if host.mode == "none":
        problems.append("no cgroup hierarchy is mounted (mount -t cgroup2 none /sys/fs/cgroup)")
    elif lacking := host.missing_controllers():
        problems.append(f"the cgroup controllers {', '.join(lacking)} are missing: limits cannot be held (enable them at boot)")
    if "overlay" not in Path("/proc/filesystems").read_text():
        problems.append("the kernel has no overlay filesystem (modprobe overlay)")
    if all(runtime.path is None for runtime in runtimes):
        problems.append("neither crun nor runc is installed (apt install crun)")
    return HostReport(root, host.mode, tuple(host.missing_controllers()), user_namespaces, tuple(runtimes), tuple(problems))


async def choose_backends(
    state_dir: Path,
    image: HostImage,
    *,
    settings: OciSettings = OciSettings(),  # noqa: B008
    allow_process: bool = False,
    runtimes: Sequence[str] = RUNTIMES,
) -> BackendChoice:
    """The backends that work here, by isolation: `container`, and `process` only when it is asked for.

    Starts one container with the first runtime that is present, the second if the first does not manage. Cost: about 50 ms.
    """
    report = probe_host()
    backends: dict[str, Backend] = {}
    missing: dict[str, str] = {}
    tried: list[RuntimeReport] = []
    for runtime in report.runtimes:
        if runtime.path is None or runtime.name not in runtimes or report.problems or "container" in backends:
            tried.append(runtime)
            continue
        backend: OciBackend | None = None
        try:
            backend = OciBackend(state_dir / "oci", runtime.path, image, settings)
            await try_container(backend)
        except (Error, OSError) as error:
            tried.append(replace(runtime, problem=str(error)))
            if backend is not None:
                await backend.close()
        else:
            backends["container"] = backend
            tried.append(runtime)
    report = replace(report, runtimes=tuple(tried))
    if "container" not in backends:
        missing["container"] = "; ".join([*report.problems, *(one.problem for one in tried if one.problem)])
    if allow_process:
        backends["process"] = ProcessBackend(state_dir / "process")
    else:
        missing["process"] = "it isolates nothing and must be asked for"
    return BackendChoice(backends, missing, report)


async def try_container(backend: Backend) -> None:
    """Run `true` in a container with limits.

    Raises:
        Error: It did not start, or did not end well within twenty seconds.
    """
    container_id = f"probe-{uuid.uuid4().hex[:12]}"
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        spec = ContainerSpec(
            container_id,
            ["/usr/bin/true"],
            {},
            "/",
            [],
            null,
            null,
            null,
            memory_bytes=_TRIAL_MEMORY_BYTES,
            milli_cpu=1000,
            pids=32,
        )
        await backend.create(spec)
        status = await asyncio.wait_for(backend.wait(container_id), _TRIAL_WAIT_S)
        if status.code != 0:
            raise Error(f"the trial container ended with {status.code}", fix="see the kernel log")
    except TimeoutError as error:
        raise Error(f"the trial container did not end within {_TRIAL_WAIT_S:.0f} s") from error
    finally:
        os.close(null)
        await backend.remove(container_id)


def _has_user_namespaces() -> bool:
    try:
        return Path("/proc/self/ns/user").exists() and int(Path("/proc/sys/user/max_user_namespaces").read_text()) > 0
    except (OSError, ValueError):
        return False
