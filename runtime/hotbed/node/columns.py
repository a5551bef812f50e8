"""Translate between the control plane's columns and the worker's, and keep account of what is outstanding."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Final

from hotbed_proto import frames
from hotbed_proto.v1 import node_pb2, worker_pb2

_ITEM: Final = frames.GENERATOR_ITEM


class Violation(Exception):
    """A worker sent what it may not; the text says what."""


@dataclass(slots=True)
class Run:
    """The inputs of one dispatch: one (lane, epoch), one short number on the worker's socket."""

    number: int
    lane_id: str
    epoch: int
    result_files: bool
    dispatched_s: float
    outstanding: set[int]
    input_files: dict[int, str] = field(default_factory=dict)
    """Names in the container's `in` folder, removed when the input is final."""


def split(data: bytes, sizes: list[int]) -> list[bytes]:
    """Cut joined payloads. Cost: 0.1 us each."""
    stops = list(accumulate(sizes))
    if (stops[-1] if stops else 0) != len(data):
        raise Violation("the sizes of the payloads do not add up to their bytes")
    return [data[stop - size : stop] for stop, size in zip(stops, sizes, strict=True)]


def worker_inputs(run: Run, indices: list[int], payloads: list[bytes], flags: bytes) -> worker_pb2.ToWorker:
    """The frame for the worker."""
    message = worker_pb2.ToWorker()
    inputs = message.inputs
    inputs.lane = run.number
    inputs.lane_id = run.lane_id
    inputs.indices.extend(indices)
    inputs.sizes.extend(map(len, payloads))
    inputs.data = b"".join(payloads)
    if any(flags):
        inputs.flags = flags
    return message


@dataclass(slots=True)
class Taken:
    """Valid outputs of a worker, as lists."""

    run: Run
    indices: list[int]
    payloads: list[bytes]
    statuses: bytes
    busy_s: float

    @property
    def has_refs(self) -> bool:
        """Whether a payload is a file."""
        return bool(self.statuses) and max(self.statuses) >= frames.PAYLOAD_IS_REF


def outstanding(runs: Mapping[int, Run], outputs: worker_pb2.WorkerOutputs) -> int:
    """How many inputs of the run these outputs belong to are out now; 0 for a run that is not known."""
    run = runs.get(outputs.lane)
    return 0 if run is None else len(run.outstanding)


def take_outputs(runs: dict[int, Run], outputs: worker_pb2.WorkerOutputs) -> Taken:
    """Check outputs against what is outstanding and strike the final ones off.

    Raises:
        Violation: Columns of unlike lengths, an unknown run, an index that is not outstanding, an unknown status.
    """
    run = runs.get(outputs.lane)
    if run is None:
        raise Violation(f"outputs for lane number {outputs.lane}, which has nothing outstanding")
    indices = list(outputs.indices)
    statuses = outputs.statuses
    if len(outputs.sizes) != len(indices) or (statuses and len(statuses) != len(indices)) or len(indices) > 65536:
        raise Violation("the columns of an output frame have different lengths")
    payloads = split(outputs.data, list(outputs.sizes))
    outstanding = run.outstanding
    if not any(statuses):
        before = len(outstanding)
        outstanding.difference_update(indices)
        if before - len(outstanding) != len(indices):
            raise Violation("an output for an input that is not outstanding")
    else:
        for index, status in zip(indices, statuses, strict=True):
            kind = status & frames.STATUS_MASK
            if index not in outstanding or (kind != _ITEM and kind not in frames.FINAL_STATUSES):
                raise Violation(f"an output of status {status} for input {index}, which cannot have it")
            if kind != _ITEM:
                outstanding.discard(index)
    busy_s = outputs.busy_s if 0.0 <= outputs.busy_s < 1e9 else 0.0
    return Taken(run, indices, payloads, statuses, busy_s)


def outputs_frame(container_id: str, taken: Taken) -> node_pb2.NodeFrame:
    """The frame for the control plane, built in place."""
    frame = node_pb2.NodeFrame()
    body = frame.outputs
    body.container_id = container_id
    body.epoch = taken.run.epoch
    body.busy_s = taken.busy_s
    columns = body.outputs
    columns.lane_id = taken.run.lane_id
    columns.indices.extend(taken.indices)
    columns.payloads.extend(taken.payloads)
    if any(taken.statuses):
        columns.statuses = taken.statuses
    return frame


def nested_up_frame(container_id: str, up: worker_pb2.NestedUp) -> node_pb2.NodeFrame:
    """A call made in a container, as a client's frame. Raises Violation."""
    frame = node_pb2.NodeFrame()
    frame.nested.container_id = container_id
    client = frame.nested.frame
    if up.kind == 1:
        payloads = split(up.data, list(up.sizes))
        if len(up.flags) > len(payloads) or len(payloads) > 65536:
            raise Violation("the columns of a nested call have different lengths")
        submit = client.submit
        submit.lane_id, submit.function_id, submit.first_index = up.lane_id, up.function_id, up.first_index
        submit.payloads.extend(payloads)
        submit.flags = up.flags
        submit.durable, submit.closed, submit.subscribe = up.durable, up.closed, up.subscribe
        submit.parent_input_id = up.parent_input_id
    elif up.kind == 2:
        client.cancel.lane_id = up.lane_id
        client.cancel.indices.extend(up.indices)
        client.cancel.terminate_containers = up.terminate_containers
    elif up.kind == 3:
        client.subscribe.lane_id = up.lane_id
        client.subscribe.indices.extend(up.indices)
    else:
        raise Violation(f"a nested frame of unknown kind {up.kind}")
    return frame


def nested_down(command: node_pb2.ContainerServerFrame) -> worker_pb2.ToWorker | None:
    """The answer for the worker; None for frames that only outer clients know."""
    message = worker_pb2.ToWorker()
    down = message.nested
    kind = command.frame.WhichOneof("body")
    if kind == "accepted":
        accepted = command.frame.accepted
        down.kind, down.lane_id = 1, accepted.lane_id
        down.first_index, down.count = accepted.first_index, accepted.count
    elif kind == "outputs":
        outputs = command.frame.outputs
        payloads = list(outputs.payloads)
        down.kind, down.lane_id, down.statuses = 2, outputs.lane_id, outputs.statuses
        down.indices.extend(outputs.indices)
        down.sizes.extend(map(len, payloads))
        down.data = b"".join(payloads)
    elif kind == "rejected":
        rejected = command.frame.rejected
        down.kind, down.lane_id = 3, rejected.lane_id
        down.indices.extend(rejected.indices)
        down.error_code, down.error_message = rejected.error.code, rejected.error.message
        down.error_why, down.error_fix = rejected.error.why, rejected.error.fix
    else:
        return None
    return message
