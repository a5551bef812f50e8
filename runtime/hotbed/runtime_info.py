"""Where this code runs: on the caller's machine or in a container, and for which input."""

from __future__ import annotations

import sys
from types import ModuleType

from hotbed_proto.ids import input_id


def _context() -> ModuleType | None:
    # Only a worker has loaded it; importing it here would say nothing more and cost the client an import.
    module = sys.modules.get("hotbed.worker.context")
    return module if module is not None and module.is_remote else None


def is_local() -> bool:
    """False inside a container of hotbed's."""
    return _context() is None


def current_input_id() -> str | None:
    """Id of the input that runs now; None outside of one."""
    context = _context()
    current = context.current_input() if context is not None else None
    return None if current is None else input_id(*current)


def current_function_call_id() -> str | None:
    """Id of the call the running input belongs to, as `FunctionCall.from_id` takes it; None outside of one."""
    context = _context()
    return None if context is None else context.current_call_id()


def current_container_id() -> str | None:
    """Id of this container; None outside of one."""
    context = _context()
    return None if context is None else context.container_id
