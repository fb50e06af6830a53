"""Detection: boxes with labels in a photo. The quality is mAP@[.5:.95], a decision is an object."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgetl.data.dataset import Dataset, Sample
from edgetl.data.options import DataOptions
from edgetl.models.sources import PUBLISHED_BOXES
from edgetl.tasks.detection.anchors import fit_anchors
from edgetl.tasks.detection.demo import demo_shapes
from edgetl.tasks.detection.metric import BoxMetric
from edgetl.tasks.detection.reading import read_dataset, read_labelled
from edgetl.tasks.detection.views import details
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
from edgetl_runtime.machine import cpu_features
from edgetl_runtime.manifest import Label, Manifest, Preprocess
from edgetl_runtime.placing import place
from edgetl_runtime.quantities import SHARE
from edgetl_runtime.tasks.detection import anchors_of, objects_in_photo

if TYPE_CHECKING:
    from torch import Tensor, nn

    from edgetl.models.heads import HeadSpec

__all__ = ["TASK", "Detection"]

_SEEN, _EPOCHS = 6_500, (8, 60)
"""Photos that a training sees in all, which makes more epochs of fewer photos."""
_PIXELS, _MOST_TIMES = 320 * 320, 2.0
"""Of an image, and how many times the epochs larger ones get at most: see README.md, "Measured"."""


def _box_decoding(decoder: Mapping[str, Any] | None, size: Size) -> nn.Module:
    from edgetl.tasks.detection.in_graph import BoxDecoding

    return BoxDecoding(decoder or {})


class Detection:
    """The `edgetl.tasks.task.Task`."""

    name = "detection"
    outputs = ("boxes", "logits")
    agreement = "agreement"
    agreement_quantised = 0.85  # of small objects a pixel is a tenth: 0.91 to 0.92 where mAP lost half a point
    quality = "mAP"
    quality_quantity = "map"
    heads = ("ssdlite", PUBLISHED_BOXES)
    strategy = "stride:16"  # small data sets: what pretraining found near the image stays as it is
    mode = "stretch"
    image_size = 320
    drawn = True
    predict_example = ""
    lists_by_label = False
    decodings: Mapping[str, InGraph] = {"boxes_in_graph": InGraph(("decoded_boxes", "scores"), _box_decoding)}
    quantities: Mapping[str, Quantity] = {
        "map": Quantity(">=", "known_quality", "value", "mAP@[.5:.95]", SHARE, "mean", "ci95"),
        "map50": Quantity(">=", "known_quality.parts", "map50", "mAP@.5", SHARE),
        "class_map_delta": Quantity(
            ">=", "known_quality.parts", "class_map_delta", "change in mAP of the label that loses most", LABEL_CHANGE
        ),
    }

    def read(self, path: Path, options: DataOptions, *, spec: Preprocess, track: Track) -> Dataset:
        """COCO's JSON, Pascal VOC's XML, YOLO's text files, or a saved data set: see `read_dataset`."""
        return read_dataset(path, options, spec=spec, track=track, task=self.name)

    def read_labelled(self, path: Path, labels: Sequence[Label], judging: Judging) -> tuple[tuple[Sample, ...], str]:
        """Of the same: see `edgetl.tasks.detection.reading.read_labelled`."""
        return read_labelled(path, labels, judging)

    def head(self, data: Dataset, name: str, spec: Preprocess) -> HeadSpec | None:
        """With anchors that suit the boxes of the training photos."""
        from edgetl.models.heads import HeadSpec

        if name == PUBLISHED_BOXES:
            from edgetl.models.heads.published_boxes import published_settings

            return HeadSpec(name, published_settings(spec.crop))
        rows = np.concatenate([self._placed_target(sample, spec) for sample in data.train] or [np.zeros((0, 6))])
        rows = rows[(rows[:, 5] == 0) & (rows[:, 2] > rows[:, 0]) & (rows[:, 3] > rows[:, 1])]
        settings = fit_anchors(rows[:, 2:4] - rows[:, :2], rows[:, 4].astype(np.int64), spec.crop)
        return HeadSpec(name, {**settings, "crop": list(spec.crop)})

    def defaults(self, situation: Situation) -> Mapping[str, tuple[object, str]]:
        """Measured on 292 photos of blood cells."""
        times = min(max((situation.pixels / _PIXELS) ** 1.5, 1.0), _MOST_TIMES) * (1 if situation.pretrained else 3)
        epochs = round(min(max(times * _SEEN / max(1, situation.images), _EPOCHS[0]), times * _EPOCHS[1]))
        fast = not situation.on_gpu and "amx_int8" in (cpu_features().flags or ())
        return {
            **({"precision": ("bf16", "this CPU has AMX: 1.4 to 2 times as fast")} if fast else {}),
            "epochs": (epochs, f"{situation.images:,} photos of {situation.pixels:,} pixels"),
            "batch_size": (16, "boxes of some photos a step, and many steps"),
            "lr": (2e-3, "of the head"),
            "backbone_lr_ratio": (0.25, "the maps have to learn where things are")
            if situation.pretrained
            else (1.0, "random weights"),
            "weight_decay": (1e-4, "few photos, many boxes"),
            "batch_norm": ("train", "the head's has no statistics yet"),
            "dropout": (0.0, "the head has none"),
            "label_smoothing": (0.0, "most anchors are background"),
            "augment": ("objects", "photos with boxes"),
            "imbalance": ("none", "boxes count alike; sampler shows rare labels more often"),
            "clip_gradient": (10.0, "a few photos may have very many boxes"),
            "ema": (0.98, "smooths the last steps"),
            "warmup": (0.15, "the head is random"),
        }

    def targets(self, samples: Sequence[Sample], frame: Preprocess) -> Tensor:
        """float32 (n, most boxes of a photo, 6): left, top, right, bottom in pixels, label, flag; label -1 is none."""
        import torch

        rows = [self._placed_target(sample, frame) for sample in samples]
        values = np.zeros((len(rows), max([1, *map(len, rows)]), 6), np.float32)
        values[:, :, 4] = -1
        for own, row in zip(values, rows, strict=True):
            own[: len(row)] = row
        return torch.from_numpy(values)

    def _placed_target(self, sample: Sample, frame: Preprocess) -> npt.NDArray[np.float64]:
        """The boxes of a photo in the pixels that are made of it; not cut at their edges."""
        if sample.target is None or not len(sample.target):
            return np.zeros((0, 6))
        assert sample.size is not None
        placed = place(sample.size, frame)
        moved: npt.NDArray[np.float64] = np.array(sample.target, np.float64)
        moved[:, :4] = placed.to_tensor(moved[:, :4])
        return moved

    def follow(self, targets: Tensor, moves: Callable[[], Tensor], size: Size, crop: Size) -> Tensor:
        """Boxes move with the pixels; what is mostly outside is neither object nor background."""
        from edgetl.tasks.detection.moving import moved_boxes

        return moved_boxes(targets, moves(), crop)

    def check_options(self, options: LossOptions) -> None:
        """Raises `UsageError` for photos that are mixed, a teacher, and a loss that weighs labels."""
        for name, value in (("mixup", options.mixup), ("cutmix", options.cutmix), ("teacher", options.teacher)):
            if value:
                raise UsageError(f"--{name} says nothing in detection", fix="leave it out")
        if options.imbalance in ("weights", "focal", "dice"):
            raise UsageError(
                f"--imbalance {options.imbalance} says nothing in detection: the background is learned where it is "
                "most wrong, boxes all alike",
                fix="--imbalance sampler shows photos with rare labels more often",
            )

    def objective(
        self, data: Dataset, head: HeadSpec | None, options: LossOptions, device: Any, *, smoothing: float
    ) -> Objective:
        """SSD's loss; mAP chooses the epoch."""
        from edgetl.models.heads import head_named
        from edgetl.tasks.detection.objective import DetectionObjective

        assert head is not None
        crop = head.settings["crop"]
        decoder = head_named(head.name).decoder(head.settings, (crop[0], crop[1]))
        assert decoder is not None
        return DetectionObjective(decoder, len(data.labels), (crop[0], crop[1]), device, smoothing=smoothing)

    def truth(self, outputs: Outputs, manifest: Manifest) -> tuple[int, npt.NDArray[Any] | None]:
        """The boxes of `outputs`, as targets."""
        decoder = manifest.decoder or {}
        height, width = manifest.preprocess.crop
        placed = place((width, height), manifest.preprocess)
        thresholds = {name: decoder[name] for name in ("score", "iou", "most")}
        found = objects_in_photo(outputs, placed, decoder, anchors_of(decoder), **thresholds)
        flags = np.zeros(len(found.scores))
        return 0, np.column_stack((found.boxes.astype(np.float64), found.labels.astype(np.float64), flags))

    def demo(self, seed: int = 0) -> Demo:
        """Shapes on backgrounds, from random weights."""
        return Demo(
            demo_shapes(seed),
            {
                "model": {"backbone": "mnasnet0_5", "weights": "none", "image_size": 128},
                "train": {"strategy": "full", "epochs": 40, "lr": 4e-3},
            },
        )

    def metric(self, manifest: Manifest, n: int) -> BoxMetric:
        """Keeps which boxes are right."""
        return BoxMetric(manifest)

    def details(
        self,
        original: BoxMetric,
        variants: Mapping[str, BoxMetric],
        samples: Sequence[Sample],
        manifest: Manifest,
        thumbnails: Callable[[int], Thumbnail],
    ) -> Details:
        """Average precision by label and size, precision-recall curves, photos where variants differ most."""
        return details(original, variants, samples, manifest)


TASK = Detection()
