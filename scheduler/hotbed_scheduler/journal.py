"""Events as JSON lines, and replay: a bug report is a journal file.

The first line holds the settings and the seed, each other line `[now_s, event name, fields]`. Replaying one gives the
same actions, since the core reads nothing else. The event classes are the schema; an unknown name or field is an error.
"""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Iterable, Iterator
from typing import Any, TextIO

from hotbed_scheduler import events
from hotbed_scheduler.actions import Action
from hotbed_scheduler.core import Core, CoreSettings

EVENT_TYPES: dict[str, type] = {cls.__name__: cls for cls in typing.get_args(events.Event)}


def _encode(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        # Defaults are left out: a frame is mostly defaults.
        return {
            field.name: _encode(item)
            for field in dataclasses.fields(value)
            if (item := getattr(value, field.name)) != field.default
        }
    if isinstance(value, range):
        return {"range": [value.start, value.stop]}
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {key: _encode(item) for key, item in value.items()}
    if isinstance(value, str | int | float) or value is None:
        return value
    return [_encode(item) for item in value]


def _decode(kind: Any, value: Any) -> Any:
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        hints = typing.get_type_hints(kind)
        return kind(**{name: _decode(hints[name], item) for name, item in value.items()})
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        inner = [argument for argument in arguments if argument is not type(None)]
        return None if value is None else _decode(inner[0], value)
    if kind is bytes:
        return bytes.fromhex(value)
    if isinstance(value, dict) and value.keys() == {"range"}:
        return range(*value["range"])
    if origin is tuple:
        members = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else arguments
        return tuple(_decode(member, item) for member, item in zip(members, value, strict=True))
    return value


def write_header(file: TextIO, settings: CoreSettings, seed: int) -> None:
    """Start a journal."""
    file.write(json.dumps({"settings": dataclasses.asdict(settings), "seed": seed}) + "\n")


def record(file: TextIO, now_s: float, event: events.Event) -> None:
    """Append one event. Cost: about 10 us and 100 bytes; the caller decides when to flush."""
    file.write(json.dumps([now_s, type(event).__name__, _encode(event)], separators=(",", ":")) + "\n")


def load(file: Iterable[str]) -> tuple[CoreSettings, int, Iterator[tuple[float, events.Event]]]:
    """Settings, seed and events of a journal.

    Raises:
        ValueError: A line that is not one of a journal, with its number.
    """
    lines = iter(file)
    try:
        header = json.loads(next(lines))
        settings, seed = CoreSettings(**header["settings"]), int(header["seed"])
    except (StopIteration, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"line 1 is not the head of a journal: {error}") from error
    return settings, seed, _events(lines)


def _events(lines: Iterator[str]) -> Iterator[tuple[float, events.Event]]:
    for number, line in enumerate(lines, start=2):
        try:
            now_s, name, fields = json.loads(line)
            event = _decode(EVENT_TYPES[name], fields)
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"line {number} is not an event: {error!r}") from error
        yield now_s, event


def replay(file: Iterable[str], *, check: bool = False) -> Iterator[tuple[float, events.Event, list[Action]]]:
    """Feed a journal to a fresh core; each event with the actions it gave. `check`: assert the invariants after each."""
    settings, seed, recorded = load(file)
    core = Core(settings, seed)
    for now_s, event in recorded:
        actions = core.handle(event, now_s)
        if check:
            core.check()
        yield now_s, event, actions
