"""A variant's files in memory, on their way from a target into the bundle."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Artifact"]


@dataclass(frozen=True)
class Artifact:
    """Files by suffix, the one that is loaded first: ``{".xml": ..., ".bin": ...}``.

    ``quantization`` is what the manifest says of it, ``None`` for a variant that is not quantised.
    """

    files: dict[str, bytes]
    quantization: dict[str, object] | None = None
