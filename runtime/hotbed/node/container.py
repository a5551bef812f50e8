"""One container on this node: start it, make it a function, move inputs and outputs, watch the clock, see it end.

The life of a container is one coroutine (`_live`), so that there is one place where it ends and one terminal report.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from hotbed.node import columns
from hotbed.node.backend import Backend, ContainerSpec, ExitStatus, Mount
from hotbed.node.columns import Run, Taken, Violation
from hotbed.node.logs import STDERR, STDOUT, LogLimiter, LogPipe
from hotbed.node.payload_files import PayloadDir
from hotbed.node.serial import Serial
from hotbed.node.settings import NodeSettings
from hotbed.node.status_page import Running, StatusPage
from hotbed.node.worker_link import WorkerLink
from hotbed_proto import frames
from hotbed_proto.errors import ContainerFailedError, Error, InvalidError, StartupTimeoutError
from hotbed_proto.v1 import common_pb2, node_pb2, worker_pb2

HIDDEN_ROOT: Final = "/__hotbed"
_BOOT_S_MAX: Final = 60.0
_TIMEOUT_SLACK_S: Final = 1.0
"""The status page names the culprit at the timeout itself; without it the container ends this much later."""
_LAST_WORDS_S: Final = 1.0
_INLINE_READ_MAX: Final = frames.INLINE_REMOTE_LIMIT_BYTES


@dataclass(slots=True)
class Host:
    """What a container needs of its agent."""

    settings: NodeSettings
    payloads: PayloadDir
    worker_lib: Path
    send: Callable[[node_pb2.NodeFrame], None]
    fetch_blob: Callable[[str, Path], Awaitable[None]]
    put_blob: Callable[[Path], Awaitable[str]]
    source: Callable[[common_pb2.SourceMount], Awaitable[Path]]
    gpu_environ: Callable[[list[int]], dict[str, str]]
    published: dict[str, tuple[str, str]]
    """Name under `out/` to (container id, the worker's name), until the client releases it."""
    on_gone: Callable[[str], None]


class Container:
    """See the module. Everything here runs on the agent's loop."""

    def __init__(self, host: Host, backend: Backend, start: node_pb2.StartContainer) -> None:
        self.container_id = start.container_id
        self._host = host
        self._backend = backend
        self._start = start
        self._spec = start.spec
        self._function_id = start.function_id
        self._loop = asyncio.get_running_loop()
        self._born_s = time.monotonic()
        self._breakdown = common_pb2.StartBreakdown(schedule_s=start.schedule_s, level="L0")
        self._state = "starting"
        self._created = False
        self._runs: dict[int, Run] = {}
        self._next_run = 0
        self._in = Serial()
        self._out = Serial()
        self._cancels: list[tuple[float, int, set[int]]] = []
        self._end_reason = ""
        self._failure: Error | None = None
        self._blamed: tuple[str, int] | None = None
        self._seen: tuple[Running, float] | None = None
        self._progress_s = time.monotonic()
        self._page: StatusPage | None = None
        self._pipes: list[LogPipe] = []
        self._link_closed = asyncio.Event()
        self._link = WorkerLink(self._on_message, self._on_violation, self._link_closed.set)
        self._deadline = self._loop.call_later(self._startup_timeout_s(), self._on_startup_timeout)
        self._tasks: set[asyncio.Task[None]] = set()
        self._folder = Path()
        self._life = self._loop.create_task(self._live())

    # --- start ------------------------------------------------------------------------------------------------------

    def _startup_timeout_s(self) -> float:
        return self._spec.startup_timeout_s or _BOOT_S_MAX

    async def _live(self) -> None:
        status = ExitStatus(-1)
        try:
            await self._create()
            status = await self._backend.wait(self.container_id)
        except Error as error:
            self._failure = self._failure or error
        except OSError as error:
            self._failure = ContainerFailedError("the node could not prepare the container", why=str(error))
        await self._bury(status)

    async def _create(self) -> None:
        started_s = time.monotonic()
        self._folder = self._host.payloads.make_container(self.container_id)
        self._page = StatusPage(self._folder / "out")
        mounts = [
            *self._host.settings.host_mounts,
            Mount(self._host.worker_lib, f"{HIDDEN_ROOT}/lib"),
            Mount(self._folder / "in", f"{HIDDEN_ROOT}/in"),
            Mount(self._folder / "out", f"{HIDDEN_ROOT}/out", read_only=False),
        ]
        for source in self._spec.sources:
            mounts.append(Mount(await self._host.source(source), source.remote_path))
        limiter = LogLimiter(self._host.settings.log_rate_bytes_s, time.monotonic())
        self._pipes = [LogPipe(limiter, self._emitter(stream)) for stream in (STDOUT, STDERR)]
        ours, theirs = socket.socketpair()
        self._breakdown.image_s = time.monotonic() - started_s
        try:
            created_s = time.monotonic()
            resources = self._spec.resources
            await self._link.attach(ours)
            await self._backend.create(
                ContainerSpec(
                    container_id=self.container_id,
                    argv=[self._host.settings.interpreter, "-I", "-S", f"{HIDDEN_ROOT}/lib/hotbed/worker/boot.py"],
                    env={
                        "PATH": "/usr/local/bin:/usr/bin:/bin",
                        "HOME": "/tmp",  # noqa: S108 - the container's own
                        "LANG": "C.UTF-8",
                        "HOTBED_NODE_NAME": self._host.settings.name,
                    }
                    | self._host.gpu_environ(list(self._start.gpu_indices)),
                    workdir="/",
                    mounts=mounts,
                    stdin_fd=theirs.fileno(),
                    stdout_fd=self._pipes[0].write_end,
                    stderr_fd=self._pipes[1].write_end,
                    memory_bytes=resources.memory_limit_bytes
                    or max(resources.memory_bytes, self._host.settings.loose_limit_bytes()),
                    milli_cpu=resources.milli_cpu_limit,
                    milli_cpu_weight=resources.milli_cpu,
                    disk_bytes=resources.disk_bytes,
                    gpu_indices=list(self._start.gpu_indices),
                    labels={"function": self._function_id},
                )
            )
            self._created = True
            self._breakdown.create_s = time.monotonic() - created_s
        finally:
            theirs.close()
            for pipe in self._pipes:
                pipe.close_write_end()
        if self._end_reason or self._failure is not None:
            self._kill()  # ended while it was being created
        elif self._function_id:
            self._load()  # the worker finds it in the socket when it has booted

    def _load(self) -> None:
        self._state = "loading"
        spec = self._spec
        message = worker_pb2.ToWorker()
        load = message.load
        load.function_id, load.pickled, load.module, load.qualname = self._function_id, spec.pickled, spec.module, spec.qualname
        load.is_generator, load.is_async = spec.is_generator, spec.is_async
        load.sys_path.extend(self._source_paths())
        load.env.extend(f"{name}={value}" for name, value in {**spec.image.env, **spec.env}.items())
        load.app_id, load.app_name, load.function_name = spec.app_id, spec.app_name, spec.name
        load.container_id = self.container_id
        load.inline_limit_bytes = frames.INLINE_LOCAL_LIMIT_BYTES
        load.python_version = spec.python_version
        load.max_concurrent_inputs = spec.scaling.max_concurrent_inputs or 1
        load.workdir = spec.image.workdir
        self._link.send(message)

    def _source_paths(self) -> list[str]:
        if self._breakdown.level == "L0":
            return [source.remote_path for source in self._spec.sources]
        return [f"{HIDDEN_ROOT}/in/{source.digest.rpartition(':')[2]}" for source in self._spec.sources]

    def assign(self, command: node_pb2.AssignFunction) -> None:
        """Make a booted pool container a function's."""
        if self._state not in ("starting", "pooled") or self._function_id:
            return
        self._function_id, self._spec = command.function_id, command.spec
        self._born_s = time.monotonic()
        self._breakdown = common_pb2.StartBreakdown(level="L1")
        self._state = "loading"
        self._deadline.cancel()
        self._deadline = self._loop.call_later(self._startup_timeout_s(), self._on_startup_timeout)
        self._background(self._assign())

    async def _assign(self) -> None:
        # A running container gets no new mounts: sources go below its `in` folder instead.
        try:
            for source in self._spec.sources:
                unpacked = await self._host.source(source)
                target = self._folder / "in" / source.digest.rpartition(":")[2]
                if not target.exists():
                    await asyncio.to_thread(_copy_tree, unpacked, target)
        except (Error, OSError) as error:
            self._fail(error if isinstance(error, Error) else ContainerFailedError("sources cannot be copied", why=str(error)))
            return
        self._load()

    def _on_startup_timeout(self) -> None:
        self._fail(
            StartupTimeoutError(
                f"container {self.container_id} was not ready within {self._startup_timeout_s():g} s",
                why=f"it was {self._state} for that long",
                fix="raise startup_timeout=, or do less when the module is imported",
            )
        )

    # --- frames of the worker ---------------------------------------------------------------------------------------

    def _on_message(self, message: worker_pb2.FromWorker) -> None:
        kind = message.WhichOneof("body")
        try:
            if kind == "outputs":
                self._on_outputs(message.outputs)
            elif kind == "booted" and not self._breakdown.boot_s:
                self._on_booted()
            elif kind == "loaded" and self._state == "loading":
                self._on_loaded(message.loaded)
            elif kind == "nested" and self._state == "ready":
                self._on_nested(message.nested)
        except Violation as violation:
            self._on_violation(str(violation))

    def _on_booted(self) -> None:
        self._breakdown.boot_s = max(1e-6, time.monotonic() - self._born_s - self._breakdown.image_s - self._breakdown.create_s)
        if not self._function_id:
            self._state = "pooled"
            self._deadline.cancel()
        self._report("booted")

    def _on_loaded(self, loaded: worker_pb2.FunctionLoaded) -> None:
        if loaded.error_code:
            what, _, why = loaded.error_message.partition("\n")
            self._fail(ContainerFailedError(what[:4000], why=why[:64_000], container=self.container_id))
            return
        self._breakdown.load_s = loaded.load_s if 0 <= loaded.load_s < 1e6 else 0.0
        self._state = "ready"
        self._deadline.cancel()
        self._report("ready")

    def _on_outputs(self, outputs: worker_pb2.WorkerOutputs) -> None:
        before = columns.outstanding(self._runs, outputs)
        taken = columns.take_outputs(self._runs, outputs)
        run = taken.run
        if run.input_files:
            for index in taken.indices:
                if index not in run.outstanding and (name := run.input_files.pop(index, "")):
                    (self._folder / "in" / name).unlink(missing_ok=True)
        if not run.outstanding:
            del self._runs[run.number]
        if len(run.outstanding) < before:
            self._progress_s = time.monotonic()
        for pipe in self._pipes:
            pipe.flush()  # what was printed before a result is seen before it, also when the result ends the app
        if self._out.idle and not taken.has_refs:
            self._host.send(columns.outputs_frame(self.container_id, taken))
        else:
            self._out.add(self._hand_on(taken))

    async def _hand_on(self, taken: Taken) -> None:
        statuses = bytearray(taken.statuses)
        for at, status in enumerate(statuses):
            if status & frames.PAYLOAD_IS_REF:
                try:
                    statuses[at], taken.payloads[at] = await self._export(status, taken.payloads[at], taken.run.result_files)
                except (Error, OSError) as error:
                    # The input ends with an error of ours; as a generator's item it cannot, so the container goes.
                    if status & frames.STATUS_MASK == frames.GENERATOR_ITEM:
                        self._on_violation(f"a generator's item could not be taken: {error}")
                        return
                    info = common_pb2.ErrorInfo(code="execution-failed", message=f"the result could not be taken: {error}")
                    statuses[at], taken.payloads[at] = frames.SYSTEM_ERROR, info.SerializeToString()
        taken.statuses = bytes(statuses)
        self._host.send(columns.outputs_frame(self.container_id, taken))

    async def _export(self, status: int, payload: bytes, result_files: bool) -> tuple[int, bytes]:
        """A result file becomes a file for the client, bytes in the frame, or a blob."""
        try:
            ref = common_pb2.PayloadRef.FromString(payload)
        except Exception as error:
            raise InvalidError("a result reference cannot be read", why=str(error)) from error
        descriptor = self._host.payloads.open_result(self._folder / "out", ref.file, ref.size_bytes)
        try:
            if result_files and self._host.settings.share_payload_dir:
                name = self._host.payloads.publish_result(descriptor)
                self._host.published[name] = (self.container_id, ref.file)
                return status, common_pb2.PayloadRef(file=name, size_bytes=ref.size_bytes).SerializeToString()
            if ref.size_bytes <= _INLINE_READ_MAX:
                data = os.pread(descriptor, ref.size_bytes, 0)
                result = status & frames.STATUS_MASK, data
            else:
                digest = await self._host.put_blob(Path(f"/proc/self/fd/{descriptor}"))
                blob = common_pb2.PayloadRef(digest=digest, size_bytes=ref.size_bytes)
                result = status, blob.SerializeToString()
        finally:
            os.close(descriptor)
        self.release((ref.file,))
        return result

    def _on_nested(self, up: worker_pb2.NestedUp) -> None:
        frame = columns.nested_up_frame(self.container_id, up)
        if self._out.idle and not any(flag & frames.PAYLOAD_IS_REF for flag in up.flags):
            self._host.send(frame)
        else:
            self._out.add(self._nested_refs(frame))

    async def _nested_refs(self, frame: node_pb2.NodeFrame) -> None:
        submit = frame.nested.frame.submit
        flags = bytearray(submit.flags)
        for at, flag in enumerate(flags):
            if flag & frames.PAYLOAD_IS_REF:
                try:
                    flags[at], submit.payloads[at] = await self._export(flag, submit.payloads[at], result_files=False)
                except (Error, OSError) as error:
                    self._on_violation(f"an argument of a nested call could not be taken: {error}")
                    return
        submit.flags = bytes(flags)
        self._host.send(frame)

    def _on_violation(self, what: str) -> None:
        self._failure = self._failure or ContainerFailedError(
            "the container broke the protocol and was killed", why=what, container=self.container_id
        )
        self._end("crashed")

    # --- commands ---------------------------------------------------------------------------------------------------

    def dispatch(self, command: node_pb2.ContainerInputs) -> None:
        """Give inputs to the worker; with files or blobs among them as soon as those are in place."""
        inputs = command.inputs
        indices = list(inputs.indices)
        self._next_run = (self._next_run + 1) & 0xFFFFFFFF
        run = Run(self._next_run, inputs.lane_id, command.epoch, command.result_files, time.monotonic(), set(indices))
        if not self._runs:
            self._progress_s = run.dispatched_s
        self._runs[run.number] = run
        payloads = list(inputs.payloads)
        if self._in.idle and not (inputs.flags and max(inputs.flags) >= frames.PAYLOAD_IS_REF):
            self._link.send(columns.worker_inputs(run, indices, payloads, inputs.flags))
        else:
            self._in.add(self._bring(run, indices, payloads, inputs.flags))

    async def _bring(self, run: Run, indices: list[int], payloads: list[bytes], flags: bytes) -> None:
        kept: list[int] = []
        for at, flag in enumerate(flags):
            if not flag & frames.PAYLOAD_IS_REF:
                continue
            name = f"i{run.number}-{indices[at]}"
            try:
                ref = common_pb2.PayloadRef.FromString(payloads[at])
                if ref.digest:
                    await self._host.fetch_blob(ref.digest, self._folder / "in" / name)
                    (self._folder / "in" / name).chmod(0o644)
                else:
                    self._host.payloads.link_input(ref.file, ref.size_bytes, self._function_id, self._folder / "in", name)
            except (Error, OSError) as error:
                info = common_pb2.ErrorInfo(code="execution-failed", message=f"an argument could not be brought: {error}")
                run.outstanding.discard(indices[at])
                failed = Taken(run, [indices[at]], [info.SerializeToString()], bytes([frames.SYSTEM_ERROR]), 0.0)
                self._host.send(columns.outputs_frame(self.container_id, failed))
                kept.append(at)
                continue
            run.input_files[indices[at]] = name
            payloads[at] = common_pb2.PayloadRef(file=name, size_bytes=ref.size_bytes).SerializeToString()
        if kept:
            flags = flags.ljust(len(indices), b"\0")
            left = [at for at in range(len(indices)) if at not in set(kept)]
            indices, payloads = [indices[at] for at in left], [payloads[at] for at in left]
            flags = bytes(flags[at] for at in left)
        if indices:
            self._link.send(columns.worker_inputs(run, indices, payloads, flags))
        elif not run.outstanding:
            self._runs.pop(run.number, None)

    def cancel(self, command: node_pb2.CancelInputs) -> None:
        """Ask the worker to drop or interrupt inputs; past `kill_after_s` the container is killed."""
        wanted = set(command.indices)
        deadline_s = time.monotonic() + max(0.0, command.kill_after_s)
        for run in self._runs.values():
            hit = run.outstanding & wanted if wanted else set(run.outstanding)
            if run.lane_id != command.lane_id or not hit:
                continue
            message = worker_pb2.ToWorker()
            message.cancel.lane = run.number
            message.cancel.indices.extend(sorted(hit))
            if self._in.idle:
                self._link.send(message)
            else:
                self._in.add(self._send_later(message))  # not before the inputs it speaks of
            self._cancels.append((deadline_s, run.number, hit))

    async def _send_later(self, message: worker_pb2.ToWorker) -> None:
        self._link.send(message)

    def nested(self, command: node_pb2.ContainerServerFrame) -> None:
        """Hand an answer to a call made in here."""
        message = columns.nested_down(command)
        if message is None:
            return
        if max(message.nested.statuses, default=0) < frames.PAYLOAD_IS_REF and self._in.idle:
            self._link.send(message)
        else:
            self._in.add(self._nested_answer(command))

    async def _nested_answer(self, command: node_pb2.ContainerServerFrame) -> None:
        outputs = command.frame.outputs
        statuses = bytearray(outputs.statuses)
        for at, status in enumerate(statuses):
            if status & frames.PAYLOAD_IS_REF:
                ref = common_pb2.PayloadRef.FromString(outputs.payloads[at])
                name = f"n{self._next_run}-{outputs.indices[at]}-{time.monotonic_ns()}"
                try:
                    await self._host.fetch_blob(ref.digest, self._folder / "in" / name)
                    (self._folder / "in" / name).chmod(0o644)
                    outputs.payloads[at] = common_pb2.PayloadRef(file=name, size_bytes=ref.size_bytes).SerializeToString()
                except (Error, OSError) as error:
                    info = common_pb2.ErrorInfo(code="execution-failed", message=f"a result could not be brought: {error}")
                    statuses[at], outputs.payloads[at] = frames.SYSTEM_ERROR, info.SerializeToString()
        outputs.statuses = bytes(statuses)
        message = columns.nested_down(command)
        if message is not None:
            self._link.send(message)

    def release(self, names: tuple[str, ...]) -> None:
        """Tell the worker that result files may be reused."""
        message = worker_pb2.ToWorker()
        message.release.files.extend(names)
        self._link.send(message)

    def stop(self, reason: str, grace_s: float) -> None:
        """End it: SIGTERM, then SIGKILL after the grace."""
        if self._end_reason or self._state == "gone":
            return
        self._end_reason = reason or "stopped"
        if grace_s <= 0:
            self._kill()
        elif self._created:
            self._background(self._backend.signal(self.container_id, signal.SIGTERM))
            self._loop.call_later(grace_s, self._kill)

    def watch(self, now_s: float) -> None:
        """Called every 100 ms while inputs are outstanding: timeouts, and cancels that were not heeded."""
        for cancel in list(self._cancels):
            deadline_s, number, indices = cancel
            run = self._runs.get(number)
            if run is None or not indices & run.outstanding:
                self._cancels.remove(cancel)
            elif now_s >= deadline_s:
                self._end("cancelled")
                return
        if self._runs and self._spec.timeout_s > 0 and now_s - self._progress_s > self._spec.timeout_s + _TIMEOUT_SLACK_S:
            # The page is the worker's own word. Nothing has ended for longer than one input may take: whatever it says.
            self._end("timeout")
            return
        running = self._page.running() if self._page is not None else None
        run = self._runs.get(running.lane) if running is not None else None
        if running is None or run is None or running.index not in run.outstanding:
            self._seen = None
            return
        if self._seen is None or self._seen[0] != running:
            claimed = running.started_s
            self._seen = (running, claimed if run.dispatched_s <= claimed <= now_s else now_s)
        if self._spec.timeout_s > 0 and now_s - self._seen[1] > self._spec.timeout_s:
            self._blamed = (run.lane_id, running.index)
            self._end("timeout")

    @property
    def busy(self) -> bool:
        """Inputs are outstanding."""
        return bool(self._runs)

    async def wait_gone(self, timeout_s: float) -> None:
        """Until its terminal report was sent."""
        await asyncio.wait((self._life,), timeout=timeout_s)

    # --- end --------------------------------------------------------------------------------------------------------

    def _fail(self, error: Error) -> None:
        self._failure = self._failure or error
        self._end("crashed")

    def _end(self, reason: str) -> None:
        self._end_reason = self._end_reason or reason
        self._kill()

    def _kill(self) -> None:
        if self._created and self._state != "gone":
            self._background(self._backend.signal(self.container_id, signal.SIGKILL))

    def _background(self, step: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(step)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _bury(self, status: ExitStatus) -> None:
        self._deadline.cancel()
        with contextlib.suppress(Error, OSError):
            await self._backend.remove(self.container_id)
        with contextlib.suppress(asyncio.TimeoutError):  # finished results may still lie in the socket
            await asyncio.wait_for(self._link_closed.wait(), _LAST_WORDS_S if self._created else 0.01)
        await self._out.drain(10.0)
        self._link.close()
        for pipe in self._pipes:
            pipe.close()
        was, self._state = self._state, "gone"
        report = node_pb2.NodeFrame()
        state = report.container
        state.container_id = self.container_id
        state.exit_code = status.code
        state.breakdown.CopyFrom(self._breakdown)
        reason = self._end_reason
        if status.oom and reason in ("", "crashed"):
            reason = "oom"
        state.exit_reason = reason or "crashed"
        failure = self._failure
        if was in ("starting", "loading") and reason in ("", "crashed", "oom"):
            state.state = "failed"
            failure = failure or ContainerFailedError(
                f"container {self.container_id} ended while it was {was} (exit code {status.code})",
                why="it was killed at its memory limit" if reason == "oom" else "",
            )
        else:
            state.state = "exited"
            self._name_running(state)
        if failure is not None:
            info = state.error
            info.code, info.message, info.why, info.fix = failure.code, failure.what, failure.why, failure.fix
        if self._page is not None:
            self._page.close()
        self._host.payloads.remove_container(self.container_id)
        self._host.send(report)
        self._host.on_gone(self.container_id)

    def _name_running(self, state: node_pb2.ContainerState) -> None:
        blamed = self._blamed
        running = self._page.running() if self._page is not None else None
        if blamed is None and running is not None:
            run = self._runs.get(running.lane)
            if run is not None and running.index in run.outstanding:
                blamed = (run.lane_id, running.index)
        if blamed is not None:
            state.running_lane_id = blamed[0]
            state.running_indices.append(blamed[1])

    def _report(self, state: str) -> None:
        frame = node_pb2.NodeFrame()
        frame.container.container_id = self.container_id
        frame.container.state = state
        frame.container.breakdown.CopyFrom(self._breakdown)
        self._host.send(frame)

    def _emitter(self, stream: int) -> Callable[[bytes, int], None]:
        def emit(data: bytes, dropped_bytes: int) -> None:
            frame = node_pb2.NodeFrame()
            log = frame.log
            log.app_id, log.function_id, log.function_name = self._spec.app_id, self._function_id, self._spec.name
            log.container_id, log.stream, log.data = self.container_id, stream, data
            log.at_unix_s, log.dropped_bytes = time.time(), dropped_bytes
            self._host.send(frame)

        return emit


def _copy_tree(source: Path, target: Path) -> None:
    import shutil

    shutil.copytree(source, target, symlinks=True)
