"""A toy task, in one folder and one module of the device: how many bright blobs are in a picture, as one number.

Photos lie in a folder beside ``counts.csv`` with lines ``file,count``; every fifth of them is held out. The quality is
the share of photos whose rounded number is right.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from edgetl.data.dataset import Dataset, Sample
from edgetl.data.options import DataOptions
from edgetl.stats import mean_interval, pack_shares
from edgetl.tasks.quantity import Quantity
from edgetl.tasks.task import (
    Demo,
    Details,
    InGraph,
    Judging,
    LossOptions,
    Outputs,
    Picture,
    Quality,
    Situation,
    Size,
    Table,
    Targets,
    Thumbnail,
)
from edgetl_export.progress import Track
from edgetl_runtime.errors import DataError
from edgetl_runtime.manifest import Label, Manifest, Preprocess
from edgetl_runtime.quantities import SHARE

BLOBS = (Label("blobs", "blobs"),)


class CountMetric:
    """Right and wrong counts of one model."""

    logits = None

    def __init__(self) -> None:
        self.errors: list[npt.NDArray[np.float64]] = []

    def update(self, samples: Sequence[Sample], outputs: Outputs) -> None:
        truth = np.array([sample.target for sample in samples], np.float64)
        self.errors.append(outputs["count"][:, 0].astype(np.float64) - truth)

    @property
    def right(self) -> npt.NDArray[np.float64]:
        return (np.abs(np.nan_to_num(np.concatenate(self.errors), nan=np.inf)) < 0.5).astype(np.float64)

    def compute(self, original: CountMetric | None = None) -> Quality:
        right = self.right
        change = None if original is None else right - original.right
        return Quality(
            name="exact",
            n=len(right),
            value=float(right.mean()),
            ci95=mean_interval(right),
            parts={"mean_error": float(np.abs(np.concatenate(self.errors)).mean())},
            per_image=pack_shares(right),
            delta=None if change is None else float(change.mean()),
            delta_ci95=None if change is None else mean_interval(change),
        )


class SquaredError:
    """The squared error of each count; the quality is the share of exact ones."""

    def __call__(self, outputs: Mapping[str, Tensor], targets: Targets) -> Tensor:
        return (outputs["count"][:, 0].float() - targets.values).square()

    def judge(self, outputs: Mapping[str, Tensor], targets: Tensor) -> Tensor:
        errors = (outputs["count"][:, 0] - targets).double()
        return torch.stack((errors.square(), (errors.abs() < 0.5).double()), dim=1)

    def judged(self, rows: Tensor) -> tuple[float, float]:
        loss, quality = rows.mean(0).tolist()
        return loss, quality


class Counting:
    """The `edgetl.tasks.task.Task`."""

    name = "counting"
    outputs = ("count",)
    agreement = "agreement"
    agreement_quantised = 0.95
    quality = "exact"
    quality_quantity = "exact"
    drawn = False
    predict_example = ""
    lists_by_label = False
    heads = ()
    strategy = "head"
    mode = "crop"
    image_size = None
    decodings: Mapping[str, InGraph] = {}
    quantities: Mapping[str, Quantity] = {
        "exact": Quantity(">=", "known_quality", "value", "share of photos counted right", SHARE, "mean", "ci95")
    }

    def read(self, path: Path, options: DataOptions, *, spec: Preprocess, track: Track) -> Dataset:
        samples = _samples(path)
        held_out = samples[::5]
        train = tuple(sample for sample in samples if sample not in held_out)
        return Dataset(path.name, BLOBS, train, held_out, task=self.name)

    def read_labelled(self, path: Path, labels: Sequence[Label], judging: Judging) -> tuple[tuple[Sample, ...], str]:
        data = self.read(path, DataOptions(), spec=judging.spec, track=judging.track)
        return (data.train, "train") if judging.training else (data.val, "val")

    def head(self, data: Dataset, name: str, spec: Preprocess) -> None:
        return None

    def defaults(self, situation: Situation) -> Mapping[str, tuple[object, str]]:
        return {}

    def targets(self, samples: Sequence[Sample], frame: Preprocess) -> Tensor:
        return torch.tensor(np.array([sample.target for sample in samples]), dtype=torch.float32)

    def follow(self, targets: Tensor, moves: Callable[[], Tensor], size: Size, crop: Size) -> Tensor:
        """A number stays what it is."""
        return targets

    def check_options(self, options: LossOptions) -> None:
        """None says nothing here."""

    def objective(
        self, data: Dataset, head: None, options: LossOptions, device: Any, *, smoothing: float
    ) -> SquaredError:
        return SquaredError()

    def truth(self, outputs: Outputs, manifest: Manifest) -> tuple[int, npt.NDArray[Any]]:
        return 0, np.rint(outputs["count"][0])

    def demo(self, seed: int = 0) -> Demo:
        raise NotImplementedError

    def metric(self, manifest: Manifest, n: int) -> CountMetric:
        return CountMetric()

    def details(
        self,
        original: CountMetric,
        variants: Mapping[str, CountMetric],
        samples: Sequence[Sample],
        manifest: Manifest,
        thumbnails: Callable[[int], Thumbnail],
    ) -> Details:
        rows = tuple((id_, f"{metric.compute().parts['mean_error']:.3f}") for id_, metric in variants.items())
        worst = int(np.argmax(np.abs(np.concatenate(original.errors))))
        shown = thumbnails(2**16)(samples[worst])
        pictures = (Picture("Farthest off", shown, f"{samples[worst].name}, by the original"),) if shown else ()
        table = Table("How far counts are off", ("variant", "mean error"), rows)
        return Details(report={"tables": (table,), "pictures": pictures})


TASK = Counting()


def _samples(path: Path) -> tuple[Sample, ...]:
    file = path / "counts.csv"
    if not file.is_file():
        raise DataError(f"{file} does not exist", fix="lines of file,count")
    rows = csv.reader(file.read_text(encoding="utf-8").splitlines())
    return tuple(Sample(path / name, 0, name, np.float64(count)) for name, count in rows)
