from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ToWorker(_message.Message):
    __slots__ = ("load", "inputs", "cancel", "shutdown", "release", "nested")
    LOAD_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    CANCEL_FIELD_NUMBER: _ClassVar[int]
    SHUTDOWN_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    NESTED_FIELD_NUMBER: _ClassVar[int]
    load: LoadFunction
    inputs: WorkerInputs
    cancel: WorkerCancel
    shutdown: WorkerShutdown
    release: WorkerRelease
    nested: NestedDown
    def __init__(self, load: _Optional[_Union[LoadFunction, _Mapping]] = ..., inputs: _Optional[_Union[WorkerInputs, _Mapping]] = ..., cancel: _Optional[_Union[WorkerCancel, _Mapping]] = ..., shutdown: _Optional[_Union[WorkerShutdown, _Mapping]] = ..., release: _Optional[_Union[WorkerRelease, _Mapping]] = ..., nested: _Optional[_Union[NestedDown, _Mapping]] = ...) -> None: ...

class FromWorker(_message.Message):
    __slots__ = ("booted", "loaded", "outputs", "nested", "release")
    BOOTED_FIELD_NUMBER: _ClassVar[int]
    LOADED_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    NESTED_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    booted: WorkerBooted
    loaded: FunctionLoaded
    outputs: WorkerOutputs
    nested: NestedUp
    release: WorkerRelease
    def __init__(self, booted: _Optional[_Union[WorkerBooted, _Mapping]] = ..., loaded: _Optional[_Union[FunctionLoaded, _Mapping]] = ..., outputs: _Optional[_Union[WorkerOutputs, _Mapping]] = ..., nested: _Optional[_Union[NestedUp, _Mapping]] = ..., release: _Optional[_Union[WorkerRelease, _Mapping]] = ...) -> None: ...

class LoadFunction(_message.Message):
    __slots__ = ("function_id", "pickled", "module", "qualname", "is_generator", "is_async", "sys_path", "env", "app_id", "app_name", "function_name", "container_id", "inline_limit_bytes", "python_version", "max_concurrent_inputs", "workdir")
    FUNCTION_ID_FIELD_NUMBER: _ClassVar[int]
    PICKLED_FIELD_NUMBER: _ClassVar[int]
    MODULE_FIELD_NUMBER: _ClassVar[int]
    QUALNAME_FIELD_NUMBER: _ClassVar[int]
    IS_GENERATOR_FIELD_NUMBER: _ClassVar[int]
    IS_ASYNC_FIELD_NUMBER: _ClassVar[int]
    SYS_PATH_FIELD_NUMBER: _ClassVar[int]
    ENV_FIELD_NUMBER: _ClassVar[int]
    APP_ID_FIELD_NUMBER: _ClassVar[int]
    APP_NAME_FIELD_NUMBER: _ClassVar[int]
    FUNCTION_NAME_FIELD_NUMBER: _ClassVar[int]
    CONTAINER_ID_FIELD_NUMBER: _ClassVar[int]
    INLINE_LIMIT_BYTES_FIELD_NUMBER: _ClassVar[int]
    PYTHON_VERSION_FIELD_NUMBER: _ClassVar[int]
    MAX_CONCURRENT_INPUTS_FIELD_NUMBER: _ClassVar[int]
    WORKDIR_FIELD_NUMBER: _ClassVar[int]
    function_id: str
    pickled: bytes
    module: str
    qualname: str
    is_generator: bool
    is_async: bool
    sys_path: _containers.RepeatedScalarFieldContainer[str]
    env: _containers.RepeatedScalarFieldContainer[str]
    app_id: str
    app_name: str
    function_name: str
    container_id: str
    inline_limit_bytes: int
    python_version: str
    max_concurrent_inputs: int
    workdir: str
    def __init__(self, function_id: _Optional[str] = ..., pickled: _Optional[bytes] = ..., module: _Optional[str] = ..., qualname: _Optional[str] = ..., is_generator: _Optional[bool] = ..., is_async: _Optional[bool] = ..., sys_path: _Optional[_Iterable[str]] = ..., env: _Optional[_Iterable[str]] = ..., app_id: _Optional[str] = ..., app_name: _Optional[str] = ..., function_name: _Optional[str] = ..., container_id: _Optional[str] = ..., inline_limit_bytes: _Optional[int] = ..., python_version: _Optional[str] = ..., max_concurrent_inputs: _Optional[int] = ..., workdir: _Optional[str] = ...) -> None: ...

class WorkerBooted(_message.Message):
    __slots__ = ("pid", "python_version")
    PID_FIELD_NUMBER: _ClassVar[int]
    PYTHON_VERSION_FIELD_NUMBER: _ClassVar[int]
    pid: int
    python_version: str
    def __init__(self, pid: _Optional[int] = ..., python_version: _Optional[str] = ...) -> None: ...

class FunctionLoaded(_message.Message):
    __slots__ = ("error_code", "error_message", "exception", "load_s")
    ERROR_CODE_FIELD_NUMBER: _ClassVar[int]
    ERROR_MESSAGE_FIELD_NUMBER: _ClassVar[int]
    EXCEPTION_FIELD_NUMBER: _ClassVar[int]
    LOAD_S_FIELD_NUMBER: _ClassVar[int]
    error_code: str
    error_message: str
    exception: bytes
    load_s: float
    def __init__(self, error_code: _Optional[str] = ..., error_message: _Optional[str] = ..., exception: _Optional[bytes] = ..., load_s: _Optional[float] = ...) -> None: ...

class WorkerInputs(_message.Message):
    __slots__ = ("lane", "indices", "sizes", "data", "flags", "lane_id")
    LANE_FIELD_NUMBER: _ClassVar[int]
    INDICES_FIELD_NUMBER: _ClassVar[int]
    SIZES_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    FLAGS_FIELD_NUMBER: _ClassVar[int]
    LANE_ID_FIELD_NUMBER: _ClassVar[int]
    lane: int
    indices: _containers.RepeatedScalarFieldContainer[int]
    sizes: _containers.RepeatedScalarFieldContainer[int]
    data: bytes
    flags: bytes
    lane_id: str
    def __init__(self, lane: _Optional[int] = ..., indices: _Optional[_Iterable[int]] = ..., sizes: _Optional[_Iterable[int]] = ..., data: _Optional[bytes] = ..., flags: _Optional[bytes] = ..., lane_id: _Optional[str] = ...) -> None: ...

class WorkerOutputs(_message.Message):
    __slots__ = ("lane", "indices", "sizes", "data", "statuses", "busy_s")
    LANE_FIELD_NUMBER: _ClassVar[int]
    INDICES_FIELD_NUMBER: _ClassVar[int]
    SIZES_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    STATUSES_FIELD_NUMBER: _ClassVar[int]
    BUSY_S_FIELD_NUMBER: _ClassVar[int]
    lane: int
    indices: _containers.RepeatedScalarFieldContainer[int]
    sizes: _containers.RepeatedScalarFieldContainer[int]
    data: bytes
    statuses: bytes
    busy_s: float
    def __init__(self, lane: _Optional[int] = ..., indices: _Optional[_Iterable[int]] = ..., sizes: _Optional[_Iterable[int]] = ..., data: _Optional[bytes] = ..., statuses: _Optional[bytes] = ..., busy_s: _Optional[float] = ...) -> None: ...

class WorkerCancel(_message.Message):
    __slots__ = ("lane", "indices")
    LANE_FIELD_NUMBER: _ClassVar[int]
    INDICES_FIELD_NUMBER: _ClassVar[int]
    lane: int
    indices: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, lane: _Optional[int] = ..., indices: _Optional[_Iterable[int]] = ...) -> None: ...

class WorkerShutdown(_message.Message):
    __slots__ = ("grace_s",)
    GRACE_S_FIELD_NUMBER: _ClassVar[int]
    grace_s: float
    def __init__(self, grace_s: _Optional[float] = ...) -> None: ...

class WorkerRelease(_message.Message):
    __slots__ = ("files",)
    FILES_FIELD_NUMBER: _ClassVar[int]
    files: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, files: _Optional[_Iterable[str]] = ...) -> None: ...

class NestedUp(_message.Message):
    __slots__ = ("kind", "lane_id", "function_id", "first_index", "indices", "sizes", "data", "flags", "durable", "closed", "subscribe", "parent_input_id", "terminate_containers")
    KIND_FIELD_NUMBER: _ClassVar[int]
    LANE_ID_FIELD_NUMBER: _ClassVar[int]
    FUNCTION_ID_FIELD_NUMBER: _ClassVar[int]
    FIRST_INDEX_FIELD_NUMBER: _ClassVar[int]
    INDICES_FIELD_NUMBER: _ClassVar[int]
    SIZES_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    FLAGS_FIELD_NUMBER: _ClassVar[int]
    DURABLE_FIELD_NUMBER: _ClassVar[int]
    CLOSED_FIELD_NUMBER: _ClassVar[int]
    SUBSCRIBE_FIELD_NUMBER: _ClassVar[int]
    PARENT_INPUT_ID_FIELD_NUMBER: _ClassVar[int]
    TERMINATE_CONTAINERS_FIELD_NUMBER: _ClassVar[int]
    kind: int
    lane_id: str
    function_id: str
    first_index: int
    indices: _containers.RepeatedScalarFieldContainer[int]
    sizes: _containers.RepeatedScalarFieldContainer[int]
    data: bytes
    flags: bytes
    durable: bool
    closed: bool
    subscribe: bool
    parent_input_id: str
    terminate_containers: bool
    def __init__(self, kind: _Optional[int] = ..., lane_id: _Optional[str] = ..., function_id: _Optional[str] = ..., first_index: _Optional[int] = ..., indices: _Optional[_Iterable[int]] = ..., sizes: _Optional[_Iterable[int]] = ..., data: _Optional[bytes] = ..., flags: _Optional[bytes] = ..., durable: _Optional[bool] = ..., closed: _Optional[bool] = ..., subscribe: _Optional[bool] = ..., parent_input_id: _Optional[str] = ..., terminate_containers: _Optional[bool] = ...) -> None: ...

class NestedDown(_message.Message):
    __slots__ = ("kind", "lane_id", "first_index", "count", "indices", "sizes", "data", "statuses", "error_code", "error_message", "error_why", "error_fix")
    KIND_FIELD_NUMBER: _ClassVar[int]
    LANE_ID_FIELD_NUMBER: _ClassVar[int]
    FIRST_INDEX_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    INDICES_FIELD_NUMBER: _ClassVar[int]
    SIZES_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    STATUSES_FIELD_NUMBER: _ClassVar[int]
    ERROR_CODE_FIELD_NUMBER: _ClassVar[int]
    ERROR_MESSAGE_FIELD_NUMBER: _ClassVar[int]
    ERROR_WHY_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIX_FIELD_NUMBER: _ClassVar[int]
    kind: int
    lane_id: str
    first_index: int
    count: int
    indices: _containers.RepeatedScalarFieldContainer[int]
    sizes: _containers.RepeatedScalarFieldContainer[int]
    data: bytes
    statuses: bytes
    error_code: str
    error_message: str
    error_why: str
    error_fix: str
    def __init__(self, kind: _Optional[int] = ..., lane_id: _Optional[str] = ..., first_index: _Optional[int] = ..., count: _Optional[int] = ..., indices: _Optional[_Iterable[int]] = ..., sizes: _Optional[_Iterable[int]] = ..., data: _Optional[bytes] = ..., statuses: _Optional[bytes] = ..., error_code: _Optional[str] = ..., error_message: _Optional[str] = ..., error_why: _Optional[str] = ..., error_fix: _Optional[str] = ...) -> None: ...
