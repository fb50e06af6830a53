"""What `edgetl.training.finetune` is made of: each part of a training in a module of its own."""

from __future__ import annotations

__all__: list[str] = []
