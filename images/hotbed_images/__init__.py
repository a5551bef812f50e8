"""Immutable filesystems for containers."""
