"""The photos that an export needs: to calibrate on, to judge rungs of int8 on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgetl.data.dataset import Sample, load_photos, pick_readable
from edgetl.models.sources.foreign import Exportable
from edgetl.recipe import ExportSection
from edgetl.tasks import task_of
from edgetl.tasks.task import Judging
from edgetl_export.progress import Tell
from edgetl_runtime.errors import DataError, UsageError
from edgetl_runtime.manifest import Preprocess

__all__ = ["TUNE_SAMPLES", "Photos", "available_photos", "other_photos", "tune_photos"]

TUNE_SAMPLES = 500
"""Photos that rungs of the ladder are judged on, when there are as many."""
LEAST_TO_JUDGE = 100
"""With fewer photos besides those to calibrate on, some of these are held out."""


@dataclass(frozen=True)
class Photos:
    """The images that an export needs: to calibrate on, to keep as golden samples, and to judge rungs of int8 on.

    ``facts`` go to the provenance.
    """

    calibration: Sequence[Sample]
    golden: Sequence[Sample]
    tune: Sequence[Sample] = ()
    facts: dict[str, Any] = field(default_factory=dict)


def available_photos(
    path: Path, checkpoint: Exportable, options: ExportSection, *, skip_bad: bool, tell: Tell
) -> tuple[Sample, ...]:
    """Photos to calibrate on; where they are trained on too, with the labels that their folders stand for."""
    spec = checkpoint.preprocess
    if options.quantize != "qat":
        return load_photos(path, spec=spec, tell=tell)
    try:
        judging = Judging(spec, training=True, skip_bad=skip_bad, tell=tell)
        return task_of(checkpoint.task).read_labelled(path, checkpoint.labels, judging)[0]
    except DataError as error:
        raise UsageError(
            f"qat trains on labels: {error.what}", fix=f"{error.fix}; --quantize distill needs no labels"
        ) from error


def tune_photos(options: ExportSection, spec: Preprocess, *, skip_bad: bool, tell: Tell) -> tuple[Sample, ...]:
    """Photos of ``tune_data`` to judge rungs on, looked at before anything is trained; empty where there is none."""
    if options.tune_data is None:
        return ()
    found = load_photos(options.tune_data, spec=spec, tell=tell)
    return pick_readable(found, TUNE_SAMPLES, spec, options.tune_data, skip_bad=skip_bad, tell=tell)


def other_photos(available: Sequence[Sample], calibration: Sequence[Sample]) -> tuple[Sample, ...]:
    """What was not picked, when that is enough to judge on."""
    taken = {id(sample) for sample in calibration}
    others = tuple(sample for sample in available if id(sample) not in taken)
    return others if len(others) >= LEAST_TO_JUDGE else ()
