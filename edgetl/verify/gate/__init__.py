"""Limits, what counts as missed, and what changed since a baseline."""

__all__: list[str] = []
