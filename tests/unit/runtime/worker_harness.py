"""A real worker process on a socketpair, spoken to with the real protobuf library."""

from __future__ import annotations

import atexit
import functools
import os
import pickle
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle

from hotbed.node.sources import build_worker_lib
from hotbed_proto.v1 import worker_pb2 as pb


@functools.cache
def worker_lib() -> Path:
    """The library as a node builds it, once a test process."""
    folder = Path(tempfile.mkdtemp(prefix="hotbed-lib-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return build_worker_lib(folder / "lib")


class WorkerHarness:
    """Start, load, send inputs, collect outputs; every read has a timeout."""

    def __init__(self, folder: Path) -> None:
        for name in ("in", "out"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / "out" / ".status").write_bytes(bytes(4096))
        self.folder = folder
        self.socket, theirs = socket.socketpair()
        self.socket.settimeout(15)
        self.started = time.monotonic()
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(worker_lib() / "hotbed/worker/boot.py")],
            stdin=theirs.fileno(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={
                "HOTBED_IN": str(folder / "in"),
                "HOTBED_OUT": str(folder / "out"),
                "HOTBED_MOUNTS": "",
                "PYTHONPATH": "",
                "PATH": os.environ["PATH"],
            },
        )
        theirs.close()
        self.buffer = b""
        self.booted = self.read().booted

    def read(self) -> pb.FromWorker:
        while True:
            if len(self.buffer) >= 4:
                size = int.from_bytes(self.buffer[:4], "little")
                if len(self.buffer) >= 4 + size:
                    frame, self.buffer = self.buffer[4 : 4 + size], self.buffer[4 + size :]
                    return pb.FromWorker.FromString(frame)
            data = self.socket.recv(1 << 20)
            if not data:
                raise EOFError(self.process.stderr.read().decode() if self.process.stderr else "")
            self.buffer += data

    def send(self, **body: Any) -> None:
        data = pb.ToWorker(**body).SerializeToString()
        self.socket.sendall(len(data).to_bytes(4, "little") + data)

    def load(self, function: Callable[..., Any] | None, **fields: Any) -> pb.FunctionLoaded:
        fields.setdefault("python_version", f"{sys.version_info.major}.{sys.version_info.minor}")
        fields.setdefault("sys_path", [path for path in sys.path if path.endswith("site-packages")])
        pickled = cloudpickle.dumps(function) if function is not None else b""
        self.send(load=pb.LoadFunction(pickled=pickled, function_name="f", container_id="co-test12345", **fields))
        return self.read().loaded

    def inputs(self, *arguments: tuple[Any, ...], first: int = 0, lane: int = 1) -> None:
        payloads = [pickle.dumps((args, {})) for args in arguments]
        self.send_payloads(payloads, first=first, lane=lane)

    def send_payloads(self, payloads: list[bytes], *, first: int = 0, lane: int = 1, flags: bytes = b"") -> None:
        self.send(
            inputs=pb.WorkerInputs(
                lane=lane,
                indices=range(first, first + len(payloads)),
                sizes=list(map(len, payloads)),
                data=b"".join(payloads),
                flags=flags,
                lane_id="fc-abcdefgh1234",
            )
        )

    def outputs(self, count: int) -> list[tuple[int, int, bytes]]:
        """The next `count` outputs as (index, status, payload)."""
        rows: list[tuple[int, int, bytes]] = []
        while len(rows) < count:
            message = self.read()
            assert message.WhichOneof("body") == "outputs", message
            out = message.outputs
            at = 0
            for position, (index, size) in enumerate(zip(out.indices, out.sizes, strict=True)):
                status = out.statuses[position] if out.statuses else 0
                rows.append((index, status, out.data[at : at + size]))
                at += size
            assert at == len(out.data)
        assert len(rows) == count, (len(rows), count)
        return rows

    def close(self) -> None:
        self.socket.close()
        self.process.kill()
        self.process.wait(10)
        for stream in (self.process.stdout, self.process.stderr):
            if stream:
                stream.close()
