"""`Function`: what `@app.function` makes of a callable."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar

from hotbed.calls import FunctionCall, _client_aio, _Output
from hotbed.client import current_client
from hotbed.dual import Dual, DualIterator
from hotbed.lanes import AsyncSlot, Mailbox, SyncSlot
from hotbed_proto import frames
from hotbed_proto.errors import ExecutionError, InvalidError, NotFoundError
from hotbed_proto.ids import CallRef

if TYPE_CHECKING:
    from hotbed.client import Client
    from hotbed.options import FunctionOptions

P = ParamSpec("P")
R = TypeVar("R")

IDS_VARIABLE = "HOTBED_FUNCTION_IDS"
"""Set in containers: JSON of {"app/name": function id}, so that functions imported there by reference can be called."""


class Function(Generic[P, R]):
    """A function that runs in containers.

    `f.remote(x)` runs it and waits, `f.map(xs)` runs it on many, `f.spawn(x)` returns at once, `f.local(x)` runs it here.
    Everything that waits has an `.aio` form.
    """

    def __init__(self, raw: Callable[..., Any] | None, options: FunctionOptions, app_name: str) -> None:
        self._raw = raw
        self.options = options
        self.app_name = app_name
        self._function_id = ""
        self.remote: Dual[P, R] = Dual(self._remote, self._remote_aio)
        self.remote_gen: DualIterator[P, Any] = DualIterator(self._remote_gen, self._remote_gen_aio)
        self.spawn: Dual[P, FunctionCall[R]] = Dual(self._spawn, self._spawn_aio)
        self.map: DualIterator[..., R] = DualIterator(self._map, self._map_aio)
        self.starmap: DualIterator[..., R] = DualIterator(self._starmap, self._starmap_aio)
        self.for_each: Dual[..., None] = Dual(self._for_each, self._for_each_aio)
        self.spawn_map: Dual[..., FunctionCall[R]] = Dual(self._spawn_map, self._spawn_map_aio)
        self.__doc__ = raw.__doc__ if raw is not None else None
        self.__name__ = options.name
        self.__wrapped__ = raw

    @property
    def name(self) -> str:
        """Its name in the app."""
        return self.options.name

    @property
    def object_id(self) -> str:
        """`fu-...` while its app runs.

        Raises:
            ExecutionError: The app does not run.
        """
        return self._function_id or self._find_id()

    @property
    def is_generator(self) -> bool:
        """Whether it yields."""
        return self.options.is_generator

    def get_raw_f(self) -> Callable[P, R]:
        """The callable that was decorated."""
        if self._raw is None:
            raise ExecutionError(f"the code of function {self.name!r} is not here", fix="use .remote()")
        return self._raw

    def local(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run it here, in this process: a coroutine function gives its coroutine, a generator function its generator."""
        return self.get_raw_f()(*args, **kwargs)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.local(*args, **kwargs)

    def __repr__(self) -> str:
        return f"Function({self.app_name}.{self.name})"

    def __reduce__(self) -> tuple[Any, ...]:
        # A handle, not the code: what refers to another function calls it by id.
        return _rebuild, (self.app_name, self.name, self._function_id, self.options.is_generator)

    def bind(self, function_id: str) -> None:
        """The app runs: calls go to this id ("" = it stopped)."""
        self._function_id = function_id

    def _find_id(self) -> str:
        found = _ids_of_container().get(f"{self.app_name}/{self.name}", "")
        if not found:
            raise ExecutionError(
                f"function {self.name!r} cannot be called: app {self.app_name!r} is not running",
                fix="call it within `with app.run():`, or start the program with `hotbed run`",
            )
        self._function_id = found
        return found

    def _check_kind(self, method: str, wants_generator: bool) -> str:
        if self.options.is_generator != wants_generator:
            raise InvalidError(
                f"{self.name}.{method}(): {self.name} is {'a' if self.options.is_generator else 'not a'} generator function",
                fix=f"use {self.name}.{'remote_gen' if self.options.is_generator else 'remote'}()",
            )
        return self._function_id or self._find_id()

    # --- one input ----------------------------------------------------------------------------------------------------

    def _remote(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run it in a container and wait for the result. Interrupting the wait cancels the input."""
        function_id = self._check_kind("remote", False)
        client = current_client()
        payload, flag = client.encode(function_id, args, kwargs, durable=False)
        slot = SyncSlot()
        lane, index = client.submit(function_id, False, payload, flag, slot)
        try:
            slot.wait()
        except BaseException:
            client.cancel(lane, [index])
            raise
        return client.decode(slot)

    async def _remote_aio(self, *args: P.args, **kwargs: P.kwargs) -> R:
        function_id = self._check_kind("remote", False)
        client = await _client_aio()
        payload, flag = await self._encode_aio(client, function_id, args, kwargs, durable=False)
        slot = AsyncSlot()
        lane, index = client.submit(function_id, False, payload, flag, slot)
        try:
            await slot.future
        except BaseException:
            client.cancel(lane, [index])
            raise
        if slot.status & frames.PAYLOAD_IS_REF:
            return await asyncio.to_thread(client.decode, slot)
        return client.decode(slot)

    async def _encode_aio(
        self, client: Client, function_id: str, args: Any, kwargs: Any, *, durable: bool
    ) -> tuple[bytes, int]:
        if client.is_large(args, kwargs):
            return await asyncio.to_thread(client.encode, function_id, args, kwargs, durable=durable)
        from hotbed import serialize

        payload = serialize.dumps_call(args, kwargs)
        transport = client.transport
        if len(payload) > (transport.durable_limit_bytes if durable else transport.inline_limit_bytes):
            return await asyncio.to_thread(transport.store_bytes, function_id, payload, durable), frames.PAYLOAD_IS_REF
        return payload, 0

    def _remote_gen(self, *args: P.args, **kwargs: P.kwargs) -> Iterator[Any]:
        """Items of a generator function as they are yielded. Closing the iterator closes the generator."""
        function_id = self._check_kind("remote_gen", True)
        client = current_client()
        payload, flag = client.encode(function_id, args, kwargs, durable=False)
        mailbox = Mailbox()
        lane, index = client.submit(function_id, False, payload, flag, mailbox)
        finished = False
        try:
            while True:
                status, payload, error = mailbox.get()
                finished = status & frames.STATUS_MASK != frames.GENERATOR_ITEM
                if error is None and status == frames.GENERATOR_END:
                    return
                yield client.decode(_Output(status, payload, error))
        finally:
            if not finished:
                client.cancel(lane, [index])

    async def _remote_gen_aio(self, *args: P.args, **kwargs: P.kwargs) -> AsyncIterator[Any]:
        function_id = self._check_kind("remote_gen", True)
        client = await _client_aio()
        payload, flag = await self._encode_aio(client, function_id, args, kwargs, durable=False)
        mailbox = Mailbox()
        lane, index = client.submit(function_id, False, payload, flag, mailbox)
        finished = False
        try:
            while True:
                status, payload, error = await mailbox.aget()
                finished = status & frames.STATUS_MASK != frames.GENERATOR_ITEM
                if error is None and status == frames.GENERATOR_END:
                    return
                output = _Output(status, payload, error)
                if status & frames.PAYLOAD_IS_REF:
                    yield await asyncio.to_thread(client.decode, output)
                else:
                    yield client.decode(output)
        finally:
            if not finished:
                client.cancel(lane, [index])

    def _spawn(self, *args: P.args, **kwargs: P.kwargs) -> FunctionCall[R]:
        """Start it; returns once the server has stored the input, so that it survives this process and the server."""
        function_id = self._function_id or self._find_id()
        client = current_client()
        payload, flag = client.encode(function_id, args, kwargs, durable=True)
        slot = SyncSlot()
        lane, index = client.submit(function_id, True, payload, flag, slot)
        slot.wait()
        if slot.error is not None:
            client.decode(slot)
        return FunctionCall(CallRef(lane.lane_id, index))

    async def _spawn_aio(self, *args: P.args, **kwargs: P.kwargs) -> FunctionCall[R]:
        function_id = self._function_id or self._find_id()
        client = await _client_aio()
        payload, flag = await self._encode_aio(client, function_id, args, kwargs, durable=True)
        slot = AsyncSlot()
        lane, index = client.submit(function_id, True, payload, flag, slot)
        await slot.future
        if slot.error is not None:
            client.decode(slot)
        return FunctionCall(CallRef(lane.lane_id, index))

    # --- many inputs --------------------------------------------------------------------------------------------------

    def _map(
        self,
        *input_iterators: Iterable[Any],
        kwargs: dict[str, Any] | None = None,
        order_outputs: bool = True,
        return_exceptions: bool = False,
        wrap_returned_exceptions: bool | None = None,
    ) -> Iterator[R]:
        """Run it on every item (of several iterators: on their zip). Inputs are pulled as results are taken.

        Args:
            kwargs: Given to every call.
            order_outputs: False yields results as they come.
            return_exceptions: Yield the exceptions of failed inputs in their places instead of raising the first.
        """
        rows = ((value,) for value in input_iterators[0]) if len(input_iterators) == 1 else zip(*input_iterators, strict=False)
        return self._rows(rows, kwargs, order_outputs, return_exceptions)

    def _rows(self, rows: Iterable[tuple[Any, ...]], kwargs: Any, ordered: bool, return_exceptions: bool) -> Iterator[R]:
        from hotbed.mapping import map_sync

        function_id = self._check_kind("map", False)
        return map_sync(current_client(), function_id, rows, kwargs or {}, ordered=ordered, return_exceptions=return_exceptions)

    async def _map_aio(
        self,
        *input_iterators: Any,
        kwargs: dict[str, Any] | None = None,
        order_outputs: bool = True,
        return_exceptions: bool = False,
        wrap_returned_exceptions: bool | None = None,
    ) -> AsyncIterator[R]:
        from hotbed.mapping import map_async, rows_async

        function_id = self._check_kind("map", False)
        results = map_async(
            await _client_aio(),
            function_id,
            rows_async(input_iterators),
            kwargs or {},
            ordered=order_outputs,
            return_exceptions=return_exceptions,
        )
        try:
            async for value in results:
                yield value
        finally:
            await results.aclose()  # type: ignore[attr-defined]

    def _starmap(
        self,
        input_iterator: Iterable[Iterable[Any]],
        *,
        kwargs: dict[str, Any] | None = None,
        order_outputs: bool = True,
        return_exceptions: bool = False,
        wrap_returned_exceptions: bool | None = None,
    ) -> Iterator[R]:
        """`map` over sequences of arguments."""
        return self._rows((tuple(row) for row in input_iterator), kwargs, order_outputs, return_exceptions)

    async def _starmap_aio(
        self,
        input_iterator: Any,
        *,
        kwargs: dict[str, Any] | None = None,
        order_outputs: bool = True,
        return_exceptions: bool = False,
        wrap_returned_exceptions: bool | None = None,
    ) -> AsyncIterator[R]:
        from hotbed.mapping import map_async, rows_async

        async def rows() -> AsyncIterator[tuple[Any, ...]]:
            async for (row,) in rows_async((input_iterator,)):
                yield tuple(row)

        function_id = self._check_kind("starmap", False)
        results = map_async(
            await _client_aio(), function_id, rows(), kwargs or {}, ordered=order_outputs, return_exceptions=return_exceptions
        )
        try:
            async for value in results:
                yield value
        finally:
            await results.aclose()  # type: ignore[attr-defined]

    def _for_each(
        self, *input_iterators: Iterable[Any], kwargs: dict[str, Any] | None = None, ignore_exceptions: bool = False
    ) -> None:
        """`map` for its effects: waits for all, drops the results."""
        for _ in self._map(*input_iterators, kwargs=kwargs, order_outputs=False, return_exceptions=ignore_exceptions):
            pass

    async def _for_each_aio(
        self, *input_iterators: Any, kwargs: dict[str, Any] | None = None, ignore_exceptions: bool = False
    ) -> None:
        async for _ in self._map_aio(*input_iterators, kwargs=kwargs, order_outputs=False, return_exceptions=ignore_exceptions):
            pass

    def _spawn_map(self, *input_iterators: Iterable[Any], kwargs: dict[str, Any] | None = None) -> FunctionCall[R]:
        """Spawn it on every item; returns once all inputs are stored. Read results with `iter()` or `get(index=)`."""
        from hotbed.mapping import spawn_map_sync

        function_id = self._check_kind("spawn_map", False)
        rows = ((value,) for value in input_iterators[0]) if len(input_iterators) == 1 else zip(*input_iterators, strict=False)
        lane_id, count = spawn_map_sync(current_client(), function_id, rows, kwargs or {})
        return FunctionCall(CallRef(lane_id, None), count)

    async def _spawn_map_aio(self, *input_iterators: Any, kwargs: dict[str, Any] | None = None) -> FunctionCall[R]:
        from hotbed.mapping import rows_async

        rows = [row async for row in rows_async(input_iterators)]
        columns = tuple(zip(*rows, strict=True)) if rows else ((),)
        return await asyncio.to_thread(lambda: self._spawn_map(*columns, kwargs=kwargs))


def _rebuild(app_name: str, name: str, function_id: str, is_generator: bool) -> Function[..., Any]:
    from hotbed.options import FunctionOptions

    function: Function[..., Any] = Function(None, FunctionOptions(name=name, is_generator=is_generator), app_name)
    function.bind(function_id)
    return function


def _ids_of_container() -> dict[str, str]:
    import json

    from hotbed.runtime_info import is_local

    if is_local():
        return {}
    try:
        found = json.loads(os.environ.get(IDS_VARIABLE, "{}"))
    except ValueError as error:
        raise NotFoundError(f"{IDS_VARIABLE} of this container cannot be read", why=str(error)) from None
    return found if isinstance(found, dict) else {}
