"""Rare, unary requests: apps, functions, blobs that are missing, call and server status."""

from __future__ import annotations

import asyncio
import os
import time
from typing import TYPE_CHECKING

from hotbed_proto import ids
from hotbed_proto.errors import InvalidError, NotFoundError, UnplaceableError
from hotbed_proto.v1 import client_pb2, common_pb2

from .. import events as ev
from ..store import AppRecord, FunctionRecord
from .convert import check_spec, function_def

if TYPE_CHECKING:
    from .shell import ControlPlane


class Requests:
    """Each method is one RPC of `ControlPlane`; errors are `hotbed_proto.errors`."""

    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane

    async def create_app(self, request: client_pb2.CreateAppRequest) -> client_pb2.CreateAppResponse:
        """Make an app, or find it again by its id."""
        app_id = request.app_id or ids.mint("ap")
        if not ids.is_id(app_id, "ap") or not 0 < len(request.name) <= 200:
            raise InvalidError(
                f"app {request.name[:80]!r} with id {app_id[:80]!r}", fix="a name of 1-200 characters, an 'ap-' id"
            )
        record = AppRecord(app_id, request.name, request.detach, time.time())
        await self._plane.store.write_wait([record])
        self._plane.apps[app_id] = record
        if (client := self._plane.clients.get(request.client_id)) is not None:
            client.app_ids.add(app_id)
        return client_pb2.CreateAppResponse(app_id=app_id)

    async def stop_app(self, request: client_pb2.StopAppRequest) -> client_pb2.StopAppResponse:
        """End an app: its inputs are cancelled, its containers stop."""
        app = self._plane.apps.get(request.app_id)
        if app is None:
            raise NotFoundError(f"no app {request.app_id[:80]}")
        self._plane.end_app(app, request.reason or "the app was stopped")
        return client_pb2.StopAppResponse()

    async def register_function(self, request: client_pb2.RegisterFunctionRequest) -> client_pb2.RegisterFunctionResponse:
        """Check and store a function; the same id again replaces it."""
        spec = common_pb2.FunctionSpec()
        spec.CopyFrom(request.spec)
        function_id = request.function_id or ids.mint("fu")
        app = self._plane.apps.get(spec.app_id)
        if app is None:
            raise NotFoundError(f"no app {spec.app_id[:80]}", fix="create the app first")
        if not ids.is_id(function_id, "fu"):
            raise InvalidError(f"function id {function_id[:80]!r}", fix="an id that begins with 'fu-'")
        if (known := self._plane.functions.get(function_id)) is not None and known.app_id != spec.app_id:
            raise InvalidError(f"function {function_id} belongs to another app")
        check_spec(spec)
        isolation = function_def(function_id, spec, app.detach).isolation
        offered = any(isolation in node.isolations for node in self._plane.nodes.values())
        if not offered and (missing := self._plane.missing_isolations) is not None:
            raise UnplaceableError(
                f"this machine cannot run {spec.name} with isolation {isolation!r}",
                why=missing.get(isolation, "this version of hotbed has no backend for it"),
                fix="add what is missing, or send the work to a server elsewhere with HOTBED_SERVER",
            )
        await self._plane.store.write_wait([FunctionRecord(function_id, spec.app_id, spec.SerializeToString())])
        self._plane.functions[function_id] = spec
        self._plane.feed(ev.FunctionRegistered(function_def(function_id, spec, app.detach)))
        versions = sorted({n.python_version for n in self._plane.nodes.values() if n.python_version})
        warning = ""
        if spec.pickled and spec.python_version and versions and spec.python_version not in versions:
            warning = f"{spec.name} needs Python {spec.python_version}; the nodes have {', '.join(versions)}"
        if not warning and self._plane.nodes and not offered:
            warning = (
                f"no node offers isolation {isolation!r}, which {spec.name} needs: its calls wait. "
                "The server's log says what is missing (`hotbed server logs`)."
            )
        return client_pb2.RegisterFunctionResponse(function_id=function_id, warning=warning)

    async def missing_blobs(self, request: client_pb2.MissingBlobsRequest) -> client_pb2.MissingBlobsResponse:
        """Which of these blobs are not stored."""
        if len(request.digests) > 10_000:
            raise InvalidError("more than 10,000 digests in one question", fix="ask in parts")
        missing = await asyncio.to_thread(self._plane.blobs.missing, list(request.digests))
        return client_pb2.MissingBlobsResponse(digests=missing)

    async def call_info(self, request: client_pb2.CallInfoRequest) -> client_pb2.CallInfoResponse:
        """How far a lane is."""
        if (lane := self._plane.lanes.get(request.lane_id)) is not None:
            return client_pb2.CallInfoResponse(
                found=True, function_id=lane.function_id, num_inputs=lane.num_inputs, closed=lane.closed, num_done=lane.num_done
            )
        record = await self._plane.store.read(lambda s: s.lane(request.lane_id))
        if record is None:
            return client_pb2.CallInfoResponse(found=False)
        return client_pb2.CallInfoResponse(
            found=True,
            function_id=record.function_id,
            num_inputs=record.num_inputs,
            closed=record.closed,
            num_done=record.num_done,
        )

    async def status(self, request: client_pb2.StatusRequest) -> client_pb2.StatusResponse:
        """What `hotbed server status` shows."""
        plane = self._plane
        answer = client_pb2.StatusResponse(version=plane.settings.version, incarnation=plane.incarnation, pid=os.getpid())
        answer.started_unix_s = plane.started_unix_s
        answer.clients = sum(1 for c in self._plane.clients.values() if not c.container_id and c.outbox is not None)
        counts: dict[str, int] = {}
        for node_id, _ in self._plane.containers.values():
            counts[node_id] = counts.get(node_id, 0) + 1
        for view in self._plane.core.node_views():
            node = answer.nodes.add(node_id=view.node_id, name=view.name, state=str(view.state))
            node.containers = counts.get(view.node_id, 0)
            session = self._plane.nodes.get(view.node_id)
            if session is not None:
                have = session.inventory
                node.total.milli_cpu, node.total.memory_bytes, node.total.disk_bytes = (
                    have.milli_cpu,
                    have.memory_bytes,
                    have.disk_bytes,
                )
                node.gpu_models.extend(gpu.model for gpu in have.gpus)
            node.free.milli_cpu = max(0, getattr(view, "free_milli_cpu", 0))
            node.free.memory_bytes = max(0, getattr(view, "free_memory_bytes", 0))
        for function_id, spec in self._plane.functions.items():
            queued, running, containers, reason = self._plane.state_of(function_id)
            app = self._plane.apps.get(spec.app_id)
            answer.functions.add(
                app_id=spec.app_id,
                app_name=app.name if app else "",
                function_id=function_id,
                name=spec.name,
                queued=queued,
                running=running,
                containers=containers,
                unplaceable_reason=reason,
            )
        return answer

    async def shutdown(self, request: client_pb2.ShutdownRequest) -> client_pb2.ShutdownResponse:
        """Ask whoever runs this server (it waits on `shutdown_requested`) to end it."""
        self._plane.shutdown_requested.set()
        return client_pb2.ShutdownResponse()
