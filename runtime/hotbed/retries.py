"""When and how often a failed input is tried again."""

from __future__ import annotations

from dataclasses import dataclass

from hotbed_proto.errors import InvalidError


def _check(name: str, value: float, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise InvalidError(f"Retries({name}={value!r}) is not a number between {low:g} and {high:g}")


@dataclass(frozen=True, slots=True)
class Retries:
    """Retry policy of a function. Retry n (from 0) waits `initial_delay * backoff_coefficient ** n` seconds.

    Attributes:
        max_retries: Attempts after the first, 0 to 10.
        backoff_coefficient: 1 to 10; 1 keeps the delay constant.
        initial_delay: Seconds, 0 to 60.
        max_delay: Upper bound of one delay in seconds, 1 to 60.

    Raises:
        InvalidError: A value out of its range.
    """

    max_retries: int
    backoff_coefficient: float = 2.0
    initial_delay: float = 1.0
    max_delay: float = 60.0

    def __post_init__(self) -> None:
        _check("max_retries", self.max_retries, 0, 10)
        if not isinstance(self.max_retries, int):
            raise InvalidError(f"Retries(max_retries={self.max_retries!r}) is not a whole number")
        _check("backoff_coefficient", self.backoff_coefficient, 1, 10)
        _check("initial_delay", self.initial_delay, 0, 60)
        _check("max_delay", self.max_delay, 1, 60)


def parse_retries(value: int | Retries | None) -> Retries:
    """`retries=3` means three more attempts without a delay growing (as in Modal); None means none."""
    if value is None:
        return Retries(0)
    if isinstance(value, Retries):
        return value
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidError(f"retries={value!r} is neither a number nor hotbed.Retries(...)")
    return Retries(value, backoff_coefficient=1.0)
