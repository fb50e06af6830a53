"""What a comparison of backbones found: each backbone, its variants, which are worth it, and which one to take."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from edgetl.models.image_size import ImageSize
from edgetl.reports.pareto import dominated
from edgetl.studies.result_key import json_text

__all__ = ["BackboneResult", "Comparison", "MeasuredVariant"]


@dataclass(frozen=True)
class MeasuredVariant:
    """One variant of one backbone; ``top1`` and ``delta`` (against its original) are shares of the held-out photos.

    ``passed`` says whether the gate's limits hold. ``p50_ms`` is the median of one image in rounds beside all others,
    with its 95 % interval; ``None`` where it does not run.
    """

    backbone: str
    id: str
    target: str
    precision: str
    bytes: int | None
    top1: float | None
    delta: float | None
    passed: bool
    p50_ms: float | None = None
    p50_ci95: tuple[float, float] | None = None

    @property
    def name(self) -> str:
        """What it is called among the variants of all backbones."""
        return f"{self.backbone} {self.id}"


@dataclass(frozen=True)
class BackboneResult:
    """One backbone: what it started from, its size (``macs`` for one image), and how its original and variants did.

    ``error`` says why when it could not be trained or exported; everything that is known after that is ``None`` then.
    """

    backbone: str
    weights: str
    strategy: str
    error: str | None = None
    bundle: str | None = None
    image_size: ImageSize | None = None
    params: int | None = None
    macs: int | None = None
    top1: float | None = None
    ci95: tuple[float, float] | None = None
    train_seconds: float | None = None
    variants: tuple[MeasuredVariant, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """All backbones on ``held_out`` photos of ``split``, timed on ``threads`` threads of ``machine``.

    ``quality`` is what the task calls the quality, which stands in ``top1`` of backbones and variants.
    """

    data: str
    held_out: int
    split: str
    threads: int
    within: float
    machine: dict[str, Any]
    backbones: tuple[BackboneResult, ...]
    disturbances: tuple[str, ...] = ()
    quality: str = "top-1"

    @property
    def timed(self) -> list[MeasuredVariant]:
        """The variants that have both a quality and a time."""
        variants = [variant for result in self.backbones for variant in result.variants]
        return [variant for variant in variants if variant.top1 is not None and variant.p50_ms is not None]

    @property
    def front(self) -> list[MeasuredVariant]:
        """Those that no other one beats in accuracy and time, the fastest first."""
        timed = self.timed
        beaten = dominated([(variant.p50_ms or 0.0, variant.top1 or 0.0) for variant in timed])
        unbeaten = [variant for variant, is_beaten in zip(timed, beaten, strict=True) if not is_beaten]
        return sorted(unbeaten, key=lambda variant: variant.p50_ms or 0.0)

    @property
    def recommended(self) -> MeasuredVariant | None:
        """The fastest that passed and is within ``within`` of the most accurate that passed."""
        passed = [variant for variant in self.timed if variant.passed]
        best = max((variant.top1 or 0.0 for variant in passed), default=0.0)
        enough = [variant for variant in passed if (variant.top1 or 0.0) >= best - self.within - 1e-9]
        return min(enough, key=lambda variant: variant.p50_ms or 0.0, default=None)

    @property
    def failed(self) -> list[BackboneResult]:
        """The backbones that could not be trained or exported."""
        return [result for result in self.backbones if result.error is not None]

    def to_json(self) -> str:
        """``{"schema": 1, "backbones": [..], "front": [..], "recommended": {..}, ...}``, indented."""
        chosen = self.recommended
        return json_text(
            **dataclasses.asdict(self),
            front=[{"backbone": variant.backbone, "id": variant.id} for variant in self.front],
            recommended=None if chosen is None else dataclasses.asdict(chosen),
        )
