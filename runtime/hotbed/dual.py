"""One method, two ways to call it: `x.get()` blocks, `await x.get.aio()` does not. Both are typed by one signature.

Hot methods give both forms themselves (`Dual`), because a hop to another thread costs more than the whole call. For the
rest `dual` wraps a coroutine function that runs on the client's portal loop, so that a user who blocks a loop of their own
cannot stall it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, overload

P = ParamSpec("P")
S = TypeVar("S")
T = TypeVar("T")


class Dual(Generic[P, T]):
    """A bound method in its blocking form, with the awaitable one as `.aio`."""

    __slots__ = ("_blocking", "aio")

    def __init__(self, blocking: Callable[P, T], awaitable: Callable[P, Coroutine[Any, Any, T]]) -> None:
        self._blocking = blocking
        self.aio = awaitable

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._blocking(*args, **kwargs)


class DualIterator(Generic[P, T]):
    """The same for methods that yield."""

    __slots__ = ("_blocking", "aio")

    def __init__(self, blocking: Callable[P, Iterator[T]], awaitable: Callable[P, AsyncIterator[T]]) -> None:
        self._blocking = blocking
        self.aio = awaitable

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        return self._blocking(*args, **kwargs)


class dual(Generic[S, P, T]):
    """Decorator for `async def` methods that run on the portal's loop; gives the method its blocking form."""

    def __init__(self, method: Callable[Concatenate[S, P], Coroutine[Any, Any, T]]) -> None:
        self._method = method
        self.__doc__ = method.__doc__
        self.__name__ = method.__name__

    @overload
    def __get__(self, instance: None, owner: type[Any]) -> dual[S, P, T]: ...
    @overload
    def __get__(self, instance: S, owner: type[Any]) -> Dual[P, T]: ...
    def __get__(self, instance: S | None, owner: type[Any]) -> dual[S, P, T] | Dual[P, T]:
        if instance is None:
            return self
        method, bound = self._method, instance

        def blocking(*args: P.args, **kwargs: P.kwargs) -> T:
            from hotbed.portal import portal

            return portal().run(method(bound, *args, **kwargs))

        async def awaitable(*args: P.args, **kwargs: P.kwargs) -> T:
            from hotbed.portal import portal

            return await portal().run_async(method(bound, *args, **kwargs))

        return Dual(blocking, awaitable)
