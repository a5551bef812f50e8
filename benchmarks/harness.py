"""What every benchmark here shares: interleaved rounds, medians, a row per claim.

Rules of this folder: a peer is measured in the same run, turn by turn with hotbed, because both cores of a small machine
drift by tens of percent; the result is checked before anything is timed; a ratio is the median of the rounds' ratios.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

OUT = Path(__file__).parent / "out"


@dataclass
class Row:
    """One line of the table.

    Attributes:
        ratio: hotbed / peer. better: "lower" (time, memory) or "higher" (rates).
        target: The bound the ratio (or, where `absolute`, hotbed's own figure) is held to.
    """

    measure: str
    hotbed: float
    peer_name: str
    peer: float
    unit: str
    ratio: float
    target: float
    better: str
    absolute: bool = False

    @property
    def met(self) -> bool:
        """Whether the target holds."""
        value = self.hotbed if self.absolute else self.ratio
        return value <= self.target if self.better == "lower" else value >= self.target


def p50(samples: list[float]) -> float:
    """The median."""
    return statistics.median(samples)


def timed(function: Callable[[], object]) -> float:
    """Seconds one call takes."""
    started_s = time.perf_counter()
    function()
    return time.perf_counter() - started_s


def latency_s(function: Callable[[int], object], calls: int) -> float:
    """Median seconds of `calls` calls, each checked to return its own argument."""
    samples = []
    for i in range(calls):
        started_s = time.perf_counter()
        result = function(i)
        samples.append(time.perf_counter() - started_s)
        assert result == i, (result, i)
    return p50(samples)


def compare(
    measure: str,
    hotbed: Callable[[], float],
    peer_name: str,
    peer: Callable[[], float],
    *,
    unit: str,
    target: float,
    better: str = "lower",
    rounds: int = 5,
) -> Row:
    """Run hotbed and the peer in turn `rounds` times (after one warm-up each); each callable returns its figure."""
    hotbed(), peer()
    ours, theirs = [], []
    for _ in range(rounds):
        ours.append(hotbed())
        theirs.append(peer())
    ratio = p50([a / b for a, b in zip(ours, theirs, strict=True)])
    row = Row(measure, p50(ours), peer_name, p50(theirs), unit, ratio, target, better)
    print_row(row)
    return row


def absolute(measure: str, hotbed: Callable[[], float], *, unit: str, target: float, better: str, rounds: int = 5) -> Row:
    """A claim with no peer: hotbed's own figure against a bound."""
    hotbed()
    value = p50([hotbed() for _ in range(rounds)])
    row = Row(measure, value, "-", 0.0, unit, 0.0, target, better, absolute=True)
    print_row(row)
    return row


def show(value: float) -> str:
    """Four significant digits, without an exponent."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def print_row(row: Row) -> None:
    """One readable line, as soon as it is known."""
    sign = "<=" if row.better == "lower" else ">="
    verdict = "met" if row.met else "MISSED"
    if row.absolute:
        print(f"{row.measure}: {show(row.hotbed)} {row.unit} (target {sign} {show(row.target)}: {verdict})", flush=True)
        return
    print(
        f"{row.measure}: hotbed {show(row.hotbed)}, {row.peer_name} {show(row.peer)} {row.unit}; "
        f"ratio {row.ratio:.2f} (target {sign} {row.target:g}: {verdict})",
        flush=True,
    )


def markdown(rows: list[Row]) -> str:
    """The table the README quotes."""
    lines = ["| measure | hotbed | against | ratio | target |", "|---|---|---|---|---|"]
    for row in rows:
        sign = "<=" if row.better == "lower" else ">="
        target = f"{sign} {show(row.target)}" + (f" {row.unit}" if row.absolute else "x") + ("" if row.met else " **missed**")
        peer = "-" if row.absolute else f"{row.peer_name}: {show(row.peer)} {row.unit}"
        ratio = "-" if row.absolute else f"{row.ratio:.2f}x"
        lines.append(f"| {row.measure} | {show(row.hotbed)} {row.unit} | {peer} | {ratio} | {target} |")
    return "\n".join(lines)


def save(name: str, rows: list[Row]) -> Path:
    """Write rows and the machine they were measured on to `out/NAME.json`."""
    OUT.mkdir(exist_ok=True)
    path = OUT / f"{name}.json"
    machine = {"cores": os.cpu_count(), "kernel": platform.release(), "python": platform.python_version()}
    path.write_text(json.dumps({"machine": machine, "rows": [asdict(row) | {"met": row.met} for row in rows]}, indent=1))
    return path


def plot(rows: list[Row], path: Path) -> None:
    """Bars of each ratio in units of its target (1 = just met; below 1 is better for both directions)."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as pyplot

    names, values = [], []
    for row in rows:
        value = row.hotbed if row.absolute else row.ratio
        names.append(row.measure + ("" if row.absolute else f"\nvs {row.peer_name}"))
        values.append(value / row.target if row.better == "lower" else row.target / value)
    figure, axes = pyplot.subplots(figsize=(9, 0.5 * len(rows) + 1.2))
    axes.barh(names, values, color=["#3a7d44" if value <= 1 else "#b3402a" for value in values])
    axes.axvline(1.0, color="black", linewidth=1)
    axes.set_xlabel("cost relative to the target (left of the line: target met)")
    axes.invert_yaxis()
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


@contextmanager
def quiet_home() -> Iterator[Path]:
    """A server of the benchmark's own: a fresh home, stopped and removed at the end."""
    import shutil
    import subprocess
    import sys
    import tempfile

    from hotbed.client import disconnect

    home = Path(tempfile.mkdtemp(prefix="hb-"))
    os.environ["HOTBED_HOME"] = str(home)
    try:
        yield home
    finally:
        disconnect()
        subprocess.run([sys.executable, "-m", "hotbed.cli.main", "server", "stop"], timeout=60, check=False)
        shutil.rmtree(home, ignore_errors=True)
