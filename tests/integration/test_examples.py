"""Every example runs through `hotbed run` and prints what its README promises."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.command import hotbed

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"

pytestmark = [pytest.mark.container, pytest.mark.root, pytest.mark.usefixtures("server")]

PRINTS = {
    "hello": "7 squared: 49\nsum of the first 1000 squares: 332833500\n",
    "nested_calls": "sum of squares: 285\n",
    "spawn_later": "by id: 10\nall: [10, 11, 12]\n",
    "generators_and_async": "items: [3, 2, 1]\ntogether: [0, 2, 4, 6, 8]\n",
}


@pytest.mark.parametrize("name", PRINTS)
def test_prints(name: str) -> None:
    done = hotbed("run", str(EXAMPLES / f"{name}.py"))
    assert done.returncode == 0, done.stderr
    assert done.stdout == PRINTS[name]


def test_errors_and_retries() -> None:
    done = hotbed("run", str(EXAMPLES / "errors_and_retries.py"))
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if not line.endswith("attempt for 3")]
    assert lines == [
        "the exception itself comes back: division by zero",
        "after three attempts: 3 is never right",
        "kept in the results: [2.0, 'ZeroDivisionError', 3.0]",
    ]
    assert (done.stdout + done.stderr).count("attempt for 3") == 3


@pytest.mark.skipif(Path("/proc/driver/nvidia").exists(), reason="has a GPU")
def test_gpu_fallback_without_a_gpu() -> None:
    done = hotbed("run", str(EXAMPLES / "gpu_fallback.py"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("no GPU: no node can hold a container of on_gpu\n"), done.stdout
    assert "1 without a GPU" in done.stdout
    assert done.stdout.endswith("1 on a CPU\n")


@pytest.mark.gpu
def test_gpu_fallback_with_a_gpu() -> None:
    done = hotbed("run", str(EXAMPLES / "gpu_fallback.py"))
    assert done.returncode == 0, done.stderr
    assert done.stdout == "1 on a GPU\n"


def test_local_package() -> None:
    done = hotbed("run", "-m", "shapes.main", cwd=EXAMPLES / "local_package")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "area: 12\n"


def test_every_example_is_tested() -> None:
    names = {path.stem for path in EXAMPLES.glob("*.py")}
    assert names == {*PRINTS, "errors_and_retries", "gpu_fallback"}
