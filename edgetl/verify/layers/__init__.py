"""Variant and original, compared layer by layer."""

__all__: list[str] = []
