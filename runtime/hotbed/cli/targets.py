"""What `hotbed run` was pointed at: a file or a module, and something in it to run."""

from __future__ import annotations

import importlib
import sys
import traceback
from types import ModuleType
from typing import Any

import click

from hotbed_proto.errors import Error, InvalidError, NotFoundError

Runnable = Any
"""A `LocalEntrypoint` or a `Function`."""


def load(target: str, as_module: bool) -> tuple[ModuleType, str]:
    """Import `path.py[::name]` or, `as_module`, `pkg.mod[::name]`; returns the module and the name ("" when none was given).

    A failing import shows the user's own traceback and ends the command with 1.
    """
    place, _, name = target.partition("::")
    if not place:
        raise InvalidError(f"{target!r} names no file", fix="write FILE.py or FILE.py::NAME")
    try:
        if as_module:
            if "" not in sys.path:
                sys.path.insert(0, "")
            return importlib.import_module(place), name
        from hotbed.source import import_file

        return import_file(place), name
    except Error:
        raise
    except ModuleNotFoundError as error:
        if as_module and error.name is not None and (place == error.name or place.startswith(f"{error.name}.")):
            raise NotFoundError(f"there is no module {place!r}", fix="run it from the folder that holds the package") from None
        _show(error)
    except Exception as error:  # noqa: BLE001 - whatever a user's module raises while it is imported
        _show(error)
    raise click.exceptions.Exit(1)


def _show(error: Exception) -> None:
    trace = error.__traceback__
    while trace is not None and ("hotbed" in trace.tb_frame.f_globals.get("__name__", "") or _is_import(trace.tb_frame)):
        trace = trace.tb_next
    click.echo("".join(traceback.format_exception(type(error), error, trace)), err=True, nl=False)


def _is_import(frame: Any) -> bool:
    return "importlib" in frame.f_code.co_filename


def apps_of(module: ModuleType) -> list[Any]:
    """The apps that are module-level names, each once, in order."""
    from hotbed.app import App

    found: list[Any] = []
    for value in vars(module).values():
        if isinstance(value, App) and not any(value is app for app in found):
            found.append(value)
    return found


def find(module: ModuleType, name: str, target: str) -> tuple[Any, Runnable]:
    """(app, what to run): the named thing, else the only local entrypoint, else the only function.

    Raises:
        NotFoundError, InvalidError: Nothing by that name, nothing at all, or several; says what there is.
    """
    apps = apps_of(module)
    if not apps:
        raise NotFoundError(f"{target} defines no hotbed.App", fix="add app = hotbed.App('name') at the top level")
    entrypoints = {n: (app, e) for app in apps for n, e in app.registered_entrypoints.items()}
    functions = {n: (app, f) for app in apps for n, f in app.registered_functions.items()}
    everything = {**functions, **entrypoints}
    names = ", ".join(sorted(everything)) or "none"
    if name:
        wanted = name.rpartition(".")[2] if name not in everything else name
        if wanted not in everything:
            raise NotFoundError(f"{target}: nothing called {name!r} can be run", fix=f"choose one of: {names}")
        return everything[wanted]
    if len(entrypoints) == 1:
        return next(iter(entrypoints.values()))
    if len(entrypoints) > 1:
        raise InvalidError(
            f"{target} has several local entrypoints",
            fix=f"name one: {target}::NAME with one of {', '.join(sorted(entrypoints))}",
        )
    if "main" in functions or len(functions) == 1:
        return functions.get("main") or next(iter(functions.values()))
    if functions:
        raise InvalidError(
            f"{target} has several functions and no local entrypoint", fix=f"name one: {target}::NAME of {names}"
        )
    raise NotFoundError(f"{target} has an app without functions", fix="decorate one with @app.function()")
