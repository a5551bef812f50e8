"""`hotbed node`: let this machine run containers for a server elsewhere."""

from __future__ import annotations

import click

from hotbed.settings import current


@click.command()
@click.option("--join", "address", metavar="HOST:PORT", required=True, help="The server's address.")
@click.option("--token", required=True, envvar="HOTBED_NODE_TOKEN", help="A node token: hotbed server token node, there.")
@click.option("--name", default="", help="Shown to people; default: the host's name.")
@click.option(
    "--label", "labels", multiple=True, metavar="KEY=VALUE", help="region=NAME is what a function's region= asks for."
)
@click.option("--allow-process", is_flag=True, help='Offer isolation="process", which isolates nothing.')
def node(address: str, token: str, name: str, labels: tuple[str, ...], allow_process: bool) -> None:
    """Run a node agent in the foreground."""
    pairs: dict[str, str] = {}
    for label in labels:
        key, equals, value = label.partition("=")
        if not key or not equals:
            raise click.UsageError(f"--label {label!r}: KEY=VALUE is needed")
        pairs[key] = value
    from hotbed import daemon

    options = daemon.DaemonOptions(home=current().home, node_name=name, labels=pairs, allow_process=allow_process)
    daemon.run(daemon.serve_node(options, address, token))
