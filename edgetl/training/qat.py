"""Quantisation-aware fine-tuning: training goes on with int8 simulated, so that the checkpoint loses less in int8.

The checkpoint stays a plain state dict of its backbone: whoever exports it calibrates it anew, and needs no training.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edgetl.data.augmentation import was_mirrored
from edgetl.data.dataset import Dataset, Sample, pick
from edgetl.data.loader import Pixels, evaluation_batches
from edgetl.models.checkpoint import Checkpoint
from edgetl.training.finetune import Trained
from edgetl.training.options import TrainOptions
from edgetl_export import CalibrationSamples, Source, capture
from edgetl_export.int8 import Int8Options, Quantizer
from edgetl_export.progress import Track, silent
from edgetl_export.quantize.cache import calibrate_once
from edgetl_export.quantize.distill import DistillOptions
from edgetl_export.quantize.pixels import on_pixels
from edgetl_export.quantize.simulate import Simulation
from edgetl_export.quantize.static import quantize_static
from edgetl_export.quantize.unfold import unfolded

__all__ = ["train_quantized"]

_MOST_TRAINED, _MOST_JUDGED = 512, 500
_MOST_LOST = 0.01
"""Share of the validation photos by which the float network may become worse."""
_BATCH = 16


@dataclass(frozen=True)
class _Judged:
    """Top-1 on validation photos: of the float network, and of what static quantisation makes of it."""

    top1: float
    int8_top1: float


def train_quantized(
    trained: Trained, source: Source, data: Dataset, options: TrainOptions, *, track: Track = silent
) -> Trained:
    """`trained` after further epochs with quantisation simulated, on labelled photos of ``data.train``.

    `source` is its checkpoint. The learned weights are kept when on ``data.val`` the float network loses at most
    1 point of top-1 and int8 loses none; otherwise the checkpoint stays as it was, and a note says so.
    Raises what `edgetl_export.quantize.distill.distill` and `edgetl_export.quantize.unfold.unfolded` raise.
    """
    began = time.monotonic()
    old = trained.checkpoint
    photos, judges = pick(data.train, _MOST_TRAINED, options.seed), pick(data.val, _MOST_JUDGED, options.seed)
    samples = CalibrationSamples([photo.source for photo in photos], old.preprocess)
    distillation = DistillOptions(seed=options.seed, mirror=was_mirrored(old.training), device=options.device)
    int8 = Int8Options("qat", labels=tuple(photo.label for photo in photos), distillation=distillation)
    learned = Quantizer(source, on_pixels(capture(source)), samples, int8, track=track).quantized()
    network = unfolded(learned.captured)
    before = _judge(source, samples, judges)
    after = _judge(dataclasses.replace(source, module=network), samples, judges)
    kept = _is_kept(before, after)
    facts: dict[str, Any] = {"qat": kept, "qat_epochs": distillation.epochs, "qat_photos": len(photos)}
    if kept:
        facts |= {"qat_val_top1": after.top1, "qat_val_int8_top1": after.int8_top1}
    new = Checkpoint.of(
        network,
        backbone=old.backbone,
        labels=old.labels,
        preprocess=old.preprocess,
        normalize=old.normalize,
        hidden=old.hidden,
    )
    return dataclasses.replace(
        trained,
        checkpoint=dataclasses.replace(new if kept else old, training=old.training | facts),
        seconds=trained.seconds + time.monotonic() - began,
        notes=(*trained.notes, _told(before, after, kept=kept)),
    )


def _judge(source: Source, samples: CalibrationSamples, judges: Sequence[Sample]) -> _Judged:
    captured = on_pixels(capture(source))
    quantized = quantize_static(captured, calibrate_once(captured, samples))
    simulation, reference = Simulation(quantized.captured, quantized.quantization), source.reference()
    right, right_int8 = 0, 0
    seen = Pixels(judges, source.preprocess, kind="eval", cache=False)
    for pixels, labels in evaluation_batches(seen, _BATCH):
        truth = labels.numpy()
        images = pixels.numpy()
        right += int((reference(images).argmax(1) == truth).sum())
        right_int8 += int((simulation.outputs(images)["logits"].argmax(1) == truth).sum())
    return _Judged(right / len(judges), right_int8 / len(judges))


def _is_kept(before: _Judged, after: _Judged) -> bool:
    return after.top1 >= before.top1 - _MOST_LOST and after.int8_top1 >= before.int8_top1


def _told(before: _Judged, after: _Judged, *, kept: bool) -> str:
    return (
        f"qat: validation top-1 {before.top1:.1%} -> {after.top1:.1%}, in int8 {before.int8_top1:.1%} -> "
        f"{after.int8_top1:.1%}; {'kept' if kept else 'the checkpoint stays as it was before'}"
    )
