"""Semantic segmentation: a label for every pixel of a photo. The quality is mIoU, a decision is a pixel's label."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgetl.data.dataset import Dataset, Sample
from edgetl.data.options import DataOptions
from edgetl.tasks.quantity import LABEL_CHANGE, Quantity
from edgetl.tasks.segmentation.metric import MaskMetric
from edgetl.tasks.segmentation.misfits import shuffled_labels, turned_masks
from edgetl.tasks.segmentation.reading import TASK as NAME
from edgetl.tasks.segmentation.reading import label_counts, read_masks, read_masks_labelled, truth_of
from edgetl.tasks.segmentation.shapes import demo_shapes
from edgetl.tasks.segmentation.views import pictures_of, tables_of
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
from edgetl_runtime.tasks.segmentation import LOGITS, label_map

if TYPE_CHECKING:
    from torch import Tensor, nn

    from edgetl.models.heads import HeadSpec

__all__ = ["TASK", "Segmentation"]

_BUDGET = 768 * 1024
"""Bytes of pictures in a report."""
_EPOCHS, _SEEN = (12, 60), 5_300


def _upsampling(decoder: Mapping[str, Any] | None, size: Size) -> nn.Module:
    from edgetl.tasks.segmentation.in_graph import Upsampling

    return Upsampling(size)


def _label_map(decoder: Mapping[str, Any] | None, size: Size) -> nn.Module:
    from edgetl.tasks.segmentation.in_graph import LabelMap

    return LabelMap(size)


class Segmentation:
    """The `edgetl.tasks.task.Task`."""

    name = NAME
    outputs = (LOGITS,)
    agreement = "agreement"
    agreement_quantised = 0.99  # of cats int8 has 0.996; masks interpolated with corners aligned have 0.988
    quality = "mIoU"
    quality_quantity = "miou"
    drawn = True
    predict_example = ""
    lists_by_label = False
    decodings: Mapping[str, InGraph] = {
        "upsample": InGraph(("upsampled_logits",), _upsampling),
        "labels_in_graph": InGraph(("label_map",), _label_map),
    }
    heads = ("lraspp", "unet", "deeplabv3", "deeplabv3plus", "published-masks")
    strategy = "stride:8"  # small data sets: what pretraining found near the image stays as it is
    mode = "stretch"
    image_size = 320
    quantities: Mapping[str, Quantity] = {
        "miou": Quantity(
            ">=", "known_quality", "value", "mean intersection over union of the labels", SHARE, "mean", "ci95"
        ),
        "class_iou_delta": Quantity(
            ">=", "known_quality.parts", "class_iou_delta", "change in IoU of the label that loses most", LABEL_CHANGE
        ),
    }

    def read(self, path: Path, options: DataOptions, *, spec: Preprocess, track: Track) -> Dataset:
        """Photos with masks or outlines: see `edgetl.tasks.segmentation.layouts`."""
        return read_masks(path, options, spec=spec, track=track)

    def read_labelled(self, path: Path, labels: Sequence[Label], judging: Judging) -> tuple[tuple[Sample, ...], str]:
        """Of the same, with the labels of the model."""
        return read_masks_labelled(path, labels, judging)

    def head(self, data: Dataset, name: str, spec: Preprocess) -> HeadSpec | None:
        """As it is; v3+ is DeepLabv3 with an earlier map."""
        from edgetl.models.heads import HeadSpec

        return HeadSpec(name, {"plus": True} if name == "deeplabv3plus" else {})

    def defaults(self, situation: Situation) -> Mapping[str, tuple[object, str]]:
        """What was measured on 222 photos with masks; more photos need fewer epochs."""
        epochs = round(min(max(_SEEN / situation.images, _EPOCHS[0]), _EPOCHS[1]))
        return {
            "batch_size": (16, "of whole maps"),
            "epochs": (epochs, f"{situation.images:,} photos"),
            "lr": (3e-3 * situation.world, "of the head, for 16 images a step"),
            "backbone_lr_ratio": (1 / 3, "pretrained") if situation.pretrained else (1.0, "random weights"),
            "label_smoothing": (0.0, "edges are sharp"),
            "batch_norm": ("train", "the head's statistics are new"),
            "dropout": (0.0, "a map has places enough"),
            "ema": (0.98, "steadier masks"),
            "warmup": (0.1, "the head begins at random"),
        }

    def targets(self, samples: Sequence[Sample], frame: Preprocess) -> Tensor:
        """Masks uint8 (n, height, width) where `frame` puts the photos; they are read when they are asked for."""
        from edgetl.tasks.segmentation.moved_masks import masks_in_frame

        return masks_in_frame([truth_of(sample) for sample in samples], frame)

    def follow(self, targets: Tensor, moves: Callable[[], Tensor], size: Size, crop: Size) -> Tensor:
        """Masks move with the pixels; where the image had nothing they do not count."""
        from edgetl.tasks.segmentation.moved_masks import moved

        return moved(targets, moves(), crop)

    def check_options(self, options: LossOptions) -> None:
        """Raises `UsageError` for photos that are pasted into others (CutMix)."""
        if options.cutmix > 0:
            raise UsageError("cutmix says nothing in segmentation: what is pasted has masks of its own", fix="mixup")

    def objective(
        self, data: Dataset, head: HeadSpec | None, options: LossOptions, device: Any, *, smoothing: float
    ) -> Objective:
        """Cross-entropy of the pixels; rare labels count more unless ``imbalance`` says otherwise."""
        import torch

        from edgetl.tasks.segmentation.losses import MaskObjective, label_weights

        weights = None
        if options.imbalance in ("weights", "focal", "dice"):
            counts = label_counts(data.train, len(data.labels))
            weights = label_weights(torch.from_numpy(counts)).to(device)
        return MaskObjective(
            len(data.labels),
            smoothing,
            weights,
            options.imbalance == "focal",
            options.imbalance == "dice",
            options.teacher_weight,
            options.temperature,
        )

    def truth(self, outputs: Outputs, manifest: Manifest) -> tuple[int, npt.NDArray[Any]]:
        """The mask of an image as large as the tensor, and the label that has the fewest pixels in it."""
        mask = label_map(outputs[LOGITS], manifest.preprocess.crop)
        counts = np.bincount(mask.reshape(-1))
        return int(np.argmin(np.where(counts > 0, counts, mask.size + 1))), mask

    def demo(self, seed: int = 0) -> Demo:
        """Circles, squares and triangles, from random weights."""
        recipe: dict[str, dict[str, Any]] = {
            "data": {"task": self.name},
            "model": {"backbone": "mobilenet_v2", "weights": "none", "image_size": 64, "head": "unet"},
            # An average of weights lags behind where there are few steps.
            "train": {"epochs": 14, "lr": 4e-3, "ema": 0.0},
        }
        return Demo(demo_shapes(seed), recipe)

    def metric(self, manifest: Manifest, n: int) -> MaskMetric:
        """Keeps three numbers of each photo and label."""
        return MaskMetric([label.id for label in manifest.labels], manifest.preprocess, n)

    def details(
        self,
        original: MaskMetric,
        variants: Mapping[str, MaskMetric],
        samples: Sequence[Sample],
        manifest: Manifest,
        thumbnails: Callable[[int], Thumbnail],
    ) -> Details:
        """IoU by label, where masks differ, what is taken for what, photos with masks, and masks that do not fit."""
        tables = tables_of(original, variants, manifest)
        pictures = pictures_of(original, variants, samples, manifest, budget=_BUDGET)
        faults = (*shuffled_labels(original, manifest.labels), *turned_masks(original, samples, manifest))
        return Details(report={"tables": tables, "pictures": pictures}, faults=faults)


TASK = Segmentation()
