"""Turn a Python signature into command-line options: `def main(count: int = 3, *, loud: bool = False)` -> --count, --loud."""

from __future__ import annotations

import datetime
import inspect
import types
import typing
from collections.abc import Callable
from typing import Any

import click

from hotbed_proto.errors import InvalidError

_TYPES: dict[Any, click.ParamType] = {
    str: click.STRING,
    int: click.INT,
    float: click.FLOAT,
    datetime.datetime: click.DateTime(),
    Any: click.STRING,
    inspect.Parameter.empty: click.STRING,
}


def options_of(function: Callable[..., Any]) -> list[click.Parameter]:
    """One option per parameter; a `*args` parameter takes what is left.

    Raises:
        InvalidError: A parameter of a type the command line cannot carry.
    """
    try:
        hints = typing.get_type_hints(function)
    except NameError as error:
        raise InvalidError(f"the annotations of {function.__name__}() cannot be read", why=str(error)) from None
    parameters: list[click.Parameter] = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            parameters.append(click.Argument([parameter.name], nargs=-1, type=click.STRING))
            continue
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            raise InvalidError(f"{function.__name__}() takes **{parameter.name}, which has no options on the command line")
        parameters.append(_option(function, parameter, hints.get(parameter.name, parameter.annotation)))
    return parameters


def _option(function: Callable[..., Any], parameter: inspect.Parameter, hint: Any) -> click.Option:
    flag = "--" + parameter.name.replace("_", "-")
    required = parameter.default is inspect.Parameter.empty
    default = None if required else parameter.default
    given: dict[str, Any] = (
        {} if required else {"default": default}
    )  # for click 8.3 a default of None is a default, and nothing is required
    kind = _without_none(hint)
    if kind is inspect.Parameter.empty and default is not None and type(default) in (bool, *_TYPES):
        kind = type(default)
    shown = default is not None
    if kind is bool:
        return click.Option([f"{flag}/--no-{flag[2:]}", parameter.name], required=required, show_default=shown, **given)
    if kind not in _TYPES:
        raise InvalidError(
            f"parameter {parameter.name!r} of {function.__name__}() has type {hint!r}, which the command line cannot carry",
            fix="use str, int, float, bool, datetime.datetime, or an Optional of one of them",
        )
    return click.Option([flag, parameter.name], type=_TYPES[kind], required=required, show_default=shown, **given)


def _without_none(hint: Any) -> Any:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        rest = [argument for argument in typing.get_args(hint) if argument is not type(None)]
        if len(rest) == 1:
            return rest[0]
    return hint


def parse(function: Callable[..., Any], name: str, arguments: list[str]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """(args, kwargs) for the function from command-line words; usage errors exit with 2, --help with 0."""
    command = click.Command(
        name,
        params=options_of(function),
        help=inspect.getdoc(function),
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    with command.make_context(name, arguments) as context:
        values = dict(context.params)
    rest: tuple[Any, ...] = ()
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            rest = tuple(values.pop(parameter.name))
    if rest:
        before = [
            values.pop(p.name)
            for p in inspect.signature(function).parameters.values()
            if p.kind in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        ]
        return (*before, *rest), values
    return (), values
