"""The embedded server as clients see it: find the per-user daemon, start it when there is none, stop it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

from hotbed import __version__
from hotbed.daemon import STAY_S, private_folder, socket_path
from hotbed.settings import Settings
from hotbed_proto.errors import ServiceError

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 30.0
STATUS_TIMEOUT_S = 10.0
_POLL_S = 0.02
_LOG_TAIL_BYTES = 3000
_LOG_BYTES_MAX = 8 * 2**20


def answers(home: Path) -> bool:
    """Whether a server of this home accepts connections. A socket file that a killed server left does not."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(2.0)
        try:
            probe.connect(str(socket_path(home)))
        except OSError:
            return False
    return True


def facts(home: Path) -> dict[str, Any]:
    """What the running server wrote about itself; {} when none is there."""
    try:
        found = json.loads((home / "server.json").read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def ensure_server(settings: Settings) -> str:
    """The embedded server's address ("unix:PATH"); starts it when it is not there.

    Several processes may ask at once: a file lock makes one of them start it. Cost: 0.2 ms when it runs, about 0.7 s else.

    Raises:
        ServiceError: It does not start (with the tail of its log), or another version of it is busy.
    """
    home = private_folder(settings.home)
    address = f"unix:{socket_path(home)}"
    if answers(home) and _fits(home):
        return address
    with open(home / "server.lock", "w") as lock:
        _lock(lock.fileno(), home)
        if answers(home):
            if _fits(home):
                return address
            _replace(home)
        _start(home)
    return address


def _lock(descriptor: int, home: Path) -> None:
    deadline_s = time.monotonic() + START_TIMEOUT_S + 10
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline_s:
                raise ServiceError(
                    "another process has been starting the server for too long", fix=f"see {home}/server.log"
                ) from None
            time.sleep(_POLL_S)


def _fits(home: Path) -> bool:
    found = facts(home)
    return not found or (found.get("version") == __version__ and found.get("python") == sys.prefix)


def _replace(home: Path) -> None:
    """A server of another version or another Python: end it if nothing needs it."""
    found = facts(home)
    status = status_of(f"unix:{socket_path(home)}")
    busy = status.clients or any(function.queued or function.running for function in status.functions)
    if busy:
        raise ServiceError(
            f"the running server is {found.get('version')} of {found.get('python')}, this is {__version__} of {sys.prefix}",
            why="it still has clients or work, so it is not replaced",
            fix="wait for it, run `hotbed server stop`, or set HOTBED_HOME to another folder",
        )
    stop_server(home)


def status_of(address: str, token: str = "") -> Any:
    """The server's StatusResponse.

    Raises:
        ServiceError, AuthError: It does not answer, or not to this token.
    """
    import grpc

    from hotbed.transport_grpc import request_error
    from hotbed_proto.v1 import client_pb2, client_pb2_grpc

    with grpc.insecure_channel(address) as channel:
        stub = client_pb2_grpc.ControlPlaneStub(channel)
        metadata = (("authorization", f"Bearer {token}"),) if token else ()
        try:
            return stub.Status(client_pb2.StatusRequest(), timeout=STATUS_TIMEOUT_S, metadata=metadata)
        except grpc.RpcError as error:
            raise request_error("Status", error) from None


def _start(home: Path) -> None:
    log_path = home / "server.log"
    if log_path.exists() and log_path.stat().st_size > _LOG_BYTES_MAX:
        log_path.replace(home / "server.log.1")
    log_from = log_path.stat().st_size if log_path.exists() else 0
    argv = [sys.executable, "-m", "hotbed.daemon", "--home", str(home)]
    argv += ["--stay-s", os.environ.get("HOTBED_STAY_S", str(STAY_S))]
    argv += ["--pool-size", os.environ.get("HOTBED_POOL_SIZE", "1")]
    if os.environ.get("HOTBED_ALLOW_PROCESS") == "1":
        argv.append("--allow-process")
    log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        pid = os.posix_spawn(
            sys.executable,
            argv,
            {**os.environ, "PYTHONUNBUFFERED": "1"},
            file_actions=[(os.POSIX_SPAWN_DUP2, null, 0), (os.POSIX_SPAWN_DUP2, log, 1), (os.POSIX_SPAWN_DUP2, log, 2)],
            setsid=True,
        )
    finally:
        os.close(log)
        os.close(null)
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while not (answers(home) and facts(home).get("pid") == pid):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            raise ServiceError(
                f"the embedded server did not start (it ended with {os.waitstatus_to_exitcode(status)})",
                why=_tail(log_path, log_from),
                fix=f"see {log_path}",
            )
        if time.monotonic() > deadline_s:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise ServiceError(
                f"the embedded server was not ready within {START_TIMEOUT_S:g} s",
                why=_tail(log_path, log_from),
                fix=f"see {log_path}",
            )
        time.sleep(_POLL_S)


def _tail(path: Path, start: int) -> str:
    with contextlib.suppress(OSError):
        text = path.read_bytes()[start:][-_LOG_TAIL_BYTES:].decode(errors="replace").strip()
        return text or "its log is empty"
    return "its log cannot be read"


def stop_server(home: Path) -> bool:
    """End the server of this home and wait until it is gone; False when none was there.

    Raises:
        ServiceError: It is still there after thirty seconds.
    """
    pid = facts(home).get("pid")
    if not isinstance(pid, int) or not answers(home):
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    deadline_s = time.monotonic() + STOP_TIMEOUT_S
    while alive(pid):
        if time.monotonic() > deadline_s:
            raise ServiceError(f"the server (pid {pid}) does not end", fix=f"kill -9 {pid}, and look into {home}/server.log")
        time.sleep(_POLL_S)
    return True


def alive(pid: int) -> bool:
    """Whether the process runs; one that has ended and waits for its parent does not."""
    with contextlib.suppress(ChildProcessError):
        if os.waitpid(pid, os.WNOHANG)[0] == pid:
            return False
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
