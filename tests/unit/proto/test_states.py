"""Transition tables: complete, with ends nobody leaves and nothing out of reach."""

from __future__ import annotations

from typing import Any

import pytest

from hotbed_proto import frames
from hotbed_proto.states import (
    CONTAINER_MOVES,
    INPUT_MOVES,
    NODE_MOVES,
    ContainerState,
    InputState,
    NodeState,
    move,
)

TABLES = [
    (CONTAINER_MOVES, ContainerState, ContainerState.STARTING, {ContainerState.GONE}),
    (NODE_MOVES, NodeState, NodeState.JOINED, {NodeState.LOST}),
    (INPUT_MOVES, InputState, InputState.QUEUED, {InputState.DONE}),
]


@pytest.mark.parametrize(("table", "states", "first", "final"), TABLES)
def test_tables_are_complete_and_connected(table: dict[Any, frozenset[Any]], states: Any, first: Any, final: set[Any]) -> None:
    assert set(table) == set(states)
    assert {state for state, after in table.items() if not after} == final
    reached, todo = {first}, [first]
    while todo:
        for state in table[todo.pop()] - reached:
            reached.add(state)
            todo.append(state)
    assert reached == set(states)
    for state in states:
        for other in states:
            if other in table[state]:
                assert move(table, state, other) is other
            else:
                with pytest.raises(AssertionError, match="no move"):
                    move(table, state, other)


def test_status_bytes_leave_room_for_the_flag() -> None:
    statuses = {frames.OK, frames.USER_EXCEPTION, frames.SYSTEM_ERROR, frames.GENERATOR_ITEM, frames.GENERATOR_END}
    assert len(statuses) == 5
    assert all(status & frames.STATUS_MASK == status and (status | frames.PAYLOAD_IS_REF) < 256 for status in statuses)
    assert statuses - frames.FINAL_STATUSES == {frames.GENERATOR_ITEM}
