"""Become a function: environment, working folder, import path, then the callable itself."""

from __future__ import annotations

import os
import sys
from time import monotonic
from typing import TYPE_CHECKING

from hotbed.worker import context
from hotbed.worker.wire import FunctionLoaded

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from hotbed.worker.wire import LoadFunction


class LoadError(Exception):
    """What to tell the node instead of "ready"."""


def load_function(message: LoadFunction, mounts: dict[str, str]) -> tuple[Callable[..., Any] | None, FunctionLoaded]:
    """Load it; (None, the reason) when that fails. Whatever user code raises on import ends up in the reason.

    Args:
        mounts: Target to source, for backends without a mount namespace; else empty.
    """
    started = monotonic()
    reply = FunctionLoaded()
    function = None
    try:
        function = _load(message, mounts)
    except LoadError as error:
        reply.error_code, reply.error_message = "container-failed", str(error)
    except BaseException as error:  # noqa: BLE001 - import-time user code may raise anything, SystemExit too
        from hotbed.worker.results import exception_payload, traceback_text

        here = os.path.dirname(__file__)
        what = f"function {message.function_name or message.qualname!r} could not be loaded: {type(error).__name__}: {error}"
        reply.error_code = "container-failed"
        reply.error_message = f"{what}\n{traceback_text(error, here)}"
        reply.exception = exception_payload(error, hidden_frames_of=here)
    reply.load_s = monotonic() - started
    return function, reply


def _load(message: LoadFunction, mounts: dict[str, str]) -> Callable[..., Any]:
    for pair in message.env:
        name, _, value = pair.partition("=")
        os.environ[name] = value
    if message.workdir:
        os.chdir(translate(message.workdir, mounts))
    _extend_path(message, mounts)
    context.is_remote = True
    context.container_id = message.container_id
    context.function_id = message.function_id
    context.function_name = message.function_name
    context.app_id = message.app_id
    context.app_name = message.app_name
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    if message.pickled:
        if message.python_version and message.python_version != here:
            raise LoadError(
                f"function {message.function_name!r} was pickled by Python {message.python_version} and cannot be loaded by"
                f" Python {here}: byte code does not travel between minor versions;"
                f" run the client with Python {here}, or put the function in a module so that its source is shipped"
            )
        from _pickle import loads

        found = loads(message.pickled)
    else:
        from importlib import import_module

        found = import_module(message.module)
        for name in message.qualname.split("."):
            if name == "<locals>":
                raise LoadError(f"{message.qualname} is defined inside a function and cannot be found by name")
            found = getattr(found, name)
    raw = getattr(found, "get_raw_f", None)
    function = raw() if raw is not None else found
    if not callable(function):
        raise LoadError(f"{message.module}.{message.qualname} is {type(function).__name__}, not something to call")
    return function


def translate(path: str, mounts: dict[str, str]) -> str:
    """Where a path of the container lies for a backend that cannot mount."""
    for target in sorted(mounts, key=len, reverse=True):
        if path == target or path.startswith(target.rstrip("/") + "/"):
            return mounts[target] + path[len(target.rstrip("/")) :]
    return path


def _extend_path(message: LoadFunction, mounts: dict[str, str]) -> None:
    """Sources first, then the interpreter's site-packages with their .pth files; -S left both out to boot fast."""
    import site

    sources = [translate(path, mounts) for path in message.sys_path]
    sys.path[0:0] = sources
    known = site.removeduppaths()
    for folder in site.getsitepackages([sys.prefix]):
        if os.path.isdir(folder):
            site.addsitedir(folder, known)
