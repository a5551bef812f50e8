"""Large payloads on one host: pickled straight into files on tmpfs that the container sees too.

Files are reused (their pages are there already, which makes writing 4x faster), one pool a function, so that no function
ever sees another's bytes in a file's tail.
"""

from __future__ import annotations

import os
import pickle
import re
import secrets
import threading
from collections.abc import Callable
from typing import Any, BinaryIO, Final

from hotbed_proto.errors import InternalError

_NAME = re.compile(r"out/[A-Za-z0-9_-]{1,64}\Z")
_FREE_MAX: Final = 4
"""Kept for each function; a burst's further files are removed."""


class PayloadFolder:
    """The client's side of the shared folder."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._free: dict[str, list[str]] = {}
        self._mine: set[str] = set()
        self._lock = threading.Lock()

    def write(self, function_id: str, fill: Callable[[BinaryIO], None]) -> tuple[str, int]:
        """(name, size) of a file that `fill` wrote."""
        with self._lock:
            free = self._free.get(function_id)
            name = free.pop() if free else ""
        if not name:
            os.makedirs(f"{self._folder}/in/{function_id}", mode=0o700, exist_ok=True)
            name = f"{function_id}/{secrets.token_hex(12)}"
        path = f"{self._folder}/in/{name}"
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            with open(descriptor, "wb", buffering=256 * 1024) as file:
                fill(file)
                size = file.tell()
                file.truncate()
        except BaseException:
            unlink(path)
            raise
        with self._lock:
            self._mine.add(name)
        return name, size

    def free(self, name: str) -> None:
        """The input is final: use the file again, or remove it."""
        function_id = name.partition("/")[0]
        with self._lock:
            if name not in self._mine:
                return
            free = self._free.setdefault(function_id, [])
            if len(free) < _FREE_MAX:
                free.append(name)
                return
            self._mine.discard(name)
        unlink(f"{self._folder}/in/{name}")

    def load_result(self, name: str) -> Any:
        """Unpickle a result file; large bytes are read straight into the new object."""
        if len(name) > 255 or not _NAME.match(name):
            raise InternalError(f"a result file has an impossible name: {name[:80]!r}")
        descriptor = os.open(f"{self._folder}/{name}", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with open(descriptor, "rb", buffering=256 * 1024) as file:
            return pickle.Unpickler(file).load()

    def close(self) -> None:
        """Remove what this client wrote."""
        with self._lock:
            names, self._mine, self._free = self._mine, set(), {}
        for name in names:
            unlink(f"{self._folder}/in/{name}")


def unlink(path: str) -> None:
    """Remove it if it is there."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return
