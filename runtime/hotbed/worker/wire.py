"""A small protobuf codec for exactly the messages of `worker.proto`, without the protobuf library.

The worker must boot in milliseconds inside any interpreter, so it cannot import protobuf. Each class lists its fields as data;
one encoder and one decoder walk them. A test codes random messages here and there with the real library in both directions.
Unknown fields are skipped, as protobuf does; a malformed frame raises ValueError.

Rooms for speed: packed fixed32 columns go through `array` (one memcpy), joined payloads are one slice.
"""

from __future__ import annotations

from array import array
from struct import Struct
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from typing import Any, ClassVar

U32: Final = 0
BOOL: Final = 1
DOUBLE: Final = 2
STRING: Final = 3
BYTES: Final = 4
STRINGS: Final = 5
FIXED32S: Final = 6
STRING_MAP: Final = 7

FRAME_BYTES_MAX: Final = 64 * 1024 * 1024

_DOUBLE = Struct("<d")
_LENGTH = Struct("<I")
assert array("I").itemsize == 4
_EMPTY: Final = array("I")
_DEFAULTS: Final = (0, False, 0.0, "", b"", (), _EMPTY, None)


class Message:
    """Base of the messages: `FIELDS` rows are (number, attribute, kind). Absent fields have protobuf's defaults."""

    __slots__ = ()
    FIELDS: ClassVar[tuple[tuple[int, str, int], ...]] = ()
    NUMBER: ClassVar[int] = 0
    """Its field number in the envelope; 0 for messages that travel bare."""

    def __init__(self, **values: Any) -> None:
        for _, name, kind in self.FIELDS:
            setattr(self, name, {} if kind == STRING_MAP else _DEFAULTS[kind])
        for name, value in values.items():
            setattr(self, name, value)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)!r:.60}' for _, name, _ in self.FIELDS)})"


class LoadFunction(Message):
    """Node to worker: become this function."""

    NUMBER = 1
    FIELDS = (
        (1, "function_id", STRING),
        (2, "pickled", BYTES),
        (3, "module", STRING),
        (4, "qualname", STRING),
        (5, "is_generator", BOOL),
        (6, "is_async", BOOL),
        (7, "sys_path", STRINGS),
        (8, "env", STRINGS),
        (9, "app_id", STRING),
        (10, "app_name", STRING),
        (11, "function_name", STRING),
        (12, "container_id", STRING),
        (13, "inline_limit_bytes", U32),
        (14, "python_version", STRING),
        (15, "max_concurrent_inputs", U32),
        (16, "workdir", STRING),
    )
    function_id: str
    pickled: bytes
    module: str
    qualname: str
    is_generator: bool
    is_async: bool
    sys_path: tuple[str, ...]
    env: tuple[str, ...]
    app_id: str
    app_name: str
    function_name: str
    container_id: str
    inline_limit_bytes: int
    python_version: str
    max_concurrent_inputs: int
    workdir: str


class WorkerInputs(Message):
    """Node to worker: a run of inputs of one lane under one epoch."""

    NUMBER = 2
    FIELDS = (
        (1, "lane", U32),
        (2, "indices", FIXED32S),
        (3, "sizes", FIXED32S),
        (4, "data", BYTES),
        (5, "flags", BYTES),
        (6, "lane_id", STRING),
    )
    lane: int
    indices: array[int]
    sizes: array[int]
    data: bytes
    flags: bytes
    lane_id: str


class WorkerCancel(Message):
    """Node to worker: drop or interrupt these."""

    NUMBER = 3
    FIELDS = ((1, "lane", U32), (2, "indices", FIXED32S))
    lane: int
    indices: array[int]


class WorkerShutdown(Message):
    """Node to worker: finish the running input and leave."""

    NUMBER = 4
    FIELDS = ((1, "grace_s", DOUBLE),)
    grace_s: float


class WorkerRelease(Message):
    """Node to worker: these result files were read and may be written again. (Worker to node it has the same number.)"""

    NUMBER = 5
    FIELDS = ((1, "files", STRINGS),)
    files: tuple[str, ...]


class NestedDown(Message):
    """Node to worker: something for a call that was made in here."""

    NUMBER = 6
    FIELDS = (
        (1, "kind", U32),
        (2, "lane_id", STRING),
        (3, "first_index", U32),
        (4, "count", U32),
        (5, "indices", FIXED32S),
        (6, "sizes", FIXED32S),
        (7, "data", BYTES),
        (8, "statuses", BYTES),
        (9, "error_code", STRING),
        (10, "error_message", STRING),
        (11, "error_why", STRING),
        (12, "error_fix", STRING),
    )
    kind: int
    lane_id: str
    first_index: int
    count: int
    indices: array[int]
    sizes: array[int]
    data: bytes
    statuses: bytes
    error_code: str
    error_message: str
    error_why: str
    error_fix: str


class WorkerBooted(Message):
    """Worker to node: the interpreter runs."""

    NUMBER = 1
    FIELDS = ((1, "pid", U32), (2, "python_version", STRING))
    pid: int
    python_version: str


class FunctionLoaded(Message):
    """Worker to node: ready, or why not."""

    NUMBER = 2
    FIELDS = ((1, "error_code", STRING), (2, "error_message", STRING), (3, "exception", BYTES), (4, "load_s", DOUBLE))
    error_code: str
    error_message: str
    exception: bytes
    load_s: float


class WorkerOutputs(Message):
    """Worker to node: results in columns."""

    NUMBER = 3
    FIELDS = (
        (1, "lane", U32),
        (2, "indices", FIXED32S),
        (3, "sizes", FIXED32S),
        (4, "data", BYTES),
        (5, "statuses", BYTES),
        (6, "busy_s", DOUBLE),
    )
    lane: int
    indices: array[int]
    sizes: array[int]
    data: bytes
    statuses: bytes
    busy_s: float


class NestedUp(Message):
    """Worker to node: a call made in here."""

    NUMBER = 4
    FIELDS = (
        (1, "kind", U32),
        (2, "lane_id", STRING),
        (3, "function_id", STRING),
        (4, "first_index", U32),
        (5, "indices", FIXED32S),
        (6, "sizes", FIXED32S),
        (7, "data", BYTES),
        (8, "flags", BYTES),
        (9, "durable", BOOL),
        (10, "closed", BOOL),
        (11, "subscribe", BOOL),
        (12, "parent_input_id", STRING),
        (13, "terminate_containers", BOOL),
    )
    kind: int
    lane_id: str
    function_id: str
    first_index: int
    indices: array[int]
    sizes: array[int]
    data: bytes
    flags: bytes
    durable: bool
    closed: bool
    subscribe: bool
    parent_input_id: str
    terminate_containers: bool


class ErrorInfo(Message):
    """Payload of a SYSTEM_ERROR output."""

    FIELDS = ((1, "code", STRING), (2, "message", STRING), (3, "why", STRING), (4, "fix", STRING), (5, "ids", STRING_MAP))
    code: str
    message: str
    why: str
    fix: str
    ids: dict[str, str]


class PayloadRef(Message):
    """Payload with the high bit of its flag set."""

    FIELDS = ((1, "file", STRING), (2, "digest", STRING), (3, "size_bytes", U32))
    file: str
    digest: str
    size_bytes: int


TO_WORKER: Final[dict[int, type[Message]]] = {
    cls.NUMBER: cls for cls in (LoadFunction, WorkerInputs, WorkerCancel, WorkerShutdown, WorkerRelease, NestedDown)
}
FROM_WORKER: Final[dict[int, type[Message]]] = {
    cls.NUMBER: cls for cls in (WorkerBooted, FunctionLoaded, WorkerOutputs, NestedUp, WorkerRelease)
}


def _varint(number: int) -> bytes:
    if number < 128:
        return bytes((number,))
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


def _chunk(number: int, body: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(body)) + body


def encode(message: Message) -> bytes:
    """The message as protobuf bytes. Cost: about 3 us and one copy of the payload bytes."""
    parts: list[bytes] = []
    for number, name, kind in message.FIELDS:
        value = getattr(message, name)
        if kind == DOUBLE:
            if value:
                parts += (_varint(number << 3 | 1), _DOUBLE.pack(value))
        elif not value:
            continue
        elif kind <= BOOL:
            parts += (_varint(number << 3), _varint(int(value)))
        elif kind == STRINGS:
            parts += [_chunk(number, text.encode()) for text in value]
        elif kind == STRING_MAP:
            parts += [_chunk(number, _chunk(1, k.encode()) + _chunk(2, v.encode())) for k, v in value.items()]
        else:
            if kind == STRING:
                value = value.encode("utf-8", "replace")
            elif kind == FIXED32S:
                value = (value if type(value) is array else array("I", value)).tobytes()
            parts += (_varint(number << 3 | 2), _varint(len(value)), value)
    return b"".join(parts)


def encode_frame(message: Message) -> bytes:
    """Length prefix, envelope and message: what goes on the socket."""
    body = encode(message)
    head = _varint(message.NUMBER << 3 | 2) + _varint(len(body))
    return b"".join((_LENGTH.pack(len(head) + len(body)), head, body))


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    number = data[at]
    if number < 128:
        return number, at + 1
    number &= 127
    shift = 7
    while True:
        at += 1
        byte = data[at]
        number |= (byte & 127) << shift
        if byte < 128:
            return number, at + 1
        shift += 7
        if shift > 63:
            raise ValueError("malformed frame: a varint has more than ten bytes")


def _fields(data: bytes, at: int, end: int) -> list[tuple[int, int, int, int]]:
    """(number, wire type, start, end) of each field; a varint's value stands in `start`."""
    rows = []
    try:
        while at < end:
            tag, at = _read_varint(data, at)
            wire_type = tag & 7
            if wire_type == 0:
                value, at = _read_varint(data, at)
                rows.append((tag >> 3, 0, value, 0))
                continue
            if wire_type == 2:
                size, at = _read_varint(data, at)
            elif wire_type == 1:
                size = 8
            elif wire_type == 5:
                size = 4
            else:
                raise ValueError(f"malformed frame: wire type {wire_type}")
            rows.append((tag >> 3, wire_type, at, at + size))
            at += size
    except IndexError:
        at = end + 1
    if at > end:
        raise ValueError("malformed frame: a field runs over its end")
    return rows


def _decode_into(message: Message, data: bytes, at: int, end: int) -> None:
    kinds = {number: (name, kind) for number, name, kind in message.FIELDS}
    for number, wire_type, start, stop in _fields(data, at, end):
        if number not in kinds:
            continue
        name, kind = kinds[number]
        if wire_type == 0:
            setattr(message, name, start & 0xFFFFFFFFFFFFFFFF if kind == U32 else bool(start))
        elif kind == FIXED32S:  # packed, or one entry a field as old writers do
            entries = array("I", data[start:stop])
            before = getattr(message, name)
            setattr(message, name, before + entries if before else entries)
        elif kind == STRING:
            setattr(message, name, data[start:stop].decode("utf-8", "replace"))
        elif kind == BYTES:
            setattr(message, name, data[start:stop])
        elif kind == STRINGS:
            setattr(message, name, (*getattr(message, name), data[start:stop].decode("utf-8", "replace")))
        elif kind == DOUBLE:
            setattr(message, name, _DOUBLE.unpack_from(data, start)[0])
        elif kind == STRING_MAP:
            entry = {n: data[a:b].decode("utf-8", "replace") for n, _, a, b in _fields(data, start, stop)}
            getattr(message, name)[entry.get(1, "")] = entry.get(2, "")


def decode(cls: type[Message], data: bytes) -> Message:
    """Read a bare message of a known class."""
    message = cls()
    _decode_into(message, data, 0, len(data))
    return message


def decode_envelope(table: dict[int, type[Message]], frame: bytes) -> Message | None:
    """Read one frame's body (without the length); None when it holds nothing this side knows (a newer sender)."""
    found: Message | None = None
    for number, wire_type, start, end in _fields(frame, 0, len(frame)):
        cls = table.get(number)
        if cls is not None and wire_type == 2:
            found = cls()
            _decode_into(found, frame, start, end)
    return found
