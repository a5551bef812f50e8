"""`hotbed`: the command line. Errors are one readable block; a traceback of the user's own code is shown as it is."""

from __future__ import annotations

import sys

import click

from hotbed import __version__
from hotbed.cli.node_command import node
from hotbed.cli.run_command import run
from hotbed.cli.server_commands import server
from hotbed.cli.status_command import status
from hotbed_proto.errors import Error, InvalidError

FAILURE = 1
USAGE = 2
INTERRUPTED = 130


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="hotbed")
def cli() -> None:
    """Run Python functions in isolated containers on your own machines."""


for command in (run, status, server, node):
    cli.add_command(command)


def show_error(error: Error) -> None:
    """What, why and fix on standard error."""
    click.echo(f"{click.style('error', fg='red', bold=True)} [{error.code}] {error}", err=True)


def main() -> None:
    """Entry point. Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    try:
        code = cli.main(standalone_mode=False)
    except click.exceptions.Exit as done:
        sys.exit(done.exit_code)
    except click.UsageError as error:
        error.show()
        sys.exit(USAGE)
    except click.ClickException as error:
        error.show()
        sys.exit(FAILURE)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        sys.exit(INTERRUPTED)
    except Error as error:
        show_error(error)
        sys.exit(USAGE if isinstance(error, InvalidError) else FAILURE)
    sys.exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    main()
