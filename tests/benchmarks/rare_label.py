"""What ``--imbalance`` does for a rare label: its recall, and that of the others, with and without.

Each label in turn is cut to one photo for every 20 of another; validation photos stay as they are.
By hand: ``python tests/benchmarks/rare_label.py --data flowers/ --weights mobilenet_v2.safetensors``
"""

from __future__ import annotations

import argparse
import dataclasses
import random
import statistics
import sys
from pathlib import Path

import numpy as np

from edgetl.data.dataset import Dataset, load_dataset
from edgetl.data.loader import Pixels
from edgetl.models.checkpoint import Checkpoint
from edgetl.recipe import ModelOptions
from edgetl.tasks.classification.original import confusion_of
from edgetl.training.finetune import finetune
from edgetl.training.options import IMBALANCE, TrainOptions
from edgetl.verify.bundle import source_of

BATCH = 32


def with_rare(data: Dataset, rare: int, most: int, ratio: int) -> Dataset:
    """`data` with `most` training photos of a label at most, and ``most / ratio`` of the label `rare`."""
    kept = []
    for label in range(len(data.labels)):
        own = [sample for sample in data.train if sample.label == label]
        random.Random(0).shuffle(own)
        kept += own[: most // ratio if label == rare else most]
    return dataclasses.replace(data, train=tuple(kept))


def recalls(checkpoint: Checkpoint, data: Dataset) -> list[float]:
    """The share of each label's validation photos that get it, 0..1; every label has some."""
    original = source_of(checkpoint, data.name).reference()
    pixels = Pixels(data.val, checkpoint.preprocess, kind="eval")
    places = range(len(data.val))
    logits = [original(pixels.read(places[at : at + BATCH]).numpy()) for at in places[::BATCH]]
    truth, ids = np.array([sample.label for sample in data.val]), [label.id for label in data.labels]
    scores = confusion_of(data.val, truth, np.concatenate(logits), ids).per_label
    return [scores[name].recall or 0.0 for name in ids]


def main() -> int:
    parser = argparse.ArgumentParser(allow_abbrev=False, description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--backbone", default="mobilenet_v2")
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--strategy", default="head")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--most", type=int, default=400, help="training photos of the other labels")
    parser.add_argument("--ratio", type=int, default=20)
    parser.add_argument("--rare", default="", help="labels to make rare, separated by commas (default: each)")
    given = parser.parse_args()
    data = load_dataset(given.data)
    named = [name for name in given.rare.split(",") if name]
    rare = [i for i, label in enumerate(data.labels) if not named or label.name in named]
    print(f"{given.most} to {given.most // given.ratio} photos, {len(data.val)} to judge, {given.strategy}")
    print("| imbalance | recall of the rare label | of the others | all |\n|---|---|---|---|", flush=True)
    start = ModelOptions(given.backbone, given.weights, given.image_size)
    for imbalance in ("none", *(name for name in IMBALANCE if name not in ("none", "dice"))):
        options = TrainOptions(given.strategy, epochs=given.epochs, imbalance=imbalance)
        if imbalance == "sampler" and not options.trains_network:
            continue
        own, others, overall = [], [], []
        for label in rare:
            cut = with_rare(data, label, given.most, given.ratio)
            trained = finetune(cut, start, options)
            found = recalls(trained.checkpoint, data)
            own.append(found.pop(label))
            others.append(statistics.fmean(found))
            overall.append(trained.history.best.val_top1)
        spread = f" ({min(own):.0%} to {max(own):.0%})"
        means = [statistics.fmean(values) for values in (own, others, overall)]
        print(f"| {imbalance} | {means[0]:.1%}{spread} | {means[1]:.1%} | {means[2]:.1%} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
