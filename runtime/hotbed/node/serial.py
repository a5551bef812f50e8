"""Steps that take their time but keep their order."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


class Serial:
    """Runs coroutines one after the other. `idle` callers may do their step directly and keep the order."""

    def __init__(self) -> None:
        self._tail: asyncio.Task[None] | None = None

    @property
    def idle(self) -> bool:
        """Nothing is waiting or running."""
        return self._tail is None or self._tail.done()

    def add(self, step: Coroutine[Any, Any, None]) -> None:
        """Run this after everything added before."""
        before = None if self.idle else self._tail

        async def run() -> None:
            if before is not None:
                await asyncio.wait((before,))
            await step

        self._tail = asyncio.get_running_loop().create_task(run())

    async def drain(self, timeout_s: float) -> None:
        """Wait until idle, `timeout_s` at most."""
        if self._tail is not None and not self._tail.done():
            await asyncio.wait((self._tail,), timeout=timeout_s)
