"""A variant's files in memory, on their way from a target into the bundle."""

from __future__ import annotations

from dataclasses import dataclass, replace

from edgetl_export.sealing import sealed
from edgetl_runtime.manifest import TensorSpec

__all__ = ["Artifact"]


@dataclass(frozen=True)
class Artifact:
    """Files by suffix, the one that is loaded first: ``{".xml": ..., ".bin": ...}``.

    ``quantization`` is what the manifest says of it, ``None`` for a variant that is not quantised. ``input`` and
    ``output`` describe the file's own tensors where they differ from what the bundle takes and gives.
    """

    files: dict[str, bytes]
    quantization: dict[str, object] | None = None
    input: TensorSpec | None = None
    output: TensorSpec | None = None

    def sealed(self) -> Artifact:
        """The same with the seal in its first file, which has room for one (see `edgetl_runtime.seal`)."""
        return replace(self, files=dict(zip(self.files, sealed(tuple(self.files.values())), strict=True)))
