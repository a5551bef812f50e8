"""Journals: every kind of event survives the way through a file, and replay prints what the core did."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from hotbed_proto.resources import GpuRequest, NodeInventory, Resources
from hotbed_scheduler import events as ev
from hotbed_scheduler import journal
from hotbed_scheduler.__main__ import main
from hotbed_scheduler.core import CoreSettings
from support.scheduling import GIB, gpus

EVENTS: list[ev.Event] = [
    ev.NodeJoined(
        "no-1", 7, "n", NodeInventory(4000, 8 * GIB, 5, gpus("T4", 2), {"region": "eu"}), ("container", "gvisor"), "3.11"
    ),
    ev.FunctionRegistered(
        ev.FunctionDef(
            "fu-1",
            "ap-1",
            "f",
            Resources(250, GIB, 0, (GpuRequest("T4", 1, 500), GpuRequest("any"))),
            ev.Retry(3, 0.5, 3.0, 10.0),
            regions=("eu", "us"),
        )
    ),
    ev.InputsSubmitted("fc-1", "fu-1", 5, 10, True, "cl-1", -1),
    ev.ContainerBooted("co-00000001"),
    ev.ContainerReady("co-00000001"),
    ev.OutputsReceived("co-00000001", 1, "fc-1", [5], b"\x81", 0.25),
    ev.OutputsReceived("co-00000001", 2, "fc-1", range(6, 9)),
    ev.InputsCancelled("fc-1", (9, 10), True),
    ev.InputsCancelled("fc-1"),
    ev.ContainerFailed("co-00000002", "container-failed", "why", True),
    ev.ContainerExited("co-00000001", "oom", "m", (("fc-1", 9), ("fc-1", 10))),
    ev.LaneForgotten("fc-1"),
    ev.NodeHeartbeat("no-1", 7),
    ev.NodeDrain("no-1"),
    ev.NodeLost("no-1", 7, "gone"),
    ev.AppStopped("ap-1"),
    ev.Tick(),
]


def written() -> io.StringIO:
    file = io.StringIO()
    journal.write_header(file, CoreSettings(id_prefix="g1x", lease_s=3.0), 5)
    for number, event in enumerate(EVENTS):
        journal.record(file, number / 3, event)
    file.seek(0)
    return file


def test_every_kind_of_event_is_in_this_test() -> None:
    assert {type(event).__name__ for event in EVENTS} == set(journal.EVENT_TYPES)


def test_events_come_back_equal() -> None:
    settings, seed, events = journal.load(written())
    assert (settings, seed) == (CoreSettings(id_prefix="g1x", lease_s=3.0), 5)
    assert list(events) == [(number / 3, event) for number, event in enumerate(EVENTS)]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", 1),
        ("{}\n", 1),
        ('{"settings": {"nonsense": 1}, "seed": 0}\n', 1),
        ('{"settings": {}, "seed": 0}\nnope\n', 2),
        ('{"settings": {}, "seed": 0}\n[0, "Tick", {}]\n[1, "Tock", {}]\n', 3),
        ('{"settings": {}, "seed": 0}\n[0, "NodeDrain", {"node": "no-1"}]\n', 2),
    ],
)
def test_a_bad_line_is_named(text: str, line: int) -> None:
    with pytest.raises(ValueError, match=f"^line {line} is not"):
        list(journal.replay(text.splitlines(keepends=True)))


def test_command_prints_events_and_actions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "journal"
    path.write_text(written().getvalue())
    assert main(["replay", str(path), "--check"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("\n0.") + shown.startswith("0.") == 3
    assert "    StartContainer(container_id='co-g1x00000001'" in shown
    path.write_text("nonsense")
    assert main(["replay", str(path)]) == 1
    assert "line 1" in capsys.readouterr().err
