"""The one background thread of a client process: an event loop that owns the connection to the server.

It is apart from every loop of the user's, so heartbeats and results keep moving while user code blocks. A forked child
starts a portal of its own.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from hotbed_proto.errors import ExecutionError, ServiceError

T = TypeVar("T")

_START_TIMEOUT_S = 10.0
_CHECK_S = 5.0

_portal: Portal | None = None
_lock = threading.Lock()


class Portal:
    """A daemon thread with its loop (uvloop where installed)."""

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._main, name="hotbed-portal", daemon=True)
        self._thread.start()
        if not self._started.wait(_START_TIMEOUT_S):
            raise ServiceError("the client's background thread did not start", why=f"nothing heard for {_START_TIMEOUT_S:g} s")

    def _main(self) -> None:
        try:
            import uvloop
        except ImportError:
            self.loop = asyncio.new_event_loop()
        else:
            self.loop = uvloop.new_event_loop()
        asyncio.set_event_loop(self.loop)
        self.loop.call_soon(self._started.set)
        self.loop.run_forever()

    @property
    def alive(self) -> bool:
        """Whether the thread still runs."""
        return self._thread.is_alive()

    def call_soon(self, function: Callable[..., object], *args: Any) -> None:
        """Run a plain function on the loop. Cost: about 5 us, plus a wake-up when the loop is idle."""
        self.loop.call_soon_threadsafe(function, *args)

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run it to its end; an interrupt of the caller cancels it.

        Raises:
            ExecutionError: Called on the portal's own thread, where it would wait for itself.
        """
        if threading.current_thread() is self._thread:
            coroutine.close()
            raise ExecutionError("a blocking call on hotbed's own loop would wait for itself", fix="use the .aio form")
        future = asyncio.run_coroutine_threadsafe(coroutine, self.loop)
        try:
            while True:
                try:
                    return future.result(_CHECK_S)
                except concurrent.futures.TimeoutError:
                    if future.done():
                        raise
                    if not self.alive:
                        raise ServiceError("the client's background thread has ended") from None
        except BaseException:
            future.cancel()
            raise

    async def run_async(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Await it from another loop; cancelling the caller cancels it."""
        if asyncio.get_running_loop() is self.loop:
            return await coroutine
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(coroutine, self.loop))


def portal() -> Portal:
    """This process's portal, started on first use."""
    global _portal
    if _portal is None or not _portal.alive:
        with _lock:
            if _portal is None or not _portal.alive:
                _portal = Portal()
    return _portal


def _forget() -> None:
    global _portal, _lock
    _portal = None
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_forget)
