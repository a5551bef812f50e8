"""The control plane's shell: RPC, payloads, durability and node sessions around the pure core."""

from .shell import ControlPlane, NodeSession

__all__ = ["ControlPlane", "NodeSession"]
