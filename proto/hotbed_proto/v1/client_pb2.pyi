from hotbed_proto.v1 import common_pb2 as _common_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ClientFrame(_message.Message):
    __slots__ = ("hello", "submit", "subscribe", "cancel", "release", "ping")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    SUBMIT_FIELD_NUMBER: _ClassVar[int]
    SUBSCRIBE_FIELD_NUMBER: _ClassVar[int]
    CANCEL_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    PING_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    submit: Submit
    subscribe: Subscribe
    cancel: Cancel
    release: ReleaseFiles
    ping: Ping
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping]] = ..., submit: _Optional[_Union[Submit, _Mapping]] = ..., subscribe: _Optional[_Union[Subscribe, _Mapping]] = ..., cancel: _Optional[_Union[Cancel, _Mapping]] = ..., release: _Optional[_Union[ReleaseFiles, _Mapping]] = ..., ping: _Optional[_Union[Ping, _Mapping]] = ...) -> None: ...

class ServerFrame(_message.Message):
    __slots__ = ("welcome", "accepted", "outputs", "rejected", "log", "function_state", "pong", "release")
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    REJECTED_FIELD_NUMBER: _ClassVar[int]
    LOG_FIELD_NUMBER: _ClassVar[int]
    FUNCTION_STATE_FIELD_NUMBER: _ClassVar[int]
    PONG_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    welcome: Welcome
    accepted: Accepted
    outputs: _common_pb2.OutputColumns
    rejected: Rejected
    log: _common_pb2.LogChunk
    function_state: FunctionState
    pong: Pong
    release: ReleaseFiles
    def __init__(self, welcome: _Optional[_Union[Welcome, _Mapping]] = ..., accepted: _Optional[_Union[Accepted, _Mapping]] = ..., outputs: _Optional[_Union[_common_pb2.OutputColumns, _Mapping]] = ..., rejected: _Optional[_Union[Rejected, _Mapping]] = ..., log: _Optional[_Union[_common_pb2.LogChunk, _Mapping]] = ..., function_state: _Optional[_Union[FunctionState, _Mapping]] = ..., pong: _Optional[_Union[Pong, _Mapping]] = ..., release: _Optional[_Union[ReleaseFiles, _Mapping]] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("client_id", "app_ids", "want_logs", "version", "host_id")
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    APP_IDS_FIELD_NUMBER: _ClassVar[int]
    WANT_LOGS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    HOST_ID_FIELD_NUMBER: _ClassVar[int]
    client_id: str
    app_ids: _containers.RepeatedScalarFieldContainer[str]
    want_logs: bool
    version: str
    host_id: str
    def __init__(self, client_id: _Optional[str] = ..., app_ids: _Optional[_Iterable[str]] = ..., want_logs: _Optional[bool] = ..., version: _Optional[str] = ..., host_id: _Optional[str] = ...) -> None: ...

class Welcome(_message.Message):
    __slots__ = ("server_version", "host_id", "payload_dir", "inline_limit_bytes", "server_incarnation")
    SERVER_VERSION_FIELD_NUMBER: _ClassVar[int]
    HOST_ID_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_DIR_FIELD_NUMBER: _ClassVar[int]
    INLINE_LIMIT_BYTES_FIELD_NUMBER: _ClassVar[int]
    SERVER_INCARNATION_FIELD_NUMBER: _ClassVar[int]
    server_version: str
    host_id: str
    payload_dir: str
    inline_limit_bytes: int
    server_incarnation: str
    def __init__(self, server_version: _Optional[str] = ..., host_id: _Optional[str] = ..., payload_dir: _Optional[str] = ..., inline_limit_bytes: _Optional[int] = ..., server_incarnation: _Optional[str] = ...) -> None: ...

class Submit(_message.Message):
    __slots__ = ("lane_id", "function_id", "first_index", "payloads", "flags", "durable", "closed", "parent_input_id", "subscribe", "priority")
    LANE_ID_FIELD_NUMBER: _ClassVar[int]
    FUNCTION_ID_FIELD_NUMBER: _ClassVar[int]
    FIRST_INDEX_FIELD_NUMBER: _ClassVar[int]
    PAYLOADS_FIELD_NUMBER: _ClassVar[int]
    FLAGS_FIELD_NUMBER: _ClassVar[int]
    DURABLE_FIELD_NUMBER: _ClassVar[int]
    CLOSED_FIELD_NUMBER: _ClassVar[int]
    PARENT_INPUT_ID_FIELD_NUMBER: _ClassVar[int]
    SUBSCRIBE_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    lane_id: str
    function_id: str
    first_index: int
    payloads: _containers.RepeatedScalarFieldContainer[bytes]
    flags: bytes
    durable: bool
    closed: bool
    parent_input_id: str
    subscribe: bool
    priority: int
    def __init__(self, lane_id: _Optional[str] = ..., function_id: _Optional[str] = ..., first_index: _Optional[int] = ..., payloads: _Optional[_Iterable[bytes]] = ..., flags: _Optional[bytes] = ..., durable: _Optional[bool] = ..., closed: _Optional[bool] = ..., parent_input_id: _Optional[str] = ..., subscribe: _Optional[bool] = ..., priority: _Optional[int] = ...) -> None: ...

class Accepted(_message.Message):
    __slots__ = ("lane_id", "first_index", "count")
    LANE_ID_FIELD_NUMBER: _ClassVar[int]
    FIRST_INDEX_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    lane_id: str
    first_index: int
    count: int
    def __init__(self, lane_id: _Optional[str] = ..., first_index: _Optional[int] = ..., count: _Optional[int] = ...) -> None: ...

class Rejected(_message.Message):
    __slots__ = ("lane_id", "indices", "error")
    LANE_ID_FIELD_NUMBER: _ClassVar[int]
    INDICES_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    lane_id: str
    indices: _containers.RepeatedScalarFieldContainer[int]
    error: _common_pb2.ErrorInfo
    def __init__(self, lane_id: _Optional[str] = ..., indices: _Optional[_Iterable[int]] = ..., error: _Optional[_Union[_common_pb2.ErrorInfo, _Mapping]] = ...) -> None: ...

class Subscribe(_message.Message):
    __slots__ = ("lane_id", "indices", "off")
    LANE_ID_FIELD_NUMBER: _ClassVar[int]
    INDICES_FIELD_NUMBER: _ClassVar[int]
    OFF_FIELD_NUMBER: _ClassVar[int]
    lane_id: str
    indices: _containers.RepeatedScalarFieldContainer[int]
    off: bool
    def __init__(self, lane_id: _Optional[str] = ..., indices: _Optional[_Iterable[int]] = ..., off: _Optional[bool] = ...) -> None: ...

class Cancel(_message.Message):
    __slots__ = ("lane_id", "indices", "terminate_containers")
    LANE_ID_FIELD_NUMBER: _ClassVar[int]
    INDICES_FIELD_NUMBER: _ClassVar[int]
    TERMINATE_CONTAINERS_FIELD_NUMBER: _ClassVar[int]
    lane_id: str
    indices: _containers.RepeatedScalarFieldContainer[int]
    terminate_containers: bool
    def __init__(self, lane_id: _Optional[str] = ..., indices: _Optional[_Iterable[int]] = ..., terminate_containers: _Optional[bool] = ...) -> None: ...

class ReleaseFiles(_message.Message):
    __slots__ = ("files",)
    FILES_FIELD_NUMBER: _ClassVar[int]
    files: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, files: _Optional[_Iterable[str]] = ...) -> None: ...

class Ping(_message.Message):
    __slots__ = ("nonce",)
    NONCE_FIELD_NUMBER: _ClassVar[int]
    nonce: int
    def __init__(self, nonce: _Optional[int] = ...) -> None: ...

class Pong(_message.Message):
    __slots__ = ("nonce",)
    NONCE_FIELD_NUMBER: _ClassVar[int]
    nonce: int
    def __init__(self, nonce: _Optional[int] = ...) -> None: ...

class FunctionState(_message.Message):
    __slots__ = ("function_id", "queued", "running", "containers", "unplaceable_reason")
    FUNCTION_ID_FIELD_NUMBER: _ClassVar[int]
    QUEUED_FIELD_NUMBER: _ClassVar[int]
    RUNNING_FIELD_NUMBER: _ClassVar[int]
    CONTAINERS_FIELD_NUMBER: _ClassVar[int]
    UNPLACEABLE_REASON_FIELD_NUMBER: _ClassVar[int]
    function_id: str
    queued: int
    running: int
    containers: int
    unplaceable_reason: str
    def __init__(self, function_id: _Optional[str] = ..., queued: _Optional[int] = ..., running: _Optional[int] = ..., containers: _Optional[int] = ..., unplaceable_reason: _Optional[str] = ...) -> None: ...

class CreateAppRequest(_message.Message):
    __slots__ = ("name", "detach", "client_id", "app_id")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DETACH_FIELD_NUMBER: _ClassVar[int]
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    APP_ID_FIELD_NUMBER: _ClassVar[int]
    name: str
    detach: bool
    client_id: str
    app_id: str
    def __init__(self, name: _Optional[str] = ..., detach: _Optional[bool] = ..., client_id: _Optional[str] = ..., app_id: _Optional[str] = ...) -> None: ...

class CreateAppResponse(_message.Message):
    __slots__ = ("app_id",)
    APP_ID_FIELD_NUMBER: _ClassVar[int]
    app_id: str
    def __init__(self, app_id: _Optional[str] = ...) -> None: ...

class StopAppRequest(_message.Message):
    __slots__ = ("app_id", "reason")
    APP_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    app_id: str
    reason: str
    def __init__(self, app_id: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class StopAppResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class RegisterFunctionRequest(_message.Message):
    __slots__ = ("spec", "function_id")
    SPEC_FIELD_NUMBER: _ClassVar[int]
    FUNCTION_ID_FIELD_NUMBER: _ClassVar[int]
    spec: _common_pb2.FunctionSpec
    function_id: str
    def __init__(self, spec: _Optional[_Union[_common_pb2.FunctionSpec, _Mapping]] = ..., function_id: _Optional[str] = ...) -> None: ...

class RegisterFunctionResponse(_message.Message):
    __slots__ = ("function_id", "warning")
    FUNCTION_ID_FIELD_NUMBER: _ClassVar[int]
    WARNING_FIELD_NUMBER: _ClassVar[int]
    function_id: str
    warning: str
    def __init__(self, function_id: _Optional[str] = ..., warning: _Optional[str] = ...) -> None: ...

class MissingBlobsRequest(_message.Message):
    __slots__ = ("digests",)
    DIGESTS_FIELD_NUMBER: _ClassVar[int]
    digests: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, digests: _Optional[_Iterable[str]] = ...) -> None: ...

class MissingBlobsResponse(_message.Message):
    __slots__ = ("digests",)
    DIGESTS_FIELD_NUMBER: _ClassVar[int]
    digests: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, digests: _Optional[_Iterable[str]] = ...) -> None: ...

class BlobPart(_message.Message):
    __slots__ = ("digest", "data", "size_bytes")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    digest: str
    data: bytes
    size_bytes: int
    def __init__(self, digest: _Optional[str] = ..., data: _Optional[bytes] = ..., size_bytes: _Optional[int] = ...) -> None: ...

class BlobInfo(_message.Message):
    __slots__ = ("digest", "size_bytes")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    digest: str
    size_bytes: int
    def __init__(self, digest: _Optional[str] = ..., size_bytes: _Optional[int] = ...) -> None: ...

class GetBlobRequest(_message.Message):
    __slots__ = ("digest",)
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    digest: str
    def __init__(self, digest: _Optional[str] = ...) -> None: ...

class CallInfoRequest(_message.Message):
    __slots__ = ("lane_id", "indices")
    LANE_ID_FIELD_NUMBER: _ClassVar[int]
    INDICES_FIELD_NUMBER: _ClassVar[int]
    lane_id: str
    indices: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, lane_id: _Optional[str] = ..., indices: _Optional[_Iterable[int]] = ...) -> None: ...

class CallInfoResponse(_message.Message):
    __slots__ = ("found", "function_id", "num_inputs", "closed", "num_done")
    FOUND_FIELD_NUMBER: _ClassVar[int]
    FUNCTION_ID_FIELD_NUMBER: _ClassVar[int]
    NUM_INPUTS_FIELD_NUMBER: _ClassVar[int]
    CLOSED_FIELD_NUMBER: _ClassVar[int]
    NUM_DONE_FIELD_NUMBER: _ClassVar[int]
    found: bool
    function_id: str
    num_inputs: int
    closed: bool
    num_done: int
    def __init__(self, found: _Optional[bool] = ..., function_id: _Optional[str] = ..., num_inputs: _Optional[int] = ..., closed: _Optional[bool] = ..., num_done: _Optional[int] = ...) -> None: ...

class StatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StatusResponse(_message.Message):
    __slots__ = ("version", "incarnation", "pid", "started_unix_s", "nodes", "functions", "clients")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    STARTED_UNIX_S_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    FUNCTIONS_FIELD_NUMBER: _ClassVar[int]
    CLIENTS_FIELD_NUMBER: _ClassVar[int]
    version: str
    incarnation: str
    pid: int
    started_unix_s: float
    nodes: _containers.RepeatedCompositeFieldContainer[NodeStatus]
    functions: _containers.RepeatedCompositeFieldContainer[FunctionStatus]
    clients: int
    def __init__(self, version: _Optional[str] = ..., incarnation: _Optional[str] = ..., pid: _Optional[int] = ..., started_unix_s: _Optional[float] = ..., nodes: _Optional[_Iterable[_Union[NodeStatus, _Mapping]]] = ..., functions: _Optional[_Iterable[_Union[FunctionStatus, _Mapping]]] = ..., clients: _Optional[int] = ...) -> None: ...

class NodeStatus(_message.Message):
    __slots__ = ("node_id", "name", "state", "total", "free", "gpu_models", "containers")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    FREE_FIELD_NUMBER: _ClassVar[int]
    GPU_MODELS_FIELD_NUMBER: _ClassVar[int]
    CONTAINERS_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    name: str
    state: str
    total: _common_pb2.Resources
    free: _common_pb2.Resources
    gpu_models: _containers.RepeatedScalarFieldContainer[str]
    containers: int
    def __init__(self, node_id: _Optional[str] = ..., name: _Optional[str] = ..., state: _Optional[str] = ..., total: _Optional[_Union[_common_pb2.Resources, _Mapping]] = ..., free: _Optional[_Union[_common_pb2.Resources, _Mapping]] = ..., gpu_models: _Optional[_Iterable[str]] = ..., containers: _Optional[int] = ...) -> None: ...

class FunctionStatus(_message.Message):
    __slots__ = ("app_id", "app_name", "function_id", "name", "queued", "running", "containers", "unplaceable_reason")
    APP_ID_FIELD_NUMBER: _ClassVar[int]
    APP_NAME_FIELD_NUMBER: _ClassVar[int]
    FUNCTION_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    QUEUED_FIELD_NUMBER: _ClassVar[int]
    RUNNING_FIELD_NUMBER: _ClassVar[int]
    CONTAINERS_FIELD_NUMBER: _ClassVar[int]
    UNPLACEABLE_REASON_FIELD_NUMBER: _ClassVar[int]
    app_id: str
    app_name: str
    function_id: str
    name: str
    queued: int
    running: int
    containers: int
    unplaceable_reason: str
    def __init__(self, app_id: _Optional[str] = ..., app_name: _Optional[str] = ..., function_id: _Optional[str] = ..., name: _Optional[str] = ..., queued: _Optional[int] = ..., running: _Optional[int] = ..., containers: _Optional[int] = ..., unplaceable_reason: _Optional[str] = ...) -> None: ...

class ShutdownRequest(_message.Message):
    __slots__ = ("grace_s",)
    GRACE_S_FIELD_NUMBER: _ClassVar[int]
    grace_s: float
    def __init__(self, grace_s: _Optional[float] = ...) -> None: ...

class ShutdownResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
