"""Payloads as shared files, on the node's side. Names come from clients and containers: both are checked as hostile."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import stat
from pathlib import Path
from typing import Final

from hotbed_proto.errors import InvalidError

_SHARED_NAME: Final = re.compile(r"(?P<owner>[A-Za-z0-9_-]{1,64})/(?P<name>[A-Za-z0-9_-]{1,64})\Z")
_WORKER_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
_OUT_NAME: Final = re.compile(r"(?:out/)?(?P<name>[A-Za-z0-9_-]{1,64})\Z")
RESULT_BYTES_MAX: Final = 8 * 2**30


class PayloadDir:
    """The folder that client, node and containers of one host share: `in/`, `out/` and one folder a container."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for folder in (root, root / "in", root / "out", root / "c"):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def clear_stale(self) -> None:
        """Remove what a former agent left for its containers; clients' own files stay."""
        for folder in (self.root / "c", self.root / "out"):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(mode=0o700)

    def make_container(self, container_id: str) -> Path:
        """Folder of one container with `in` (read by it) and `out` (written by it)."""
        folder = self.root / "c" / container_id
        (folder / "in").mkdir(parents=True)
        (folder / "out").mkdir()
        (folder / "in").chmod(0o755)
        # The container's user maps to one that is not ours; nobody else gets through the 0700 folders above.
        (folder / "out").chmod(0o777)
        return folder

    def remove_container(self, container_id: str) -> None:
        """Remove it with everything in it; results that were handed on live on under `out/`."""
        shutil.rmtree(self.root / "c" / container_id, ignore_errors=True)

    def link_input(self, file: str, size_bytes: int, function_id: str, container_in: Path, name: str) -> None:
        """Show a client's file to a container.

        Raises:
            InvalidError: The name is not one of this function's files, or the file is not there whole.
        """
        match = _SHARED_NAME.match(file)
        if match is None or match["owner"] != function_id:
            raise InvalidError(f"payload file {file[:100]!r} is not one of function {function_id}")
        source = self.root / "in" / match["owner"] / match["name"]
        try:
            facts = os.lstat(source)
            if not stat.S_ISREG(facts.st_mode) or facts.st_size < size_bytes:
                raise InvalidError(f"payload file {file!r} is not a regular file of {size_bytes} bytes")
            os.link(source, container_in / name, follow_symlinks=False)
            os.chmod(container_in / name, 0o644)
        except OSError as error:
            raise InvalidError(f"payload file {file!r} cannot be handed to the container", why=str(error)) from error

    def open_result(self, container_out: Path, name: str, size_bytes: int) -> int:
        """Open a result file a worker named; the caller closes the descriptor.

        Raises:
            InvalidError: Anything but a regular file of that size directly in the folder.
        """
        if not _WORKER_NAME.match(name) or not 0 <= size_bytes <= RESULT_BYTES_MAX:
            raise InvalidError(f"result file {name[:100]!r} of {size_bytes} bytes is not acceptable")
        try:
            descriptor = os.open(container_out / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise InvalidError(f"result file {name!r} cannot be opened", why=str(error)) from error
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode) or facts.st_size != size_bytes:
            os.close(descriptor)
            raise InvalidError(f"result file {name!r} is not a regular file of {size_bytes} bytes")
        return descriptor

    def publish_result(self, descriptor: int) -> str:
        """Give the opened file a name under `out/` for the client; returns that name.

        The link is made from the descriptor: the container may have put something else under the old name by now.
        """
        name = secrets.token_hex(16)
        folder = os.open(self.root / "out", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.link(f"/proc/self/fd/{descriptor}", name, dst_dir_fd=folder, follow_symlinks=True)
        finally:
            os.close(folder)
        return f"out/{name}"

    def release_result(self, file: str) -> None:
        """The client has read it."""
        match = _OUT_NAME.match(file)
        if match is not None:
            with contextlib.suppress(OSError):
                os.unlink(self.root / "out" / match["name"])
