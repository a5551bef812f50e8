"""`ErrorInfo` bytes to an exception, with protobuf in a client and with the worker's own codec in a container."""

from __future__ import annotations

import sys

from hotbed.serialize import make_remote_error
from hotbed_proto.errors import Error, InternalError


def error_from_bytes(payload: bytes) -> Error:
    """The error in a SYSTEM_ERROR output."""
    try:
        if "hotbed.worker.runner" in sys.modules:
            from hotbed.worker.wire import ErrorInfo, decode

            info = decode(ErrorInfo, payload)
            assert isinstance(info, ErrorInfo)
            return make_remote_error(info.code, info.message, info.why, info.fix, {})
        from hotbed_proto.v1.common_pb2 import ErrorInfo as ErrorInfoMessage

        message = ErrorInfoMessage.FromString(payload)
        return make_remote_error(message.code, message.message, message.why, message.fix, message.ids)
    except (ValueError, TypeError) as error:
        return InternalError("an error came that cannot be read", why=str(error))
    except Exception as error:
        if type(error).__name__ == "DecodeError":  # protobuf's own; naming it would import protobuf in containers
            return InternalError("an error came that cannot be read", why=str(error))
        raise
