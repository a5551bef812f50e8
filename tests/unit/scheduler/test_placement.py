"""Where containers go, and what is said when they cannot. Compared with a brute-force search over random clusters."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hotbed_proto.resources import GPU_WHOLE, GpuDevice, GpuRequest, NodeInventory, Resources, gpu_model_matches
from hotbed_proto.states import NodeState
from hotbed_scheduler.actions import Fail, ReportPlacement, StartContainer
from hotbed_scheduler.events import FunctionDef
from hotbed_scheduler.feasibility import rejections
from hotbed_scheduler.placement import Placement, place
from hotbed_scheduler.state import Node, Reservation
from support.scheduling import GIB, CoreBench, gpus


def make_node(order: int, inventory: NodeInventory, isolations: tuple[str, ...] = ("container",)) -> Node:
    return Node(f"no-{order}", 1, f"n{order}", inventory, isolations, order)


def wanting(**resources: object) -> FunctionDef:
    return FunctionDef("fu-1", "ap-1", "f", Resources(**resources))  # type: ignore[arg-type]


# --- brute force ------------------------------------------------------------------------------------------------------
MODELS = ("A100-80GB", "A100-40GB", "T4")


@st.composite
def clusters(draw: st.DrawFn) -> tuple[list[Node], FunctionDef]:
    nodes = []
    for order in range(draw(st.integers(0, 4))):
        devices = tuple(
            GpuDevice(i, f"g{i}", model, draw(st.sampled_from([16, 40, 80])) * GIB)
            for i, model in enumerate(draw(st.lists(st.sampled_from(MODELS), max_size=3)))
        )
        inventory = NodeInventory(
            draw(st.integers(0, 4)) * 500, draw(st.integers(1, 4)) * GIB, draw(st.integers(0, 2)) * GIB, devices
        )
        node = make_node(order, inventory, draw(st.sampled_from([("container",), ("gvisor",), ("container", "gvisor")])))
        node.inventory.labels["region"] = draw(st.sampled_from(["eu", "us"]))
        used = Reservation(draw(st.integers(0, inventory.milli_cpu)), draw(st.integers(0, inventory.memory_bytes)))
        node.reserve(used)
        for device in devices:
            node.reserve(Reservation(0, 0, 0, (device.index,), draw(st.sampled_from([0, 0, 300, 500, 1000]))))
        node.state = draw(st.sampled_from([NodeState.JOINED, NodeState.JOINED, NodeState.DRAINING]))
        nodes.append(node)
    requests = draw(
        st.lists(
            st.one_of(
                st.builds(
                    GpuRequest,
                    st.sampled_from(["any", "A100", *MODELS]),
                    st.integers(1, 3),
                    st.just(GPU_WHOLE),
                    st.sampled_from([0, 30 * GIB]),
                ),
                st.builds(GpuRequest, st.sampled_from(["any", "A100"]), st.just(1), st.sampled_from([250, 500, 700])),
            ),
            max_size=2,
        )
    )
    function = FunctionDef(
        "fu-1",
        "ap-1",
        "f",
        Resources(draw(st.integers(0, 3)) * 500, draw(st.integers(0, 3)) * GIB, draw(st.integers(0, 1)) * GIB, tuple(requests)),
        regions=draw(st.sampled_from([(), ("eu",), ("eu", "us")])),
    )
    return nodes, function


def possible(node: Node, function: FunctionDef, request: GpuRequest | None, *, empty: bool) -> list[tuple[int, ...]]:
    """All device sets with which the container fits: the definition, without any cleverness."""
    total, need = node.inventory, function.resources
    free = (
        (total.milli_cpu, total.memory_bytes, total.disk_bytes) if empty else (node.free_cpu, node.free_memory, node.free_disk)
    )
    if function.isolation not in node.isolations or (function.regions and total.labels["region"] not in function.regions):
        return []
    if not empty and node.state is not NodeState.JOINED:
        return []
    if free[0] < need.milli_cpu or free[1] < need.memory_bytes or free[2] < need.disk_bytes:
        return []
    if request is None:
        return [()]
    good = [
        gpu.index
        for gpu in total.gpus
        if gpu_model_matches(request.model, gpu.model)
        and gpu.memory_bytes >= request.memory_bytes
        and (GPU_WHOLE if empty else node.free_gpu[gpu.index]) >= request.milli_share
    ]
    return list(combinations(good, request.count))


@given(clusters())
@settings(max_examples=400, deadline=None)
def test_placement_finds_a_place_exactly_when_there_is_one(case: tuple[list[Node], FunctionDef]) -> None:
    nodes, function = case
    requests: tuple[GpuRequest | None, ...] = function.resources.gpus or (None,)
    options = [
        (position, node, devices)
        for position, request in enumerate(requests)
        for node in nodes
        for devices in possible(node, function, request, empty=False)
    ]
    found = place(nodes, function)
    if found is None:
        assert options == []
        refused = rejections(nodes, function)
        assert refused.nodes == len(nodes) == sum(refused.counts.values())
        could = any(possible(node, function, request, empty=True) for node in nodes for request in requests)
        assert refused.never == (bool(nodes) and not could)
        return
    first = min(position for position, _, _ in options)
    assert any(position == first and node is found.node and devices == found.gpu_indices for position, node, devices in options)
    found.node.reserve(Reservation.of(function.resources, found.gpu_indices, found.gpu_milli_share))
    assert place([], function) is None


# --- preferences ------------------------------------------------------------------------------------------------------
def test_packs_when_load_is_low_and_spreads_when_it_is_high() -> None:
    nodes = [make_node(n, NodeInventory(4000, 8 * GIB)) for n in range(2)]
    nodes[1].reserve(Reservation(1000, GIB))
    function = wanting(milli_cpu=250, memory_bytes=GIB // 4)
    assert place(nodes, function) == Placement(nodes[1])
    nodes[0].reserve(Reservation(3300, GIB))
    nodes[1].reserve(Reservation(2500, GIB))
    assert place(nodes, function) == Placement(nodes[0])


def test_ties_go_to_the_node_that_joined_first() -> None:
    nodes = [make_node(n, NodeInventory(4000, 8 * GIB)) for n in range(3)]
    assert place(reversed(nodes), wanting()) == Placement(nodes[0])


def test_cpu_functions_keep_off_gpu_nodes_while_others_have_room() -> None:
    nodes = [make_node(0, NodeInventory(2000, 4 * GIB, 0, gpus("T4", 1))), make_node(1, NodeInventory(64000, 256 * GIB))]
    found = place(nodes, wanting())
    assert found is not None
    assert found.node is nodes[1]
    nodes[1].reserve(Reservation(64000, 0))
    assert place(nodes, wanting()) == Placement(nodes[0])


def test_shares_fill_up_one_device_before_the_next() -> None:
    node = make_node(0, NodeInventory(64000, 256 * GIB, 0, gpus("A100-80GB", 2)))
    function = wanting(gpus=(GpuRequest("A100", 1, 400),))
    used = []
    while (found := place([node], function)) is not None:
        node.reserve(Reservation.of(function.resources, found.gpu_indices, found.gpu_milli_share))
        used.append(found.gpu_indices)
    assert used == [(0,), (0,), (1,), (1,)]


def test_gpu_alternatives_are_taken_in_order() -> None:
    nodes = [
        make_node(0, NodeInventory(8000, 8 * GIB, 0, gpus("T4", 1, 16 * GIB))),
        make_node(1, NodeInventory(8000, 8 * GIB, 0, gpus("H100", 1))),
    ]
    function = wanting(gpus=(GpuRequest("H100"), GpuRequest("T4")))
    first = place(nodes, function)
    assert first is not None
    assert first.node is nodes[1]
    nodes[1].reserve(Reservation.of(function.resources, (0,), GPU_WHOLE))
    second = place(nodes, function)
    assert second is not None
    assert second.node is nodes[0]


def test_nodes_where_a_start_failed_come_last() -> None:
    nodes = [make_node(n, NodeInventory(4000, 8 * GIB)) for n in range(2)]
    assert place(nodes, wanting(), avoid={"no-0"}) == Placement(nodes[1])
    assert place(nodes[:1], wanting(), avoid={"no-0"}) == Placement(nodes[0])


# --- reasons ----------------------------------------------------------------------------------------------------------
def test_reasons_are_counted() -> None:
    nodes = [make_node(n, NodeInventory(8000, 8 * GIB, 0, gpus("A100-40GB", 1, 40 * GIB))) for n in range(3)]
    nodes += [make_node(n, NodeInventory(8000, 8 * GIB, 0, gpus("A100-80GB", 1))) for n in (3, 4)]
    for node in nodes[3:]:
        node.state = NodeState.DRAINING
    refused = rejections(nodes, wanting(gpus=(GpuRequest("A100", memory_bytes=64 * GIB),)))
    assert str(refused) == "of 5 nodes: 3 lacking 64 GiB GPU memory, 2 draining"
    assert not refused.never


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (wanting(gpus=(GpuRequest("H100"),)), "without a GPU"),
        (wanting(milli_cpu=99_000), "lacking 99 CPU cores"),
        (wanting(memory_bytes=99 * GIB), "lacking 99 GiB memory"),
        (wanting(disk_bytes=5 * GIB), "lacking 5 GiB disk"),
        (FunctionDef("fu-1", "ap-1", "f", isolation="gvisor"), "without isolation 'gvisor'"),
        (FunctionDef("fu-1", "ap-1", "f", regions=("eu",)), "not in region eu"),
    ],
)
def test_never_placeable(function: FunctionDef, reason: str) -> None:
    refused = rejections([make_node(0, NodeInventory(4000, 8 * GIB))], function)
    assert refused.never
    assert reason in str(refused)


def test_an_unplaceable_call_waits_and_says_why_until_a_node_joins() -> None:
    bench = CoreBench()
    bench.node()
    bench.function(resources=Resources(gpus=(GpuRequest("A100"),)))
    bench.submit()
    report = bench.one(ReportPlacement)
    assert report.reason == "of 1 node: 1 without a GPU"
    assert bench.of(Fail) == []
    bench.node("no-2", gpus=gpus("A100-80GB", 1))
    assert bench.one(ReportPlacement).reason == ""
    start = bench.one(StartContainer)
    assert (start.node_id, start.gpu_indices, start.gpu_milli_share) == ("no-2", (0,), 1000)


def test_an_unplaceable_call_fails_if_the_user_asked_for_that() -> None:
    bench = CoreBench()
    bench.node()
    bench.function(resources=Resources(gpus=(GpuRequest("A100"),)), fail_if_unplaceable=True)
    bench.submit(count=2)
    failure = bench.one(Fail)
    assert (failure.code, failure.why, list(failure.indices)) == ("call-unplaceable", "of 1 node: 1 without a GPU", [0, 1])
    assert failure.fix


def test_busy_is_not_unplaceable() -> None:
    bench = CoreBench()
    bench.node(milli_cpu=1000)
    bench.function("fu-0", resources=Resources(1000), min_containers=1)
    bench.start()
    bench.function(resources=Resources(1000), fail_if_unplaceable=True)
    bench.submit()
    assert bench.of(Fail) == []
    assert "lacking 1 CPU cores free" in bench.one(ReportPlacement).reason
