"""`hotbed status`: nodes, functions, and why something does not run."""

from __future__ import annotations

import json
from typing import Any

import click

from hotbed.settings import Settings, current
from hotbed_proto.errors import ServiceError


def fetch(settings: Settings) -> Any:
    """The configured server's status; does not start one.

    Raises:
        ServiceError: None is running.
    """
    from hotbed import local
    from hotbed.daemon import socket_path

    if settings.server:
        return local.status_of(settings.server, settings.token)
    if not local.answers(settings.home):
        raise ServiceError("no server is running here", fix="hotbed server start, or run something: it starts by itself")
    return local.status_of(f"unix:{socket_path(settings.home)}")


def as_dict(status: Any) -> dict[str, Any]:
    """The status as plain values."""
    from google.protobuf.json_format import MessageToDict

    plain = MessageToDict(status, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
    plain["pid"] = int(status.pid)
    return plain


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / 2**30:.1f}"


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def status(as_json: bool) -> None:
    """Show nodes and functions of the running server."""
    found = fetch(current())
    if as_json:
        click.echo(json.dumps(as_dict(found), indent=1))
        return
    from rich.console import Console
    from rich.table import Table

    console = Console()
    console.print(f"hotbed {found.version}, pid {found.pid}, {found.clients} client(s)")
    nodes = Table(
        "node", "state", "cores free / all", "GiB free / all", "GPUs", "containers", title="Nodes", title_justify="left"
    )
    for node in found.nodes:
        nodes.add_row(
            node.name,
            node.state,
            f"{node.free.milli_cpu / 1000:g} / {node.total.milli_cpu / 1000:g}",
            f"{_gib(node.free.memory_bytes)} / {_gib(node.total.memory_bytes)}",
            ", ".join(node.gpu_models) or "-",
            str(node.containers),
        )
    console.print(nodes if found.nodes else "no node has joined")
    functions = Table(
        "app", "function", "queued", "running", "containers", "waits for", title="Functions", title_justify="left"
    )
    for one in found.functions:
        functions.add_row(
            one.app_name, one.name, str(one.queued), str(one.running), str(one.containers), one.unplaceable_reason or "-"
        )
    if found.functions:
        console.print(functions)
