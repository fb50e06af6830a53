"""Heads that give other outputs than a classifier's logits: one module each, one line in `HEADS`.

A head stands behind feature maps of a backbone (`edgetl.models.taps`). To add one, write a module with what `Head`
lists and name it in the table; a task names the heads that serve it.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, cast

from edgetl_runtime.errors import CheckpointError, nearest

if TYPE_CHECKING:
    from torch import nn

__all__ = ["HEADS", "Head", "HeadSpec", "head_named"]

HEADS: dict[str, str] = {
    "ssdlite": "edgetl.models.heads.ssdlite",
    "published-boxes": "edgetl.models.heads.published_boxes",
    "published-masks": "edgetl.models.heads.published",
    "lraspp": "edgetl.models.heads.lraspp",
    "unet": "edgetl.models.heads.unet",
    "deeplabv3": "edgetl.models.heads.deeplabv3",
    "deeplabv3plus": "edgetl.models.heads.deeplabv3",
}
"""Name -> module, imported when the head is met."""


@dataclass(frozen=True)
class HeadSpec:
    """A head by name, and what it was made with: ``settings`` are plain JSON, and stand in the checkpoint."""

    name: str
    settings: dict[str, Any] = field(default_factory=dict)


class Head(Protocol):
    """What a module of a head has."""

    def attach(
        self, trunk: nn.Module, labels: int, settings: Mapping[str, Any], *, crop: tuple[int, int], channels: int
    ) -> nn.Module:
        """The head behind a backbone.

        Args:
            trunk: The backbone as a classifier, in eval mode; it becomes part of the result.
            labels: How many the data set has.
            settings: Those of the `HeadSpec`.
            crop: (height, width) of the images in pixels.
            channels: Of the images.

        Returns:
            Normalised float32 (N, channels, height, width) to the raw outputs by name: an
            `edgetl.models.headed.HeadedNetwork`.

        Raises:
            UsageError: The backbone has no maps that this head needs.
        """
        ...

    def decoder(self, settings: Mapping[str, Any], crop: tuple[int, int]) -> dict[str, Any] | None:
        """What a device needs to decode the outputs, as plain JSON for the manifest; None where they need nothing."""
        ...


def head_named(name: str) -> Head:
    """The module of a head. Raises `CheckpointError` for one that is not known."""
    if name not in HEADS:
        raise CheckpointError(
            f"{name!r} is a head that this edgetl does not know; {nearest(name, list(HEADS))}",
            fix="pip install --upgrade edgetl",
        )
    return cast("Head", importlib.import_module(HEADS[name]))
