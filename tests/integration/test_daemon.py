"""The embedded server's own life: started once by many, replaced, killed, ended by nobody needing it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hotbed import local
from hotbed.daemon import SOCKET_PATH_MAX, socket_path
from hotbed.settings import Settings
from hotbed_proto.errors import ServiceError
from support.command import hotbed
from support.leftovers import leftovers_of, processes_of, until_nothing_left

pytestmark = [pytest.mark.container, pytest.mark.root]

APP = """
import hotbed
app = hotbed.App("daemon-test")

@app.function()
def double(x: int) -> int:
    return 2 * x
"""


@pytest.fixture
def home() -> Iterator[Path]:
    """A home of the test's own; its server is ended, and must leave nothing."""
    with tempfile.TemporaryDirectory(prefix="hbt-", dir="/tmp") as folder:
        path = Path(folder) / "h"
        yield path
        end(path)


def end(home: Path) -> None:
    local.stop_server(home)
    assert not until_nothing_left(home)


def double(home: Path, **env: str) -> subprocess.CompletedProcess[str]:
    (home.parent / "app.py").write_text(APP)
    return hotbed("run", str(home.parent / "app.py"), "--x", "21", env={"HOTBED_HOME": str(home), **env})


def eventually(check: Callable[[], object], what: str, timeout_s: float = 20) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not check():
        assert time.monotonic() < deadline_s, f"never happened: {what}"
        time.sleep(0.05)


def pid_of(home: Path) -> int:
    found = local.facts(home)["pid"]
    assert isinstance(found, int)
    return found


def daemons_of(home: Path) -> list[int]:
    return [pid for pid in processes_of(home) if b"hotbed.daemon" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def test_concurrent_starters_make_one_server(home: Path) -> None:
    env = {"HOTBED_HOME": str(home)}
    with ThreadPoolExecutor(4) as threads:
        started = list(threads.map(lambda _: hotbed("server", "start", env=env), range(4)))
    assert [one.returncode for one in started] == [0] * 4, [one.stderr for one in started]
    assert {one.stdout for one in started} == {f"unix:{socket_path(home)}\n"}
    assert daemons_of(home) == [pid_of(home)]


def test_after_a_kill_the_next_call_works_and_leftovers_are_gone(home: Path) -> None:
    assert double(home).stdout == "42\n"
    killed = pid_of(home)
    os.kill(killed, signal.SIGKILL)
    eventually(lambda: not local.answers(home), "the killed server is gone")
    orphans = processes_of(home)
    again = double(home)
    assert again.stdout == "42\n", again.stderr
    assert pid_of(home) != killed
    eventually(lambda: not set(orphans) & set(processes_of(home)), "containers of the dead server are removed")


def test_leftovers_of_a_killed_server_go_with_the_next_clean_stop(home: Path) -> None:
    assert double(home).stdout == "42\n"
    os.kill(pid_of(home), signal.SIGKILL)
    eventually(lambda: not local.answers(home), "the killed server is gone")
    assert leftovers_of(home), "a killed server cannot clean up; otherwise this test shows nothing"
    local.ensure_server(Settings(home))
    end(home)


def test_ends_when_nobody_needs_it(home: Path) -> None:
    assert double(home, HOTBED_STAY_S="1").stdout == "42\n"
    pid = pid_of(home)
    eventually(lambda: not local.alive(pid), "the server ends by itself")
    assert not until_nothing_left(home)


def test_a_long_home_has_its_socket_elsewhere() -> None:
    with tempfile.TemporaryDirectory(prefix="hbt-", dir="/tmp") as folder:
        home = Path(folder) / ("long-" * 20) / ("name-" * 20)
        assert len(str(home)) > SOCKET_PATH_MAX
        home.parent.mkdir()
        done = double(home)
        assert done.stdout == "42\n", done.stderr
        assert socket_path(home).exists()
        assert home not in socket_path(home).parents
        end(home)
        assert not socket_path(home).exists()


def as_another_version(home: Path) -> None:
    facts = local.facts(home)
    (home / "server.json").write_text(json.dumps({**facts, "version": "0.0.0"}))


def test_an_idle_server_of_another_version_is_replaced(home: Path) -> None:
    local.ensure_server(Settings(home))
    before = pid_of(home)
    as_another_version(home)
    done = double(home)
    assert done.stdout == "42\n", done.stderr
    assert pid_of(home) != before
    assert daemons_of(home) == [pid_of(home)]


def test_a_busy_server_of_another_version_stays(home: Path) -> None:
    (home.parent / "app.py").write_text(APP)
    holder = subprocess.Popen(
        [sys.executable, "-c", "from app import app\nwith app.run():\n    print('up', flush=True)\n    input()"],
        cwd=home.parent,
        env={**os.environ, "HOTBED_HOME": str(home)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout
        assert holder.stdout.readline() == "up\n"
        before = pid_of(home)
        as_another_version(home)
        with pytest.raises(ServiceError, match="still has clients"):
            local.ensure_server(Settings(home))
        assert pid_of(home) == before
    finally:
        holder.communicate("\n", timeout=20)


def test_a_server_that_cannot_start_says_why(home: Path) -> None:
    home.mkdir(mode=0o700)
    (home / "state.db").mkdir()
    done = double(home)
    assert done.returncode == 1
    assert "did not start" in done.stderr
    assert str(home / "server.log") in done.stderr
