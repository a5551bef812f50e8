"""First program of a container: `python3 -I -S .../hotbed/worker/boot.py` with the node's socket on descriptor 0.

Boots in about 15 ms: only modules that are frozen or built in, nothing of the user's, no site-packages. The `hotbed` package
itself is a placeholder until someone asks it for a name, so that functions that never touch the SDK never pay for it.
"""

import os
import sys


def _install_placeholder(lib_dir: str) -> None:
    sys.path.insert(0, lib_dir)
    from importlib.machinery import ModuleSpec
    from types import ModuleType

    package = ModuleType("hotbed")
    folder = f"{lib_dir}/hotbed"
    package.__path__ = [folder]
    package.__package__ = "hotbed"
    package.__file__ = f"{folder}/__init__.py"
    package.__spec__ = ModuleSpec("hotbed", None, is_package=True)
    package.__spec__.submodule_search_locations = [folder]

    def load_on_demand(name: str) -> object:
        del package.__dict__["__getattr__"]
        if os.path.exists(package.__file__ or ""):
            from importlib.util import spec_from_file_location

            spec = spec_from_file_location("hotbed", package.__file__, submodule_search_locations=[folder])
            if spec is not None and spec.loader is not None:
                package.__spec__ = spec
                package.__loader__ = spec.loader
                spec.loader.exec_module(package)
        package.__dict__.setdefault("worker", sys.modules.get("hotbed.worker"))
        return getattr(package, name)

    package.__dict__["__getattr__"] = load_on_demand
    sys.modules["hotbed"] = package


def _take_socket() -> int:
    """Move the socket away from descriptor 0, where user code and its children would find it."""
    from fcntl import F_DUPFD_CLOEXEC, fcntl

    socket = fcntl(0, F_DUPFD_CLOEXEC, 100)
    null = os.open("/dev/null", os.O_RDONLY)
    os.dup2(null, 0, inheritable=True)
    os.close(null)
    return socket


def _leave_pid_1() -> None:
    """Go on in a child when this is the first process of a pid namespace; this one stays as its init.

    The kernel drops signals that a namespace's first process sends to itself, so user code there could not be ended by
    SIGKILL or SIGTERM of its own; and orphans of user code would stay as zombies. Cost: about 1 ms, once per container.
    """
    if os.getpid() != 1:
        return
    worker = os.fork()
    if worker == 0:
        return
    import _signal  # pyright: ignore[reportMissingImports] - built in; `signal` would have to be read and makes enums

    for number in (_signal.SIGTERM, _signal.SIGINT, _signal.SIGHUP, _signal.SIGUSR1, _signal.SIGUSR2):
        _signal.signal(number, lambda number, frame: os.kill(worker, number))
    os.closerange(3, 256)
    null = os.open("/dev/null", os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)  # the socket and the logs end with the worker, not with this
    while True:
        ended, status = os.wait()
        if ended == worker:
            code = os.waitstatus_to_exitcode(status)
            os._exit(code if code >= 0 else 128 - code)


def main() -> None:
    """Boot, say so, serve, leave through the exit handlers."""
    _leave_pid_1()
    mounts = dict(line.split("=", 1) for line in os.environ.pop("HOTBED_MOUNTS", "").split("\n") if "=" in line)
    in_dir = os.environ.pop("HOTBED_IN", "/__hotbed/in")
    out_dir = os.environ.pop("HOTBED_OUT", "/__hotbed/out")
    os.environ.pop("HOTBED_LIB", None)
    descriptor = _take_socket()
    _install_placeholder(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]

    from hotbed.worker import wire
    from hotbed.worker.channel import Channel
    from hotbed.worker.payloads import PayloadFiles
    from hotbed.worker.runner import Runner
    from hotbed.worker.status import open_page

    channel = Channel(descriptor)
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    channel.send(wire.WorkerBooted(pid=os.getpid(), python_version=version))
    # Pickled code and user classes name `__main__`: theirs, not this file.
    sys.modules["__main__"].__dict__.pop("__file__", None)
    Runner(channel, PayloadFiles(in_dir, out_dir), open_page(f"{out_dir}/.status"), mounts).run()


if __name__ == "__main__":
    main()
