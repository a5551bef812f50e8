"""hotbed: a self-hosted, Modal-shaped serverless function runtime.

    app = hotbed.App("hello")

    @app.function()
    def square(x): return x * x

    with app.run():
        print(square.remote(7), list(square.map(range(10))))

Names are loaded on first use: `import hotbed` is on the cold-start path of every container.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hotbed import exception as exception
    from hotbed.app import App as App
    from hotbed.calls import FunctionCall as FunctionCall
    from hotbed.function import Function as Function
    from hotbed.gpu import GpuRequest as GpuRequest
    from hotbed.image import Image as Image
    from hotbed.output import enable_output as enable_output
    from hotbed.retries import Retries as Retries
    from hotbed.runtime_info import current_container_id as current_container_id
    from hotbed.runtime_info import current_function_call_id as current_function_call_id
    from hotbed.runtime_info import current_input_id as current_input_id
    from hotbed.runtime_info import is_local as is_local
    from hotbed_proto.errors import Error as Error

__version__ = "0.1.0"

_HOMES = {
    "App": "hotbed.app",
    "Error": "hotbed.exception",
    "Function": "hotbed.function",
    "FunctionCall": "hotbed.calls",
    "GpuRequest": "hotbed.gpu",
    "Image": "hotbed.image",
    "Retries": "hotbed.retries",
    "current_container_id": "hotbed.runtime_info",
    "current_function_call_id": "hotbed.runtime_info",
    "current_input_id": "hotbed.runtime_info",
    "enable_output": "hotbed.output",
    "exception": "",
    "is_local": "hotbed.runtime_info",
}

__all__ = sorted(_HOMES)  # pyright: ignore[reportUnsupportedDunderAll] - the names above, loaded on first use


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'hotbed' has no attribute {name!r}")
    from importlib import import_module

    value = import_module(f"hotbed.{name}") if not home else getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
