"""The ladder: from plain static int8 upwards, until what an int8 variant decides otherwise fits a budget.

A rung is a way to quantise. Every rung's files are run in their own engines on photos that calibration did not see.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgetl_export.artifact import Artifact
from edgetl_export.capture import Captured
from edgetl_export.changes import drop_in_words, is_of_photos
from edgetl_export.progress import Track, silent
from edgetl_export.quantize.calibrate import Calibration, node_values
from edgetl_export.quantize.distill import DistillOptions, distill
from edgetl_export.quantize.quantization import Quantization, Quantized
from edgetl_export.quantize.repair import correct_biases, equalize
from edgetl_export.quantize.sensitivity import in_float, noise_by_node
from edgetl_export.quantize.simulate import Simulation
from edgetl_export.quantize.static import quantize_static
from edgetl_runtime.comparison import least_sqnr_db, same_label, sqnr_db
from edgetl_runtime.errors import UsageError

__all__ = ["Agreement", "Climb", "Climbed", "Outputs", "Rung", "climb", "rungs", "same_labels"]

_SHARES = (0.5, 0.6, 0.75, 0.9)
"""Shares of the predicted noise that mixed precision takes out, each of what the one before it left: of all of it
0.5, 0.8, 0.95 and 0.995."""

_LOGITS = "logits"
_REPAIR_IMAGES, _SENSITIVITY_IMAGES = 48, 32


Outputs = Mapping[str, npt.NDArray[Any]]
"""What a network gives for n images, by name, each (n, ...)."""

Agreement = Callable[[Outputs, Outputs], npt.NDArray[np.float64]]
"""Of the original's outputs and others the share (0..1) of each image's decisions that are the same, (n,)."""


def same_labels(original: Outputs, outputs: Outputs) -> npt.NDArray[np.float64]:
    """Of each image the share of rows of ``logits`` with the original's label: one of a classifier, many of a map.

    Raises `UsageError` where the network gives none.
    """
    if _LOGITS not in original:
        raise UsageError(
            f"there are no labels in {', '.join(original)}, so that none can change", fix="leave --max-drop out"
        )
    return same_label(original[_LOGITS], outputs[_LOGITS])


@dataclass(frozen=True)
class Rung:
    """What one rung gave for one variant, on ``n`` photos: how far it decides like the original, 0..1.

    ``drop`` is one minus that; ``sqnr_db`` that of the worst output; ``kept`` says whether the variant was taken from
    this rung.
    """

    variant: str
    rung: str
    agreement: float
    drop: float
    sqnr_db: float
    n: int
    seconds: float
    kept: bool = False
    note: str | None = None


@dataclass(frozen=True)
class Climb:
    """What a ladder needs: the network to quantise and its calibration, photos to fit on (``images``), photos to judge
    on (``judge``, with the original's ``outputs`` by name), the most decisions that may change (``max_drop``, a share).
    ``agreement`` says by photo how far what is given decides like the original. ``finish`` is done to what distillation
    learned.
    """

    captured: Captured
    calibration: Calibration
    images: npt.NDArray[np.uint8]
    judge: npt.NDArray[np.uint8]
    outputs: Outputs
    max_drop: float
    quantize: Callable[[Captured, Calibration], Quantized] = quantize_static
    recalibrate: Callable[[Captured], Calibration] | None = None
    distillation: DistillOptions = field(default_factory=DistillOptions)
    resume: Path | None = None
    finish: Callable[[Quantized], Quantized] | None = None
    agreement: Agreement = same_labels


@dataclass(frozen=True)
class Climbed:
    """By variant: the nearest artifact, the parameters it was written from, why it is over budget, why it is missing.

    ``rungs`` is what every rung gave.
    """

    artifacts: Mapping[str, Artifact] = field(default_factory=dict)
    quantizations: Mapping[str, Quantization] = field(default_factory=dict)
    rungs: tuple[Rung, ...] = ()
    over_budget: Mapping[str, str] = field(default_factory=dict)
    failed: Mapping[str, str] = field(default_factory=dict)


Runner = Callable[[str, Artifact, npt.NDArray[np.uint8]], Outputs]
"""Outputs of a target's artifact for images (n, H, W, C)."""


def climb(
    plan: Climb, write: Mapping[str, Callable[[Quantized], Artifact | str]], run: Runner, *, track: Track = silent
) -> Climbed:
    """Climb until every target of `write` fits ``plan.max_drop``, or there are no more rungs.

    `write` gives an artifact, or the reason why there is none. A target that fits is not touched again; one that never
    does keeps its nearest rung and is in ``over_budget``.
    """
    best: dict[str, tuple[Rung, Artifact, Quantization]] = {}
    seen: list[Rung] = []
    failed: dict[str, str] = {}
    waiting = list(write)
    for quantized, note in rungs(plan, track=track):
        for target in list(waiting):
            start = time.monotonic()
            artifact = write[target](quantized)
            if isinstance(artifact, str):
                failed[f"{target}.int8"] = artifact
                continue
            rung = _judge(plan, target, quantized, run(target, artifact, plan.judge), start, note)
            seen.append(rung)
            if target not in best or (-rung.drop, rung.sqnr_db) > (-best[target][0].drop, best[target][0].sqnr_db):
                best[target] = rung, artifact, quantized.quantization
            if rung.drop <= plan.max_drop:
                waiting.remove(target)
        if not waiting:
            break
    taken = {rung for rung, _, _ in best.values()}
    return Climbed(
        artifacts={rung.variant: artifact for rung, artifact, _ in best.values()},
        quantizations={rung.variant: quantization for rung, _, quantization in best.values()},
        rungs=tuple(replace(rung, kept=rung in taken) for rung in seen),
        over_budget={
            rung.variant: _too_far(rung, plan.max_drop) for target, (rung, _, _) in best.items() if target in waiting
        },
        failed={variant: reason for variant, reason in failed.items() if variant.removesuffix(".int8") not in best},
    )


def rungs(plan: Climb, *, track: Track = silent) -> Iterator[tuple[Quantized, str | None]]:
    """Quantised models, rung by rung, with what there is to say of each; computed when they are asked for."""
    static = plan.quantize(plan.captured, plan.calibration)
    yield static, None
    best, uncorrected = _repaired(plan, static)
    if best is not static:
        yield best, best.quantization.calibration.get("repair")
    # Biases corrected for errors that float layers no longer make would be wrong, and no teacher may have them.
    for mixed in _mixed(plan, uncorrected):
        either = max(mixed, _corrected(plan, mixed), key=lambda one: _simulated(plan, one))
        yield either, f"{len(mixed.quantization.in_float)} nodes in float"
    learned = distill(uncorrected, plan.images, plan.distillation, resume=plan.resume, track=track)
    if plan.finish is not None:
        learned = plan.finish(learned)
    yield learned, f"{plan.distillation.epochs} epochs on {len(plan.images)} photos"
    for mixed in _mixed(plan, learned):
        yield mixed, f"after distillation, {len(mixed.quantization.in_float)} nodes in float"


def _mixed(plan: Climb, quantized: Quantized) -> Iterator[Quantized]:
    """`quantized` with more and more in float."""
    noise = noise_by_node(quantized, plan.images[:_SENSITIVITY_IMAGES])
    for share in _SHARES:
        before = quantized.quantization.in_float
        quantized = in_float(quantized, noise, share)
        if quantized.quantization.in_float != before:
            yield quantized


def _repaired(plan: Climb, static: Quantized) -> tuple[Quantized, Quantized]:
    """The best of static, biases corrected, channels evened out and both, simulated on the photos to judge on.

    And the same without corrected biases, whose float network is the original.
    """
    plain = {"": static}
    if plan.recalibrate is not None:
        evened, pairs = equalize(plan.captured, plan.images[:_REPAIR_IMAGES])
        if pairs:
            name = "equalised channels"
            plain[name] = plan.quantize(evened, plan.recalibrate(evened)).on_rung("repair", repair=name)
    candidates = {name: (candidate, candidate) for name, candidate in plain.items()}
    for name, candidate in plain.items():
        label = f"{name}, corrected biases" if name else "corrected biases"
        candidates[label] = _corrected(plan, candidate).on_rung("repair", repair=label), candidate
    mean_sqnr = {name: _simulated(plan, candidate) for name, (candidate, _) in candidates.items()}
    return candidates[max(mean_sqnr, key=lambda name: mean_sqnr[name])]


def _corrected(plan: Climb, quantized: Quantized) -> Quantized:
    corrected = quantized.captured.with_parameters(correct_biases(quantized, plan.images[:_REPAIR_IMAGES]))
    return replace(quantized, captured=corrected, values=node_values(corrected, quantized.probe))


def _simulated(plan: Climb, quantized: Quantized) -> float:
    return _mean_sqnr(plan, Simulation(quantized.captured, quantized.quantization).outputs(plan.judge))


def _mean_sqnr(plan: Climb, outputs: Outputs) -> float:
    """Mean over images and outputs of the SQNR in dB: no image counts more than another."""
    each = [
        sqnr_db(wanted, given)
        for name, original in plan.outputs.items()
        for wanted, given in zip(original, outputs[name], strict=True)
    ]
    return float(np.mean(np.clip(each, -200.0, 200.0)))


def _judge(plan: Climb, target: str, quantized: Quantized, outputs: Outputs, start: float, note: str | None) -> Rung:
    agreement = float(plan.agreement(plan.outputs, outputs).mean())
    if not all(np.isfinite(values).all() for values in outputs.values()):
        agreement = 0.0
    total = float(np.clip(least_sqnr_db(plan.outputs, outputs), -200.0, 200.0))
    rung, seconds = quantized.quantization.rung, time.monotonic() - start
    return Rung(f"{target}.int8", rung, agreement, 1.0 - agreement, total, len(plan.judge), seconds, note=note)


def _too_far(rung: Rung, max_drop: float) -> str:
    nearest = f"no rung fits: nearest is {rung.rung}"
    if not is_of_photos(rung.drop, rung.n):
        changes = drop_in_words(rung.drop, rung.n)
        return f"{nearest}, {changes}, --max-drop {max_drop:g} allows {100 * max_drop:.3g} %"
    changed, allowed = round(rung.drop * rung.n), math.floor(max_drop * rung.n)
    return f"{nearest}, {changed} of {rung.n} photos get another label, --max-drop {max_drop:g} allows {allowed}"
