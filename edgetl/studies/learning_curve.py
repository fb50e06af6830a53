"""The learning curve: accuracy on held-out photos against the number of training photos, transfer against from scratch.

Each point is a training of its own on a share of the photos. For one seed a smaller share is part of a larger one, and
each label keeps its share. What was trained is kept in a file, so that a curve that was interrupted goes on.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgetl import pipeline
from edgetl.data.dataset import Dataset, Sample, share_of
from edgetl.models.checkpoint import Checkpoint
from edgetl.models.image_size import ImageSize
from edgetl.recipe import Recipe
from edgetl.studies.result_key import json_text, read_kept, result_key, write_kept
from edgetl.tasks import task_of
from edgetl.training.options import MOST_EPOCHS
from edgetl.training.start import check_start
from edgetl.verify.bundle import source_of
from edgetl_export import capture
from edgetl_export.progress import Track, silent
from edgetl_runtime.errors import OutputError, UsageError
from edgetl_runtime.preprocess import preprocess

__all__ = ["SCRATCH", "TRANSFER", "CurveMean", "CurveOptions", "CurvePoint", "LearningCurve", "learning_curve"]

TRANSFER, SCRATCH = "transfer", "scratch"
"""What a network starts from: weights that were trained on other photos, or random ones."""
POINTS_FILE = "points.json"
_NOT_TRAINING = ("export", "verify")
"""Sections of a recipe that do not change what is trained."""
_AT_ONCE = 64
_MOST_SEEDS = 1000


@dataclass(frozen=True)
class CurveOptions:
    """Shares of the training photos, how many draws of each, and how many epochs from scratch take (0: left out).

    Raises `UsageError` for values that make no sense.
    """

    fractions: tuple[float, ...] = (0.05, 0.1, 0.25, 0.5, 1.0)
    seeds: int = 3
    scratch_epochs: int = 20

    def __post_init__(self) -> None:
        if not self.fractions or not all(0.0 < fraction <= 1.0 for fraction in self.fractions):
            raise UsageError(f"fractions {self.fractions} make no sense", fix="numbers above 0, at most 1: 0.1,0.5,1")
        if not (1 <= self.seeds <= _MOST_SEEDS and 0 <= self.scratch_epochs <= MOST_EPOCHS):
            raise UsageError(
                f"{self.seeds} seeds and {self.scratch_epochs} epochs from scratch make no sense",
                fix=f"1 to {_MOST_SEEDS} seeds, 0 to {MOST_EPOCHS} epochs",
            )


@dataclass(frozen=True)
class CurvePoint:
    """One training: on ``n`` photos, from ``start``; ``top1`` is a share of the held-out photos.

    ``key`` is a SHA-256 over everything that decides the result: the same key is not trained again.
    """

    start: str
    fraction: float
    n: int
    seed: int
    top1: float
    epochs: int
    seconds: float
    key: str


@dataclass(frozen=True)
class CurveMean:
    """All trainings of one size from one start; ``std`` is their standard deviation, ``None`` of a single one."""

    n: int
    top1: float
    std: float | None
    seeds: int


@dataclass(frozen=True)
class LearningCurve:
    """All points; ``held_out`` is the number of photos that they were judged on, of ``split``.

    ``quality`` is what the task calls the quality, which stands in ``top1`` of the points.
    """

    data: str
    backbone: str
    strategy: str
    image_size: ImageSize | None
    held_out: int
    split: str
    points: tuple[CurvePoint, ...]
    quality: str = "top-1"

    def means(self, start: str) -> list[CurveMean]:
        """The points of one start by number of photos, ascending; empty when it was left out."""
        by_size: dict[int, list[float]] = {}
        for point in self.points:
            if point.start == start:
                by_size.setdefault(point.n, []).append(point.top1)
        return [
            CurveMean(n, statistics.fmean(top1s), statistics.stdev(top1s) if len(top1s) > 1 else None, len(top1s))
            for n, top1s in sorted(by_size.items())
        ]

    def conclusions(self) -> list[str]:
        """What the curve says, a line each: transfer against scratch, and whether more photos would help."""
        transfer, scratch = self.means(TRANSFER), self.means(SCRATCH)
        lines = [_beside_scratch(transfer, scratch)] if scratch else []
        return lines + [
            _last_doubling(name, means, self.held_out)
            for name, means in (("transfer", transfer), ("from scratch", scratch))
            if len(means) > 1
        ]

    def to_json(self) -> str:
        """``{"schema": 1, "data": .., "means": {start: [..]}, "conclusions": [..], "points": [..]}``, indented."""
        fields = dataclasses.asdict(self)
        points = fields.pop("points")
        means = {
            start: [dataclasses.asdict(mean) for mean in self.means(start)]
            for start in (TRANSFER, SCRATCH)
            if self.means(start)
        }
        return json_text(**fields, means=means, conclusions=self.conclusions(), points=points)


def learning_curve(
    recipe: Recipe,
    out: Path,
    options: CurveOptions | None = None,
    *,
    dataset: Dataset | None = None,
    track: Track = silent,
    tell: Callable[[CurvePoint], None] = lambda point: None,
) -> LearningCurve:
    """Train every point that ``out/points.json`` does not have yet, the small ones first; `tell` is told of each.

    Raises `UsageError` when the recipe itself starts from random weights, `OutputError` when `out` is something else,
    and what training raises; points that were finished are kept.
    """
    options = options or CurveOptions()
    if recipe.model.weights == "none":
        raise UsageError(
            "with weights none there is no transfer to measure", fix="--weights imagenet or FILE; scratch is added"
        )
    known = _read_points(out)
    recipes = _recipes(recipe, options)
    for each in recipes.values():
        check_start(each.model, each.train, each.data.task)
    dataset = pipeline.photos_of(recipe, track=track) if dataset is None else dataset
    points = []
    for fraction, seed, start in _plan(options, list(recipes)):
        own = _at(recipes[start], start, fraction, seed)
        key = result_key(own, dataset, without=_NOT_TRAINING, fraction=fraction, seed=seed)
        if key not in known:
            known[key] = _train_point(own, dataset, start, fraction, seed, key, track=track)
            write_kept(out / POINTS_FILE, points=[dataclasses.asdict(point) for point in known.values()])
            tell(known[key])
        points.append(known[key])
    held_out, split = dataset.held_out
    return LearningCurve(
        data=dataset.name,
        backbone=recipe.model.backbone,
        strategy=str(recipe.train.with_strategy(task_of(recipe.data.task).strategy, random=False).strategy),
        image_size=recipe.model.image_size,
        held_out=len(held_out),
        split=split,
        points=tuple(points),
        quality=task_of(recipe.data.task).quality,
    )


def _recipes(recipe: Recipe, options: CurveOptions) -> dict[str, Recipe]:
    """By start its recipe: from scratch, all layers have to be trained."""
    recipes = {TRANSFER: recipe}
    if options.scratch_epochs:
        recipes[SCRATCH] = dataclasses.replace(
            recipe,
            model=dataclasses.replace(recipe.model, weights="none"),
            train=dataclasses.replace(recipe.train, strategy="full", epochs=options.scratch_epochs),
        )
    return recipes


def _plan(options: CurveOptions, starts: list[str]) -> Iterator[tuple[float, int, str]]:
    for fraction in sorted(set(options.fractions)):
        for seed in range(options.seeds):
            for start in starts:
                yield fraction, seed, start


def _at(recipe: Recipe, start: str, fraction: float, seed: int) -> Recipe:
    """The recipe of one point, with its seed and its own folder to watch it."""
    log = recipe.train.tensorboard
    own_log = None if log is None else str(Path(log) / f"{start}-{fraction:g}-{seed}")
    return dataclasses.replace(
        recipe, train=dataclasses.replace(recipe.train, seed=recipe.train.seed + seed, tensorboard=own_log)
    )


def _train_point(
    recipe: Recipe, dataset: Dataset, start: str, fraction: float, seed: int, key: str, *, track: Track
) -> CurvePoint:
    part = dataclasses.replace(dataset, train=share_of(dataset.train, fraction, seed))
    _, trained = pipeline.train(recipe, dataset=part, track=track)
    held_out, split = dataset.held_out
    best = trained.history.best
    return CurvePoint(
        start=start,
        fraction=fraction,
        n=len(part.train),
        seed=seed,
        # Of the validation photos training has told already.
        top1=best.val_top1 if split == "val" else _quality(trained.checkpoint, held_out),
        epochs=len(trained.history.epochs),
        seconds=trained.seconds,
        key=key,
    )


def _quality(checkpoint: Checkpoint, samples: tuple[Sample, ...]) -> float:
    source = source_of(checkpoint, checkpoint.backbone)
    original = source.reference()
    metric = task_of(checkpoint.task).metric(capture(source).manifest, len(samples))
    for at in range(0, len(samples), _AT_ONCE):
        batch = samples[at : at + _AT_ONCE]
        metric.update(batch, original.outputs(np.stack([preprocess(one.source, source.preprocess) for one in batch])))
    return metric.compute().value


def _read_points(out: Path) -> dict[str, CurvePoint]:
    """By key what was trained before. Raises `OutputError` for a folder that holds something else."""
    path = out / POINTS_FILE
    if not path.is_file():
        if out.exists() and not (out.is_dir() and not any(out.iterdir())):
            raise OutputError(f"{out} is there and has no {POINTS_FILE}", fix="choose another --out")
        return {}
    points = read_kept(path, "points", tuple[CurvePoint, ...], fix="remove it to train all points again")
    return {point.key: point for point in points}


def _beside_scratch(transfer: list[CurveMean], scratch: list[CurveMean]) -> str:
    best = max(scratch, key=lambda mean: mean.top1)
    enough = next((mean for mean in transfer if mean.top1 >= best.top1), None)
    if enough is not None:
        return (
            f"transfer with {enough.n} photos ({enough.top1:.1%}) reaches what from scratch reaches with {best.n} "
            f"({best.top1:.1%})"
        )
    most = max(transfer, key=lambda mean: mean.top1)
    return f"from scratch with {best.n} photos ({best.top1:.1%}) is better than transfer at its best ({most.top1:.1%})"


def _last_doubling(name: str, means: list[CurveMean], held_out: int) -> str:
    """What the last step gained for each doubling, held against twice its standard error."""
    before, last = means[-2:]
    doublings = math.log2(last.n / before.n)
    gain = (last.top1 - before.top1) / doublings
    error = math.hypot(_standard_error(before, held_out), _standard_error(last, held_out)) / doublings
    gained = f"{name}: from {before.n} to {last.n} photos {100 * gain:+.1f} points for each doubling"
    if abs(gain) <= 2 * error:
        return f"{gained}, which is within noise (twice the standard error is {200 * error:.1f})"
    return f"{gained}: {'more photos help' if gain > 0 else 'more photos do harm, which is worth a look at them'}"


def _standard_error(mean: CurveMean, held_out: int) -> float:
    """Of the mean over seeds; of a single training, that of a share of so many held-out photos."""
    if mean.std is None:
        return math.sqrt(mean.top1 * (1 - mean.top1) / held_out)
    return mean.std / math.sqrt(mean.seeds)
