"""Labelled images: reading, splits, batches."""

__all__: list[str] = []
