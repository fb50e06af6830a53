"""Int8 variants of a captured network: calibrated once, quantised once, or rung by rung until a budget holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from edgetl_export.artifact import Artifact
from edgetl_export.calibration import CalibrationSamples
from edgetl_export.capture import Captured
from edgetl_export.ladder import Agreement, Climb, Climbed, climb, same_labels
from edgetl_export.progress import Track, silent
from edgetl_export.quantize.cache import calibrate_once, key_of
from edgetl_export.quantize.calibrate import METHODS, Calibration
from edgetl_export.quantize.distill import DistillOptions, distill
from edgetl_export.quantize.quantization import Quantized
from edgetl_export.quantize.saturation import without_saturation
from edgetl_export.quantize.static import quantize_static
from edgetl_export.source import Original, Source
from edgetl_export.targets import TARGETS
from edgetl_runtime.batches import run_images
from edgetl_runtime.cache import own_cache
from edgetl_runtime.engines import open_session
from edgetl_runtime.engines.binding import ModelBytes, Signature
from edgetl_runtime.errors import UsageError, nearest
from edgetl_runtime.quantities import DROP
from edgetl_runtime.session import IntegerSession

__all__ = ["WAYS", "Int8Options", "Quantizer", "run_artifact"]

WAYS = ("ptq", "distill", "qat")
"""How int8 variants are made when no budget is given: without training, trained against the float network, or trained
against it and the photos' labels.
"""

_HELD_OUT = 5
"""Without photos to judge on, every fifth of the calibration photos is held out for it."""

_MOST_IMAGES = 512
"""Photos held in memory to distil on."""
_SEEN_IMAGES = 24
"""Photos whose sums say how small weights have to be."""


@dataclass(frozen=True)
class Int8Options:
    """How int8 variants are made.

    ``quantize`` is one of `WAYS`. With ``max_drop`` (a share of photos, below a half) the ladder is climbed instead,
    until no more photos than that get another label; ``tune`` are the photos it is judged on. ``ranges`` is one of
    `METHODS`; ``labels`` are those of the calibration photos, in their order, as places in the row of logits: ``qat``
    needs them. ``safe`` avoids weights whose products outgrow 16 bits in pairs: any that could, or with ``"seen"`` as
    far as those of some photos do; None: see `edgetl_export.ExportOptions`. ``agreement`` says how far outputs
    decide like the original's, where that is not a matter of labels. Raises `UsageError` for values that make no sense.
    """

    quantize: str = WAYS[0]
    max_drop: float | None = None
    tune: CalibrationSamples | None = None
    labels: tuple[int, ...] = ()
    ranges: str = METHODS[0]
    safe: bool | Literal["seen"] | None = None
    io: str = "float"
    distillation: DistillOptions = field(default_factory=DistillOptions)
    agreement: Agreement = same_labels

    def __post_init__(self) -> None:
        if self.quantize not in WAYS:
            raise UsageError(f"unknown way to quantise {self.quantize!r}", fix=nearest(self.quantize, WAYS))
        if self.quantize == "qat" and not self.labels:
            raise UsageError("qat trains on labels, and there are none", fix="--quantize distill needs no labels")
        if self.ranges not in METHODS:
            raise UsageError(f"unknown way to find ranges {self.ranges!r}", fix=nearest(self.ranges, METHODS))
        if self.max_drop is not None:
            DROP.check("max_drop", self.max_drop)
        if self.max_drop is not None and self.quantize != WAYS[0]:
            raise UsageError("max_drop climbs all rungs, quantize picks one", fix="give one of the two")


class Quantizer:
    """Calibrates when it is made; `quantized` is the model that the options pick, `climb` tries them all."""

    def __init__(
        self,
        source: Source,
        captured: Captured,
        samples: CalibrationSamples,
        options: Int8Options,
        *,
        track: Track = silent,
    ) -> None:
        self.source, self.captured, self.options, self.track = source, captured, options, track
        self.samples, self.tune = samples, options.tune
        if options.max_drop is not None and self.tune is None:
            self.samples, self.tune = _divided(samples)
        self.calibration = calibrate_once(captured, self.samples, track=track)

    def quantized(self) -> Quantized:
        """The model that ``options.quantize`` names."""
        static = self._static(self.captured, self.calibration)
        if self.options.quantize == "ptq":
            return static
        images = _in_memory(self.samples)
        labels = self._labels()
        learned = distill(
            static, images, self.options.distillation, labels=labels, resume=self._resume(), track=self.track
        )
        return self._safe(learned)

    def wide(self, quantized: Quantized) -> Quantized:
        """The grids of 16-bit activations for the same weights: nothing needs to be clipped."""
        full = quantize_static(quantized.captured, self.calibration, method="minmax")
        return replace(full, captured=quantized.captured, values=quantized.values)

    def climb(self, write: Mapping[str, Callable[[Quantized], Artifact | str]], max_drop: float) -> Climbed:
        """The nearest int8 artifact of every target, and what every rung gave. `write` as `climb` takes it."""
        assert self.tune is not None
        judge = _in_memory(self.tune)
        reference = self.source.reference()
        plan = Climb(
            captured=self.captured,
            calibration=self.calibration,
            images=_in_memory(self.samples),
            judge=judge,
            outputs=_original_outputs(reference, self.captured, judge),
            max_drop=max_drop,
            quantize=self._static,
            recalibrate=lambda captured: calibrate_once(captured, self.samples, track=self.track),
            distillation=self.options.distillation,
            resume=self._resume(),
            finish=self._safe if self.options.safe else None,
            agreement=self.options.agreement,
        )
        return climb(plan, write, partial(run_artifact, self.captured), track=self.track)

    def _static(self, captured: Captured, calibration: Calibration) -> Quantized:
        return self._safe(quantize_static(captured, calibration, method=self.options.ranges))

    def _safe(self, quantized: Quantized) -> Quantized:
        if not self.options.safe:
            return quantized
        some = replace(self.samples, sources=self.samples.sources[:_SEEN_IMAGES])
        return without_saturation(quantized, np.concatenate(list(some)) if self.options.safe == "seen" else None)

    def _labels(self) -> npt.NDArray[np.int64] | None:
        if self.options.quantize != "qat":
            return None
        return np.array(self.options.labels[:_MOST_IMAGES], np.int64)

    def _resume(self) -> Path | None:
        folder = own_cache("distill")
        if folder is None:
            return None
        options = self.options
        labels = options.labels if options.quantize == "qat" else ()
        key = key_of(self.captured, self.samples, options.ranges, options.safe, labels, options.max_drop is None)
        return folder / f"{key}.pt"


def _divided(samples: CalibrationSamples) -> tuple[CalibrationSamples, CalibrationSamples]:
    judged = [place % _HELD_OUT == _HELD_OUT - 1 for place in range(len(samples))]

    def part(wanted: bool) -> Sequence[Any]:
        return [source for source, held in zip(samples.sources, judged, strict=True) if held is wanted]

    return replace(samples, sources=part(False)), replace(samples, sources=part(True))


def _in_memory(samples: CalibrationSamples) -> npt.NDArray[np.uint8]:
    few = replace(samples, sources=samples.sources[:_MOST_IMAGES])
    return np.concatenate(list(few))


def _original_outputs(
    original: Original, captured: Captured, images: npt.NDArray[np.uint8]
) -> dict[str, npt.NDArray[Any]]:
    runs = [original.outputs(image[None]) for image in images]
    return {spec.name: np.concatenate([run[spec.name] for run in runs]) for spec in captured.outputs}


def run_artifact(
    captured: Captured, target: str, artifact: Artifact, images: npt.NDArray[np.uint8]
) -> dict[str, npt.NDArray[Any]]:
    """Outputs of an artifact in its own engine, by name."""
    contents = list(artifact.files.values())
    model = ModelBytes(contents[0], name=f"{target}.int8", weights=contents[1] if len(contents) > 1 else None)
    own = captured.all_outputs if artifact.output is None else (artifact.output,)
    signature = Signature((artifact.input or captured.input,), own)
    opened = open_session(TARGETS[target].engine, model, signature)
    if artifact.input is not None:
        opened = IntegerSession(opened, captured.input, captured.outputs)
    with opened as session:
        names = [spec.name for spec in captured.outputs]
        rows: dict[str, list[npt.NDArray[Any]]] = {name: [] for name in names}
        size = max(1, captured.batch)
        for start in range(0, len(images), size):
            tensors = run_images(session, images[start : start + size])
            for name in names:
                rows[name].append(tensors[name].copy())
    return {name: np.concatenate(parts) for name, parts in rows.items()}
