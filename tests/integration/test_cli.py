"""`hotbed` as people run it: options, exit codes, errors for people, Ctrl-C, and the embedded server's commands."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from support.command import hotbed, start_hotbed

pytestmark = [pytest.mark.container, pytest.mark.root, pytest.mark.usefixtures("server")]

APP = """
import time
import hotbed

app = hotbed.App("cli-test")

@app.function()
def double(x: int) -> int:
    return 2 * x

@app.function()
def broken(x: int) -> int:
    raise ValueError(f"{x} is wrong")

@app.function()
def forever() -> None:
    print("running", flush=True)
    time.sleep(600)

@app.function()
def text() -> str:
    return "some text"

@app.local_entrypoint()
def main(count: int = 3, loud: bool = False) -> None:
    total = sum(double.map(range(count)))
    print(f"TOTAL {total}" if loud else f"total {total}")
"""


@pytest.fixture
def script(tmp_path: Path) -> str:
    return write(tmp_path, APP)


def write(folder: Path, text: str) -> str:
    (folder / "script.py").write_text(text)
    return str(folder / "script.py")


def functions() -> list[dict[str, Any]]:
    """The server's functions of the test app."""
    done = hotbed("status", "--json")
    assert done.returncode == 0, done.stderr
    return [one for one in json.loads(done.stdout)["functions"] if one["app_name"] == "cli-test"]


def fails(*arguments: str, code: int, says: str, traceback: bool = False) -> str:
    done = hotbed(*arguments)
    assert done.returncode == code, done.stdout + done.stderr
    assert says in done.stderr
    assert ("Traceback" in done.stderr) == traceback, done.stderr
    return done.stderr


def test_options_have_types(script: str) -> None:
    assert hotbed("run", script).stdout == "total 6\n"
    assert hotbed("run", script, "--count", "4", "--loud").stdout == "TOTAL 12\n"


def test_help_lists_the_options_of_the_script(script: str) -> None:
    done = hotbed("run", script, "--help")
    assert done.returncode == 0
    assert "--count" in done.stdout
    assert "--no-loud" in done.stdout


def test_one_function_by_name(script: str) -> None:
    done = hotbed("run", f"{script}::double", "--x", "21")
    assert (done.returncode, done.stdout) == (0, "42\n"), done.stderr


def test_result_to_a_file(script: str, tmp_path: Path) -> None:
    done = hotbed("run", "--write-result", str(tmp_path / "result"), f"{script}::text")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "result").read_text() == "some text"


def test_wrong_options(script: str) -> None:
    fails("run", script, "--count", "many", code=2, says="many")
    fails("run", script, "--colour", "red", code=2, says="--colour")
    fails("run", f"{script}::double", code=2, says="--x")
    fails("run", code=2, says="TARGET")
    fails("nonsense", code=2, says="nonsense")


def test_missing_file_module_and_name(script: str, tmp_path: Path) -> None:
    fails("run", str(tmp_path / "absent.py"), code=2, says="absent.py")
    fails("run", "-m", "absent_module", code=1, says="absent_module")
    assert "double" in fails("run", f"{script}::absent", code=1, says="absent")


def test_nothing_to_run_or_several(tmp_path: Path) -> None:
    head = "import hotbed\napp = hotbed.App('cli-test')\n"
    entry = "@app.local_entrypoint()\ndef {}(): pass\n"
    fails("run", write(tmp_path, "x = 1\n"), code=1, says="hotbed.App")
    fails("run", write(tmp_path, head), code=1, says="without functions")
    says = fails("run", write(tmp_path, head + entry.format("one") + entry.format("two")), code=2, says="several")
    assert "one" in says
    assert "two" in says


def test_an_error_in_the_script_is_shown_as_python_does(tmp_path: Path) -> None:
    text = fails("run", write(tmp_path, "x = 1\nraise KeyError('mine')\n"), code=1, says="KeyError: 'mine'", traceback=True)
    assert "line 2" in text
    assert "hotbed/cli" not in text
    fails("run", write(tmp_path, "import absent_module\n"), code=1, says="absent_module", traceback=True)
    fails("run", write(tmp_path, "def broken(:\n"), code=1, says="SyntaxError")


def test_an_error_of_the_function_names_its_line(script: str) -> None:
    text = fails("run", f"{script}::broken", "--x", "5", code=1, says="ValueError: 5 is wrong", traceback=True)
    assert f'File "{script}", line 13, in broken' in text


def test_exit_code_of_the_entrypoint(tmp_path: Path) -> None:
    head = "import sys, hotbed\napp = hotbed.App('cli-test')\n@app.local_entrypoint()\ndef main(): sys.exit({})\n"
    assert hotbed("run", write(tmp_path, head.format("7"))).returncode == 7
    assert hotbed("run", write(tmp_path, head.format(""))).returncode == 0
    fails("run", write(tmp_path, head.format("'stopped here'")), code=1, says="stopped here")


def test_ctrl_c_ends_the_work(script: str) -> None:
    process = start_hotbed("run", f"{script}::forever")
    try:
        eventually_running(1)
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    eventually_running(0)


def eventually_running(count: int, timeout_s: float = 20) -> None:
    deadline_s = time.monotonic() + timeout_s
    while (running := sum(one["running"] for one in functions())) != count:
        assert time.monotonic() < deadline_s, f"{running} running, {count} expected"
        time.sleep(0.1)


def test_detached_work_goes_on(tmp_path: Path) -> None:
    text = """
import time
import hotbed
app = hotbed.App("cli-test")

@app.function()
def later(x: int) -> int:
    time.sleep(1)
    return x + 1

@app.local_entrypoint()
def main() -> None:
    print(later.spawn(1).object_id)
"""
    done = hotbed("run", "--detach", write(tmp_path, text))
    assert done.returncode == 0, done.stderr
    from hotbed import FunctionCall

    assert FunctionCall.from_id(done.stdout.strip()).get(timeout=30) == 2


def test_status_and_server_commands(tmp_path: Path) -> None:
    env = {"HOTBED_HOME": str(tmp_path / "h")}
    absent = hotbed("status", env=env)
    assert absent.returncode == 1
    assert "no server is running" in absent.stderr
    assert hotbed("server", "stop", env=env).stdout == "no server is running\n"
    assert hotbed("server", "logs", env=env).returncode == 1
    assert hotbed("server", "start", env=env).stdout.startswith("unix:")
    try:
        status = json.loads(hotbed("server", "status", "--json", env=env).stdout)
        assert status["pid"] > 0
        assert [node["state"] for node in status["nodes"]] == ["joined"]
        assert "running: hotbed" in hotbed("server", "status", env=env).stdout
        assert "Nodes" in hotbed("status", env=env).stdout
        assert "listening" in hotbed("server", "logs", env=env).stdout
        refused = hotbed("server", env=env)
        assert refused.returncode == 1
        assert str(status["pid"]) in refused.stderr
    finally:
        assert hotbed("server", "stop", env=env).stdout == "stopped\n"


def test_second_run_is_warm(script: str) -> None:
    """The second run takes over the first one's container: none is started."""
    first = hotbed("run", f"{script}::text")
    assert first.returncode == 0, first.stderr
    started_s = time.monotonic()
    assert hotbed("run", f"{script}::text").stdout == "some text\n"
    assert time.monotonic() - started_s < 3
