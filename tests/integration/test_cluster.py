"""A server and two nodes, each in a network namespace of its own, joined by a bridge: the embedded code, split."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = [pytest.mark.container, pytest.mark.root, pytest.mark.timeout(240)]

# A node whose NVML library reports one device. Only the library is fake: inventory, placement and start are the real ones.
FAKE_GPU_NODE = """
import sys, types

def device(): return "handle"
fake = types.ModuleType("pynvml")
fake.NVMLError = type("NVMLError", (Exception,), {})
fake.nvmlInit = lambda: None
fake.nvmlShutdown = lambda: None
fake.nvmlDeviceGetCount = lambda: 1
fake.nvmlDeviceGetHandleByIndex = lambda index: "handle"
fake.nvmlDeviceGetName = lambda handle: "NVIDIA A100-SXM4-80GB"
fake.nvmlDeviceGetUUID = lambda handle: "GPU-00000000-0000-0000-0000-000000000000"
fake.nvmlDeviceGetMemoryInfo = lambda handle: types.SimpleNamespace(total=80 * 2**30, free=80 * 2**30, used=0)
sys.modules["pynvml"] = fake
from hotbed.cli.main import main
main()
"""

CLIENT = """
import hotbed, json, os
app = hotbed.App("cluster")

@app.function(serialized=True, cpu=0.25, labels={"kind": "cpu"})
def where(x):
    import os, time
    time.sleep(0.2)
    return os.environ["HOTBED_NODE_NAME"]

@app.function(serialized=True, gpu="A100", cpu=0.25)
def where_gpu():
    import os
    return os.environ["HOTBED_NODE_NAME"], os.environ.get("CUDA_VISIBLE_DEVICES")

@app.function(serialized=True)
def size(data): return len(data)

with app.run():
    print(json.dumps({
        "gpu": where_gpu.remote(),
        "cpu": list(where.map(range(6))),
        "large": size.remote(os.urandom(5 * 2**20)),
    }))
"""


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=20)


def inside(name: str) -> list[str]:
    """Not `ip netns exec`: that mounts a /sys of its own, in which a node finds no cgroups."""
    return ["nsenter", f"--net=/run/netns/{name}"]


class Cluster:
    """Namespaces hbt0 (server, client), hbt1, hbt2 on a bridge inside hbt0."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.names = [f"hbt{os.getpid()}n{i}" for i in range(3)]
        self.processes: list[subprocess.Popen[bytes]] = []

    def up(self) -> None:
        hub = self.names[0]
        for name in self.names:
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        ip("-n", hub, "link", "add", "br0", "type", "bridge")
        ip("-n", hub, "addr", "add", "10.123.0.1/24", "dev", "br0")
        ip("-n", hub, "link", "set", "br0", "up")
        for i, name in enumerate(self.names[1:], start=1):
            ip("-n", hub, "link", "add", f"v{i}", "type", "veth", "peer", "name", "eth0", "netns", name)
            ip("-n", hub, "link", "set", f"v{i}", "master", "br0", "up")
            ip("-n", name, "addr", "add", f"10.123.0.{i + 1}/24", "dev", "eth0")
            ip("-n", name, "link", "set", "eth0", "up")

    def start(self, namespace: int, home: str, *argv: str) -> subprocess.Popen[bytes]:
        with open(self.folder / f"{home}.log", "wb") as log:
            process = subprocess.Popen(
                [*inside(self.names[namespace]), sys.executable, *argv],
                env={**os.environ, "HOTBED_HOME": str(self.folder / home)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.processes.append(process)
        return process

    def run(self, namespace: int, home: str, *argv: str, env: dict[str, str] | None = None) -> str:
        done = subprocess.run(
            [*inside(self.names[namespace]), sys.executable, *argv],
            env={**os.environ, "HOTBED_HOME": str(self.folder / home), **(env or {})},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr + self.logs()
        return done.stdout

    def logs(self) -> str:
        return "\n".join(f"== {log.name}\n{log.read_text()[-4000:]}" for log in sorted(self.folder.glob("*.log")))

    def down(self) -> None:
        for process in reversed(self.processes):
            process.terminate()
        for process in self.processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=20)
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(timeout=10)
        for name in self.names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, timeout=20, check=False)


def eventually(what: str, check: object, cluster: Cluster, timeout_s: float = 60) -> object:
    deadline_s = time.monotonic() + timeout_s
    while True:
        assert callable(check)
        value = check()
        if value:
            return value
        assert time.monotonic() < deadline_s, f"never happened: {what}\n{cluster.logs()}"
        time.sleep(0.2)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path)
    try:
        cluster.up()
        yield cluster
    finally:
        cluster.down()


def test_gpu_function_lands_on_the_gpu_node_and_a_killed_node_is_replaced(cluster: Cluster) -> None:
    cli = ("-m", "hotbed.cli.main")
    address = "10.123.0.1:7777"
    cluster.start(0, "server", *cli, "server", "--listen", address)
    token_of = lambda kind: cluster.run(0, "server", *cli, "server", "token", kind).strip()  # noqa: E731
    eventually("server up", lambda: (cluster.folder / "server").exists() and "7777" in cluster.logs(), cluster)
    client_env = {"HOTBED_SERVER": address, "HOTBED_TOKEN": token_of("client")}
    node_token = token_of("node")
    join = ("node", "--join", address, "--token", node_token)
    plain = cluster.start(1, "plain", *cli, *join, "--name", "plain")
    cluster.start(2, "gpu", "-c", FAKE_GPU_NODE, *join, "--name", "gpu")

    def nodes() -> dict[str, str]:
        status = json.loads(cluster.run(0, "client", *cli, "status", "--json", env=client_env))
        return {node["name"]: node["state"] for node in status["nodes"]}

    eventually("both nodes joined", lambda: set(nodes()) >= {"plain", "gpu"}, cluster)

    seen = json.loads(cluster.run(0, "client", "-c", CLIENT, env=client_env).splitlines()[-1])
    assert seen["gpu"] == ["gpu", "GPU-00000000-0000-0000-0000-000000000000"]
    assert set(seen["cpu"]) == {"plain"}, "functions without a GPU leave the GPU node free while the other has room"
    assert seen["large"] == 5 * 2**20

    os.killpg(plain.pid, signal.SIGKILL)
    seen = json.loads(cluster.run(0, "client", "-c", CLIENT, env=client_env).splitlines()[-1])
    assert set(seen["cpu"]) == {"gpu"}, "the only node left takes everything"

    cluster.start(1, "plain", *cli, *join, "--name", "plain")
    eventually("the killed node is back", lambda: nodes().get("plain") == "joined", cluster)
    seen = json.loads(cluster.run(0, "client", "-c", CLIENT, env=client_env).splitlines()[-1])
    assert seen["gpu"] == ["gpu", "GPU-00000000-0000-0000-0000-000000000000"]


def test_wrong_token_is_refused(cluster: Cluster) -> None:
    cli = ("-m", "hotbed.cli.main")
    cluster.start(0, "server", *cli, "server", "--listen", "10.123.0.1:7777")
    eventually("server up", lambda: (cluster.folder / "server").exists() and "7777" in cluster.logs(), cluster)
    done = subprocess.run(
        [*inside(cluster.names[1]), sys.executable, *cli, "status"],
        env={
            **os.environ,
            "HOTBED_HOME": str(cluster.folder / "x"),
            "HOTBED_SERVER": "10.123.0.1:7777",
            "HOTBED_TOKEN": "wrong",
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "token" in done.stderr.lower()
    assert "Traceback" not in done.stderr
