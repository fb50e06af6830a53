"""What the benchmarks run on: weights, the photos to calibrate on and the photos to judge on, as uint8 tensors."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from edgetl.data.dataset import Sample, load_labelled, load_photos, pick
from edgetl.models.checkpoint import Checkpoint, open_checkpoint
from edgetl.models.sources.foreign import Exportable
from edgetl.open_to_export import labelled_by_folders
from edgetl_export import Source
from edgetl_runtime.errors import DataError
from edgetl_runtime.preprocess import preprocess

__all__ = ["WORKLOADS", "Workload", "data_folder", "preprocessed", "source_of", "with_crops"]


@dataclass(frozen=True)
class Workload:
    """A checkpoint and its photos; all paths are relative to the data folder.

    ``calibration_samples`` of the photos below ``calibration`` are picked with `pick`'s fixed seed, as `edgetl.export`
    picks them. ``labels`` is a file; without one the folders of ``evaluation`` are the labels.
    """

    title: str
    backbone: str
    weights: str
    calibration: str
    calibration_samples: int
    evaluation: str
    image_size: int | None = None
    labels: str | None = None

    def checkpoint(self, data: Path) -> Checkpoint:
        """The weights with their labels."""
        opened = open_checkpoint(
            data / self.weights,
            backbone=self.backbone,
            labels=None if self.labels is None else data / self.labels,
            image_size=self.image_size,
        )
        return opened if self.labels is not None else labelled_by_folders(opened, data / self.evaluation)[0]

    def calibration_photos(self, data: Path, n: int) -> tuple[Sample, ...]:
        """The `n` photos that `edgetl.export` picks from the same folder."""
        return pick(load_photos(data / self.calibration), n)

    def evaluation_photos(self, data: Path, checkpoint: Checkpoint) -> tuple[Sample, ...]:
        """All photos to judge on, labelled."""
        return load_labelled(data / self.evaluation, checkpoint.labels)[0]


WORKLOADS: dict[str, Workload] = {
    "mobilenet_v2": Workload(
        title="MobileNetV2, ImageNet weights, 224 px",
        backbone="mobilenet_v2",
        weights="weights/mobilenet_v2_imagenet1k.safetensors",
        labels="imagenet_labels.json",
        calibration="imagenet_sample/calibration",
        calibration_samples=250,
        evaluation="imagenet_sample/evaluation",
    ),
    "efficientnet_b0": Workload(
        title="EfficientNet-B0, five flowers, 160 px",
        backbone="efficientnet_b0",
        weights="weights/efficientnet_b0_flowers.safetensors",
        image_size=160,
        calibration="flowers/train",
        calibration_samples=200,
        evaluation="flowers/val",
    ),
}


def data_folder(given: Path | None) -> Path:
    """The folder with weights and photos: `given`, else ``EDGETL_DATA``, else ``../shared/data`` beside the checkout.

    Raises `DataError` when it is not there.
    """
    beside = Path(__file__).parents[3] / "shared" / "data"
    folder = given or Path(os.environ.get("EDGETL_DATA", beside))
    if not folder.is_dir():
        raise DataError(f"no folder {folder} with weights and photos", fix="--data FOLDER, or set EDGETL_DATA")
    return folder


def preprocessed(samples: Sequence[Sample], checkpoint: Exportable) -> npt.NDArray[np.uint8]:
    """The photos as (n, H, W, 3) uint8, in their order."""
    read = partial(preprocess, spec=checkpoint.preprocess)
    with ThreadPoolExecutor(max_workers=2) as pool:
        return np.stack(list(pool.map(read, (sample.source for sample in samples))))


def with_crops(images: npt.NDArray[np.uint8], n: int) -> npt.NDArray[np.uint8]:
    """`images` (k, H, W, 3) uint8, and behind them `n` times a random crop of each: (k * (1 + n), H, W, 3).

    A crop has 75 to 100 % of both sides and is resized to the whole size; every second one is mirrored.
    """
    rng = np.random.default_rng(0)
    height, width = images.shape[1:3]
    found = [images]
    for turn in range(n):
        crops = np.empty_like(images)
        for place, (share, top, left) in enumerate(rng.random((len(images), 3))):
            size = 0.75 + 0.25 * share
            x, y = left * (1 - size) * width, top * (1 - size) * height
            crop = Image.fromarray(images[place]).resize(
                (width, height), Image.Resampling.BILINEAR, (x, y, x + size * width, y + size * height)
            )
            crops[place] = np.asarray(crop)[:, :: -1 if turn % 2 else 1]
        found.append(crops)
    return np.concatenate(found)


def source_of(checkpoint: Checkpoint) -> Source:
    """The original network as the exporter takes it."""
    return Source(
        name=checkpoint.backbone,
        module=checkpoint.build(),
        labels=checkpoint.labels,
        preprocess=checkpoint.preprocess,
        normalize=checkpoint.normalize,
        checkpoint_sha256=checkpoint.sha256,
    )
