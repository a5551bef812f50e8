"""The kinds of functions: plain, async, generator, async generator. Async ones share one event loop that stays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncGenerator, Callable, Coroutine
    from typing import Any

    from hotbed.worker.runner import Runner

_GENERATOR_ITEM: Final = 3


class CallKind:
    """How a function is run (plain integers: enum costs milliseconds at boot)."""

    PLAIN: Final = 0
    ASYNC: Final = 1
    GENERATOR: Final = 2
    ASYNC_GENERATOR: Final = 3


class Calls:
    """Runs everything but plain functions, for one runner."""

    def __init__(self, runner: Runner) -> None:
        self.kind = CallKind.PLAIN
        self._runner = runner
        self._function: Callable[..., Any] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[Any] | None = None

    def set_function(self, function: Callable[..., Any], is_generator: bool, is_async: bool) -> None:
        """What to run; the two facts are the client's, who saw the function's definition."""
        self._function = function
        if is_generator:
            self.kind = CallKind.ASYNC_GENERATOR if is_async else CallKind.GENERATOR
        else:
            self.kind = CallKind.ASYNC if is_async else CallKind.PLAIN

    def run_async(self, args: Any, kwargs: Any) -> Any:
        """Run one coroutine to its end."""
        assert self._function is not None
        return self._complete(self._function(*args, **kwargs))

    def run_generator(self, index: int, args: Any, kwargs: Any) -> int:
        """Send the items as they come; returns how many. A cancel closes the generator."""
        assert self._function is not None
        generator = self._function(*args, **kwargs)
        self._runner.streaming = True
        try:
            if self.kind == CallKind.ASYNC_GENERATOR:
                return self._complete(self._drain(index, generator))
            count = 0
            try:
                for item in generator:
                    self._emit(index, item)
                    count += 1
            finally:
                close = getattr(generator, "close", None)
                if close is not None:
                    close()
            return count
        finally:
            self._runner.streaming = False

    async def _drain(self, index: int, generator: AsyncGenerator[Any, None]) -> int:
        count = 0
        try:
            async for item in generator:
                self._emit(index, item)
                count += 1
        finally:
            await generator.aclose()
        return count

    def _emit(self, index: int, item: Any) -> None:
        runner = self._runner
        runner.phase = "result"
        bit, data = runner.dump(item)
        runner.phase = "call"
        runner.append(index, _GENERATOR_ITEM | bit, data)
        runner.flush_if_due()

    def _complete(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        import asyncio

        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            asyncio.set_event_loop(self._loop)
        self._task = task = self._loop.create_task(coroutine)
        try:
            return self._loop.run_until_complete(task)
        finally:
            self._task = None
            if not task.done():  # SystemExit and KeyboardInterrupt leave the loop at once
                task.cancel()

    def cancel_running(self) -> bool:
        """Cancel the running coroutine, from the service thread; False when a signal is needed instead."""
        loop, task = self._loop, self._task
        if loop is None or task is None:
            return False
        loop.call_soon_threadsafe(task.cancel)
        return True

    def cancel_types(self) -> tuple[type[BaseException], ...]:
        """What a cancelled coroutine raises."""
        if self._loop is None:
            return ()
        from asyncio import CancelledError

        return (CancelledError,)

    def close(self) -> None:
        """End what is left on the loop."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.close()
