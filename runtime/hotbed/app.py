"""`App`: a named set of functions, and the time during which they can be called."""

from __future__ import annotations

import asyncio
import inspect
import json
import re
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, Protocol, TypeVar, overload

from hotbed import options as check
from hotbed.client import current_client, grpc_transport
from hotbed.function import IDS_VARIABLE, Function
from hotbed.gpu import GpuSpec, parse_gpus
from hotbed.image import Image, check_env
from hotbed.options import Amount, FunctionOptions
from hotbed.portal import portal
from hotbed.retries import Retries, parse_retries
from hotbed_proto.errors import InvalidError
from hotbed_proto.ids import mint

if TYPE_CHECKING:
    from types import TracebackType

P = ParamSpec("P")
R = TypeVar("R")

_NAME = re.compile(r"^[A-Za-z0-9_][A-Za-z0-9_.\-]{0,127}$")


class FunctionDecorator(Protocol):
    """What `@app.function()` returns: an `async def` function's result is typed as what it returns when awaited."""

    @overload
    def __call__(self, raw: Callable[P, Coroutine[Any, Any, R]], /) -> Function[P, R]: ...
    @overload
    def __call__(self, raw: Callable[P, R], /) -> Function[P, R]: ...


class LocalEntrypoint:
    """A function of the caller's machine that `hotbed run` starts."""

    def __init__(self, raw: Callable[..., Any], name: str, app: App) -> None:
        self.raw = raw
        self.name = name
        self.app = app
        self.is_async = inspect.iscoroutinefunction(raw)
        self.__doc__ = raw.__doc__

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.raw(*args, **kwargs)

    def __repr__(self) -> str:
        return f"LocalEntrypoint({self.app.name}.{self.name})"


class App:
    """A named set of functions.

    Args:
        name: Letters, digits, `.`, `_` and `-`; "app" when left out.
        image: For functions that name none.
        tags: Free labels of the app, given to all its functions.
        include_source: Whether local source travels with functions that do not say.

    Raises:
        InvalidError: A name or value that cannot work.
    """

    def __init__(
        self,
        name: str | None = None,
        *,
        image: Image | None = None,
        secrets: Sequence[Any] = (),
        volumes: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
        include_source: bool = True,
    ) -> None:
        self.name = "app" if name is None else name
        if not isinstance(self.name, str) or not _NAME.match(self.name):
            raise InvalidError(f"App name {name!r}: 1 to 128 letters, digits, '.', '_' or '-' are needed")
        check.nothing_yet("secrets", secrets)
        check.nothing_yet("volumes", volumes)
        self._image = _image(image) or Image.host()
        self._tags = dict(check.text_map("tags", tags))
        self._include_source = include_source
        self._functions: dict[str, Function[..., Any]] = {}
        self._entrypoints: dict[str, LocalEntrypoint] = {}
        self.app_id: str | None = None
        """`ap-...` while it runs."""

    def __repr__(self) -> str:
        return f"App({self.name!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return App, (self.name,)  # functions that refer to their app need its name in the container, nothing of its state

    @property
    def registered_functions(self) -> dict[str, Function[..., Any]]:
        """Its functions by name."""
        return dict(self._functions)

    @property
    def registered_entrypoints(self) -> dict[str, LocalEntrypoint]:
        """Its local entrypoints by name."""
        return dict(self._entrypoints)

    def function(
        self,
        *,
        image: Image | None = None,
        cpu: Amount = None,
        memory: int | tuple[int, int] | None = None,
        gpu: GpuSpec = None,
        timeout: float = 300,
        startup_timeout: float | None = None,
        retries: int | Retries | None = None,
        max_containers: int | None = None,
        min_containers: int | None = None,
        buffer_containers: int | None = None,
        scaledown_window: float = 60,
        isolation: str | None = None,
        ephemeral_disk: int | None = None,
        secrets: Sequence[Any] = (),
        volumes: Mapping[str, Any] | None = None,
        region: str | Sequence[str] | None = None,
        labels: Mapping[str, str] | None = None,
        name: str | None = None,
        serialized: bool = False,
        include_source: bool | None = None,
        env: Mapping[str, str | None] | None = None,
        is_generator: bool | None = None,
        single_use_containers: bool = False,
        unplaceable: Literal["queue", "fail"] = "queue",
    ) -> FunctionDecorator:
        """Decorator: run this callable in containers.

        Args:
            cpu: Cores, or `(request, limit)`. Default 0.125.
            memory: MiB, or `(request, limit)`. Default 128; without a limit a container may use up to half of its node.
            gpu: "A100", "H100:4", "A100:0.5", "any", a `GpuRequest`, or a list of them as ordered fallbacks.
            timeout: Seconds of one attempt, up to a day.
            startup_timeout: Seconds from creating a container to its being ready; default: as `timeout`.
            retries: More attempts after a failure: a number, or `Retries(...)`.
            max_containers, min_containers, buffer_containers: Bounds of scaling, and spare containers under load.
            scaledown_window: Seconds an idle container is kept.
            isolation: "container", "gvisor", "docker" or "process"; default: the node's.
            ephemeral_disk: MiB of writable disk.
            region: Allowed values of the nodes' label "region".
            serialized: Send the code by value even if its module could be imported in the container.
            single_use_containers: A fresh container for every input.
            unplaceable: What becomes of calls that no node can hold: "queue" keeps them, "fail" fails them at once.

        Raises:
            InvalidError: A value that cannot work; it names parameter and value.
        """
        check.nothing_yet("secrets", secrets)
        check.nothing_yet("volumes", volumes)
        if unplaceable not in ("queue", "fail"):
            raise InvalidError(f"unplaceable={unplaceable!r} is neither 'queue' nor 'fail'")
        cores, cores_limit = check.amount("cpu", cpu, check.DEFAULT_MILLI_CPU / 1000, 0.001, 1024)
        mib, mib_limit = check.amount("memory", memory, check.DEFAULT_MEMORY_MIB, 1, 16 * 2**20)
        least = check.whole("min_containers", min_containers or 0, 0, 100_000)
        most = 0 if max_containers is None else check.whole("max_containers", max_containers, 1, 100_000)
        if most and least > most:
            raise InvalidError(f"min_containers ({least}) cannot be greater than max_containers ({most})")
        shared: dict[str, Any] = {
            "image": _image(image) or self._image,
            "milli_cpu": round(cores * 1000),
            "milli_cpu_limit": round(cores_limit * 1000),
            "memory_mib": int(mib),
            "memory_limit_mib": int(mib_limit),
            "disk_mib": 0 if ephemeral_disk is None else check.whole("ephemeral_disk", ephemeral_disk, 1, 16 * 2**20),
            "gpus": parse_gpus(gpu),
            "timeout_s": check.timeout("timeout", timeout),
            "startup_timeout_s": 0.0 if startup_timeout is None else check.timeout("startup_timeout", startup_timeout),
            "retries": parse_retries(retries),
            "min_containers": least,
            "max_containers": most,
            "buffer_containers": check.whole("buffer_containers", buffer_containers or 0, 0, 100_000),
            "scaledown_window_s": check.number("scaledown_window", scaledown_window, 0, 24 * 3600),
            "isolation": check.isolation_name(isolation),
            "env": tuple(check_env({k: v for k, v in (env or {}).items() if v is not None}).items()),
            "regions": check.text_list("region", region),
            "labels": check.text_map("labels", {**self._tags, **(labels or {})}),
            "serialized": bool(serialized),
            "include_source": self._include_source if include_source is None else bool(include_source),
            "single_use_containers": bool(single_use_containers),
            "fail_if_unplaceable": unplaceable == "fail",
        }

        def decorate(raw: Any) -> Any:
            if isinstance(raw, Function):
                raise InvalidError(f"{raw.name!r} is a hotbed function already", fix="use one @app.function() only")
            if not callable(raw) or inspect.isclass(raw):
                raise InvalidError(
                    f"@app.function() was given {type(raw).__name__}, not a function",
                    fix="write @app.function() with parentheses",
                )
            own_name = name or getattr(raw, "__name__", "")
            if not _NAME.match(own_name) and own_name != "<lambda>":
                raise InvalidError(f"function name {own_name!r}: 1 to 128 letters, digits, '.', '_' or '-' are needed")
            if own_name == "<lambda>":
                raise InvalidError("a lambda has no name", fix="give one: @app.function(name=...)")
            present = self._functions.get(own_name)
            if present is not None and not _same_place(present, raw):
                raise InvalidError(
                    f"app {self.name!r} has a function {own_name!r} already", fix="give one of them another name="
                )
            is_async_generator = inspect.isasyncgenfunction(raw)
            generates = is_async_generator or inspect.isgeneratorfunction(raw)
            function: Function[..., Any] = Function(
                raw,
                FunctionOptions(
                    name=own_name,
                    is_generator=generates if is_generator is None else bool(is_generator),
                    is_async=is_async_generator or inspect.iscoroutinefunction(raw),
                    **shared,
                ),
                self.name,
            )
            self._functions[own_name] = function
            if self.app_id is not None:
                portal().run(self._register_all([function]))
            return function

        return decorate

    def local_entrypoint(self, name: str | None = None) -> Callable[[Callable[..., Any]], LocalEntrypoint]:
        """Decorator: `hotbed run` starts this function here, with the app running. Its parameters become options."""

        def decorate(raw: Callable[..., Any]) -> LocalEntrypoint:
            if not callable(raw):
                raise InvalidError(f"@app.local_entrypoint() was given {type(raw).__name__}, not a function")
            own_name = name or raw.__name__
            if own_name in self._entrypoints and self._entrypoints[own_name].raw.__qualname__ != raw.__qualname__:
                raise InvalidError(f"app {self.name!r} has a local entrypoint {own_name!r} already")
            entrypoint = self._entrypoints[own_name] = LocalEntrypoint(raw, own_name, self)
            return entrypoint

        if callable(name):
            raise InvalidError("@app.local_entrypoint needs parentheses", fix="write @app.local_entrypoint()")
        return decorate

    def run(self, *, detach: bool = False) -> AppRun:
        """Context manager, plain and async: within it the app's functions can be called.

        Args:
            detach: Leave the app running on the server when the block ends, so that spawned calls go on.
        """
        return AppRun(self, detach)

    # --- starting and stopping (on the portal's loop) -------------------------------------------------------------------

    async def _start(self, detach: bool) -> None:
        transport = grpc_transport()
        self.app_id = await transport.create_app(self.name, detach)
        try:
            await self._register_all(list(self._functions.values()))
        except BaseException:
            await self._stop("registering its functions failed")
            raise

    async def _register_all(self, functions: list[Function[..., Any]]) -> None:
        from hotbed import source
        from hotbed_proto.v1.common_pb2 import FunctionSpec

        transport = grpc_transport()
        assert self.app_id is not None
        # All ids first: the code of one function may hold handles of the others.
        ids = {function.name: mint("fu") for function in functions}
        for function in functions:
            function.bind(ids[function.name])
        known = json.dumps({f"{self.name}/{f.name}": f.object_id for f in self._functions.values()})
        stored: dict[str, tuple[str, int]] = {}
        for function in functions:
            chosen = function.options
            located = await asyncio.to_thread(
                source.locate,
                function.get_raw_f(),
                function.name,
                serialized=chosen.serialized,
                include_source=chosen.include_source,
            )
            spec = FunctionSpec(app_id=self.app_id, app_name=self.name)
            chosen.fill(spec)
            spec.pickled, spec.module, spec.qualname = located.pickled, located.module, located.qualname
            spec.env[IDS_VARIABLE] = known
            for one in located.sources:
                if one.digest not in stored:
                    stored[one.digest] = await transport.put_blob(one.data)
                digest, size = stored[one.digest]
                spec.sources.add(digest=digest, size_bytes=size, remote_path=one.remote_path)
            warning = await transport.register_function(spec, ids[function.name])
            if warning:
                import warnings

                warnings.warn(warning, stacklevel=2)

    async def _stop(self, reason: str) -> None:
        app_id, self.app_id = self.app_id, None
        for function in self._functions.values():
            function.bind("")
        if app_id is not None:
            transport = grpc_transport()
            if transport.on_log is not None:
                await transport.settle()
            await transport.stop_app(app_id, reason)

    async def _leave(self) -> None:
        app_id, self.app_id = self.app_id, None
        for function in self._functions.values():
            function.bind("")
        if app_id is not None:
            grpc_transport().leave_app(app_id)


class AppRun:
    """One run of an app. Made by `App.run`."""

    def __init__(self, app: App, detach: bool) -> None:
        self._app = app
        self._detach = detach

    def _check(self) -> None:
        if self._app.app_id is not None:
            raise InvalidError(f"app {self._app.name!r} is running already", fix="leave its first `with app.run():` before")

    def __enter__(self) -> App:
        self._check()
        current_client()
        _attach_output()
        portal().run(self._app._start(self._detach))
        return self._app

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        portal().run(self._end(error))

    async def __aenter__(self) -> App:
        self._check()
        await asyncio.to_thread(current_client)
        _attach_output()
        await portal().run_async(self._app._start(self._detach))
        return self._app

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await portal().run_async(self._end(error))

    async def _end(self, error: BaseException | None) -> None:
        from hotbed_proto.errors import ServiceError

        if self._detach and not isinstance(error, KeyboardInterrupt):
            await self._app._leave()
            return
        try:
            await self._app._stop("its run ended" if error is None else f"its run ended with {type(error).__name__}")
        except ServiceError:
            if error is None:
                raise  # with an error on its way, that one is the news; the server ends apps of lost clients by itself


def _attach_output() -> None:
    from hotbed.output import attach

    attach(grpc_transport())


def _image(image: Image | None) -> Image | None:
    if image is not None and not isinstance(image, Image):
        raise InvalidError(f"image={image!r} is not a hotbed.Image", fix="use hotbed.Image.host()")
    return image


def _same_place(present: Function[..., Any], raw: Callable[..., Any]) -> bool:
    """A notebook cell run again, or a module loaded again, defines the same function anew."""
    before = present.get_raw_f()
    return (before.__module__, before.__qualname__) == (raw.__module__, getattr(raw, "__qualname__", ""))
