"""What `@app.function(...)` may say, checked at once so that a mistake shows where it was made."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from hotbed.image import Image
from hotbed.retries import Retries
from hotbed_proto.errors import InvalidError
from hotbed_proto.resources import GpuRequest

if TYPE_CHECKING:
    from hotbed_proto.v1.common_pb2 import FunctionSpec

Amount = float | tuple[float, float] | None

DEFAULT_MILLI_CPU: Final = 125
DEFAULT_MEMORY_MIB: Final = 128
_ISOLATIONS: Final = ("", "container", "gvisor", "docker", "process")
_DAY_S: Final = 24 * 3600


@dataclass(frozen=True, slots=True)
class FunctionOptions:
    """Checked options of one function, in the units of the wire."""

    name: str
    image: Image = field(default_factory=Image.host)
    milli_cpu: int = DEFAULT_MILLI_CPU
    milli_cpu_limit: int = 0
    memory_mib: int = DEFAULT_MEMORY_MIB
    memory_limit_mib: int = 0
    disk_mib: int = 0
    gpus: tuple[GpuRequest, ...] = ()
    timeout_s: float = 300.0
    startup_timeout_s: float = 0.0
    retries: Retries = field(default_factory=lambda: Retries(0))
    min_containers: int = 0
    max_containers: int = 0
    buffer_containers: int = 0
    scaledown_window_s: float = 60.0
    isolation: str = ""
    env: tuple[tuple[str, str], ...] = ()
    regions: tuple[str, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    serialized: bool = False
    include_source: bool = True
    is_generator: bool = False
    is_async: bool = False
    single_use_containers: bool = False
    fail_if_unplaceable: bool = False

    def fill(self, spec: FunctionSpec) -> None:
        """Write them into the message that registers the function; code and ids are the caller's."""
        spec.name = self.name
        spec.is_generator, spec.is_async = self.is_generator, self.is_async
        resources = spec.resources
        resources.milli_cpu, resources.milli_cpu_limit = self.milli_cpu, self.milli_cpu_limit
        resources.memory_bytes, resources.memory_limit_bytes = self.memory_mib << 20, self.memory_limit_mib << 20
        resources.disk_bytes = self.disk_mib << 20
        for gpu in self.gpus:
            resources.gpus.add(model=gpu.model, count=gpu.count, milli_share=gpu.milli_share, memory_bytes=gpu.memory_bytes)
        retries = spec.retries
        retries.max_retries, retries.backoff_coefficient = self.retries.max_retries, self.retries.backoff_coefficient
        retries.initial_delay_s, retries.max_delay_s = self.retries.initial_delay, self.retries.max_delay
        scaling = spec.scaling
        scaling.min_containers, scaling.max_containers = self.min_containers, self.max_containers
        scaling.buffer_containers, scaling.scaledown_window_s = self.buffer_containers, self.scaledown_window_s
        scaling.max_concurrent_inputs = 1
        spec.timeout_s = self.timeout_s
        spec.startup_timeout_s = self.startup_timeout_s or self.timeout_s
        spec.isolation = self.isolation
        spec.image.kind, spec.image.workdir = self.image.kind, self.image.working_folder
        spec.image.env.update(dict(self.image.variables))
        spec.env.update(dict(self.env))
        spec.labels.update(dict(self.labels))
        spec.regions.extend(self.regions)
        spec.python_version = f"{sys.version_info.major}.{sys.version_info.minor}"
        spec.fail_if_unplaceable = self.fail_if_unplaceable
        spec.single_use_containers = self.single_use_containers


def number(name: str, value: Any, low: float, high: float) -> float:
    """A finite number in the range.

    Raises:
        InvalidError: It names the parameter and the value.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or not low <= value <= high:
        raise InvalidError(f"{name}={value!r} is not a number between {low:g} and {high:g}")
    return float(value)


def whole(name: str, value: Any, low: int, high: int) -> int:
    """A whole number in the range."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InvalidError(f"{name}={value!r} is not a whole number between {low} and {high}")
    return value


def amount(name: str, value: Amount, default: float, low: float, high: float) -> tuple[float, float]:
    """(request, limit) of `value` or `(request, limit)`; limit 0 = the same as the request."""
    if value is None:
        return default, 0.0
    if isinstance(value, (tuple, list)):
        if len(value) != 2:
            raise InvalidError(f"{name}={value!r}: a pair (request, limit) has two numbers")
        request, limit = number(f"{name} request", value[0], low, high), number(f"{name} limit", value[1], low, high)
        if limit < request:
            raise InvalidError(f"{name}={value!r}: the limit ({limit:g}) cannot be below the request ({request:g})")
        return request, limit
    return number(name, value, low, high), 0.0


def text_list(name: str, value: str | Sequence[str] | None) -> tuple[str, ...]:
    """None, one text or several."""
    if value is None:
        return ()
    values = (value,) if isinstance(value, str) else tuple(value)
    for entry in values:
        if not isinstance(entry, str) or not entry:
            raise InvalidError(f"{name}={value!r}: {entry!r} is not a name")
    return values


def text_map(name: str, value: Mapping[str, str] | None) -> tuple[tuple[str, str], ...]:
    """None or a mapping of texts."""
    for key, entry in (value or {}).items():
        if not isinstance(key, str) or not key or not isinstance(entry, str):
            raise InvalidError(f"{name}: {key!r}: {entry!r} is not a pair of texts")
    return tuple(sorted((value or {}).items()))


def isolation_name(value: str | None) -> str:
    """One of the isolations, "" = the node's default."""
    if (value or "") not in _ISOLATIONS:
        raise InvalidError(f"isolation={value!r} is not one of {', '.join(repr(i) for i in _ISOLATIONS[1:])}")
    return value or ""


def timeout(name: str, value: Any) -> float:
    """Seconds from one to a day."""
    return number(name, value, 1, _DAY_S)


def nothing_yet(name: str, value: Any) -> None:
    """Refuse what this version cannot do, rather than ignore it."""
    if value:
        raise InvalidError(f"{name}={value!r}: {name} are not supported by this version of hotbed", fix=f"leave {name}= out")
