"""Classification: one label for a photo. The quality is top-1, a decision is the label."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgetl.data.dataset import Dataset, Sample, demo_digits, load_dataset, load_labelled
from edgetl.data.options import DataOptions
from edgetl.data.thumbnails import BUDGET
from edgetl.tasks.classification.changed_predictions import changed_predictions
from edgetl.tasks.classification.label_order import shuffled_labels
from edgetl.tasks.classification.metric import LogitsMetric
from edgetl.tasks.classification.original import confusion_of
from edgetl.tasks.quantity import LABEL_CHANGE, Quantity
from edgetl.tasks.task import (
    Demo,
    Details,
    InGraph,
    Judging,
    LossOptions,
    Objective,
    Outputs,
    Situation,
    Size,
    Thumbnail,
)
from edgetl_export.progress import Track
from edgetl_runtime.errors import UsageError
from edgetl_runtime.manifest import Label, Manifest, Preprocess
from edgetl_runtime.quantities import SHARE

if TYPE_CHECKING:
    from torch import Tensor

    from edgetl.models.heads import HeadSpec

__all__ = ["TASK", "Classification"]

_BUDGET_OF_WORST = 128 * 1024  # bytes of thumbnails


class Classification:
    """The `edgetl.tasks.task.Task`."""

    name = "classification"
    outputs = ("logits",)
    agreement = "top1_agreement"
    agreement_quantised = 0.95
    quality = "top-1"
    quality_quantity = "top1"
    drawn = False
    predict_example = "top=3"
    lists_by_label = True
    heads = ()
    strategy = "head"
    mode = "crop"
    image_size = None
    decodings: Mapping[str, InGraph] = {}
    quantities: Mapping[str, Quantity] = {
        "top1_agreement": Quantity(
            ">=", "parity", "top1_agreement", "top-1 agreement with the original", SHARE, kind="share"
        ),
        "top1": Quantity(">=", "accuracy", "top1", "top-1 accuracy", SHARE, kind="share"),
        "top5": Quantity(">=", "accuracy", "top5", "top-5 accuracy", SHARE, kind="share"),
        "class_delta": Quantity(
            ">=", "accuracy", "class_delta", "change in top-1 accuracy of the label that loses most", LABEL_CHANGE
        ),
    }

    def read(self, path: Path, options: DataOptions, *, spec: Preprocess, track: Track) -> Dataset:
        """One folder per label, a CSV, shards, a saved data set: see `load_dataset`."""
        return load_dataset(path, options, spec=spec, track=track)

    def read_labelled(self, path: Path, labels: Sequence[Label], judging: Judging) -> tuple[tuple[Sample, ...], str]:
        """Of the same: see `load_labelled`."""
        return load_labelled(path, labels, **vars(judging))

    def head(self, data: Dataset, name: str, spec: Preprocess) -> HeadSpec | None:
        """The backbone's own classifier."""
        return None

    def defaults(self, situation: Situation) -> Mapping[str, tuple[object, str]]:
        """None: what the plan of a training has is a classifier's."""
        return {}

    def targets(self, samples: Sequence[Sample], frame: Preprocess) -> Tensor:
        """(n,) int64: the index of the label."""
        import torch

        return torch.tensor([sample.label for sample in samples], dtype=torch.int64)

    def follow(self, targets: Tensor, moves: Callable[[], Tensor], size: Size, crop: Size) -> Tensor:
        """A label stays what it is."""
        return targets

    def check_options(self, options: LossOptions) -> None:
        """Raises `UsageError` for Dice's loss, which is for masks."""
        if options.imbalance == "dice":
            raise UsageError(
                "--imbalance dice says nothing in classification: a photo has one label, nothing overlaps",
                fix="--imbalance focal",
            )

    def objective(
        self, data: Dataset, head: HeadSpec | None, options: LossOptions, device: Any, *, smoothing: float
    ) -> Objective:
        """Cross-entropy, with what the options add to it."""
        import torch

        from edgetl.tasks.classification.losses import CrossEntropy, class_weights

        weighs = options.imbalance in ("weights", "focal")
        labels = torch.tensor([sample.label for sample in data.train], dtype=torch.int64)
        weights = class_weights(labels, len(data.labels)).to(device) if weighs else None
        return CrossEntropy(
            smoothing, weights, options.imbalance == "focal", options.teacher_weight, options.temperature
        )

    def truth(self, outputs: Outputs, manifest: Manifest) -> tuple[int, None]:
        """The label of the largest logit."""
        return int(outputs[self.outputs[0]].argmax()), None

    def demo(self, seed: int = 0) -> Demo:
        """Handwritten digits, from random weights."""
        model = {"backbone": "mobilenet_v2", "weights": "none", "image_size": 48}
        return Demo(
            demo_digits(seed),
            {"model": model, "train": {"strategy": "full", "epochs": 16, "lr": 3e-3, "augment": "shift"}},
        )

    def metric(self, manifest: Manifest, n: int) -> LogitsMetric:
        """Keeps the logits."""
        return LogitsMetric(manifest.output.name, [label.id for label in manifest.labels], n)

    def details(
        self,
        original: LogitsMetric,
        variants: Mapping[str, LogitsMetric],
        samples: Sequence[Sample],
        manifest: Manifest,
        thumbnails: Callable[[int], Thumbnail],
    ) -> Details:
        """Accuracies, which decisions changed, what the original takes for what, and whether labels are shuffled."""
        labels, truth = [label.id for label in manifest.labels], original.truth
        thumbnail = thumbnails(BUDGET)
        return Details(
            report={
                "reference": original.accuracy(),
                "original": confusion_of(
                    samples, truth, original.logits, labels, thumbnail=thumbnails(_BUDGET_OF_WORST)
                ),
            },
            variants={
                id_: {
                    "accuracy": metric.accuracy(original),
                    "damage": changed_predictions(
                        samples, truth, original.logits, metric.logits, labels, thumbnail=thumbnail
                    ),
                }
                for id_, metric in variants.items()
            },
            faults=shuffled_labels(original.logits, truth, manifest.labels),
        )


TASK = Classification()
