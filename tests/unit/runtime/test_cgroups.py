"""Reading cgroup layouts from mount tables and cgroup files, on folders that look like them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from hotbed.node.cgroups import CgroupHost, ContainerCgroup, list_containers, parse_mountinfo

V1_CPU = "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
V1_MEMORY = "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
V2 = "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw,nsdelegate\n"
OTHER = "22 27 0:21 / /proc rw,relatime - proc proc rw\nnonsense\n"


@pytest.mark.parametrize(
    ("text", "mode"), [(V1_CPU, "v1"), (V2, "v2"), (V1_CPU + V2, "hybrid"), (OTHER, "none"), (OTHER + V1_MEMORY + V2, "hybrid")]
)
def test_the_mode_is_told_from_the_mounts(text: str, mode: str) -> None:
    assert parse_mountinfo(text).mode == mode


def test_co_mounted_controllers_are_one_hierarchy() -> None:
    host = parse_mountinfo(V1_CPU + V1_MEMORY + V2)
    assert host.v1["cpu"] == host.v1["cpuacct"] == Path("/sys/fs/cgroup/cpu,cpuacct")
    assert len(host.mounts()) == 3
    assert host.missing_controllers() == ["pids"]


def test_oom_kills_and_memory_in_both_layouts(tmp_path: Path) -> None:
    v1 = ContainerCgroup(CgroupHost({"memory": tmp_path}, None), "p", "one")
    assert (v1.oom_kills(), v1.memory_bytes()) == (0, 0)
    folder = tmp_path / "p/one"
    folder.mkdir(parents=True)
    (folder / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n")
    (folder / "memory.usage_in_bytes").write_text("4096\n")
    assert (v1.oom_kills(), v1.memory_bytes()) == (3, 4096)
    v2 = ContainerCgroup(CgroupHost({}, tmp_path), "p", "two")
    folder = tmp_path / "p/two"
    folder.mkdir()
    (folder / "memory.events").write_text("low 0\noom 2\noom_kill 1\noom_group_kill 0\n")
    (folder / "memory.current").write_text("8192\n")
    assert (v2.oom_kills(), v2.memory_bytes()) == (1, 8192)


def test_freezing_by_cgroup2_waits_for_the_event(tmp_path: Path) -> None:
    folder = tmp_path / "p/c"
    folder.mkdir(parents=True)
    (folder / "cgroup.freeze").write_text("0")
    (folder / "cgroup.events").write_text("populated 1\nfrozen 0\n")
    cgroup = ContainerCgroup(CgroupHost({}, tmp_path), "p", "c")

    async def main() -> None:
        task = asyncio.create_task(cgroup.freeze())
        await asyncio.sleep(0.02)
        assert not task.done()
        assert (folder / "cgroup.freeze").read_text() == "1"
        (folder / "cgroup.events").write_text("populated 1\nfrozen 1\n")
        assert await task

    asyncio.run(main())


def test_containers_are_listed_from_every_hierarchy(tmp_path: Path) -> None:
    (tmp_path / "a/p/one").mkdir(parents=True)
    (tmp_path / "b/p/two").mkdir(parents=True)
    (tmp_path / "b/p/cgroup.procs").touch()
    host = CgroupHost({"memory": tmp_path / "a", "cpu": tmp_path / "b", "pids": tmp_path / "c"}, None)
    assert list_containers(host, "p") == {"one", "two"}
