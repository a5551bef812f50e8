"""The error tree: every class survives pickling, names its gRPC status, and can be made from its code."""

from __future__ import annotations

import builtins
import copy
import pickle

import grpc
import pytest

from hotbed_proto import errors


def every_class(root: type[errors.Error] = errors.Error) -> list[type[errors.Error]]:
    return [
        root,
        *(leaf for child in root.__subclasses__() if child.__module__ == errors.__name__ for leaf in every_class(child)),
    ]


CLASSES = every_class()


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_pickle_round_trip(cls: type[errors.Error]) -> None:
    error = cls("what", why="why", fix="fix", call="fc-1", node="no-1")
    error.add_note("a note")
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        back = pickle.loads(pickle.dumps(error, protocol))
        assert type(back) is cls
        assert (back.what, back.why, back.fix, back.ids) == ("what", "why", "fix", {"call": "fc-1", "node": "no-1"})
        assert str(back) == str(error)
        assert back.__notes__ == ["a note"]
    assert str(copy.copy(error)) == str(error)


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_code_makes_the_class_again(cls: type[errors.Error]) -> None:
    made = errors.make_error(cls.code, "what", why="why", fix="fix", ids={"call": "fc-1"})
    assert type(made) is cls
    assert made.ids == {"call": "fc-1"}
    assert errors.grpc_status_name(cls) == errors.grpc_status_name(made)
    assert hasattr(grpc.StatusCode, errors.grpc_status_name(cls))


def test_codes_and_exports_are_complete_and_distinct() -> None:
    assert len({cls.code for cls in CLASSES}) == len(CLASSES)
    assert {cls.__name__ for cls in CLASSES} <= set(errors.__all__)
    assert all(cls.__doc__ for cls in CLASSES)


def test_subclasses_inherit_their_status() -> None:
    assert errors.grpc_status_name(errors.FunctionTimeoutError) == "DEADLINE_EXCEEDED"
    assert errors.grpc_status_name(errors.SerializationError) == "INVALID_ARGUMENT"
    assert errors.grpc_status_name(errors.RemoteError) == "UNKNOWN"


def test_timeouts_are_builtin_timeouts() -> None:
    for cls in (errors.TimeoutError, errors.OutputExpiredError, errors.StartupTimeoutError):
        assert issubclass(cls, builtins.TimeoutError)


def test_unknown_code_keeps_its_text() -> None:
    made = errors.make_error("from-the-future", "something")
    assert type(made) is errors.Error
    assert "from-the-future" in str(made)


def test_text_shows_what_is_known() -> None:
    assert str(errors.Error("only what")) == "only what"
    assert str(errors.Error("w", why="y", fix="f", call="c")) == "w\n  why: y\n  fix: f\n  call: c"
