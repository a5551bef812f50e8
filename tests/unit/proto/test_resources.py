"""GPU spellings, model names as NVML reports them, and limits of requests."""

from __future__ import annotations

import pytest

from hotbed_proto.resources import GpuRequest, gpu_model_matches, normalise_gpu_model, parse_gpu


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("NVIDIA A100-SXM4-80GB", "A100-80GB"),
        ("NVIDIA A100 80GB PCIe", "A100-80GB"),
        ("a100-80gb", "A100-80GB"),
        ("NVIDIA A100-PCIE-40GB", "A100-40GB"),
        ("NVIDIA H100 80GB HBM3", "H100-80GB"),
        ("NVIDIA H200", "H200"),
        ("Tesla T4", "T4"),
        ("NVIDIA L40S", "L40S"),
        ("Tesla V100-SXM2-16GB", "V100-16GB"),
    ],
)
def test_one_spelling_per_model(name: str, model: str) -> None:
    assert normalise_gpu_model(name) == model


@pytest.mark.parametrize(
    ("wanted", "device", "matches"),
    [
        ("any", "NVIDIA H200", True),
        ("A100", "NVIDIA A100-SXM4-80GB", True),
        ("A100-80GB", "NVIDIA A100-SXM4-80GB", True),
        ("A100-80GB", "NVIDIA A100-PCIE-40GB", False),
        ("A100-80GB", "A100", False),
        ("A10", "A100", False),
        ("L4", "NVIDIA L40S", False),
        ("H100", "H200", False),
    ],
)
def test_matching(wanted: str, device: str, matches: bool) -> None:
    assert gpu_model_matches(wanted, device) is matches


@pytest.mark.parametrize(
    ("text", "request_"),
    [
        ("A100", GpuRequest("A100")),
        ("a100-80gb", GpuRequest("A100-80GB")),
        ("H100:4", GpuRequest("H100", 4)),
        ("H100!", GpuRequest("H100")),
        ("any", GpuRequest("any")),
        ("ANY:2", GpuRequest("any", 2)),
        ("A100:0.5", GpuRequest("A100", 1, 500)),
        ("T4:0.0001", GpuRequest("T4", 1, 1)),
    ],
)
def test_spellings(text: str, request_: GpuRequest) -> None:
    assert parse_gpu(text) == request_
    assert parse_gpu(request_) is request_


@pytest.mark.parametrize(
    "text", ["", ":2", "A100:x", "A100:0", "A100:-1", "A100:1.5", "A100:99", "A100:inf", "A100:nan", "-A100", "A/B"]
)
def test_bad_spellings_are_quoted(text: str) -> None:
    with pytest.raises(ValueError, match="gpu="):
        parse_gpu(text)


def test_bad_requests() -> None:
    for arguments in ((0,), (9,), (1, 0), (1, 1001), (2, 500)):
        with pytest.raises(ValueError, match="gpu"):
            GpuRequest("T4", *arguments)


def test_text_says_what_is_asked() -> None:
    assert str(GpuRequest("A100", 2)) == "A100:2"
    assert str(GpuRequest("A100", 1, 250, 20 * 2**30)) == "A100 (share 0.25) with 20 GiB"
