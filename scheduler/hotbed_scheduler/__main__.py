"""`python -m hotbed_scheduler replay FILE`: print what the core did with a recorded journal."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from hotbed_scheduler.journal import replay


def main(arguments: list[str] | None = None) -> int:
    """Exit status 0, or 1 when the file is no journal or an invariant broke."""
    parser = argparse.ArgumentParser(prog="python -m hotbed_scheduler")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("replay", help="feed a journal to a fresh core and print its actions")
    command.add_argument("file", type=Path)
    command.add_argument("--check", action="store_true", help="assert every invariant after every event")
    options = parser.parse_args(arguments)
    try:
        with options.file.open(encoding="utf-8") as file:
            for now_s, event, actions in replay(file, check=options.check):
                print(f"{now_s:.6f} {event}")
                for action in actions:
                    print(f"    {action}")
    except (OSError, ValueError) as error:
        print(f"cannot replay {options.file}: {error}", file=sys.stderr)
        return 1
    except AssertionError as error:
        print(f"an invariant does not hold after the event above: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
