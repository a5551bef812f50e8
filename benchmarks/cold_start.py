"""From nothing pooled to a first result, against `docker run` of the same interpreter; and memory at rest against Ray.

The docker engine is the benchmark's own (a folder and socket of its own, no bridge, no iptables). Its container sees the
same interpreter from the same files, bind-mounted, so that only the starting differs. Needs root, dockerd and crun.
Run: `python benchmarks/cold_start.py`.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

import harness
import hotbed


@contextlib.contextmanager
def docker_engine() -> Iterator[list[str]]:
    """Start dockerd; yields the client's command prefix."""
    folder = Path(tempfile.mkdtemp(prefix="hbd-"))
    (folder / "daemon.json").write_text(
        json.dumps(
            {
                "data-root": str(folder / "data"),
                "exec-root": str(folder / "exec"),
                "pidfile": str(folder / "pid"),
                "hosts": [f"unix://{folder}/docker.sock"],
                "storage-driver": "overlay2",
                "bridge": "none",
                "iptables": False,
                "exec-opts": ["native.cgroupdriver=cgroupfs"],
            }
        )
    )
    with open(folder / "log", "wb") as log:
        engine = subprocess.Popen(
            ["dockerd", "--config-file", folder / "daemon.json"], stdout=log, stderr=log, start_new_session=True
        )
    docker = ["docker", "-H", f"unix://{folder}/docker.sock"]
    try:
        deadline_s = time.monotonic() + 60
        while subprocess.run([*docker, "info"], capture_output=True, timeout=30, check=False).returncode:
            if engine.poll() is not None or time.monotonic() > deadline_s:
                raise RuntimeError((folder / "log").read_text()[-2000:])
            time.sleep(0.2)
        yield docker
    finally:
        engine.terminate()
        engine.wait(timeout=30)
        for mount in sorted(Path("/proc/self/mounts").read_text().splitlines(), reverse=True):
            if str(folder) in mount:
                subprocess.run(["umount", "-l", mount.split()[1]], check=False)
        shutil.rmtree(folder, ignore_errors=True)


def docker_run(docker: list[str]) -> list[str]:
    """The command that runs this interpreter in a fresh container and prints a result."""
    empty = io.BytesIO()
    with tarfile.open(fileobj=empty, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("empty"), io.BytesIO())
    subprocess.run([*docker, "import", "-", "empty"], input=empty.getvalue(), check=True, capture_output=True, timeout=60)
    shown = {"/usr", "/lib", "/lib64", "/bin", sys.base_prefix}
    volumes = [f"-v={path}:{path}:ro" for path in sorted(shown) if os.path.exists(path)]
    interpreter = os.path.realpath(sys.executable)
    return [*docker, "run", "--rm", "--network=none", *volumes, "empty", interpreter, "-c", "print(6 * 7)"]


def hotbed_cold_s() -> float:
    """Seconds from the call of a function nobody has run before to its result."""
    app = hotbed.App(f"cold-{time.monotonic_ns()}")

    @app.function(serialized=True)
    def answer() -> int:
        return 6 * 7

    with app.run():
        started_s = time.perf_counter()
        assert answer.remote() == 42
        return time.perf_counter() - started_s


def pss_bytes(pid: int) -> int:
    """Proportional set size of a process and everything below it."""
    total = 0
    for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess, FileNotFoundError, PermissionError):
            for line in Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * 1024
    return total


def daemon_pid() -> int:
    status = subprocess.run(
        [sys.executable, "-m", "hotbed.cli.main", "server", "status", "--json"],
        capture_output=True,
        check=True,
        timeout=60,
    )
    return int(json.loads(status.stdout)["pid"])


def ray_idle_bytes() -> float:
    code = (
        "import ray,sys,time; ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level='ERROR');"
        "ray.get(ray.remote(lambda: 1).remote()); time.sleep(5); print('up', flush=True); sys.stdin.read()"
    )
    driver = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert driver.stdout is not None
        assert driver.stdout.readline().strip() == b"up"
        with_driver = pss_bytes(driver.pid)
        own = 0
        for line in Path(f"/proc/{driver.pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                own = int(line.split()[1]) * 1024
        return with_driver - own
    finally:
        driver.communicate(timeout=60)


def main() -> list[harness.Row]:
    rows: list[harness.Row] = []
    os.environ["HOTBED_POOL_SIZE"] = "0"
    with harness.quiet_home():
        hotbed_cold_s()
        if shutil.which("dockerd") is None:
            print("dockerd is not installed (apt install docker.io): the cold start row is left out")
        else:
            with docker_engine() as docker:
                command = docker_run(docker)

                def docker_cold_s() -> float:
                    started_s = time.perf_counter()
                    done = subprocess.run(command, capture_output=True, check=True, timeout=60)
                    assert done.stdout.strip() == b"42"
                    return time.perf_counter() - started_s

                rows.append(
                    harness.compare(
                        "cold start, nothing pooled, to first result",
                        lambda: 1e3 * hotbed_cold_s(),
                        "docker run of the same interpreter",
                        lambda: 1e3 * docker_cold_s(),
                        unit="ms",
                        target=0.35,
                        rounds=7,
                    )
                )
        ours = pss_bytes(daemon_pid())
        try:
            import ray  # noqa: F401
        except ImportError:
            print("Ray is not installed (pip install ray): the memory row is left out")
        else:
            theirs = ray_idle_bytes()
            row = harness.Row(
                "idle server and node (PSS)",
                ours / 2**20,
                "Ray, idle",
                theirs / 2**20,
                "MiB",
                ours / theirs,
                0.2,
                "lower",
            )
            harness.print_row(row)
            rows.append(row)
    harness.save("cold_start", rows)
    return rows


if __name__ == "__main__":
    print(harness.markdown(main()))
