"""Every option is checked where it is written, and the error names parameter and value."""

from __future__ import annotations

from typing import Any

import pytest

import hotbed
from hotbed.exception import InvalidError
from hotbed_proto.v1.common_pb2 import FunctionSpec


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"cpu": -1}, "cpu=-1"),
        ({"cpu": (2, 1)}, "limit"),
        ({"memory": "1G"}, "memory='1G'"),
        ({"gpu": "A100:nine"}, "A100:nine"),
        ({"gpu": [3]}, "3"),
        ({"timeout": 0}, "timeout=0"),
        ({"timeout": float("nan")}, "timeout=nan"),
        ({"retries": 11}, "max_retries=11"),
        ({"retries": "3"}, "retries='3'"),
        ({"min_containers": 5, "max_containers": 3}, r"min_containers \(5\)"),
        ({"isolation": "vm"}, "isolation='vm'"),
        ({"secrets": ["s"]}, "secrets"),
        ({"volumes": {"/v": 1}}, "volumes"),
        ({"env": {"A=B": "1"}}, "A=B"),
        ({"unplaceable": "maybe"}, "maybe"),
        ({"image": "debian"}, "debian"),
    ],
)
def test_what_cannot_work_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidError, match=said):
        hotbed.App("x").function(**options)


def test_units_on_the_wire() -> None:
    def f() -> None: ...

    image = hotbed.Image.host().env({"A": "1"}).workdir("/tmp")
    function = hotbed.App("x").function(
        cpu=(0.5, 2), memory=256, gpu=["A100-80GB", "any"], retries=2, region="eu", image=image, unplaceable="fail"
    )(f)
    spec = FunctionSpec()
    function.options.fill(spec)
    assert (spec.resources.milli_cpu, spec.resources.milli_cpu_limit) == (500, 2000)
    assert (spec.resources.memory_bytes, spec.resources.memory_limit_bytes) == (256 * 2**20, 0)
    assert [gpu.model for gpu in spec.resources.gpus] == ["A100-80GB", "any"]
    assert (spec.retries.max_retries, spec.retries.backoff_coefficient) == (2, 1)
    assert list(spec.regions) == ["eu"]
    assert (dict(spec.image.env), spec.image.workdir, spec.timeout_s) == ({"A": "1"}, "/tmp", 300)
    assert spec.fail_if_unplaceable


def test_one_name_one_function() -> None:
    app = hotbed.App("x")
    app.function(name="f")(len)
    with pytest.raises(InvalidError, match="already"):
        app.function(name="f")(max)
    assert list(app.registered_functions) == ["f"]
