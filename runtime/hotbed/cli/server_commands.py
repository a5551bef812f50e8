"""`hotbed server`: run a server in the foreground, or look after the embedded one."""

from __future__ import annotations

import json
import time
from pathlib import Path

import click

from hotbed.cli.status_command import as_dict, fetch
from hotbed.settings import current
from hotbed_proto.errors import NotFoundError, ServiceError

_FOLLOW_S = 0.2


@click.group(invoke_without_command=True)
@click.option("--listen", metavar="HOST:PORT", default="", help="Accept clients and nodes of other machines here.")
@click.option("--with-node", is_flag=True, help="Also run containers on this machine when --listen is given.")
@click.option("--tls-cert", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="PEM certificate for --listen.")
@click.option("--tls-key", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="PEM key for --listen.")
@click.option("--blobs", default="", metavar="URL", help="Where payloads and source are kept (an fsspec URL).")
@click.option("--allow-process", is_flag=True, help='Offer isolation="process", which isolates nothing.')
@click.pass_context
def server(
    context: click.Context,
    listen: str,
    with_node: bool,
    tls_cert: Path | None,
    tls_key: Path | None,
    blobs: str,
    allow_process: bool,
) -> None:
    """Run a server in the foreground, or look after the one that runs by itself."""
    if context.invoked_subcommand is not None:
        return
    if (tls_cert is None) != (tls_key is None):
        raise click.UsageError("--tls-cert and --tls-key go together")
    if listen and (":" not in listen or not listen.rpartition(":")[2].isdecimal()):
        raise click.UsageError(f"--listen {listen!r}: HOST:PORT is needed")
    from hotbed import daemon, local

    home = current().home
    if local.answers(home):
        raise ServiceError(
            f"a server of {home} is running already (pid {local.facts(home).get('pid')})",
            fix="hotbed server stop, or set HOTBED_HOME to another folder",
        )
    options = daemon.DaemonOptions(
        home=home,
        listen=listen,
        with_node=with_node or not listen,
        allow_process=allow_process,
        blobs=blobs,
        tls_cert=tls_cert,
        tls_key=tls_key,
    )
    if listen:
        click.echo(f"nodes join with: hotbed node --join {listen} --token $(hotbed server token node)", err=True)
    daemon.run(daemon.serve(options))


@server.command()
def start() -> None:
    """Start the embedded server, if it is not running."""
    from hotbed import local

    click.echo(local.ensure_server(current()))


@server.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def status(as_json: bool) -> None:
    """Whether a server runs, since when, with what."""
    found = fetch(current())
    if as_json:
        click.echo(json.dumps(as_dict(found), indent=1))
        return
    age_s = time.time() - found.started_unix_s
    running = sum(one.containers for one in found.functions)
    click.echo(
        f"running: hotbed {found.version}, pid {found.pid}, for {age_s:.0f} s; "
        f"{found.clients} client(s), {len(found.nodes)} node(s), {running} container(s) of functions"
    )


@server.command()
def stop() -> None:
    """Stop the server of this home; spawned calls go on when it is started again."""
    from hotbed import local

    click.echo("stopped" if local.stop_server(current().home) else "no server is running")


@server.command()
@click.option("-n", "--tail", default=100, show_default=True, help="How many last lines.")
@click.option("-f", "--follow", is_flag=True, help="Go on as lines come.")
def logs(tail: int, follow: bool) -> None:
    """The embedded server's own log."""
    path = current().home / "server.log"
    if not path.exists():
        raise NotFoundError(f"there is no log at {path}", fix="only a server that started by itself writes one")
    with open(path, errors="replace") as file:
        for line in file.readlines()[-tail:]:
            click.echo(line, nl=False)
        while follow:
            line = file.readline()
            if line:
                click.echo(line, nl=False)
            else:
                time.sleep(_FOLLOW_S)


@server.command()
@click.argument("role", type=click.Choice(["client", "node"]))
def token(role: str) -> None:
    """Make a new token for clients or nodes of this server and print it; only its hash is kept."""
    from hotbed.daemon import private_folder
    from hotbed_scheduler.tokens import TokenFile

    home = private_folder(current().home)
    click.echo(TokenFile(home / "tokens.json").mint("node" if role == "node" else "client"))
