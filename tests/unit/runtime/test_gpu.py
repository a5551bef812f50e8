"""The inventory with a fake at NVML's own seam."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from hotbed.node.gpu import find_gpus, gpu_environ


class FakeNvml:
    """What `pynvml` offers, for the calls made."""

    class NVMLError(Exception):
        pass

    def __init__(self, names: list[Any], broken: bool = False) -> None:
        self.names, self.broken, self.open = names, broken, 0

    def nvmlInit(self) -> None:
        if self.broken:
            raise self.NVMLError("driver not loaded")
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlDeviceGetCount(self) -> int:
        return len(self.names)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetUUID(self, handle: int) -> str:
        return f"GPU-{handle}"

    def nvmlDeviceGetName(self, handle: int) -> Any:
        return self.names[handle]

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:
        return SimpleNamespace(total=80 * 2**30)


def test_devices_are_read_with_their_model_normalised() -> None:
    nvml = FakeNvml(["NVIDIA A100-SXM4-80GB", b"NVIDIA H100 PCIe"])
    devices = find_gpus(nvml)
    assert [(d.index, d.uuid, d.model) for d in devices] == [(0, "GPU-0", "A100-80GB"), (1, "GPU-1", "H100")]
    assert devices[0].memory_bytes == 80 * 2**30 and nvml.open == 0
    assert gpu_environ(devices, [1])["CUDA_VISIBLE_DEVICES"] == "GPU-1"


def test_no_driver_is_no_gpu_and_nothing_visible() -> None:
    assert find_gpus(FakeNvml([], broken=True)) == []
    assert gpu_environ([], []) == {"CUDA_VISIBLE_DEVICES": "", "NVIDIA_VISIBLE_DEVICES": "void"}
