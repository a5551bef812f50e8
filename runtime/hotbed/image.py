"""What a container sees as its filesystem."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from hotbed_proto.errors import InvalidError


@dataclass(frozen=True, slots=True)
class Image:
    """An immutable description; every method returns a new one.

    Attributes:
        kind: "host": a read-only view of the machine's /usr, /lib* and the interpreter's prefix, and nothing else of it.
    """

    kind: str = "host"
    variables: tuple[tuple[str, str], ...] = field(default=())
    working_folder: str = ""

    @staticmethod
    def host() -> Image:
        """The machine's own Python and libraries, read-only: the default image."""
        return Image()

    def env(self, vars: Mapping[str, str]) -> Image:
        """With these environment variables set in the container.

        Raises:
            InvalidError: A name or value that is not text, or a name with "=".
        """
        return Image(self.kind, tuple({**dict(self.variables), **check_env(vars)}.items()), self.working_folder)

    def workdir(self, path: str) -> Image:
        """With this absolute path as the working folder of the function."""
        if not isinstance(path, str) or not path.startswith("/") or "\0" in path:
            raise InvalidError(f"Image.workdir({path!r}): an absolute path is needed")
        return Image(self.kind, self.variables, path)


def check_env(variables: Mapping[str, str]) -> dict[str, str]:
    """The variables as a dict, after checking names and values."""
    for name, value in variables.items():
        if not isinstance(name, str) or not name or "=" in name or "\0" in name:
            raise InvalidError(f"env: {name!r} is not the name of an environment variable")
        if not isinstance(value, str) or "\0" in value:
            raise InvalidError(f"env: the value of {name} must be text, not {value!r}")
    return dict(variables)
