"""What is the OCI backend's own: choosing a runtime, uvloop, cancelled and failed starts."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest
import uvloop

from hotbed.node.backend_oci import OciSettings
from hotbed.node.probe import choose_backends, probe_host
from hotbed_images.host import host_image
from hotbed_proto.errors import ContainerFailedError
from support.backends import Bench, skip_unless_possible, with_bench

pytestmark = [pytest.mark.container, pytest.mark.root]


def test_a_runtime_is_chosen_by_trying_and_reasons_are_given(tmp_path: Path) -> None:
    skip_unless_possible("oci-crun")

    async def main() -> None:
        image = host_image(Path(sys.executable), tmp_path)
        choice = await choose_backends(tmp_path / "state", image, settings=OciSettings(cgroup_parent="hotbed-test"))
        assert choice.backends["container"].capabilities.name == "oci-crun"
        assert "must be asked for" in choice.missing["process"]
        await choice.backends["container"].close()
        none = await choose_backends(tmp_path / "none", image, runtimes=(), allow_process=True)
        assert list(none.backends) == ["process"]

    uvloop.run(main())


def test_the_report_names_what_is_missing() -> None:
    report = probe_host(search_path="/nonexistent")
    assert any("apt install crun" in problem for problem in report.problems)
    assert [runtime.problem for runtime in report.runtimes] == ["crun is not installed", "runc is not installed"]


def test_ends_are_seen_under_uvloop() -> None:
    skip_unless_possible("oci-crun")

    async def body(bench: Bench) -> None:
        assert "uvloop" in type(asyncio.get_running_loop()).__module__
        child = await asyncio.create_subprocess_exec("/bin/sh", "-c", "exit 3")
        ids = [await bench.start(f"raise SystemExit({code})") for code in range(5)]
        assert [(await bench.wait(one)).code for one in ids] == list(range(5))
        assert await child.wait() == 3, "the loop's own children are not taken from it"

    old = asyncio.get_event_loop_policy()
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    try:
        with_bench("oci-crun", body)
    finally:
        asyncio.set_event_loop_policy(old)


@pytest.mark.parametrize("delay_s", [0.0, 0.002, 0.006, 0.012])
def test_a_cancelled_start_leaves_nothing(delay_s: float) -> None:
    async def body(bench: Bench) -> None:
        start = asyncio.create_task(bench.start("import time; time.sleep(60)"))
        await asyncio.sleep(delay_s)
        start.cancel()
        await asyncio.wait([start])
        if start.cancelled():
            assert await bench.backend.list_leftovers() == []
            assert bench.backend._containers == {}

    with_bench("oci-crun", body)


def test_remove_waits_for_a_start_under_way() -> None:
    async def body(bench: Bench) -> None:
        start = asyncio.create_task(bench.start("import time; time.sleep(60)"))
        await asyncio.sleep(0.001)
        (container_id,) = bench.backend._containers
        await bench.backend.remove(container_id)
        assert await start == container_id
        assert not bench.backend.cgroup(container_id).directories()

    with_bench("oci-crun", body)


def test_a_missing_mount_source_is_a_named_error() -> None:
    async def body(bench: Bench) -> None:
        from hotbed.node.backend import Mount

        with pytest.raises(ContainerFailedError, match="did not start"):
            await bench.start("", mounts=[Mount(bench.folder / "missing", "/data")])

    with_bench("oci-crun", body)
