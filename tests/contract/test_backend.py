"""What every backend promises, tried on each that this machine can run."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from pathlib import Path

import pytest

from hotbed.node.backend import ExitStatus, Mount
from hotbed_proto.errors import AlreadyExistsError, ContainerFailedError, NotFoundError
from support.backends import NAMES, Bench, socket_pair, with_bench

pytestmark = [pytest.mark.container]
backends = pytest.mark.parametrize("name", NAMES)
limiting = pytest.mark.parametrize("name", [name for name in NAMES if name != "process"])


@backends
def test_exit_codes_and_signals_are_told(name: str) -> None:
    async def body(bench: Bench) -> None:
        assert await bench.wait(await bench.start("")) == ExitStatus(0)
        assert await bench.wait(await bench.start("raise SystemExit(37)")) == ExitStatus(37)
        waiting = await bench.start("import time; print('up', flush=True); time.sleep(60)")
        await bench.until_output(waiting, "up")
        waiters = [asyncio.create_task(bench.wait(waiting)) for _ in range(3)]
        await asyncio.sleep(0)
        await bench.backend.signal(waiting, signal.SIGKILL)
        assert await asyncio.gather(*waiters) == [ExitStatus(-9)] * 3
        assert await bench.wait(waiting) == ExitStatus(-9)
        await bench.backend.signal(waiting, signal.SIGTERM)  # gone: no error

    with_bench(name, body)


@backends
def test_a_handled_signal_arrives(name: str) -> None:
    async def body(bench: Bench) -> None:
        code = "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(5)); print('up', flush=True); time.sleep(60)"
        container_id = await bench.start(code)
        await bench.until_output(container_id, "up")
        await bench.backend.signal(container_id, signal.SIGTERM)
        assert await bench.wait(container_id) == ExitStatus(5)

    with_bench(name, body)


@backends
def test_descriptor_0_is_the_socket(name: str) -> None:
    async def body(bench: Bench) -> None:
        ours, theirs = socket_pair()
        code = "import socket; s = socket.socket(fileno=0); s.sendall(s.recv(100)[::-1])"
        container_id = await bench.start(code, stdin=theirs.fileno())
        theirs.close()
        ours.settimeout(10)
        ours.sendall(b"abc")
        assert await asyncio.to_thread(ours.recv, 100) == b"cba"
        await bench.wait(container_id)
        assert await asyncio.to_thread(ours.recv, 100) == b"", "nothing else may hold the other end open"
        ours.close()

    with_bench(name, body)


@backends
def test_environment_is_exactly_what_was_asked(name: str) -> None:
    async def body(bench: Bench) -> None:
        os.environ["HOTBED_TEST_SECRET"] = "outside"
        env = {"HOME": "/root", "A": "1 = ü\n2"}
        # os.environb of PEP 538 may have LC_CTYPE from Python itself: read what the kernel was given.
        text = await bench.run("import sys; sys.stdout.write(ascii(open('/proc/self/environ','rb').read()))", env=env)
        given = dict(item.split(b"=", 1) for item in eval(text).split(b"\0") if item)
        own = {key: value for key, value in given.items() if not key.startswith(b"HOTBED_")} if name == "process" else given
        assert own == {b"HOME": b"/root", b"A": "1 = ü\n2".encode()}
        assert b"HOTBED_TEST_SECRET" not in given

    try:
        with_bench(name, body)
    finally:
        os.environ.pop("HOTBED_TEST_SECRET", None)


@backends
def test_what_cannot_start_says_why_and_leaves_nothing(name: str) -> None:
    async def body(bench: Bench) -> None:
        with pytest.raises(ContainerFailedError) as caught:
            await bench.start(argv=["/no/such/program"])
        assert "no/such/program" in caught.value.why or "No such file" in caught.value.why
        assert await bench.backend.list_leftovers() == []

    with_bench(name, body)


@backends
def test_unknown_ids(name: str) -> None:
    async def body(bench: Bench) -> None:
        with pytest.raises(NotFoundError):
            await bench.wait("co-unknown")
        await bench.backend.signal("co-unknown", signal.SIGKILL)
        await bench.backend.remove("co-unknown")

    with_bench(name, body)


@backends
def test_remove_ends_a_running_tree_and_may_be_repeated(name: str) -> None:
    async def body(bench: Bench) -> None:
        code = "import os, time; os.fork(); os.fork(); print('up', flush=True); time.sleep(60)"
        container_id = await bench.start(code)
        await bench.until_output(container_id, "up")
        waiter = asyncio.create_task(bench.wait(container_id))
        await asyncio.sleep(0)
        await asyncio.gather(bench.backend.remove(container_id), bench.backend.remove(container_id))
        await bench.backend.remove(container_id)
        assert (await waiter).code == -9
        with pytest.raises(NotFoundError):
            await bench.backend.wait(container_id)

    with_bench(name, body)


@backends
def test_another_agent_finds_and_removes_leftovers(name: str) -> None:
    async def body(bench: Bench) -> None:
        container_id = await bench.start("import time; print('up', flush=True); time.sleep(60)")
        await bench.until_output(container_id, "up")
        assert await bench.backend.list_leftovers() == []
        successor = bench.make()
        assert await successor.list_leftovers() == [container_id]
        await successor.remove(container_id)
        assert await successor.list_leftovers() == []
        assert (await bench.wait(container_id)).code == -9
        await bench.backend.remove(container_id)
        await successor.close()

    with_bench(name, body)


@backends
def test_pause_stops_and_resume_goes_on(name: str) -> None:
    async def body(bench: Bench) -> None:
        container_id = await bench.start("import time\nwhile True: print('x', flush=True); time.sleep(0.005)")
        await bench.until_output(container_id, "x")
        await bench.backend.pause(container_id)
        await asyncio.sleep(0.05)
        size = len(bench.output(container_id))
        await asyncio.sleep(0.15)
        assert len(bench.output(container_id)) == size
        await bench.backend.resume(container_id)
        await bench.until_output(container_id, "x\n" * (size // 2 + 5))
        await bench.backend.pause(container_id)
        await bench.backend.remove(container_id)  # also while frozen

    with_bench(name, body)


@backends
def test_mounts_show_and_take_files(name: str) -> None:
    async def body(bench: Bench) -> None:
        for folder in ("in", "out"):
            (bench.folder / folder).mkdir(mode=0o755)
        (bench.folder / "in/x").write_text("hello")
        (bench.folder / "out/.status").write_bytes(b"\0" * 8)
        mounts = [
            Mount(bench.folder / "in", "/__hotbed/in"),
            Mount(bench.folder / "out", "/__hotbed/out", read_only=False),
        ]
        code = (
            "import sys; i, o = sys.argv[1:]; open(o + '/r', 'w').write(open(i + '/x').read() * 2)\n"
            "open(o + '/.status', 'r+b').write(b'1')\n"
            "try: open(i + '/y', 'w'); print('written')\nexcept OSError: print('refused')"
        )
        argv = [bench.python, "-I", "-S", "-c", code, "/__hotbed/in", "/__hotbed/out"]
        container_id = await bench.start(argv=argv, mounts=mounts)
        assert (await bench.wait(container_id)).code == 0, bench.output(container_id)
        assert (bench.folder / "out/r").read_text() == "hellohello"
        assert (bench.folder / "out/.status").read_bytes()[:1] == b"1"
        assert name == "process" or bench.output(container_id) == "refused\n"

    with_bench(name, body)


@limiting
def test_an_id_is_used_once(name: str) -> None:
    async def body(bench: Bench) -> None:
        container_id = await bench.start("import time; time.sleep(60)")
        spec_again = bench.backend.create
        from hotbed.node.backend import ContainerSpec

        with pytest.raises(AlreadyExistsError):
            await spec_again(ContainerSpec(container_id, ["/bin/true"], {}, "/", [], 0, 1, 2))
        await bench.backend.remove(container_id)

    with_bench(name, body)


@limiting
def test_memory_limit_is_held_and_told(name: str) -> None:
    async def body(bench: Bench) -> None:
        code = "x = bytearray(200 << 20)\nfor i in range(0, len(x), 4096): x[i] = 1"
        status = await bench.wait(await bench.start(code, memory_bytes=64 << 20))
        assert status == ExitStatus(-9, oom=True)
        status = await bench.wait(await bench.start("x = b'1' * (20 << 20)", memory_bytes=64 << 20))
        assert status == ExitStatus(0)
        # Files in the container's own root and /dev/shm are memory too.
        spill = "f = open('/root/big', 'wb')\nfor _ in range(200): f.write(b'x' * (1 << 20))"
        assert (await bench.wait(await bench.start(spill, memory_bytes=64 << 20))).oom

    with_bench(name, body)


@limiting
def test_a_child_killed_for_memory_is_told(name: str) -> None:
    async def body(bench: Bench) -> None:
        code = "import os\nif os.fork() == 0: x = b'1' * (200 << 20); os._exit(0)\nprint(os.wait()[1])"
        container_id = await bench.start(code, memory_bytes=64 << 20)
        status = await bench.wait(container_id)
        assert status.oom
        assert status.code in (0, -9)

    with_bench(name, body)


@limiting
def test_a_fork_bomb_is_contained(name: str) -> None:
    async def body(bench: Bench) -> None:
        code = "import os\nprint('up', flush=True)\nwhile True:\n  try: os.fork()\n  except OSError: pass"
        container_id = await bench.start(code, pids=32, memory_bytes=256 << 20, milli_cpu=300)
        await bench.until_output(container_id, "up")
        await asyncio.sleep(1)
        assert 1 < len(bench.backend.cgroup(container_id).pids()) <= 32
        started = time.monotonic()
        await bench.backend.remove(container_id)
        assert time.monotonic() - started < 10

    with_bench(name, body)


@limiting
def test_cpu_limit_is_held(name: str) -> None:
    async def body(bench: Bench) -> None:
        code = "import time\nend = time.monotonic() + 1.5\nwhile time.monotonic() < end: pass\nprint(time.process_time())"
        used_s = float(await bench.run(code, milli_cpu=200))
        assert used_s < 0.75, "1.5 s at a fifth of a core is 0.3 s"

    with_bench(name, body)


@limiting
def test_scratch_space_is_limited(name: str) -> None:
    async def body(bench: Bench) -> None:
        code = "f = open('/root/big', 'wb', 0)\ntry:\n  for _ in range(64): f.write(b'x' * (1 << 20))\n"
        code += "except OSError as e: print(e.errno)"
        assert await bench.run(code, disk_bytes=16 << 20) == "28"

    with_bench(name, body)


@limiting
def test_memory_in_use_can_be_asked(name: str) -> None:
    async def body(bench: Bench) -> None:
        container_id = await bench.start("x = b'1' * (50 << 20); print('up', flush=True); import time; time.sleep(60)")
        await bench.until_output(container_id, "up")
        assert 50 << 20 < await bench.backend.memory_bytes(container_id) < 200 << 20

    with_bench(name, body)


@limiting
def test_many_at_once(name: str) -> None:
    async def body(bench: Bench) -> None:
        codes = list(range(12))
        ids = await asyncio.gather(*(bench.start(f"raise SystemExit({code})") for code in codes))
        assert [(await bench.wait(one)).code for one in ids] == codes

    with_bench(name, body)


@limiting
def test_the_loopback_is_up_and_nothing_else(name: str) -> None:
    async def body(bench: Bench) -> None:
        code = (
            "import json, socket; s = socket.create_server(('127.0.0.1', 0)); c = socket.create_connection(s.getsockname())\n"
            "print(json.dumps([n for _, n in socket.if_nameindex()]))"
        )
        # Tunnel stubs (sit0 and the like) appear where the kernel has those modules; they lead nowhere.
        assert [one for one in json.loads(await bench.run(code)) if not one.endswith("0")] == ["lo"]

    with_bench(name, body)


@limiting
def test_the_hosts_network_only_when_asked(name: str) -> None:
    async def body(bench: Bench) -> None:
        code = "import os; print(os.readlink('/proc/self/ns/net'))"
        assert await bench.run(code, network="full") == os.readlink("/proc/self/ns/net")
        assert await bench.run(code) != os.readlink("/proc/self/ns/net")

    with_bench(name, body)


def test_the_source_of_a_mount_may_lie_in_a_private_folder() -> None:
    async def body(bench: Bench) -> None:
        private = bench.folder / "private"
        (private / "data").mkdir(parents=True)
        private.chmod(0o700)
        (private / "data/x").write_text("seen")
        assert await bench.run("print(open('/data/x').read())", mounts=[Mount(Path(private / "data"), "/data")]) == "seen"

    with_bench("oci-crun", body)
