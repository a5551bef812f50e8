"""The `hotbed` command in a process of its own, as people run it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

TIMEOUT_S = 60.0


def hotbed(*arguments: str, cwd: Path | None = None, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run it to its end; never raises for its exit code."""
    return subprocess.run(
        [sys.executable, "-m", "hotbed.cli.main", *arguments],
        cwd=cwd,
        env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


def start_hotbed(*arguments: str, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
    """Start it in a process group of its own, as a shell does with a foreground job."""
    return subprocess.Popen(
        [sys.executable, "-m", "hotbed.cli.main", *arguments],
        env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
    )
