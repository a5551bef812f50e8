"""Between messages and the core's records, and what a function spec may say."""

from __future__ import annotations

import hashlib
import re

from hotbed_proto.errors import Error, InvalidError, RequestSizeError
from hotbed_proto.resources import GPU_WHOLE, GpuDevice, GpuRequest, NodeInventory, Resources
from hotbed_proto.v1 import common_pb2, node_pb2

from ..events import FunctionDef, Retry

PICKLED_BYTES_MAX = 16 * 2**20
TIMEOUT_MIN_S, TIMEOUT_MAX_S = 1.0, 86400.0
_NAME = re.compile(r"[A-Za-z0-9_.<>\-\[\]]{1,200}")
_ISOLATIONS = ("", "container", "gvisor", "docker", "process")


def error_info(error: Error) -> common_pb2.ErrorInfo:
    """An error as it travels."""
    return common_pb2.ErrorInfo(code=error.code, message=error.what, why=error.why, fix=error.fix, ids=error.ids)


def check_spec(spec: common_pb2.FunctionSpec) -> None:
    """Refuse what cannot run.

    Raises:
        InvalidError: Names the field, its value and the allowed range.
    """
    if not _NAME.fullmatch(spec.name):
        raise InvalidError(f"function name {spec.name[:80]!r}", fix="use 1-200 letters, digits and _ . - < > [ ]")
    if len(spec.pickled) > PICKLED_BYTES_MAX:
        raise RequestSizeError(
            f"function {spec.name} pickles to {len(spec.pickled)} bytes, over the limit of {PICKLED_BYTES_MAX}",
            fix="load large data inside the function instead of capturing it",
        )
    if bool(spec.pickled) == bool(spec.module and spec.qualname):
        raise InvalidError(f"function {spec.name} needs either pickled code or module and qualname")
    wanted, scaling, retries = spec.resources, spec.scaling, spec.retries
    _within("cpu (milli)", wanted.milli_cpu, 1, 1_024_000)
    _within("memory (bytes)", wanted.memory_bytes, 2**20, 2**50)
    _within("timeout (s)", spec.timeout_s, TIMEOUT_MIN_S, TIMEOUT_MAX_S)
    _within("startup_timeout (s)", spec.startup_timeout_s, TIMEOUT_MIN_S, TIMEOUT_MAX_S)
    _within("max_concurrent_inputs", scaling.max_concurrent_inputs or 1, 1, 10_000)
    _within("scaledown_window (s)", scaling.scaledown_window_s, 0, TIMEOUT_MAX_S)
    _within("retries", retries.max_retries, 0, 100)
    _within("retry backoff_coefficient", retries.backoff_coefficient or 1.0, 1.0, 10.0)
    _within("retry initial_delay (s)", retries.initial_delay_s, 0, 3600)
    _within("retry max_delay (s)", retries.max_delay_s, 0, 3600)
    if wanted.milli_cpu_limit and wanted.milli_cpu_limit < wanted.milli_cpu:
        raise InvalidError("the cpu limit is below the request")
    if wanted.memory_limit_bytes and wanted.memory_limit_bytes < wanted.memory_bytes:
        raise InvalidError("the memory limit is below the request")
    if scaling.max_containers and scaling.min_containers > scaling.max_containers:
        raise InvalidError(f"min_containers={scaling.min_containers} is over max_containers={scaling.max_containers}")
    if spec.isolation not in _ISOLATIONS:
        raise InvalidError(f"isolation={spec.isolation[:40]!r}", fix=f"one of {', '.join(_ISOLATIONS[1:])}")
    _gpus(spec)


def _within(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:  # also refuses NaN
        raise InvalidError(f"{name} is {value:g}", fix=f"choose a value between {low:g} and {high:g}")


def _gpus(spec: common_pb2.FunctionSpec) -> tuple[GpuRequest, ...]:
    try:
        return tuple(
            GpuRequest(g.model or "any", g.count or 1, g.milli_share or GPU_WHOLE, g.memory_bytes) for g in spec.resources.gpus
        )
    except ValueError as error:
        raise InvalidError(str(error)) from None


def function_def(function_id: str, spec: common_pb2.FunctionSpec, durable_app: bool) -> FunctionDef:
    """What the core needs of a (checked) spec."""
    wanted, scaling, retries = spec.resources, spec.scaling, spec.retries
    isolation = spec.isolation or "container"
    resources = Resources(
        wanted.milli_cpu,
        wanted.memory_bytes,
        wanted.disk_bytes,
        _gpus(spec),
        wanted.milli_cpu_limit,
        wanted.memory_limit_bytes,
    )
    image = hashlib.sha256(spec.image.SerializeToString(deterministic=True)).hexdigest()[:16]
    cpu, memory = (
        f"{resources.milli_cpu}/{resources.milli_cpu_limit}",
        f"{resources.memory_bytes}/{resources.memory_limit_bytes}",
    )
    size = f"{cpu}/{memory}/{resources.disk_bytes}"
    # Source mounts and GPUs are fixed when a container is created, so such functions never come from the pool.
    pooled = not spec.sources and not spec.resources.gpus
    return FunctionDef(
        function_id=function_id,
        app_id=spec.app_id,
        name=spec.name,
        resources=resources,
        retry=Retry(
            retries.max_retries, retries.initial_delay_s, retries.backoff_coefficient or 2.0, retries.max_delay_s or 60.0
        ),
        isolation=isolation,
        pool_key=f"{image}|{isolation}|{spec.python_version}|{size}" if pooled else "",
        min_containers=scaling.min_containers,
        max_containers=scaling.max_containers,
        buffer_containers=scaling.buffer_containers,
        scaledown_window_s=scaling.scaledown_window_s if spec.HasField("scaling") else 60.0,
        max_concurrent_inputs=scaling.max_concurrent_inputs or 1,
        single_use=spec.single_use_containers,
        timeout_s=spec.timeout_s,
        startup_timeout_s=spec.startup_timeout_s,
        regions=tuple(spec.regions),
        fail_if_unplaceable=spec.fail_if_unplaceable,
        durable_app=durable_app,
    )


def inventory(message: node_pb2.NodeInventory) -> NodeInventory:
    """A node's inventory as the core has it."""
    gpus = tuple(GpuDevice(g.index, g.uuid, g.model, g.memory_bytes) for g in message.gpus)
    return NodeInventory(message.milli_cpu, message.memory_bytes, message.disk_bytes, gpus, dict(message.labels))
