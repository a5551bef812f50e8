"""A Python signature as command-line options."""

from __future__ import annotations

import datetime
from typing import Any

import click
import pytest

from hotbed.cli.signature import parse
from hotbed_proto.errors import InvalidError


def example(
    name: str, count: int = 3, *, ratio: float = 0.5, loud: bool = False, when: datetime.datetime | None = None
) -> None:
    """What it does."""


def values(*words: str) -> dict[str, Any]:
    args, kwargs = parse(example, "example", list(words))
    assert args == ()
    return kwargs


def test_defaults_and_types() -> None:
    assert values("--name", "a") == {"name": "a", "count": 3, "ratio": 0.5, "loud": False, "when": None}
    assert values("--name", "a", "--count", "-4", "--ratio", "2", "--loud", "--when", "2026-01-02") == {
        "name": "a",
        "count": -4,
        "ratio": 2.0,
        "loud": True,
        "when": datetime.datetime(2026, 1, 2),
    }
    assert values("--name", "a", "--loud", "--no-loud")["loud"] is False


@pytest.mark.parametrize(
    "words", [(), ("--name", "a", "--count", "x"), ("--name", "a", "--other", "1"), ("--name", "a", "stray")]
)
def test_wrong_words_are_usage_errors(words: tuple[str, ...]) -> None:
    with pytest.raises(click.UsageError):
        values(*words)


def test_underscores_become_dashes() -> None:
    def function(first_name: str) -> None: ...

    assert parse(function, "f", ["--first-name", "x"]) == ((), {"first_name": "x"})


def test_types_of_defaults_serve_where_there_is_no_annotation() -> None:
    def function(count=1, loud=False): ...  # type: ignore[no-untyped-def]

    assert parse(function, "f", ["--count", "2", "--loud"]) == ((), {"count": 2, "loud": True})


def test_star_arguments_take_the_rest() -> None:
    def function(count: int = 1, *files: str, loud: bool = False) -> None: ...

    assert parse(function, "f", ["--loud", "a", "b"]) == ((1, "a", "b"), {"loud": True})


def test_what_no_command_line_carries_is_refused() -> None:
    def listed(items: list[int]) -> None: ...

    def keywords(**rest: int) -> None: ...

    with pytest.raises(InvalidError, match="items"):
        parse(listed, "f", [])
    with pytest.raises(InvalidError, match="rest"):
        parse(keywords, "f", [])
