"""Where this process runs and what it is doing: the facts behind `hotbed.current_input_id()` and `hotbed.is_local()`.

One worker a process, so these are plain module state, set once by the loader and asked of the runner.
"""

from __future__ import annotations

from collections.abc import Callable

is_remote = False
"""True inside a container of hotbed's."""
container_id = ""
function_id = ""
function_name = ""
app_id = ""
app_name = ""

_current: Callable[[], tuple[str, int] | None] | None = None


def set_current_source(source: Callable[[], tuple[str, int] | None]) -> None:
    """The runner says how to find the running input's (lane_id, index)."""
    global _current
    _current = source


def current_input() -> tuple[str, int] | None:
    """(lane_id, index) of the input that runs now; None outside of one."""
    return _current() if _current is not None else None


def current_input_id() -> str | None:
    """The user-visible id of the running input."""
    from hotbed_proto.ids import input_id

    current = current_input()
    return None if current is None else input_id(*current)


def current_call_id() -> str | None:
    """The user-visible id of the call the running input belongs to (a single call: lane and index)."""
    current = current_input()
    return None if current is None else f"{current[0]}-{current[1]}"
