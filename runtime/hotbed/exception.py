"""Every error hotbed raises, under the name users catch it by: `hotbed.exception.TimeoutError` and the rest."""

from __future__ import annotations

from hotbed_proto.errors import *  # noqa: F403 - the one tree, re-exported whole
from hotbed_proto.errors import __all__ as __all__
