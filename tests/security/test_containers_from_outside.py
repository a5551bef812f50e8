"""Isolation as the host sees it, read back from /proc and the cgroups while a container runs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from support.backends import Bench, with_bench

pytestmark = [pytest.mark.container, pytest.mark.root]
runtimes = pytest.mark.parametrize("name", ["oci-crun", "oci-runc"])
SLEEP = "print('up', flush=True); import time; time.sleep(60)"


async def _running(bench: Bench, **limits: int) -> tuple[str, Path]:
    container_id = await bench.start(SLEEP, **limits)
    await bench.until_output(container_id, "up")
    (pid,) = bench.backend.cgroup(container_id).pids()
    return container_id, Path(f"/proc/{pid}")


@runtimes
def test_no_capability_a_filter_and_no_new_privileges(name: str) -> None:
    async def body(bench: Bench) -> None:
        _, proc = await _running(bench)
        status = dict(line.split(":\t", 1) for line in (proc / "status").read_text().splitlines() if ":\t" in line)
        for kind in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            assert int(status[kind], 16) == 0, kind
        assert (status["Seccomp"], status["NoNewPrivs"]) == ("2", "1")
        assert int((proc / "oom_score_adj").read_text()) > 0
        assert "Max core file size        0                    0" in (proc / "limits").read_text()

    with_bench(name, body)


@runtimes
def test_root_is_an_unprivileged_user_and_not_the_neighbours(name: str) -> None:
    async def body(bench: Bench) -> None:
        ids = set()
        for _ in range(2):
            _, proc = await _running(bench)
            for table in ("uid_map", "gid_map"):
                ((inside, outside, size),) = [line.split() for line in (proc / table).read_text().splitlines()]
                assert (inside, size) == ("0", "65536")
                assert int(outside) >= 0x10000000
            assert proc.stat().st_uid == int(outside)
            ids.add(outside)
        assert len(ids) == 2

    with_bench(name, body)


@runtimes
def test_every_namespace_is_its_own(name: str) -> None:
    async def body(bench: Bench) -> None:
        _, proc = await _running(bench)
        for kind in ("mnt", "pid", "net", "ipc", "uts", "user", "cgroup"):
            assert os.readlink(proc / "ns" / kind) != os.readlink(f"/proc/self/ns/{kind}"), kind

    with_bench(name, body)


@runtimes
def test_limits_are_attached(name: str) -> None:
    async def body(bench: Bench) -> None:
        container_id, proc = await _running(bench, memory_bytes=96 << 20, milli_cpu=250, pids=17)
        assert container_id in (proc / "cgroup").read_text()
        read = {}
        cgroup = bench.backend.cgroup(container_id)
        for controller, names in {
            "memory": ("memory.limit_in_bytes", "memory.max"),
            "pids": ("pids.max",),
            "cpu": ("cpu.cfs_quota_us", "cpu.max"),
        }.items():
            directory = cgroup.directory(controller)
            assert directory is not None
            assert int(proc.name) in {int(pid) for pid in (directory / "cgroup.procs").read_text().split()}
            read[controller] = next((directory / one).read_text() for one in names if (directory / one).exists())
        assert int(read["memory"]) == 96 << 20
        assert int(read["pids"]) == 17
        assert read["cpu"].split()[0] == "25000"

    with_bench(name, body)


@runtimes
def test_the_mount_table_holds_only_what_is_meant(name: str) -> None:
    async def body(bench: Bench) -> None:
        _, proc = await _running(bench)
        for line in (proc / "mountinfo").read_text().splitlines():
            fields, kind = (part.split() for part in line.split(" - "))
            target, options = fields[4], fields[5].split(",")
            if kind[0] in ("ext4", "xfs", "btrfs", "erofs", "9p", "virtiofs"):
                assert {"ro", "nosuid", "nodev"} <= set(options), line
            assert kind[0] not in ("cgroup", "cgroup2", "debugfs", "tracefs", "bpf", "securityfs"), line
            assert not target.startswith(("/run", "/var")), line

    with_bench(name, body)


@runtimes
def test_the_hosts_mount_table_does_not_change(name: str) -> None:
    async def body(bench: Bench) -> None:
        before = Path("/proc/self/mountinfo").read_text().count("hotbed")
        await _running(bench)
        assert Path("/proc/self/mountinfo").read_text().count("hotbed") == before

    with_bench(name, body)


@runtimes
def test_only_three_descriptors_get_in(name: str) -> None:
    async def body(bench: Bench) -> None:
        leak = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
        os.set_inheritable(leak, True)
        try:
            _, proc = await _running(bench)
            assert sorted(os.listdir(proc / "fd")) == ["0", "1", "2"]
            assert os.readlink(proc / "cwd") == "/"
        finally:
            os.close(leak)

    with_bench(name, body)
