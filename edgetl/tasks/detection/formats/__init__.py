"""Readers of annotated photos: one module for each format, all to `edgetl.tasks.detection.formats.annotated`."""

from __future__ import annotations

__all__: list[str] = []
