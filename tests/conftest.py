"""One server for the whole session in a home of its own, tests skipped with a reason where the host lacks what they need,
and at the end the check that nothing is left behind."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # tests/support; importlib mode does not add it

# Before hotbed is used: whoever reads the environment first must find the session's home. Short, for a unix socket's path;
# each xdist worker is a process, so each has its own.
HOME = Path(tempfile.mkdtemp(prefix="hbt-", dir="/tmp"))
os.environ["HOTBED_HOME"] = str(HOME)
for _name in ("HOTBED_SERVER", "HOTBED_TOKEN", "HOTBED_ALLOW_PROCESS", "HOTBED_STAY_S", "HOTBED_POOL_SIZE"):
    os.environ.pop(_name, None)

from support.leftovers import until_nothing_left  # noqa: E402 - needs the two lines above


@dataclass(frozen=True)
class Server:
    """The embedded server of one home, started again when a test has ended it."""

    home: Path

    def pid(self) -> int:
        """The running server's process; starts one when there is none."""
        from hotbed import local

        self.ensure()
        found = local.facts(self.home)["pid"]
        assert isinstance(found, int)
        return found

    def ensure(self) -> str:
        from hotbed import local
        from hotbed.settings import Settings

        return local.ensure_server(Settings(self.home))

    def stop(self) -> bool:
        from hotbed import client, local

        client.disconnect()
        return local.stop_server(self.home)


@pytest.fixture(scope="session")
def server() -> Server:
    """The session's server, running."""
    found = Server(HOME)
    found.ensure()
    return found


@pytest.fixture(scope="session", autouse=True)
def _nothing_left_behind() -> Iterator[None]:
    yield
    Server(HOME).stop()
    left = until_nothing_left(HOME)
    log = HOME / "server.log"
    tail = log.read_text(errors="replace")[-2000:] if log.exists() else ""
    shutil.rmtree(HOME, ignore_errors=True)
    assert not left, "left behind by the tests' server:\n" + "\n".join(left) + f"\n{tail}"


def pytest_unconfigure() -> None:
    """Also where no test ran: while collecting, and in the controller of xdist."""
    shutil.rmtree(HOME, ignore_errors=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip, with the reason, what this host cannot run."""
    reasons = {marker: reason for marker, reason in _lacking().items() if reason}
    for item in items:
        for marker, reason in reasons.items():
            if item.get_closest_marker(marker) is not None:
                item.add_marker(pytest.mark.skip(reason=reason))


def _lacking() -> dict[str, str]:
    """For each marker why its tests cannot run here; "" when they can."""
    from hotbed.node.gpu import find_gpus
    from hotbed.node.probe import probe_host

    problems = probe_host().problems
    return {
        "root": "" if os.geteuid() == 0 else "needs root",
        "container": f"no containers here: {'; '.join(problems)}" if problems else "",
        "gpu": "" if find_gpus() else "no NVIDIA GPU is visible here",
    }
