"""GPU inventory through NVML, and what a container is told about its devices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hotbed_proto.resources import GpuDevice, normalise_gpu_model


def find_gpus(nvml: Any = None) -> list[GpuDevice]:
    """The devices of this machine; [] without a driver. Cost: up to a second on a machine with GPUs.

    Args:
        nvml: The `pynvml` module; a fake in tests. Imported here when None, since most nodes never need it.
    """
    if nvml is None:
        try:
            import pynvml as nvml
        except ImportError:
            return []
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return []  # no driver, or one that does not answer: a node without GPUs
    try:
        return [_read_device(nvml, index) for index in range(nvml.nvmlDeviceGetCount())]
    except nvml.NVMLError:
        return []
    finally:
        nvml.nvmlShutdown()


def _read_device(nvml: Any, index: int) -> GpuDevice:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    return GpuDevice(
        index=index,
        uuid=_text(nvml.nvmlDeviceGetUUID(handle)),
        model=normalise_gpu_model(_text(nvml.nvmlDeviceGetName(handle))),
        memory_bytes=int(nvml.nvmlDeviceGetMemoryInfo(handle).total),
    )


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value  # older releases of the binding return bytes


def gpu_environ(devices: Sequence[GpuDevice], indices: Sequence[int]) -> dict[str, str]:
    """What makes exactly these devices visible; none of them when nothing was granted.

    By UUID where known: an index means something else once only some devices are mounted.
    """
    by_index = {device.index: device.uuid for device in devices}
    visible = ",".join(by_index.get(index) or str(index) for index in indices)
    return {"CUDA_VISIBLE_DEVICES": visible, "NVIDIA_VISIBLE_DEVICES": visible or "void"}
