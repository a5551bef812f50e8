"""Where the server is and how patient the client is: one frozen object, read from the environment at one place."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hotbed_proto.errors import InvalidError


@dataclass(frozen=True, slots=True)
class Settings:
    """What a client needs to know.

    Attributes:
        home: Folder of the embedded server's socket and state.
        server: "unix:PATH" or "HOST:PORT"; "" = the embedded server, started when needed.
        token: Sent as a bearer token to a server on TCP.
        reconnect_s: How long a lost connection is repaired before waiting calls fail.
        ping_interval_s: A silent connection is asked this often, and given up after two intervals without an answer.
        request_timeout_s: Longest wait for one unary request.
    """

    home: Path
    server: str = ""
    token: str = ""
    reconnect_s: float = 30.0
    ping_interval_s: float = 10.0
    request_timeout_s: float = 60.0

    def __post_init__(self) -> None:
        if self.server and not self.server.startswith("unix:") and ":" not in self.server:
            raise InvalidError(
                f"HOTBED_SERVER={self.server!r} is not an address", fix="write unix:/path/to/socket or host:port"
            )

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Settings:
        """Read HOTBED_HOME, HOTBED_SERVER and HOTBED_TOKEN."""
        home = environ.get("HOTBED_HOME") or os.path.join(environ.get("HOME") or os.path.expanduser("~"), ".hotbed")
        return cls(Path(home).absolute(), environ.get("HOTBED_SERVER", ""), environ.get("HOTBED_TOKEN", ""))


def current() -> Settings:
    """The settings of this process's environment."""
    return Settings.from_env(os.environ)


def host_id() -> str:
    """Equal for processes of one running kernel, so that shared files can be tried."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""
