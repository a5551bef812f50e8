"""What users see, as literal lists: changing the API is a visible diff here."""

from __future__ import annotations

import subprocess
import sys

import hotbed
from hotbed import exception


def test_the_public_names() -> None:
    assert hotbed.__all__ == [
        "App",
        "Error",
        "Function",
        "FunctionCall",
        "GpuRequest",
        "Image",
        "Retries",
        "current_container_id",
        "current_function_call_id",
        "current_input_id",
        "enable_output",
        "exception",
        "is_local",
    ]
    for name in hotbed.__all__:
        assert getattr(hotbed, name) is not None
    assert issubclass(exception.OutputExpiredError, TimeoutError)


def test_importing_hotbed_loads_nothing_heavy() -> None:
    code = "import sys, hotbed; print(*[m for m in sys.argv[1:] if m in sys.modules])"
    heavy = ["grpc", "docker", "pynvml", "google.protobuf", "asyncio", "cloudpickle", "hotbed.app"]
    done = subprocess.run([sys.executable, "-c", code, *heavy], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.strip() == ""


def test_a_function_handle_needs_no_grpc() -> None:
    """Containers unpickle handles; grpc there would cost 130 ms of every cold start."""
    code = "import sys, hotbed; hotbed.App('x').function(name='f')(len); print(*[m for m in sys.argv[1:] if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code, "grpc", "google.protobuf", "docker"],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    assert done.stdout.strip() == ""
