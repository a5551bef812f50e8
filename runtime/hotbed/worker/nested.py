"""Calls from inside a container: a bare link that the SDK's transport is built on.

Frames go up the worker's one socket and carry the container's identity; no credential ever enters the container.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from typing import Any

    from hotbed.worker.service import Service
    from hotbed.worker.wire import NestedDown

SUBMIT: Final = 1
CANCEL: Final = 2
SUBSCRIBE: Final = 3

ACCEPTED: Final = 1
OUTPUTS: Final = 2
REJECTED: Final = 3

_link: NestedLink | None = None


class NestedLink:
    """Sends frames of nested calls and hands the answers to one receiver.

    The receiver runs on the service thread (or the main thread, between inputs): it must not block.
    """

    def __init__(self, service: Service, write_file: Callable[[bytes], bytes], read_ref: Callable[[bytes], bytes]) -> None:
        self._service = service
        self._write_file = write_file
        self._read_ref = read_ref
        self._receiver: Callable[[NestedDown], None] | None = None

    def set_receiver(self, receiver: Callable[[NestedDown], None]) -> None:
        """Who gets every `NestedDown`."""
        self._receiver = receiver

    def send(self, kind: int, **columns: Any) -> None:
        """Send a `NestedUp` with these fields; from now on answers are read at once, also while user code runs.

        Raises:
            hotbed.worker.channel.Closed: The node has gone away.
        """
        self._service.send_nested(kind, columns)

    def set_pending(self, count: int) -> None:
        """How many answers are awaited; at 0 the service thread stops watching the socket."""
        self._service.set_nested_pending(count)

    def write_payload_file(self, data: bytes) -> bytes:
        """Put a large payload into a file the node can read; returns the serialised `PayloadRef` to send in its place."""
        return self._write_file(data)

    def read_payload_ref(self, payload: bytes) -> bytes:
        """The bytes behind a `PayloadRef` in an answer."""
        return self._read_ref(payload)

    def deliver(self, message: NestedDown) -> None:
        """Called by the reader of the socket."""
        if self._receiver is not None:
            self._receiver(message)


def install(new_link: NestedLink) -> None:
    """The worker makes the link known once."""
    global _link
    _link = new_link


def link() -> NestedLink | None:
    """The link of this container; None outside of one."""
    return _link
