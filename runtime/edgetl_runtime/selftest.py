"""Does this device compute what was verified? The golden samples of the bundle, through every installed engine."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from edgetl_runtime.batch_sizes import FREE
from edgetl_runtime.batches import run_images
from edgetl_runtime.bundle import Bundle
from edgetl_runtime.comparison import decided_otherwise, least_sqnr_db, sqnr_db
from edgetl_runtime.errors import EngineError
from edgetl_runtime.frozen import dataclass
from edgetl_runtime.golden import GoldenSamples
from edgetl_runtime.manifest import Manifest, Variant
from edgetl_runtime.preflight import obstacle
from edgetl_runtime.preprocess import preprocess
from edgetl_runtime.results import Result
from edgetl_runtime.session import Session, Tensors
from edgetl_runtime.tasks import TASKS, Task, task_of
from edgetl_runtime.trial import refusing, try_variants

__all__ = ["FeatureTest", "Limits", "OtherDecision", "SelfTest", "VariantTest", "limits_for", "self_test"]


_TOGETHER = 7
"""Golden samples in one run of a variant that takes any number."""

LOGITS = "logits"
"""The output that has a label's place in every row."""


@dataclass(frozen=True)
class Limits:
    """The least that a variant must reach against the original model on the golden samples."""

    agreement: float
    sqnr_db: float


# The question is whether this device, its engine and its library versions work, not how good quantisation is: the
# report answers that, over many more images. fp32 has only the order of additions to differ by; fp16 rounds to 11
# bits (about 60 dB a layer) and may turn one near tie of 16; for a quantised variant that passed verification 12 of
# 16 and noise under half of the signal are far below the usual, and far above what a broken kernel gives.
_LIMITS = {"fp32": Limits(agreement=1.0, sqnr_db=40.0), "fp16": Limits(agreement=15 / 16, sqnr_db=25.0)}
_QUANTISED = Limits(agreement=12 / 16, sqnr_db=6.0)


@dataclass(frozen=True)
class OtherDecision:
    """A golden sample that a variant here decides otherwise than the original did; both decisions in words."""

    sample: str
    original: str
    here: str

    def __str__(self) -> str:
        return f"{self.sample} is {self.here}, for the original {self.original}"


@dataclass(frozen=True)
class FeatureTest:
    """A feature of a variant against the original's on the golden samples."""

    name: str
    sqnr_db: float
    max_abs: float


@dataclass(frozen=True)
class VariantTest:
    """One variant on this machine.

    ``agreement`` (0..1) is the share of decisions that are the original model's, as the task counts them; None for a
    task that is not known here. ``sqnr_db`` and ``max_abs`` compare its outputs, the worst where there are several.
    All three are None without golden samples. ``others`` are the golden samples that it decides otherwise.
    ``counted`` is False for a variant that failed verification when it was exported: it is shown, but says nothing
    about this device. ``features`` compares what it gives besides. ``problem`` is one line, None when it passed.
    """

    id: str
    engine: str
    engine_version: str
    n: int
    agreement: float | None
    sqnr_db: float | None
    max_abs: float | None
    counted: bool
    problem: str | None
    others: tuple[OtherDecision, ...] = ()
    features: tuple[FeatureTest, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether nothing was wrong with it."""
        return self.problem is None


@dataclass(frozen=True)
class SelfTest(Result):
    """The result of `self_test`.

    ``pixels`` is the largest difference (grey levels) between `preprocess` here and where the bundle was made, None
    without golden samples; ``other_pixels`` are the samples that differ, each with its largest difference. ``not_run``
    has the ids of variants that cannot run here, with the reason.
    """

    golden: int
    pixels: int | None
    variants: tuple[VariantTest, ...]
    not_run: tuple[tuple[str, str], ...]
    other_pixels: tuple[tuple[str, int], ...] = ()

    _also = ("passed",)

    @property
    def passed(self) -> bool:
        """Pixels equal, and at least one variant counted, and all of those passed."""
        counted = [test for test in self.variants if test.counted]
        return self.pixels in (0, None) and bool(counted) and all(test.passed for test in counted)


def limits_for(precision: str) -> Limits:
    """What a variant of `precision` must reach: fp32, fp16, or anything that is quantised."""
    return _LIMITS.get(precision, _QUANTISED)


def self_test(
    bundle: Bundle,
    *,
    variant_ids: tuple[str, ...] | None = None,
    threads: int | None = None,
    device: str = "cpu",
    device_options: Mapping[str, str] | None = None,
    strict: bool = False,
) -> SelfTest:
    """Run the golden samples through the variants of a bundle, and compare with what they gave where it was made.

    A bundle without golden samples (a single model file) is only run on a grey image and checked for finite outputs.
    Every variant is run in a child process first: one that ends it has failed, and is not run here.

    Args:
        bundle: The open bundle.
        variant_ids: By default all.
        threads: As in `load`, and so are `device`, `device_options` and `strict`.

    Returns:
        How far pixels and outputs differ. What an engine cannot do is in it, too.

    Raises:
        BundleError: A file is damaged, or a variant is not in the bundle.
    """
    variants = [bundle.manifest.variant(id_) for id_ in variant_ids or ()] or list(bundle.manifest.variants)
    golden = bundle.golden()
    failed = bundle.failed_variants()
    opening = partial(bundle.session, threads=threads, device=device, device_options=device_options, strict=strict)
    tests: list[VariantTest] = []
    obstacles = {variant.id: found for variant in variants if (found := obstacle(variant)) is not None}
    able = [variant for variant in variants if variant.id not in obstacles]
    trials = try_variants(
        {variant.id: bundle.path for variant in able},
        threads=threads,
        device=device,
        device_options=device_options,
        strict=strict,
    )
    for variant in able:
        start = opening if variant.id not in trials.died else refusing(variant.id, trials.died[variant.id])
        tests.append(_test(bundle, variant, golden, start, counted=variant.id not in failed))
    differences = {} if golden is None else _pixel_differences(bundle, golden)
    return SelfTest(
        golden=0 if golden is None else len(golden.names),
        pixels=None if golden is None else max(differences.values(), default=0),
        variants=tuple(tests),
        not_run=tuple((id_, str(found.error)) for id_, found in obstacles.items()),
        other_pixels=tuple((name, difference) for name, difference in differences.items() if difference),
    )


def _pixel_differences(bundle: Bundle, golden: GoldenSamples) -> dict[str, int]:
    """The largest difference in grey levels by sample; 255 when a tensor has another shape."""
    found = {}
    for name, image, expected in zip(golden.names, golden.images, golden.tensors, strict=True):
        tensor = preprocess(image, bundle.manifest.preprocess)
        alike = tensor.shape == expected.shape
        found[name] = int(np.abs(tensor.astype(np.int16) - expected.astype(np.int16)).max()) if alike else 255
    return found


def _test(
    bundle: Bundle,
    variant: Variant,
    golden: GoldenSamples | None,
    opening: Callable[[str], Session],
    *,
    counted: bool,
) -> VariantTest:
    engine, version = variant.requires.engine, ""
    agreement = noise = largest = problem = None
    others: tuple[OtherDecision, ...] = ()
    features: tuple[FeatureTest, ...] = ()
    try:
        with opening(variant.id) as session:
            engine, version = session.engine, session.engine_version
            if golden is None:
                _run_grey(bundle.manifest, session)
            else:
                tensors = _outputs_of(bundle.manifest, session, golden)
                outputs = {name: tensors[name] for name in golden.outputs}
                noise = least_sqnr_db(golden.outputs, outputs)
                largest = max(_largest(expected, outputs[name]) for name, expected in golden.outputs.items())
                features = tuple(
                    _feature_test(name, expected, tensors[name]) for name, expected in golden.features.items()
                )
                if bundle.manifest.task in TASKS:
                    task = task_of(bundle.manifest.task)
                    agreement = float(task.agreement(golden.outputs, outputs, bundle.manifest.decoder).mean())
                    others = _other_decisions(task, golden, outputs, bundle.manifest)
                problem = _problem(variant, agreement, outputs, noise, features) or _together(session, golden, outputs)
    except EngineError as error:
        problem = error.what
    n = 1 if golden is None else len(golden.names)
    return VariantTest(variant.id, engine, version, n, agreement, noise, largest, counted, problem, others, features)


def _run_grey(manifest: Manifest, session: Session) -> None:
    """Raise `EngineError` when what a grey image gives is not finite."""
    spec = manifest.preprocess
    tensors = run_images(session, np.full((1, *spec.crop, spec.channels), 128, dtype=np.uint8))
    for output in manifest.outputs:
        if not np.isfinite(tensors[output.name]).all():
            raise EngineError(f"it gives {output.name} that are not finite", fix="export the bundle again")


def _outputs_of(manifest: Manifest, session: Session, golden: GoldenSamples) -> Tensors:
    """Outputs and features by name for the golden samples, one after the other.

    Raises `EngineError` when they have another shape than the original's.
    """
    runs = [
        {name: values.copy() for name, values in run_images(session, tensor[np.newaxis]).items()}
        for tensor in golden.tensors
    ]
    tensors = {spec.name: np.concatenate([run[spec.name] for run in runs]) for spec in manifest.all_outputs}
    for name, expected in {**golden.outputs, **golden.features}.items():
        if tensors[name].shape != expected.shape:
            raise EngineError(
                f"it gives {name} of {list(tensors[name].shape)}, the golden samples have {list(expected.shape)}",
                fix="export the bundle again",
            )
    return tensors


def _together(session: Session, golden: GoldenSamples, alone: Mapping[str, npt.NDArray[Any]]) -> str | None:
    """What is wrong with a variant that takes several images in one run, and answers otherwise then than `alone`."""
    size = _TOGETHER if session.inputs[0].shape[0] == FREE else session.inputs[0].shape[0]
    if size == 1:
        return None
    together = run_images(session, golden.tensors, most=size)
    if LOGITS in alone:
        others = int(decided_otherwise(alone[LOGITS], together[LOGITS]).sum())
        told = f"{others} of {len(golden.names)} golden samples are decided otherwise"
    else:
        near = least_sqnr_db(alone, together)
        others, told = int(near < _QUANTISED.sqnr_db), f"SQNR {near:.1f} dB"
    return f"{told} in runs of up to {size} images than alone" if others else None


def _feature_test(name: str, reference: npt.NDArray[np.float32], values: npt.NDArray[np.float32]) -> FeatureTest:
    return FeatureTest(name, sqnr_db(reference, values), _largest(reference, values))


def _largest(reference: npt.NDArray[np.float32], values: npt.NDArray[np.float32]) -> float:
    return float(np.abs(reference - values).max()) if np.isfinite(values).all() else math.inf


def _other_decisions(
    task: Task, golden: GoldenSamples, outputs: Tensors, manifest: Manifest
) -> tuple[OtherDecision, ...]:
    """The samples that are decided otherwise, of a task whose decisions can be said in words."""
    others = []
    for index, name in enumerate(golden.names):
        original, here = (
            task.decision({key: values[index] for key, values in given.items()}, manifest)
            for given in (golden.outputs, outputs)
        )
        if original is not None and here is not None and original != here:
            others.append(OtherDecision(name, original, here))
    return tuple(others)


def _problem(
    variant: Variant,
    agreement: float | None,
    outputs: Tensors,
    noise: float,
    features: Sequence[FeatureTest],
) -> str | None:
    limits = limits_for(variant.precision)
    for name, values in outputs.items():
        if not np.isfinite(values).all():
            return f"the {name} are not finite"
    if agreement is not None and agreement < limits.agreement:
        return f"decides like the original on {agreement:.0%} of the golden samples, at least {limits.agreement:.0%}"
    if noise < limits.sqnr_db:
        return f"SQNR {noise:.1f} dB, at least {limits.sqnr_db:.0f} dB"
    for feature in features:
        if not feature.sqnr_db > -math.inf:
            return f"{feature.name} is not finite"
        if feature.sqnr_db < limits.sqnr_db:
            return f"SQNR of {feature.name} {feature.sqnr_db:.1f} dB, at least {limits.sqnr_db:.0f} dB"
    return None
