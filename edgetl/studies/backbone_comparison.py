"""Several backbones on the same photos and the same machine: trained, exported, verified, and timed side by side.

Published accuracies are of other photos, published latencies of other machines. Here each backbone becomes a bundle of
its own (`pipeline.run`); at the end the variants of all of them take turns, so that their times can be compared.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from edgetl import pipeline
from edgetl.data.dataset import Dataset, Sample
from edgetl.models.backbones import backbone_names, size_of
from edgetl.models.image_size import image_size_of
from edgetl.models.sources import allow_code, kind_of_name
from edgetl.recipe import Recipe
from edgetl.stats import Spread
from edgetl.studies.backbone_results import BackboneResult, Comparison, MeasuredVariant
from edgetl.studies.result_key import make_folder, read_kept, result_key, write_kept
from edgetl.studies.side_by_side import Contender, time_side_by_side
from edgetl.tasks import task_of
from edgetl.training.start import check_start
from edgetl.verify.measure.machine import describe_workbench
from edgetl.verify.report import Report
from edgetl_export.progress import Track, silent
from edgetl_runtime.bundle import open_bundle
from edgetl_runtime.errors import EdgetlError, OutputError, UsageError, nearest
from edgetl_runtime.preprocess import preprocess

__all__ = ["CompareOptions", "compare_backbones"]

RUNS_FILE = "runs.json"


@dataclass(frozen=True)
class CompareOptions:
    """Which backbones; ``weights`` by backbone where they are not the recipe's; what counts as equally accurate.

    ``within`` is a share of the photos: the recommendation is the fastest variant within it of the most accurate.
    Raises `UsageError` for an unknown backbone, one that is named twice, and weights of one that is not compared.
    """

    backbones: tuple[str, ...]
    weights: Mapping[str, str] = field(default_factory=dict)
    within: float = 0.01

    def __post_init__(self) -> None:
        known = backbone_names()
        for name in self.backbones:
            allow_code(name)
            if name not in known and kind_of_name(name) == "torchvision":
                raise UsageError(f"unknown backbone {name!r}", fix=nearest(name, known))
        if not self.backbones or len(set(self.backbones)) < len(self.backbones):
            raise UsageError("each backbone is named once, and there is one at least", fix="--backbones NAME,NAME,...")
        for name in self.weights:
            if name not in self.backbones:
                raise UsageError(f"weights for {name!r}, which is not compared", fix=nearest(name, self.backbones))
        if not 0.0 <= self.within < 1.0:
            raise UsageError(f"within {self.within} makes no sense", fix="a share of the photos, such as 0.01")


def compare_backbones(
    recipe: Recipe,
    out: Path,
    options: CompareOptions,
    *,
    dataset: Dataset | None = None,
    force: bool = False,
    track: Track = silent,
    tell: Callable[[BackboneResult], None] = lambda result: None,
) -> Comparison:
    """Make a bundle of each backbone in `out`, and time them all side by side. `tell` is told of each one.

    A bundle that is there from the same recipe and photos is taken as it is; with `force` another one is replaced.
    Weights ``none`` train all layers, whatever the strategy. A backbone that fails is in the result with its error.
    Raises `UsageError` and the like for what can be known before anything is trained.
    """
    recipes = {name: _recipe_of(recipe, name, options) for name in options.backbones}
    for own in recipes.values():
        check_start(own.model, own.train, own.data.task)
    dataset = pipeline.photos_of(recipe, track=track) if dataset is None else dataset
    keys = {name: result_key(own, dataset, without=("verify",)) for name, own in recipes.items()}
    made = _read_runs(out)
    _check_bundles(out, keys, made, force=force)
    results = []
    for name, own in recipes.items():
        bundle = out / f"{name}.edgetl"
        if made.get(name) == keys[name] and bundle.is_dir():
            result = _result(own, bundle, Report.from_json((bundle / "report.json").read_bytes(), where=str(bundle)))
        else:
            result = _run(own, bundle, dataset, force=force, track=track)
            if result.error is None:
                made[name] = keys[name]
                write_kept(out / RUNS_FILE, runs=made)
        tell(result)
        results.append(result)
    held_out, split = dataset.held_out
    times, disturbances = time_side_by_side(_contenders(results, out, held_out[0], recipe.verify.threads))
    return Comparison(
        data=dataset.name,
        held_out=len(held_out),
        split=split,
        threads=recipe.verify.threads,
        within=options.within,
        machine=describe_workbench(),
        backbones=tuple(_with_times(result, times) for result in results),
        disturbances=disturbances,
        quality=task_of(recipe.data.task).quality,
    )


def _recipe_of(recipe: Recipe, name: str, options: CompareOptions) -> Recipe:
    weights = options.weights.get(name, recipe.model.weights)
    usual = recipe.train.with_strategy(task_of(recipe.data.task).strategy, random=False).strategy
    strategy = "full" if weights == "none" else usual
    log = None if recipe.train.tensorboard is None else str(Path(recipe.train.tensorboard) / name)
    return replace(
        recipe,
        model=replace(recipe.model, backbone=name, weights=weights),
        train=replace(recipe.train, strategy=strategy, tensorboard=log),
    )


def _read_runs(out: Path) -> dict[str, str]:
    """By backbone the key of what its bundle was made from."""
    path = out / RUNS_FILE
    if not path.is_file():
        return {}
    runs: dict[str, str] = read_kept(
        path, "runs", dict[str, str], fix="remove it, and --force to make all bundles again"
    )
    return runs


def _check_bundles(out: Path, keys: Mapping[str, str], made: Mapping[str, str], *, force: bool) -> None:
    """`OutputError` for a bundle that stands in the way, before anything is trained."""
    make_folder(out)
    for name, key in keys.items():
        bundle = out / f"{name}.edgetl"
        if bundle.exists() and made.get(name) != key and not force:
            raise OutputError(
                f"{bundle} exists already, of another recipe or other photos",
                fix="choose another --out, or --force to replace it",
            )


def _run(recipe: Recipe, bundle: Path, dataset: Dataset, *, force: bool, track: Track) -> BackboneResult:
    try:
        outcome = pipeline.run(recipe, bundle, dataset=dataset, force=force, track=track)
    except (EdgetlError, RuntimeError) as error:  # torch says with a RuntimeError that an image is too small for it
        what = error.what if isinstance(error, EdgetlError) else f"{type(error).__name__}: {error}"
        return BackboneResult(
            recipe.model.backbone, _name(recipe.model.weights), str(recipe.train.strategy), error=what
        )
    return _result(recipe, bundle, outcome.report)


def _result(recipe: Recipe, bundle: Path, report: Report) -> BackboneResult:
    manifest = open_bundle(bundle).manifest
    spec = manifest.preprocess
    params, macs = size_of(recipe.model.backbone, len(manifest.labels), spec.crop, channels=spec.channels)
    failed = {check.variant for check in report.verdict.failed}
    quality = report.known_quality
    return BackboneResult(
        backbone=recipe.model.backbone,
        weights=_name(recipe.model.weights),
        strategy=str(recipe.train.strategy),
        bundle=bundle.name,
        image_size=image_size_of(spec.crop),
        params=params,
        macs=macs,
        top1=None if quality is None else quality.value,
        ci95=None if quality is None else quality.ci95,
        train_seconds=report.seconds.get("train"),
        variants=tuple(
            MeasuredVariant(
                backbone=recipe.model.backbone,
                id=variant.id,
                target=variant.target,
                precision=variant.precision,
                bytes=variant.bytes,
                top1=None if variant.known_quality is None else variant.known_quality.value,
                delta=None if variant.known_quality is None else variant.known_quality.delta,
                passed=variant.id not in failed,
            )
            for variant in report.variants
        ),
    )


def _name(weights: str) -> str:
    """Weights as a table shows them: a file by its name."""
    return weights if weights in ("imagenet", "none") else Path(weights).stem


def _contenders(results: Sequence[BackboneResult], out: Path, sample: Sample, threads: int) -> dict[str, Contender]:
    """Every variant that could be verified, with the photo as its bundle prepares it."""
    contenders: dict[str, Contender] = {}
    for result in results:
        if result.bundle is None:
            continue
        bundle = open_bundle(out / result.bundle)
        feeds = {bundle.manifest.input.name: preprocess(sample.source, bundle.manifest.preprocess)[None]}
        for variant in result.variants:
            if variant.top1 is not None:
                contenders[variant.name] = (partial(bundle.session, variant.id, threads=threads, verify=False), feeds)
    return contenders


def _with_times(result: BackboneResult, times: Mapping[str, Spread]) -> BackboneResult:
    variants = [
        replace(variant, p50_ms=times[variant.name][0], p50_ci95=times[variant.name][1])
        if variant.name in times
        else variant
        for variant in result.variants
    ]
    return replace(result, variants=tuple(variants))
