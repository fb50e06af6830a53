"""How long a job takes: its parts in their order, with seconds measured here, or on the machine that is named.

Nobody can know before; these numbers are for a person who decides whether to wait, and for the line that says how
much is left, which corrects them by what the parts before took.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

from edgetl.data.dataset import USUAL
from edgetl.data.image_files import ImageFile, find_unreadable
from edgetl.models.image_size import height_and_width
from edgetl.recipe import ExportSection, Recipe
from edgetl.tasks import task_of
from edgetl_runtime.machine import usable_cores
from edgetl_runtime.manifest import Preprocess
from edgetl_runtime.preprocess import ImageSource, preprocess

__all__ = [
    "USUAL_SPEED",
    "Part",
    "Speed",
    "estimate_lines",
    "measure_speed",
    "parts_of_export",
    "parts_of_run",
    "parts_of_training",
    "parts_of_verify",
    "spoken",
]

_CALIBRATED = ("int8", "w8a16")
_EPOCHS_UNKNOWN = 10
_BATCH, _STEPS, _PHOTOS = 8, 3, 48


@dataclass(frozen=True)
class Part:
    """A part of a job: its stage, what `Track` calls it (empty: it shows no way), and about how many seconds.

    ``of_files``: it works on files, a fast network or few pixels make it no faster.
    """

    stage: str
    what: str
    seconds: float
    of_files: bool = False


@dataclass(frozen=True)
class Speed:
    """Seconds for one image or one variant.

    ``check``: a photo is looked at and hashed; ``read``: it becomes a tensor; ``forward``: it goes through the network
    in a batch. ``size``: layers of the network, as a multiple of MobileNetV2's, which conversions take longer by.
    ``measured``: on this machine; otherwise on the one below.
    """

    check: float = 0.003
    read: float = 0.004
    forward: float = 0.025
    size: float = 1.0
    measured: bool = False


USUAL_SPEED = Speed()
"""MobileNetV2 at 224 pixels on 2 cores of an AMD EPYC, 2026-11-30, with other programs at work."""
_LAYERS_OF_MOBILENET_V2 = 141
_CAPTURE, _QUANTIZE, _TRIED, _LATENCY = 8.0, 4.0, 2.0, 4.0
"""Seconds there for: the capture of the network, one int8 file, one file tried in a child, one variant's latency."""
_CONVERT = {"onnx": 6.0, "tflite": 16.0, "openvino": 5.0}
"""Seconds there to convert it to a format, in floats."""
_GOLDEN = 16
_HEAD = 0.003
"""Seconds there to find the best head on the features of a photo."""
_TRAINING = 3.0
"""A step forwards and backwards takes so many times the one forwards."""


def parts_of_run(recipe: Recipe, sizes: tuple[int, int], speed: Speed = USUAL_SPEED) -> list[Part]:
    """What ``edgetl run`` does with so many photos to train on and held out."""
    train, judge = sizes
    return [
        *parts_of_training(recipe, sizes, speed),
        *parts_of_export(recipe.export, train, speed, checked=True),
        *_judging(judge, _variants(recipe.export), speed),
    ]


def parts_of_verify(photos: int, variants: int, speed: Speed = USUAL_SPEED) -> list[Part]:
    """What ``edgetl verify`` does with so many photos."""
    return [Part("photos", "check photos", photos * speed.check), *_judging(photos, variants, speed)]


def _judging(photos: int, variants: int, speed: Speed) -> list[Part]:
    return [
        Part("verify", "verify", photos * (speed.read + speed.forward * (1 + 0.5 * variants))),
        Part("latency", "", _LATENCY * variants, of_files=True),
    ]


def parts_of_training(recipe: Recipe, sizes: tuple[int, int], speed: Speed = USUAL_SPEED) -> list[Part]:
    """What ``edgetl train`` does."""
    train, judge = sizes
    options = recipe.train.with_strategy(task_of(recipe.data.task).strategy, random=recipe.model.weights == "none")
    assert options.strategy is not None
    parts = [Part("photos", "check photos", (train + judge) * speed.check)]
    if options.strategy.startswith(("head", "gradual")):
        for n in (train, judge):
            parts += [Part("train", "decode", n * speed.read), Part("train", "features", n * speed.forward)]
        parts.append(Part("train", "", train * _HEAD))
    if options.strategy != "head":
        epochs = options.epochs or _EPOCHS_UNKNOWN
        one = train * max(_TRAINING * speed.forward, speed.read) + judge * speed.forward
        if not options.strategy.startswith(("head", "gradual")):
            parts += [Part("train", "decode", n * speed.read) for n in (train, judge)]
        parts.append(Part("train", "epoch", epochs * one))
    return parts


def parts_of_export(
    options: ExportSection, photos: int, speed: Speed = USUAL_SPEED, *, checked: bool = False
) -> list[Part]:
    """What ``edgetl export`` does; the photos that it takes were `checked` before, or are now."""
    calibrated = [precision for precision in options.precisions if precision in _CALIBRATED]
    floats = [precision for precision in options.precisions if precision not in _CALIBRATED]
    taken = min(photos, options.calibration_samples)
    convert = sum(_CONVERT.get(target, 5.0) for target in options.targets) * speed.size
    # To calibrate on, and a few golden samples.
    looked_at = () if checked else (taken, min(photos, _GOLDEN))
    parts = [Part("photos", "check photos", n * speed.check) for n in looked_at]
    if options.activation is not None or options.no_se:
        parts.append(Part("surgery", "relearn", 60.0 * options.distill_minutes))
    if calibrated:
        parts += [
            Part("calibrate", "", _CAPTURE * speed.size, of_files=True),
            Part("calibrate", "calibrate", 2.5 * taken * speed.forward + taken * speed.read),
        ]
        if options.quantize != "ptq" or options.max_drop is not None:
            parts.append(Part("quantize", "distill", 60.0 * options.distill_minutes))
        parts.append(
            Part("quantize", "quantize", convert + _QUANTIZE * speed.size * _count(options, calibrated), of_files=True)
        )
        convert *= 0.6  # the capture is there, and of some formats the floats
    elif floats:
        parts.append(Part("export", "", _CAPTURE * speed.size, of_files=True))
    parts.append(Part("export", "export", convert + 2.0 * speed.size * _count(options, floats), of_files=True))
    parts.append(Part("export", "", _TRIED * _variants(options), of_files=True))
    return parts


def measure_speed(recipe: Recipe, files: Sequence[ImageFile]) -> Speed:
    """The speed of this machine with the network and some of the photos of `recipe`, in a few seconds.

    The network has random weights: they make it neither faster nor slower. Raises `UsageError` for one that is
    unknown.
    """
    import torch

    from edgetl.models.backbones import build, preset

    model = recipe.model
    channels = 3 if model.channels is None else model.channels
    size = task_of(recipe.data.task).image_size if model.image_size is None else model.image_size
    spec, _ = preset(model.backbone, size, channels=channels, decode=model.decode, normalize=model.normalize)
    network = build(model.backbone, 10, image_size=spec.crop, channels=channels).eval()
    network = network.to(memory_format=torch.channels_last)
    height, width = height_and_width(spec.crop)
    batch = torch.zeros(_BATCH, channels, height, width).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        forward = min(_seconds(lambda: network(batch)) for _ in range(_STEPS)) / _BATCH
    some = list(files[:: max(1, len(files) // _PHOTOS)][:_PHOTOS])
    check = _seconds(lambda: find_unreadable(some, spec if channels != 3 else USUAL)) / max(1, len(some))
    read = statistics.median(_seconds(_reading(file, spec)) for file in some) if some else 0.0
    layers = sum(1 for module in network.modules() if not list(module.children()))
    return Speed(1.2 * check, read / usable_cores(), forward, max(0.2, layers / _LAYERS_OF_MOBILENET_V2), measured=True)


def estimate_lines(parts: Sequence[Part], speed: Speed) -> list[str]:
    """For people: about how long each stage takes, all of them, and where the numbers are from."""
    stages: dict[str, float] = {}
    for part in parts:
        stages[part.stage] = stages.get(part.stage, 0.0) + part.seconds
    each = ", ".join(f"{stage} {spoken(seconds)}" for stage, seconds in stages.items())
    lines = [f"about {spoken(sum(stages.values()))} in all: {each}"]
    if speed.measured:
        lines.append("  photos, training and verification: from a short measurement here, just now")
        lines.append("  conversions: as they took with MobileNetV2 on 2 cores of an AMD EPYC, by layers")
    else:
        lines.append("  as it took with MobileNetV2 at 224 pixels on 2 cores of an AMD EPYC")
    return [*lines, "  it may take half or twice as long; training on a GPU takes less"]


def spoken(seconds: float) -> str:
    """``40 s``, ``3 min``, ``1.5 h``: as exact as an estimate is."""
    if seconds < 90:
        return f"{max(1, round(seconds)) if seconds < 10 else 5 * round(seconds / 5)} s"
    if seconds < 90 * 60:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h"


def _variants(options: ExportSection) -> int:
    return len(options.targets) * len(options.precisions)


def _count(options: ExportSection, precisions: Sequence[str]) -> int:
    return len(options.targets) * len(precisions)


def _reading(file: ImageFile, spec: Preprocess) -> Callable[[], object]:
    return lambda: preprocess(cast("ImageSource", file), spec)


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
