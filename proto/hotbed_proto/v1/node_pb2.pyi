from hotbed_proto.v1 import common_pb2 as _common_pb2
from hotbed_proto.v1 import client_pb2 as _client_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class NodeFrame(_message.Message):
    __slots__ = ("register", "heartbeat", "container", "outputs", "log", "nested", "release")
    REGISTER_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    CONTAINER_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    LOG_FIELD_NUMBER: _ClassVar[int]
    NESTED_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    register: Register
    heartbeat: Heartbeat
    container: ContainerState
    outputs: ContainerOutputs
    log: _common_pb2.LogChunk
    nested: ContainerClientFrame
    release: _client_pb2.ReleaseFiles
    def __init__(self, register: _Optional[_Union[Register, _Mapping]] = ..., heartbeat: _Optional[_Union[Heartbeat, _Mapping]] = ..., container: _Optional[_Union[ContainerState, _Mapping]] = ..., outputs: _Optional[_Union[ContainerOutputs, _Mapping]] = ..., log: _Optional[_Union[_common_pb2.LogChunk, _Mapping]] = ..., nested: _Optional[_Union[ContainerClientFrame, _Mapping]] = ..., release: _Optional[_Union[_client_pb2.ReleaseFiles, _Mapping]] = ...) -> None: ...

class NodeCommand(_message.Message):
    __slots__ = ("registered", "start", "assign", "inputs", "cancel", "stop", "nested", "release", "drain")
    REGISTERED_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    ASSIGN_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    CANCEL_FIELD_NUMBER: _ClassVar[int]
    STOP_FIELD_NUMBER: _ClassVar[int]
    NESTED_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    DRAIN_FIELD_NUMBER: _ClassVar[int]
    registered: Registered
    start: StartContainer
    assign: AssignFunction
    inputs: ContainerInputs
    cancel: CancelInputs
    stop: StopContainer
    nested: ContainerServerFrame
    release: _client_pb2.ReleaseFiles
    drain: Drain
    def __init__(self, registered: _Optional[_Union[Registered, _Mapping]] = ..., start: _Optional[_Union[StartContainer, _Mapping]] = ..., assign: _Optional[_Union[AssignFunction, _Mapping]] = ..., inputs: _Optional[_Union[ContainerInputs, _Mapping]] = ..., cancel: _Optional[_Union[CancelInputs, _Mapping]] = ..., stop: _Optional[_Union[StopContainer, _Mapping]] = ..., nested: _Optional[_Union[ContainerServerFrame, _Mapping]] = ..., release: _Optional[_Union[_client_pb2.ReleaseFiles, _Mapping]] = ..., drain: _Optional[_Union[Drain, _Mapping]] = ...) -> None: ...

class Register(_message.Message):
    __slots__ = ("node_id", "incarnation", "name", "inventory", "version", "host_id", "payload_dir", "isolations", "python_version")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    INVENTORY_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    HOST_ID_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_DIR_FIELD_NUMBER: _ClassVar[int]
    ISOLATIONS_FIELD_NUMBER: _ClassVar[int]
    PYTHON_VERSION_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    incarnation: str
    name: str
    inventory: NodeInventory
    version: str
    host_id: str
    payload_dir: str
    isolations: _containers.RepeatedScalarFieldContainer[str]
    python_version: str
    def __init__(self, node_id: _Optional[str] = ..., incarnation: _Optional[str] = ..., name: _Optional[str] = ..., inventory: _Optional[_Union[NodeInventory, _Mapping]] = ..., version: _Optional[str] = ..., host_id: _Optional[str] = ..., payload_dir: _Optional[str] = ..., isolations: _Optional[_Iterable[str]] = ..., python_version: _Optional[str] = ...) -> None: ...

class NodeInventory(_message.Message):
    __slots__ = ("milli_cpu", "memory_bytes", "disk_bytes", "gpus", "labels")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    MILLI_CPU_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    DISK_BYTES_FIELD_NUMBER: _ClassVar[int]
    GPUS_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    milli_cpu: int
    memory_bytes: int
    disk_bytes: int
    gpus: _containers.RepeatedCompositeFieldContainer[GpuDevice]
    labels: _containers.ScalarMap[str, str]
    def __init__(self, milli_cpu: _Optional[int] = ..., memory_bytes: _Optional[int] = ..., disk_bytes: _Optional[int] = ..., gpus: _Optional[_Iterable[_Union[GpuDevice, _Mapping]]] = ..., labels: _Optional[_Mapping[str, str]] = ...) -> None: ...

class GpuDevice(_message.Message):
    __slots__ = ("index", "uuid", "model", "memory_bytes")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    UUID_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    index: int
    uuid: str
    model: str
    memory_bytes: int
    def __init__(self, index: _Optional[int] = ..., uuid: _Optional[str] = ..., model: _Optional[str] = ..., memory_bytes: _Optional[int] = ...) -> None: ...

class Registered(_message.Message):
    __slots__ = ("epoch", "heartbeat_interval_s", "lease_s")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_INTERVAL_S_FIELD_NUMBER: _ClassVar[int]
    LEASE_S_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    heartbeat_interval_s: float
    lease_s: float
    def __init__(self, epoch: _Optional[int] = ..., heartbeat_interval_s: _Optional[float] = ..., lease_s: _Optional[float] = ...) -> None: ...

class Heartbeat(_message.Message):
    __slots__ = ("sequence", "memory_available_bytes", "load_1m")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    MEMORY_AVAILABLE_BYTES_FIELD_NUMBER: _ClassVar[int]
    LOAD_1M_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    memory_available_bytes: int
    load_1m: float
    def __init__(self, sequence: _Optional[int] = ..., memory_available_bytes: _Optional[int] = ..., load_1m: _Optional[float] = ...) -> None: ...

class Drain(_message.Message):
    __slots__ = ("reason",)
    REASON_FIELD_NUMBER: _ClassVar[int]
    reason: str
    def __init__(self, reason: _Optional[str] = ...) -> None: ...

class StartContainer(_message.Message):
    __slots__ = ("container_id", "function_id", "spec", "gpu_indices", "gpu_milli_share", "schedule_s")
    CONTAINER_ID_FIELD_NUMBER: _ClassVar[int]
    FUNCTION_ID_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    GPU_INDICES_FIELD_NUMBER: _ClassVar[int]
    GPU_MILLI_SHARE_FIELD_NUMBER: _ClassVar[int]
    SCHEDULE_S_FIELD_NUMBER: _ClassVar[int]
    container_id: str
    function_id: str
    spec: _common_pb2.FunctionSpec
    gpu_indices: _containers.RepeatedScalarFieldContainer[int]
    gpu_milli_share: int
    schedule_s: float
    def __init__(self, container_id: _Optional[str] = ..., function_id: _Optional[str] = ..., spec: _Optional[_Union[_common_pb2.FunctionSpec, _Mapping]] = ..., gpu_indices: _Optional[_Iterable[int]] = ..., gpu_milli_share: _Optional[int] = ..., schedule_s: _Optional[float] = ...) -> None: ...

class AssignFunction(_message.Message):
    __slots__ = ("container_id", "function_id", "spec")
    CONTAINER_ID_FIELD_NUMBER: _ClassVar[int]
    FUNCTION_ID_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    container_id: str
    function_id: str
    spec: _common_pb2.FunctionSpec
    def __init__(self, container_id: _Optional[str] = ..., function_id: _Optional[str] = ..., spec: _Optional[_Union[_common_pb2.FunctionSpec, _Mapping]] = ...) -> None: ...

class ContainerState(_message.Message):
    __slots__ = ("container_id", "state", "error", "exit_reason", "exit_code", "running_lane_id", "running_indices", "breakdown")
    CONTAINER_ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    EXIT_REASON_FIELD_NUMBER: _ClassVar[int]
    EXIT_CODE_FIELD_NUMBER: _ClassVar[int]
    RUNNING_LANE_ID_FIELD_NUMBER: _ClassVar[int]
    RUNNING_INDICES_FIELD_NUMBER: _ClassVar[int]
    BREAKDOWN_FIELD_NUMBER: _ClassVar[int]
    container_id: str
    state: str
    error: _common_pb2.ErrorInfo
    exit_reason: str
    exit_code: int
    running_lane_id: str
    running_indices: _containers.RepeatedScalarFieldContainer[int]
    breakdown: _common_pb2.StartBreakdown
    def __init__(self, container_id: _Optional[str] = ..., state: _Optional[str] = ..., error: _Optional[_Union[_common_pb2.ErrorInfo, _Mapping]] = ..., exit_reason: _Optional[str] = ..., exit_code: _Optional[int] = ..., running_lane_id: _Optional[str] = ..., running_indices: _Optional[_Iterable[int]] = ..., breakdown: _Optional[_Union[_common_pb2.StartBreakdown, _Mapping]] = ...) -> None: ...

class ContainerInputs(_message.Message):
    __slots__ = ("container_id", "epoch", "function_id", "inputs", "result_files")
    CONTAINER_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    FUNCTION_ID_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    RESULT_FILES_FIELD_NUMBER: _ClassVar[int]
    container_id: str
    epoch: int
    function_id: str
    inputs: _common_pb2.InputColumns
    result_files: bool
    def __init__(self, container_id: _Optional[str] = ..., epoch: _Optional[int] = ..., function_id: _Optional[str] = ..., inputs: _Optional[_Union[_common_pb2.InputColumns, _Mapping]] = ..., result_files: _Optional[bool] = ...) -> None: ...

class ContainerOutputs(_message.Message):
    __slots__ = ("container_id", "epoch", "outputs", "busy_s")
    CONTAINER_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    BUSY_S_FIELD_NUMBER: _ClassVar[int]
    container_id: str
    epoch: int
    outputs: _common_pb2.OutputColumns
    busy_s: float
    def __init__(self, container_id: _Optional[str] = ..., epoch: _Optional[int] = ..., outputs: _Optional[_Union[_common_pb2.OutputColumns, _Mapping]] = ..., busy_s: _Optional[float] = ...) -> None: ...

class CancelInputs(_message.Message):
    __slots__ = ("container_id", "lane_id", "indices", "kill_after_s")
    CONTAINER_ID_FIELD_NUMBER: _ClassVar[int]
    LANE_ID_FIELD_NUMBER: _ClassVar[int]
    INDICES_FIELD_NUMBER: _ClassVar[int]
    KILL_AFTER_S_FIELD_NUMBER: _ClassVar[int]
    container_id: str
    lane_id: str
    indices: _containers.RepeatedScalarFieldContainer[int]
    kill_after_s: float
    def __init__(self, container_id: _Optional[str] = ..., lane_id: _Optional[str] = ..., indices: _Optional[_Iterable[int]] = ..., kill_after_s: _Optional[float] = ...) -> None: ...

class StopContainer(_message.Message):
    __slots__ = ("container_id", "reason", "grace_s")
    CONTAINER_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    GRACE_S_FIELD_NUMBER: _ClassVar[int]
    container_id: str
    reason: str
    grace_s: float
    def __init__(self, container_id: _Optional[str] = ..., reason: _Optional[str] = ..., grace_s: _Optional[float] = ...) -> None: ...

class ContainerClientFrame(_message.Message):
    __slots__ = ("container_id", "frame")
    CONTAINER_ID_FIELD_NUMBER: _ClassVar[int]
    FRAME_FIELD_NUMBER: _ClassVar[int]
    container_id: str
    frame: _client_pb2.ClientFrame
    def __init__(self, container_id: _Optional[str] = ..., frame: _Optional[_Union[_client_pb2.ClientFrame, _Mapping]] = ...) -> None: ...

class ContainerServerFrame(_message.Message):
    __slots__ = ("container_id", "frame")
    CONTAINER_ID_FIELD_NUMBER: _ClassVar[int]
    FRAME_FIELD_NUMBER: _ClassVar[int]
    container_id: str
    frame: _client_pb2.ServerFrame
    def __init__(self, container_id: _Optional[str] = ..., frame: _Optional[_Union[_client_pb2.ServerFrame, _Mapping]] = ...) -> None: ...
