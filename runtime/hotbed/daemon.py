"""The server process: a control plane, and in the embedded case the node agent beside it in the same event loop.

This is a composition root: it alone (with `hotbed.local` and the CLI) knows every layer. `hotbed server`, the embedded
per-user daemon and `hotbed node` are the same classes put together differently.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import logging
import os
import platform
import shutil
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hotbed import __version__
from hotbed.settings import host_id
from hotbed_proto.frame_stream import LANE_SUFFIX

if TYPE_CHECKING:
    from hotbed.node.agent import NodeAgent
    from hotbed.node.probe import BackendChoice
    from hotbed.node.settings import NodeSettings
    from hotbed_scheduler.server.shell import ControlPlane

SOCKET_PATH_MAX = 100
"""The kernel allows 107 bytes; the rest is room for gRPC's own decoration."""
STAY_S = 300.0
_STOP_GRACE_S = 5.0
_log = logging.getLogger("hotbed.daemon")


@dataclass(frozen=True, slots=True)
class DaemonOptions:
    """How to put a server together.

    Attributes:
        home: Folder of everything this server keeps.
        listen: "host:port" for clients and nodes of other machines; "" = the unix socket alone.
        with_node: Run a node agent in this process.
        stay_s: End after this long without a client or live work; 0 = never.
        allow_process: Offer `isolation="process"` (none at all).
        blobs: fsspec URL; "" = a folder in home.
        pool_size: Generic containers kept booted per image in use.
        tls_cert, tls_key: PEM files for `listen`.
    """

    home: Path
    listen: str = ""
    with_node: bool = True
    stay_s: float = 0.0
    allow_process: bool = False
    blobs: str = ""
    pool_size: int = 1
    tls_cert: Path | None = None
    tls_key: Path | None = None
    node_name: str = ""
    labels: dict[str, str] = field(default_factory=dict)


def _short_hash(path: Path) -> str:
    return hashlib.sha256(os.fsencode(path)).hexdigest()[:12]


def socket_path(home: Path) -> Path:
    """Where the server of this home listens; a short path in /tmp, in a folder of ours, when home's is too long."""
    path = home / "server.sock"
    if len(os.fsencode(path)) <= SOCKET_PATH_MAX:
        return path
    return Path(f"/tmp/hotbed-{os.getuid()}") / f"{_short_hash(home)}.sock"  # noqa: S108 - ownership is checked by private_folder


def payload_dir(home: Path) -> Path:
    """The tmpfs folder that clients, node and containers of this home share."""
    return Path("/dev/shm") / f"hotbed-{os.getuid()}-{_short_hash(home)}"  # noqa: S108 - ownership is checked by private_folder


def private_folder(path: Path) -> Path:
    """Create a 0700 folder, or make sure that it is ours.

    Raises:
        InvalidError: Somebody else made it.
    """
    from hotbed_proto.errors import InvalidError

    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = path.lstat()
    if path.is_symlink() or found.st_uid != os.getuid():
        raise InvalidError(f"the folder {path} belongs to somebody else", fix="remove it, or set HOTBED_HOME to another folder")
    if found.st_mode & 0o077:
        path.chmod(0o700)
    return path


async def node_parts(home: Path, options: DaemonOptions, shared: Path, *, share: bool) -> tuple[NodeSettings, BackendChoice]:
    """Probe this machine and describe its node."""
    from hotbed.node.backend import Mount
    from hotbed.node.probe import choose_backends
    from hotbed.node.settings import NodeSettings
    from hotbed_images.host import host_image

    node_dir = private_folder(home / "node")
    shutil.rmtree(node_dir / "image", ignore_errors=True)  # the skeletons of former starts
    image = await asyncio.to_thread(host_image, Path(sys.executable), node_dir / "image")
    choice = await choose_backends(node_dir, image, allow_process=options.allow_process)
    for isolation, reason in choice.missing.items():
        if isolation not in choice.backends and not (isolation == "process" and choice.backends):
            _log.warning("isolation %r is not available: %s", isolation, reason)
    settings = NodeSettings(
        state_dir=node_dir,
        payload_dir=private_folder(shared),
        share_payload_dir=share,
        version=__version__,
        host_id=host_id(),
        labels=options.labels,
        host_mounts=tuple(Mount(mount.source, mount.target) for mount in image.mounts),
        interpreter=image.python,
        name=options.node_name or platform.node(),
    )
    return settings, choice


async def _embed_node(plane: ControlPlane, options: DaemonOptions, shared: Path) -> tuple[NodeAgent, BackendChoice]:
    from hotbed.node.agent import NodeAgent

    settings, choice = await node_parts(options.home, options, shared, share=True)
    blobs = plane.blobs

    def fetch(digest: str, path: Path) -> None:
        with open(path, "xb") as file:
            for part in blobs.parts(digest):
                file.write(part)

    def store(path: Path) -> str:
        with open(path, "rb") as file, blobs.writer(os.fstat(file.fileno()).st_size) as writer:
            while part := file.read(1 << 20):
                writer.write(part)
            return writer.commit()

    agent = NodeAgent(
        settings,
        choice.backends,
        lambda frame: None,
        lambda digest, path: asyncio.to_thread(fetch, digest, path),
        lambda path: asyncio.to_thread(store, path),
    )
    await agent.start()
    session = plane.attach_node(agent.handle)
    agent.set_send(session.receive)
    session.receive(agent.register_frame())
    return agent, choice


def _write_facts(home: Path, address: str, missing: dict[str, str]) -> None:
    facts = {
        "pid": os.getpid(),
        "version": __version__,
        "python": sys.prefix,
        "address": address,
        "started_unix_s": time.time(),
        "missing": missing,
    }
    temporary = home / f".server.json.{os.getpid()}"
    temporary.write_text(json.dumps(facts))
    temporary.replace(home / "server.json")


async def serve(options: DaemonOptions) -> None:
    """Run until SIGTERM, SIGINT or the end of the stay; everything is stopped and removed on the way out."""
    from hotbed_scheduler.blobs import BlobStore
    from hotbed_scheduler.core import Core, CoreSettings
    from hotbed_scheduler.server.shell import ControlPlane
    from hotbed_scheduler.settings import ServerSettings
    from hotbed_scheduler.store_sqlite import SqliteStore

    home = private_folder(options.home)
    shared = payload_dir(home)
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)

    def on_idle(seconds: float) -> None:
        if options.stay_s and seconds > options.stay_s:
            _log.info("nobody has needed this server for %.0f s: it ends", seconds)
            stop.set()

    blobs = BlobStore(options.blobs or str(home / "blobs"))
    store = SqliteStore(home / "state.db")  # before the shared folder is made: what fails here leaves nothing
    plane = ControlPlane(
        ServerSettings(
            home=home,
            version=__version__,
            host_id=host_id(),
            payload_dir=str(private_folder(shared)) if options.with_node and not options.listen else "",
            on_idle=on_idle,
        ),
        store,
        blobs,
        core=lambda generation: Core(
            CoreSettings(id_prefix=f"g{generation}", epoch_base=generation << 40, pool_size=options.pool_size), seed=generation
        ),
    )
    agent: NodeAgent | None = None
    choice: BackendChoice | None = None
    path = socket_path(home)
    lane = path.with_name(path.name + LANE_SUFFIX)
    private_folder(path.parent)
    try:
        await plane.start()
        if options.with_node:
            agent, choice = await _embed_node(plane, options, shared)
            if not options.listen:
                plane.missing_isolations = dict(choice.missing)
        path.unlink(missing_ok=True)
        await plane.serve_lane(lane)
        await plane.serve_unix(path)
        if options.listen:
            await plane.serve_tcp(options.listen, _tls(options))
        _write_facts(home, options.listen or f"unix:{path}", dict(choice.missing) if choice else {})
        _log.info("listening on %s", options.listen or path)
        await _first_of(stop, plane.shutdown_requested)
        _log.info("stopping")
    finally:
        path.unlink(missing_ok=True)
        lane.unlink(missing_ok=True)
        with contextlib.suppress(FileNotFoundError):
            (home / "server.json").unlink()
        await plane.close(_STOP_GRACE_S)
        if agent is not None:
            await agent.close(_STOP_GRACE_S)
        for backend in (choice.backends if choice else {}).values():
            await backend.close()
        _remove_shared(shared)


async def _first_of(*events: asyncio.Event) -> None:
    waiters = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waiters, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for waiter in waiters:
            waiter.cancel()


def _tls(options: DaemonOptions) -> Any:
    if options.tls_cert is None or options.tls_key is None:
        return None
    import grpc

    return grpc.ssl_server_credentials([(options.tls_key.read_bytes(), options.tls_cert.read_bytes())])


def _remove_shared(shared: Path) -> None:
    shutil.rmtree(shared, ignore_errors=True)


async def serve_node(options: DaemonOptions, address: str, token: str) -> None:
    """Run a node agent that joins the control plane at `address`, until SIGTERM or SIGINT."""
    from hotbed.node.remote import run_node
    from hotbed.node.settings import RemoteSettings

    home = private_folder(options.home)
    shared = payload_dir(home)
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    settings, choice = await node_parts(home, options, shared, share=False)
    try:
        with contextlib.suppress(asyncio.CancelledError):
            await run_node(settings, RemoteSettings(address, token), choice.backends)
    finally:
        for backend in choice.backends.values():
            await backend.close()
        _remove_shared(shared)


def run(coroutine: object) -> None:
    """Run a server coroutine on uvloop with logging to standard error."""
    import uvloop

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(coroutine)  # type: ignore[arg-type]


def main() -> None:
    """`python -m hotbed.daemon --home PATH`: the embedded daemon, as `hotbed.local` starts it."""
    parser = argparse.ArgumentParser(prog="hotbed.daemon")
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--stay-s", type=float, default=STAY_S)
    parser.add_argument("--pool-size", type=int, default=1)
    parser.add_argument("--allow-process", action="store_true")
    arguments = parser.parse_args()
    run(
        serve(
            DaemonOptions(
                home=arguments.home,
                stay_s=arguments.stay_s,
                pool_size=arguments.pool_size,
                allow_process=arguments.allow_process,
            )
        )
    )


if __name__ == "__main__":
    main()
