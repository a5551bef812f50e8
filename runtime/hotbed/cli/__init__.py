"""The hotbed command."""
