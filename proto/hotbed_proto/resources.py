"""What containers ask for and nodes have: exact integer arithmetic, no floats, no I/O.

Units: CPU in thousandths of a core, memory and disk in bytes, a GPU share in thousandths of a device.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

GPU_WHOLE = 1000
GPU_COUNT_MAX = 8


@dataclass(frozen=True, slots=True)
class GpuRequest:
    """`count` whole devices of `model`, or (`milli_share` < 1000) a share of one.

    Attributes:
        model: Normalised model name as in `normalise_gpu_model`, or "any".
        memory_bytes: Least memory of the device; 0 = no demand.
    """

    model: str = "any"
    count: int = 1
    milli_share: int = GPU_WHOLE
    memory_bytes: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.count <= GPU_COUNT_MAX:
            raise ValueError(f"gpu count {self.count} is not between 1 and {GPU_COUNT_MAX}")
        if not 1 <= self.milli_share <= GPU_WHOLE:
            raise ValueError(f"gpu share {self.milli_share / GPU_WHOLE} is not between 0.001 and 1")
        if self.milli_share < GPU_WHOLE and self.count != 1:
            raise ValueError("a gpu share goes with a count of 1")

    def __str__(self) -> str:
        text = self.model if self.count == 1 else f"{self.model}:{self.count}"
        if self.milli_share < GPU_WHOLE:
            text += f" (share {self.milli_share / GPU_WHOLE:g})"
        if self.memory_bytes:
            text += f" with {self.memory_bytes / 2**30:g} GiB"
        return text


@dataclass(frozen=True, slots=True)
class GpuDevice:
    """One device of a node's inventory."""

    index: int
    uuid: str
    model: str
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Resources:
    """What one container reserves (requests), plus hard limits that do not count for placement (0 = equal the request)."""

    milli_cpu: int = 125
    memory_bytes: int = 128 * 2**20
    disk_bytes: int = 0
    gpus: tuple[GpuRequest, ...] = ()
    milli_cpu_limit: int = 0
    memory_limit_bytes: int = 0


@dataclass(frozen=True, slots=True)
class NodeInventory:
    """What one node has in all, reserved or not."""

    milli_cpu: int
    memory_bytes: int
    disk_bytes: int = 0
    gpus: tuple[GpuDevice, ...] = ()
    labels: dict[str, str] = field(default_factory=dict)


_MEMORY_SUFFIX = re.compile(r"[ -]?(\d+) ?(?:GB|GIB)$")
_VENDOR_WORDS = ("NVIDIA", "TESLA", "QUADRO", "GEFORCE", "GRAPHICS DEVICE")


def normalise_gpu_model(name: str) -> str:
    """One spelling per model: NVML's "NVIDIA A100-SXM4-80GB" and a user's "a100-80gb" both give "A100-80GB".

    Form factor words (SXM4, PCIe, HBM3) are dropped: users ask for a chip, not a socket.
    """
    text = name.strip().upper().replace("_", "-")
    for word in _VENDOR_WORDS:
        text = text.replace(word, " ")
    memory = _MEMORY_SUFFIX.search(text.strip())
    text = _MEMORY_SUFFIX.sub("", text.strip())
    words = [w for w in re.split(r"[\s-]+", text) if w and not re.fullmatch(r"SXM\d*|PCIE|HBM\d*E?|NVL|SMX\d*|MIG.*", w)]
    model = "-".join(words) or "UNKNOWN"
    return f"{model}-{memory.group(1)}GB" if memory else model


def gpu_model_matches(wanted: str, device_model: str) -> bool:
    """Whether a device of `device_model` satisfies a request for `wanted`; "A100" takes "A100-80GB", not the reverse."""
    if wanted.lower() == "any":
        return True
    wanted, device_model = normalise_gpu_model(wanted), normalise_gpu_model(device_model)
    return device_model == wanted or device_model.startswith(f"{wanted}-")


def parse_gpu(text: str | GpuRequest) -> GpuRequest:
    """Read Modal's spelling: "A100", "A100-80GB", "H100:4", "H100!", "any", and hotbed's share "A100:0.5".

    Raises:
        ValueError: What is wrong, quoting the text.
    """
    if isinstance(text, GpuRequest):
        return text
    model, _, amount = text.strip().partition(":")
    model = model.rstrip("!")
    if not model or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9 _.-]*", model):
        raise ValueError(f"gpu={text!r}: expected a model such as 'A100', 'H100:4', 'A100:0.5' or 'any'")
    model = "any" if model.lower() == "any" else normalise_gpu_model(model)
    if not amount:
        return GpuRequest(model)
    try:
        number = float(amount)
    except ValueError:
        raise ValueError(f"gpu={text!r}: {amount!r} after the colon is not a number of devices") from None
    try:
        if 0 < number < 1:
            return GpuRequest(model, 1, max(1, round(number * GPU_WHOLE)))
        if number != int(number):
            raise ValueError("more than one device comes in whole devices only")
        return GpuRequest(model, int(number))
    except (ValueError, OverflowError) as error:
        raise ValueError(f"gpu={text!r}: {error}") from None
