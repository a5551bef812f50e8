"""What keeps the tree in order and no linter checks."""

from __future__ import annotations

import ast
import runpy
import subprocess
import tomllib
from pathlib import Path

import pytest

import hotbed_proto.errors

ROOT = Path(__file__).resolve().parent.parent
CODE_FOLDERS = ("runtime", "scheduler", "images", "proto", "tests", "benchmarks", "examples")
LINES_MAX = 600
PURE_NAMES = (
    *("core", "cluster", "state", "lanes", "dispatching", "placement", "feasibility", "scaling", "ranking"),
    *("fairness", "autoscale", "events", "actions"),
)
IMPURE = {"time", "random", "os", "asyncio", "grpc", "socket", "threading", "subprocess", "datetime"}
PURE = [path for name in PURE_NAMES if (path := ROOT / f"scheduler/hotbed_scheduler/{name}.py").exists()]


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True).stdout
    return [path for name in listed.split("\0") if name and (path := ROOT / name).is_file()]


def test_pure_modules_were_found() -> None:
    assert len(PURE) >= 8


@pytest.mark.parametrize("path", PURE, ids=lambda path: path.stem)
def test_the_scheduling_core_does_no_io(path: Path) -> None:
    imported: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            imported.add((node.module or "").partition(".")[0])
    assert not imported & IMPURE


@pytest.mark.parametrize("folder", ["runtime", "scheduler", "images", "proto"])
def test_role_folders_are_no_packages(folder: str) -> None:
    assert not (ROOT / folder / "__init__.py").exists()


def test_files_have_one_subject() -> None:
    files = [p for name in CODE_FOLDERS for p in (ROOT / name).rglob("*.py") if "_pb2" not in p.name]
    assert files
    too_long = {str(p.relative_to(ROOT)): n for p in files if (n := len(p.read_text().splitlines())) > LINES_MAX}
    assert not too_long


def test_no_file_names_the_folder_it_was_written_in() -> None:
    place = f"{ROOT}/".encode()
    assert not [str(path.relative_to(ROOT)) for path in tracked() if place in path.read_bytes()]


def test_the_page_of_errors_is_current() -> None:
    made = runpy.run_path(str(ROOT / "scripts/errors_table"))["table"]()
    assert (ROOT / "docs/errors.md").read_text() == made
    assert all(f"`{code}`" in made for code in hotbed_proto.errors.ERRORS_BY_CODE)


def test_generated_code_has_its_generator_pinned() -> None:
    dev = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]["dev"]
    assert any(item.startswith("grpcio-tools==") for item in dev)
