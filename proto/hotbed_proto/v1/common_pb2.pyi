from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Resources(_message.Message):
    __slots__ = ("milli_cpu", "milli_cpu_limit", "memory_bytes", "memory_limit_bytes", "disk_bytes", "gpus")
    MILLI_CPU_FIELD_NUMBER: _ClassVar[int]
    MILLI_CPU_LIMIT_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    MEMORY_LIMIT_BYTES_FIELD_NUMBER: _ClassVar[int]
    DISK_BYTES_FIELD_NUMBER: _ClassVar[int]
    GPUS_FIELD_NUMBER: _ClassVar[int]
    milli_cpu: int
    milli_cpu_limit: int
    memory_bytes: int
    memory_limit_bytes: int
    disk_bytes: int
    gpus: _containers.RepeatedCompositeFieldContainer[GpuRequest]
    def __init__(self, milli_cpu: _Optional[int] = ..., milli_cpu_limit: _Optional[int] = ..., memory_bytes: _Optional[int] = ..., memory_limit_bytes: _Optional[int] = ..., disk_bytes: _Optional[int] = ..., gpus: _Optional[_Iterable[_Union[GpuRequest, _Mapping]]] = ...) -> None: ...

class GpuRequest(_message.Message):
    __slots__ = ("model", "count", "milli_share", "memory_bytes")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    MILLI_SHARE_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    model: str
    count: int
    milli_share: int
    memory_bytes: int
    def __init__(self, model: _Optional[str] = ..., count: _Optional[int] = ..., milli_share: _Optional[int] = ..., memory_bytes: _Optional[int] = ...) -> None: ...

class RetryPolicy(_message.Message):
    __slots__ = ("max_retries", "backoff_coefficient", "initial_delay_s", "max_delay_s")
    MAX_RETRIES_FIELD_NUMBER: _ClassVar[int]
    BACKOFF_COEFFICIENT_FIELD_NUMBER: _ClassVar[int]
    INITIAL_DELAY_S_FIELD_NUMBER: _ClassVar[int]
    MAX_DELAY_S_FIELD_NUMBER: _ClassVar[int]
    max_retries: int
    backoff_coefficient: float
    initial_delay_s: float
    max_delay_s: float
    def __init__(self, max_retries: _Optional[int] = ..., backoff_coefficient: _Optional[float] = ..., initial_delay_s: _Optional[float] = ..., max_delay_s: _Optional[float] = ...) -> None: ...

class Scaling(_message.Message):
    __slots__ = ("min_containers", "max_containers", "buffer_containers", "scaledown_window_s", "max_concurrent_inputs")
    MIN_CONTAINERS_FIELD_NUMBER: _ClassVar[int]
    MAX_CONTAINERS_FIELD_NUMBER: _ClassVar[int]
    BUFFER_CONTAINERS_FIELD_NUMBER: _ClassVar[int]
    SCALEDOWN_WINDOW_S_FIELD_NUMBER: _ClassVar[int]
    MAX_CONCURRENT_INPUTS_FIELD_NUMBER: _ClassVar[int]
    min_containers: int
    max_containers: int
    buffer_containers: int
    scaledown_window_s: float
    max_concurrent_inputs: int
    def __init__(self, min_containers: _Optional[int] = ..., max_containers: _Optional[int] = ..., buffer_containers: _Optional[int] = ..., scaledown_window_s: _Optional[float] = ..., max_concurrent_inputs: _Optional[int] = ...) -> None: ...

class SourceMount(_message.Message):
    __slots__ = ("digest", "size_bytes", "remote_path")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    REMOTE_PATH_FIELD_NUMBER: _ClassVar[int]
    digest: str
    size_bytes: int
    remote_path: str
    def __init__(self, digest: _Optional[str] = ..., size_bytes: _Optional[int] = ..., remote_path: _Optional[str] = ...) -> None: ...

class ImageSpec(_message.Message):
    __slots__ = ("kind", "env", "workdir")
    class EnvEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    KIND_FIELD_NUMBER: _ClassVar[int]
    ENV_FIELD_NUMBER: _ClassVar[int]
    WORKDIR_FIELD_NUMBER: _ClassVar[int]
    kind: str
    env: _containers.ScalarMap[str, str]
    workdir: str
    def __init__(self, kind: _Optional[str] = ..., env: _Optional[_Mapping[str, str]] = ..., workdir: _Optional[str] = ...) -> None: ...

class FunctionSpec(_message.Message):
    __slots__ = ("app_id", "name", "pickled", "module", "qualname", "is_generator", "is_async", "resources", "retries", "scaling", "timeout_s", "startup_timeout_s", "isolation", "image", "env", "sources", "labels", "regions", "python_version", "fail_if_unplaceable", "app_name", "single_use_containers")
    class EnvEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    APP_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    PICKLED_FIELD_NUMBER: _ClassVar[int]
    MODULE_FIELD_NUMBER: _ClassVar[int]
    QUALNAME_FIELD_NUMBER: _ClassVar[int]
    IS_GENERATOR_FIELD_NUMBER: _ClassVar[int]
    IS_ASYNC_FIELD_NUMBER: _ClassVar[int]
    RESOURCES_FIELD_NUMBER: _ClassVar[int]
    RETRIES_FIELD_NUMBER: _ClassVar[int]
    SCALING_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_S_FIELD_NUMBER: _ClassVar[int]
    STARTUP_TIMEOUT_S_FIELD_NUMBER: _ClassVar[int]
    ISOLATION_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    ENV_FIELD_NUMBER: _ClassVar[int]
    SOURCES_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    REGIONS_FIELD_NUMBER: _ClassVar[int]
    PYTHON_VERSION_FIELD_NUMBER: _ClassVar[int]
    FAIL_IF_UNPLACEABLE_FIELD_NUMBER: _ClassVar[int]
    APP_NAME_FIELD_NUMBER: _ClassVar[int]
    SINGLE_USE_CONTAINERS_FIELD_NUMBER: _ClassVar[int]
    app_id: str
    name: str
    pickled: bytes
    module: str
    qualname: str
    is_generator: bool
    is_async: bool
    resources: Resources
    retries: RetryPolicy
    scaling: Scaling
    timeout_s: float
    startup_timeout_s: float
    isolation: str
    image: ImageSpec
    env: _containers.ScalarMap[str, str]
    sources: _containers.RepeatedCompositeFieldContainer[SourceMount]
    labels: _containers.ScalarMap[str, str]
    regions: _containers.RepeatedScalarFieldContainer[str]
    python_version: str
    fail_if_unplaceable: bool
    app_name: str
    single_use_containers: bool
    def __init__(self, app_id: _Optional[str] = ..., name: _Optional[str] = ..., pickled: _Optional[bytes] = ..., module: _Optional[str] = ..., qualname: _Optional[str] = ..., is_generator: _Optional[bool] = ..., is_async: _Optional[bool] = ..., resources: _Optional[_Union[Resources, _Mapping]] = ..., retries: _Optional[_Union[RetryPolicy, _Mapping]] = ..., scaling: _Optional[_Union[Scaling, _Mapping]] = ..., timeout_s: _Optional[float] = ..., startup_timeout_s: _Optional[float] = ..., isolation: _Optional[str] = ..., image: _Optional[_Union[ImageSpec, _Mapping]] = ..., env: _Optional[_Mapping[str, str]] = ..., sources: _Optional[_Iterable[_Union[SourceMount, _Mapping]]] = ..., labels: _Optional[_Mapping[str, str]] = ..., regions: _Optional[_Iterable[str]] = ..., python_version: _Optional[str] = ..., fail_if_unplaceable: _Optional[bool] = ..., app_name: _Optional[str] = ..., single_use_containers: _Optional[bool] = ...) -> None: ...

class ErrorInfo(_message.Message):
    __slots__ = ("code", "message", "why", "fix", "ids")
    class IdsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    FIX_FIELD_NUMBER: _ClassVar[int]
    IDS_FIELD_NUMBER: _ClassVar[int]
    code: str
    message: str
    why: str
    fix: str
    ids: _containers.ScalarMap[str, str]
    def __init__(self, code: _Optional[str] = ..., message: _Optional[str] = ..., why: _Optional[str] = ..., fix: _Optional[str] = ..., ids: _Optional[_Mapping[str, str]] = ...) -> None: ...

class PayloadRef(_message.Message):
    __slots__ = ("file", "digest", "size_bytes")
    FILE_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    file: str
    digest: str
    size_bytes: int
    def __init__(self, file: _Optional[str] = ..., digest: _Optional[str] = ..., size_bytes: _Optional[int] = ...) -> None: ...

class InputColumns(_message.Message):
    __slots__ = ("lane_id", "indices", "payloads", "flags")
    LANE_ID_FIELD_NUMBER: _ClassVar[int]
    INDICES_FIELD_NUMBER: _ClassVar[int]
    PAYLOADS_FIELD_NUMBER: _ClassVar[int]
    FLAGS_FIELD_NUMBER: _ClassVar[int]
    lane_id: str
    indices: _containers.RepeatedScalarFieldContainer[int]
    payloads: _containers.RepeatedScalarFieldContainer[bytes]
    flags: bytes
    def __init__(self, lane_id: _Optional[str] = ..., indices: _Optional[_Iterable[int]] = ..., payloads: _Optional[_Iterable[bytes]] = ..., flags: _Optional[bytes] = ...) -> None: ...

class OutputColumns(_message.Message):
    __slots__ = ("lane_id", "indices", "payloads", "statuses")
    LANE_ID_FIELD_NUMBER: _ClassVar[int]
    INDICES_FIELD_NUMBER: _ClassVar[int]
    PAYLOADS_FIELD_NUMBER: _ClassVar[int]
    STATUSES_FIELD_NUMBER: _ClassVar[int]
    lane_id: str
    indices: _containers.RepeatedScalarFieldContainer[int]
    payloads: _containers.RepeatedScalarFieldContainer[bytes]
    statuses: bytes
    def __init__(self, lane_id: _Optional[str] = ..., indices: _Optional[_Iterable[int]] = ..., payloads: _Optional[_Iterable[bytes]] = ..., statuses: _Optional[bytes] = ...) -> None: ...

class LogChunk(_message.Message):
    __slots__ = ("app_id", "function_id", "function_name", "container_id", "stream", "data", "at_unix_s", "dropped_bytes")
    APP_ID_FIELD_NUMBER: _ClassVar[int]
    FUNCTION_ID_FIELD_NUMBER: _ClassVar[int]
    FUNCTION_NAME_FIELD_NUMBER: _ClassVar[int]
    CONTAINER_ID_FIELD_NUMBER: _ClassVar[int]
    STREAM_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    AT_UNIX_S_FIELD_NUMBER: _ClassVar[int]
    DROPPED_BYTES_FIELD_NUMBER: _ClassVar[int]
    app_id: str
    function_id: str
    function_name: str
    container_id: str
    stream: int
    data: bytes
    at_unix_s: float
    dropped_bytes: int
    def __init__(self, app_id: _Optional[str] = ..., function_id: _Optional[str] = ..., function_name: _Optional[str] = ..., container_id: _Optional[str] = ..., stream: _Optional[int] = ..., data: _Optional[bytes] = ..., at_unix_s: _Optional[float] = ..., dropped_bytes: _Optional[int] = ...) -> None: ...

class StartBreakdown(_message.Message):
    __slots__ = ("schedule_s", "image_s", "create_s", "boot_s", "load_s", "first_input_s", "level")
    SCHEDULE_S_FIELD_NUMBER: _ClassVar[int]
    IMAGE_S_FIELD_NUMBER: _ClassVar[int]
    CREATE_S_FIELD_NUMBER: _ClassVar[int]
    BOOT_S_FIELD_NUMBER: _ClassVar[int]
    LOAD_S_FIELD_NUMBER: _ClassVar[int]
    FIRST_INPUT_S_FIELD_NUMBER: _ClassVar[int]
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    schedule_s: float
    image_s: float
    create_s: float
    boot_s: float
    load_s: float
    first_input_s: float
    level: str
    def __init__(self, schedule_s: _Optional[float] = ..., image_s: _Optional[float] = ..., create_s: _Optional[float] = ..., boot_s: _Optional[float] = ..., load_s: _Optional[float] = ..., first_input_s: _Optional[float] = ..., level: _Optional[str] = ...) -> None: ...
