"""Ids: minted ones are well-formed and distinct, foreign ones are refused."""

from __future__ import annotations

import pytest

from hotbed_proto import ids


def test_minted_ids_are_well_formed_and_distinct() -> None:
    for kind in ids.KINDS:
        minted = {ids.mint(kind) for _ in range(100)}
        assert len(minted) == 100
        assert all(ids.is_id(text, kind) and len(text) == 25 for text in minted)


@pytest.mark.parametrize(
    "text", ["", "fc", "fc-", "fc-short", "xx-0123456789", "fc-01234567-", "fc-0123456_", "fc-" + "0" * 41, "fc-01234567\n"]
)
def test_malformed_ids_are_refused(text: str) -> None:
    assert not ids.is_id(text, "fc")


def test_an_id_of_another_kind_is_refused() -> None:
    assert not ids.is_id(ids.mint("fu"), "fc")


def test_call_ids_round_trip() -> None:
    lane_id = ids.mint("fc")
    assert ids.parse_call_id(lane_id) == ids.CallRef(lane_id, None)
    assert ids.parse_call_id(f"{lane_id}-17") == ids.CallRef(lane_id, 17)
    for ref in (ids.CallRef(lane_id, None), ids.CallRef(lane_id, 0)):
        assert ids.parse_call_id(str(ref)) == ref
    assert ids.input_id(lane_id, 3) == f"in-{lane_id[3:]}-3"


@pytest.mark.parametrize(
    "text", ["", "fc-01234567-x", "fc-01234567-1-2", "co-01234567", "fc-01234567--1", "fc-01234567-" + "x" * 500]
)
def test_call_ids_that_are_none_are_quoted_shortened(text: str) -> None:
    with pytest.raises(ValueError, match="not a function call id") as caught:
        ids.parse_call_id(text)
    assert len(str(caught.value)) < 200
