"""The hand-written codec against the real protobuf library, both ways."""

from __future__ import annotations

import contextlib
from array import array
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hotbed.worker import wire
from hotbed_proto.v1 import common_pb2, worker_pb2

U32 = st.integers(0, 2**32 - 1)
BY_KIND = {
    wire.U32: U32,
    wire.BOOL: st.booleans(),
    wire.DOUBLE: st.floats(0, 1e12),
    wire.STRING: st.text(st.characters(exclude_categories=["Cs"]), max_size=200),
    wire.BYTES: st.binary(max_size=300),
    wire.STRINGS: st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=20), max_size=5),
    wire.FIXED32S: st.lists(U32, max_size=50),
}
BY_KIND[wire.STRING_MAP] = st.dictionaries(BY_KIND[wire.STRING], BY_KIND[wire.STRING], max_size=4)
CLASSES = [*wire.TO_WORKER.values(), *wire.FROM_WORKER.values(), wire.ErrorInfo, wire.PayloadRef]


def plain(value: Any) -> object:
    if isinstance(value, array):
        return list(value)
    if hasattr(value, "items"):
        return dict(value)
    return value if isinstance(value, (str, bytes, int, float)) else list(value)


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_same_bytes_mean_the_same_to_both(cls: type[wire.Message]) -> None:
    real = getattr(worker_pb2, cls.__name__, None) or getattr(common_pb2, cls.__name__)
    assert {(f.number, f.name) for f in real.DESCRIPTOR.fields} == {(number, name) for number, name, _ in cls.FIELDS}

    @settings(max_examples=40, deadline=None)
    @given(st.fixed_dictionaries({name: BY_KIND[kind] for _, name, kind in cls.FIELDS}))
    def check(values: dict[str, object]) -> None:
        theirs = real.FromString(wire.encode(cls(**values)))
        ours = wire.decode(cls, real(**values).SerializeToString())
        for name, value in values.items():
            assert plain(getattr(theirs, name)) == value
            assert plain(getattr(ours, name)) == value

    check()


def test_envelope_and_unknown_fields() -> None:
    frame = worker_pb2.ToWorker(cancel=worker_pb2.WorkerCancel(lane=300, indices=[1, 2])).SerializeToString()
    message = wire.decode_envelope(wire.TO_WORKER, frame + b"\xfa\x07\x01x")
    assert isinstance(message, wire.WorkerCancel) and message.lane == 300 and list(message.indices) == [1, 2]
    assert wire.decode_envelope(wire.TO_WORKER, b"\xfa\x07\x01x") is None


@given(st.binary(max_size=60))
def test_garbage_is_a_value_error_or_a_message(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        wire.decode_envelope(wire.TO_WORKER, data)
