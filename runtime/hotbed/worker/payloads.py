"""Large payloads as files: arguments from the `in` folder, results into the `out` folder, files reused once released."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from hotbed.worker.wire import PayloadRef, decode, encode

if TYPE_CHECKING:
    from typing import Any, BinaryIO

_REUSE_FILES_MAX: Final = 8


class PayloadFiles:
    """The two folders of one container.

    Args:
        in_dir, out_dir: As seen in here.
    """

    def __init__(self, in_dir: str, out_dir: str) -> None:
        self._in_dir = in_dir
        self._out_dir = out_dir
        self._count = 0
        self._free: list[str] = []

    def open_input(self, payload: bytes) -> BinaryIO:
        """The file a serialised `PayloadRef` names. Raises OSError when the node did not provide it."""
        ref = decode(PayloadRef, payload)
        assert isinstance(ref, PayloadRef)
        return open(f"{self._in_dir}/{ref.file}", "rb")

    def read_input(self, payload: bytes) -> bytes:
        """All of it."""
        with self.open_input(payload) as file:
            return file.read()

    def write_output(self, write: Callable[[BinaryIO], Any]) -> bytes:
        """Let `write` fill a result file; returns the serialised `PayloadRef`. A reused file keeps its pages: no zeroing."""
        if self._free:
            name, mode = self._free.pop(), "r+b"
        else:
            self._count += 1
            name, mode = f"r{self._count}", "w+b"
        try:
            with open(f"{self._out_dir}/{name}", mode) as file:
                write(file)
                size = file.tell()
                file.truncate()
        except BaseException:
            self._unlink(name)
            raise
        return encode(PayloadRef(file=name, size_bytes=size))

    def write_bytes(self, data: bytes) -> bytes:
        """A result that is pickled already."""
        return self.write_output(lambda file: file.write(data))

    def release(self, names: tuple[str, ...]) -> None:
        """The node says that these were read."""
        for name in names:
            if len(self._free) < _REUSE_FILES_MAX:
                self._free.append(name)
            else:
                self._unlink(name)

    def _unlink(self, name: str) -> None:
        try:
            os.unlink(f"{self._out_dir}/{name}")
        except OSError:
            return  # already gone: user code may write here too
