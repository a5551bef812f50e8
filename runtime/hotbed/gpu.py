"""What `gpu=` accepts."""

from __future__ import annotations

from collections.abc import Sequence

from hotbed_proto.errors import InvalidError
from hotbed_proto.resources import GpuRequest, parse_gpu

__all__ = ["GpuRequest", "GpuSpec", "parse_gpus"]

GpuSpec = str | GpuRequest | Sequence[str | GpuRequest] | None


def parse_gpus(spec: GpuSpec) -> tuple[GpuRequest, ...]:
    """Ordered fallbacks; empty for None.

    Raises:
        InvalidError: The text is no GPU request; the message quotes it.
    """
    if spec is None:
        return ()
    entries = [spec] if isinstance(spec, (str, GpuRequest)) else list(spec)
    parsed: list[GpuRequest] = []
    for entry in entries:
        if not isinstance(entry, (str, GpuRequest)):
            raise InvalidError(f"gpu={spec!r}: {entry!r} is neither a model name nor a GpuRequest")
        try:
            parsed.append(parse_gpu(entry))
        except ValueError as error:
            raise InvalidError(str(error), fix="write a model such as gpu='A100', 'H100:4', 'A100:0.5' or 'any'") from None
    return tuple(parsed)
