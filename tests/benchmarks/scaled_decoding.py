"""What ``decode = "scaled"`` changes: grey levels, decisions and top-1, beside decoding in full, on real photos.

    python tests/benchmarks/scaled_decoding.py [--data FOLDER] [--markdown FILE]

A photo is reduced when its shorter side has four times the pixels that it is resized to, or more. The photos of the
data folder have 256 to 400: so the inputs are small here, that of a phone's photo at 224 pixels being in the same
proportion. No photo is enlarged: what a camera's fine detail does is not to be had from that.
MobileNetV2 with ImageNet weights decides about ImageNet's photos, and about cats and blood cells (which have other
labels: agreement alone). For the flowers its head is trained twice, on photos decoded either way, and both are judged
on photos decoded either way.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from runtime_lines import saved
from workloads import data_folder

from edgetl import api
from edgetl.data.dataset import Sample, load_labelled
from edgetl.models.checkpoint import Checkpoint, open_checkpoint
from edgetl.recipe import Recipe
from edgetl.stats import mcnemar
from edgetl.verify.bundle import source_of
from edgetl_runtime.manifest import Preprocess
from edgetl_runtime.preprocess import load_image, preprocess
from edgetl_runtime.reduced import least_side

__all__ = ["Row", "differences", "main", "markdown", "reduced_share"]

WEIGHTS = "weights/mobilenet_v2_imagenet1k.safetensors"
BATCH = 64
_COLUMNS = (
    *("network", "photos", "reduced", "grey levels: mean", "largest", "same label"),
    *("top-1 exact", "top-1 scaled", "p"),
)


@dataclass(frozen=True)
class Row:
    """One network on one set of photos. ``levels`` are the mean and the largest difference in grey levels;
    ``agreement`` the share of equal decisions; ``top1`` exact, scaled, and McNemar's p, None without labels."""

    network: str
    photos: str
    reduced: float
    levels: tuple[float, int]
    agreement: float
    top1: tuple[float, float, float] | None


def differences(exact: npt.NDArray[np.uint8], scaled: npt.NDArray[np.uint8]) -> tuple[float, int]:
    """Mean and largest difference in grey levels of two (n, H, W, 3) uint8."""
    found = np.abs(exact.astype(np.int16) - scaled)
    return float(found.mean()), int(found.max())


def reduced_share(samples: Sequence[Sample], spec: Preprocess) -> float:
    """Share of the photos that are large enough to be reduced."""
    side = least_side(replace(spec, decode="scaled"))
    assert side is not None
    return sum(min(load_image(sample.source).size) >= 2 * side for sample in samples) / len(samples)


def main(arguments: Sequence[str]) -> int:
    """Measure and print; always 0: what is worth it is for people to decide."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="weights and photos; default: EDGETL_DATA, else ../shared/data")
    parser.add_argument("--markdown", type=Path, help="write the table there as well")
    given = parser.parse_args(arguments)
    data = data_folder(given.data)
    text = markdown([*_imagenet(data), *_flowers(data)])
    print(text, flush=True)
    saved(given.markdown, text + "\n")
    return 0


def markdown(rows: Sequence[Row]) -> str:
    """The rows as a table."""
    lines = ["| " + " | ".join(_COLUMNS) + " |", "|" + " --- |" * len(_COLUMNS)]
    for row in rows:
        top1 = ["-"] * 3 if row.top1 is None else [f"{row.top1[0]:.1%}", f"{row.top1[1]:.1%}", f"{row.top1[2]:.2f}"]
        levels = [f"{row.levels[0]:.2f}", str(row.levels[1])]
        cells = [row.network, row.photos, f"{row.reduced:.0%}", *levels, f"{row.agreement:.1%}", *top1]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _imagenet(data: Path) -> list[Row]:
    rows = []
    for folder, size in (("imagenet_sample/evaluation", 56), ("cats", 84), ("bccd", 84)):
        network = open_checkpoint(
            data / WEIGHTS, backbone="mobilenet_v2", labels=data / "imagenet_labels.json", image_size=size
        )
        if folder.startswith("imagenet"):
            samples, labelled = load_labelled(data / folder, network.labels)[0], True
        else:
            photos = sorted(path for path in (data / folder).rglob("*.jpg"))
            samples, labelled = tuple(Sample(path, 0, path.name) for path in photos), False
        rows.append(_row(f"ImageNet, {size} px", folder, network, network, samples, labelled=labelled))
    return rows


def _flowers(data: Path) -> list[Row]:
    trained = {}
    for decode in ("exact", "scaled"):
        recipe = Recipe().updated({"model": {"decode": decode}, "train": {"strategy": "head"}})
        trained[decode] = api.finetune(data / "flowers/train", weights=data / WEIGHTS, image_size=56, recipe=recipe)
    samples = load_labelled(data / "flowers/val", trained["exact"].labels)[0]
    rows = [
        _row(f"flowers, 56 px, trained on {decode}", "flowers/val", network, network, samples, labelled=True)
        for decode, network in trained.items()
    ]
    both = _row("flowers, 56 px, each as it was trained", "flowers/val", *trained.values(), samples, labelled=True)
    return [*rows, both]


def _row(
    name: str, photos: str, one: Checkpoint, other: Checkpoint, samples: Sequence[Sample], *, labelled: bool
) -> Row:
    """`one` on photos decoded in full, beside `other` on scaled ones."""
    spec = replace(one.preprocess, decode="exact")
    pixels = [_pixels(samples, replace(spec, decode=decode)) for decode in ("exact", "scaled")]
    decided = [_decided(network, images) for network, images in zip((one, other), pixels, strict=True)]
    top1 = None
    if labelled:
        truth = np.array([sample.label for sample in samples])
        right = [labels == truth for labels in decided]
        lost, won = int((right[0] & ~right[1]).sum()), int((~right[0] & right[1]).sum())
        top1 = float(right[0].mean()), float(right[1].mean()), mcnemar(lost, won)
    agreement = float((decided[0] == decided[1]).mean())
    share = reduced_share(samples, spec)
    return Row(name, f"{photos}, {len(samples)}", share, differences(*pixels), agreement, top1)


def _pixels(samples: Sequence[Sample], spec: Preprocess) -> npt.NDArray[np.uint8]:
    with ThreadPoolExecutor(max_workers=2) as pool:
        return np.stack(list(pool.map(partial(preprocess, spec=spec), (sample.source for sample in samples))))


def _decided(checkpoint: Checkpoint, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    answer = source_of(checkpoint, "original").reference()
    parts = [answer(images[start : start + BATCH]) for start in range(0, len(images), BATCH)]
    labels: npt.NDArray[np.int64] = np.concatenate(parts).argmax(axis=1)
    return labels


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
