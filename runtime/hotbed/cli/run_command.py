"""`hotbed run`: start an app, run its entrypoint here (or one function in a container), show what happens."""

from __future__ import annotations

import asyncio
import contextlib
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from hotbed.cli import targets
from hotbed.cli.signature import parse
from hotbed_proto.errors import Error, InvalidError


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("-m", "as_module", is_flag=True, help="TARGET is a module (pkg.mod), as with python -m.")
@click.option("-d", "--detach", is_flag=True, help="Leave the app running when the entrypoint ends.")
@click.option("-q", "--quiet", is_flag=True, help="No progress and no container output.")
@click.option("-w", "--write-result", type=click.Path(dir_okay=False, path_type=Path), help="Write the result to this file.")
@click.argument("target")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def run(as_module: bool, detach: bool, quiet: bool, write_result: Path | None, target: str, arguments: tuple[str, ...]) -> None:
    """Run TARGET: FILE.py, FILE.py::NAME or (with -m) pkg.mod[::NAME].

    Without a NAME its only local entrypoint runs, else its only function. Words after TARGET are options of what runs:
    `hotbed run hello.py --count 3`; `hotbed run hello.py --help` lists them.
    """
    module, name = targets.load(target, as_module)
    app, runnable = targets.find(module, name, target)
    from hotbed.app import LocalEntrypoint

    if isinstance(runnable, LocalEntrypoint):
        raw, is_async = runnable.raw, runnable.is_async
        call: Callable[..., Any] = raw
    else:
        raw, is_async = runnable.get_raw_f(), False
        call = _collect(runnable) if runnable.is_generator else runnable.remote
    args, kwargs = parse(raw, f"hotbed run {target}", list(arguments))
    result = _run(app, call, is_async, args, kwargs, detach=detach, quiet=quiet)
    if write_result is not None:
        _write(write_result, result)
    elif result is not None and not isinstance(runnable, LocalEntrypoint):
        click.echo(result)


def _collect(function: Any) -> Callable[..., list[Any]]:
    return lambda *args, **kwargs: list(function.remote_gen(*args, **kwargs))


def _run(
    app: Any,
    call: Callable[..., Any],
    is_async: bool,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    detach: bool,
    quiet: bool,
) -> Any:
    from hotbed.output import enable_output

    async def run_async() -> Any:
        async with app.run(detach=detach):
            return await call(*args, **kwargs)

    try:
        with contextlib.nullcontext() if quiet else enable_output():
            if is_async:
                return asyncio.run(run_async())
            with app.run(detach=detach):
                return call(*args, **kwargs)
    except (Error, KeyboardInterrupt, click.ClickException, click.exceptions.Exit):
        raise
    except SystemExit as leave:
        raise click.exceptions.Exit(_exit_code(leave)) from None
    except Exception as error:  # noqa: BLE001 - the user's own exception, from here or from a container
        _show(error)
        raise click.exceptions.Exit(1) from None


def _exit_code(leave: SystemExit) -> int:
    if leave.code is None:
        return 0
    if isinstance(leave.code, int):
        return leave.code
    click.echo(leave.code, err=True)
    return 1


def _show(error: BaseException) -> None:
    """The user's traceback without hotbed's own leading frames."""
    trace = error.__traceback__
    while trace is not None and str(trace.tb_frame.f_globals.get("__name__", "")).startswith(
        ("hotbed.", "asyncio.", "contextlib")
    ):
        trace = trace.tb_next
    click.echo("".join(traceback.format_exception(type(error), error, trace)), err=True, nl=False)


def _write(path: Path, result: Any) -> None:
    if isinstance(result, bytes):
        path.write_bytes(result)
    elif isinstance(result, str):
        path.write_text(result)
    else:
        raise InvalidError(
            f"--write-result takes str or bytes, the result is {type(result).__name__}", fix="return text or bytes"
        )
