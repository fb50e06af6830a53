"""Causes of what failed."""

__all__: list[str] = []
