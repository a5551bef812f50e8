"""Ids: a two-letter kind, a dash, and 22 base62 characters (131 bits) or a short suffix.

Ids are minted where the thing is first known (clients mint app, function and lane ids) so that a request can be repeated
after a lost connection without making a second thing.
"""

from __future__ import annotations

import re
import secrets
import string
from dataclasses import dataclass
from typing import Final

_ALPHABET: Final = string.digits + string.ascii_letters
_ID = re.compile(r"^(ap|fu|fc|co|no|cl)-[0-9A-Za-z]{8,40}\Z")

KINDS: Final = {
    "ap": "app",
    "fu": "function",
    "fc": "lane (function call)",
    "co": "container",
    "no": "node",
    "cl": "client",
}


def mint(kind: str) -> str:
    """A new random id of this kind (a key of `KINDS`). Cost: about 3 us."""
    assert kind in KINDS, kind
    number = secrets.randbits(131)
    digits: list[str] = []
    for _ in range(22):
        number, digit = divmod(number, 62)
        digits.append(_ALPHABET[digit])
    return f"{kind}-{''.join(digits)}"


def is_id(text: str, kind: str) -> bool:
    """Whether `text` is a well-formed id of this kind."""
    return text.startswith(f"{kind}-") and _ID.match(text) is not None


@dataclass(frozen=True, slots=True)
class CallRef:
    """What a user-visible function call id names: a lane, and one input of it or (index None) all of it."""

    lane_id: str
    index: int | None

    def __str__(self) -> str:
        return self.lane_id if self.index is None else f"{self.lane_id}-{self.index}"


def parse_call_id(call_id: str) -> CallRef:
    """Read `fc-<lane>` or `fc-<lane>-<index>`.

    Raises:
        ValueError: The text is neither; the message quotes at most 80 characters of it.
    """
    parts = call_id.split("-")
    if len(parts) in (2, 3) and is_id("-".join(parts[:2]), "fc") and (len(parts) == 2 or parts[2].isdecimal()):
        return CallRef("-".join(parts[:2]), int(parts[2]) if len(parts) == 3 else None)
    raise ValueError(f"not a function call id: {call_id[:80]!r} (expected 'fc-...' as FunctionCall.object_id shows it)")


def input_id(lane_id: str, index: int) -> str:
    """The user-visible id of one input."""
    return f"in-{lane_id[3:]}-{index}"
