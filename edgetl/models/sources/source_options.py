"""What a user says of a network that is opened, whatever it comes as."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgetl.models.checkpoint import load_labels
from edgetl.models.image_size import ImageSize
from edgetl_export.soundness import check_decides
from edgetl_runtime.errors import UsageError
from edgetl_runtime.manifest import Label, Normalize, Preprocess
from edgetl_runtime.preprocess import ImageSource

__all__ = ["SourceOptions", "numbers"]


@dataclass(frozen=True)
class SourceOptions:
    """What a user says of a network; None where nothing is said.

    ``pixels`` is the convention of a Keras model (`edgetl.models.sources.keras_model`), ``custom`` a file of code with
    translations of its own layers, ``head`` the last layer of a module in memory. ``photos`` are some like the
    device's, on which a translation is held against the original.
    """

    backbone: str | None = None
    weights: Path | None = None
    labels: Path | Sequence[str] | None = None
    image_size: ImageSize | None = None
    channels: int | None = None
    decode: str | None = None
    normalize: Normalize | None = None
    pixels: str | None = None
    resize: str | None = None
    interpolation: str | None = None
    custom: Path | None = None
    head: str | None = None
    photos: Sequence[ImageSource] = ()

    @property
    def known_labels(self) -> tuple[Label, ...] | None:
        """The labels, read."""
        return None if self.labels is None else load_labels(self.labels)

    def labels_for(self, outputs: int, where: str, usual: Sequence[Label] = ()) -> tuple[Label, ...]:
        """The labels, else `usual` ones, else numbers: as many as the `outputs` of the network that `where` names.

        Raises `UsageError` when they are not.
        """
        check_decides(outputs, where)
        labels = self.known_labels or tuple(usual) or numbers(outputs)
        if len(labels) != outputs:
            raise UsageError(
                f"{where} gives {outputs} logits, but there are {len(labels)} labels",
                fix="give one label for each logit, in their order",
            )
        return labels

    def fitted(self, spec: Preprocess) -> Preprocess:
        """`spec`, with photos that fit, and are resized, as the user says. Raises `UsageError`."""
        if self.resize not in (None, "crop"):
            spec = replace(spec, mode=self.resize, resize=0)
        if self.interpolation is not None:
            spec = replace(spec, interpolation=self.interpolation)
        if spec.problem is not None:
            raise UsageError(spec.problem, fix="--resize crop, --interpolation bilinear")
        return spec


def numbers(n: int) -> tuple[Label, ...]:
    """Labels that are called by their place."""
    return tuple(Label(str(number), str(number)) for number in range(n))
