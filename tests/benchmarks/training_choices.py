"""Which options of a fine-tuning help, from the same starting point: mean and spread of the validation accuracy.

Every row is the first row with one thing changed. The seeds change order, augmentation and dropout, not the photos.
By hand: ``python tests/benchmarks/training_choices.py --data flowers/ --weights mobilenet_v2.safetensors``
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgetl.data.dataset import Dataset, load_dataset
from edgetl.recipe import ModelOptions
from edgetl.training.finetune import finetune
from edgetl.training.options import TrainOptions

CHOICES: Mapping[str, Mapping[str, Any]] = {
    "as it is": {},
    "layer_decay 0.9": {"layer_decay": 0.9},
    "ema 0.99": {"ema": 0.99},
    "mixup 0.2": {"mixup": 0.2},
    "cutmix 1.0": {"cutmix": 1.0},
    "teacher": {"teacher": "TEACHER", "label_smoothing": 0.0},
    "label_smoothing 0": {"label_smoothing": 0.0},
    "batch_norm train": {"batch_norm": "train"},
    "precision bf16": {"precision": "bf16"},
}
"""Name of a row -> options that differ from the first row. TEACHER is the first row's first network."""


@dataclass(frozen=True)
class Row:
    """One choice: top-1 (0..1) on the validation photos, best epoch and last epoch, one value for each seed."""

    name: str
    best: tuple[float, ...]
    last: tuple[float, ...]
    seconds: float

    def __str__(self) -> str:
        return f"| {self.name} | {told(self.best)} | {told(self.last)} | {self.seconds:.0f} |"


def told(values: tuple[float, ...]) -> str:
    """``87.2 % (86.9 to 87.5)``."""
    mean = statistics.fmean(values)
    return f"{mean:.1%} ({min(values) * 100:.1f} to {max(values) * 100:.1f})"


def measured(data: Dataset, start: ModelOptions, base: TrainOptions, seeds: int, only: list[str]) -> Iterator[Row]:
    """A row for each of `CHOICES` (those in `only`, if any), as they come."""
    with tempfile.TemporaryDirectory() as folder:
        teacher = Path(folder) / "teacher"
        for name, changes in CHOICES.items():
            if name != "as it is" and only and name not in only:
                continue
            best, last, seconds = [], [], 0.0
            for seed in range(seeds):
                options = dataclasses.replace(base, seed=seed, **changes)
                if options.teacher is not None:
                    options = dataclasses.replace(options, teacher=str(teacher))
                trained = finetune(data, start, options)
                if not teacher.exists():
                    trained.checkpoint.save(teacher)
                epochs = trained.history.epochs
                best.append(trained.history.best.val_top1)
                last.append(epochs[-1].val_top1)
                seconds += trained.seconds / seeds
            yield Row(name, tuple(best), tuple(last), seconds)


def main() -> int:
    parser = argparse.ArgumentParser(allow_abbrev=False, description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--backbone", default="mobilenet_v2")
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--every", type=int, default=2, help="take every Nth training photo")
    parser.add_argument("--strategy", default="head-then-full")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--lr", type=float)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", default="", help="rows, separated by commas")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    whole = load_dataset(given.data)
    data = dataclasses.replace(whole, train=whole.train[:: given.every])
    start = ModelOptions(given.backbone, given.weights, given.image_size)
    base = TrainOptions(given.strategy, epochs=given.epochs, lr=given.lr)
    print(
        f"{len(data.train)} photos to train on, {len(data.val)} to judge, {given.image_size} px, {given.epochs} epochs"
    )
    print("| | best epoch | last epoch | s |\n|---|---|---|---|", flush=True)
    rows = []
    for row in measured(data, start, base, given.seeds, [name for name in given.only.split(",") if name]):
        print(row, flush=True)
        rows.append(dataclasses.asdict(row))
    if given.json is not None:
        given.json.write_text(json.dumps(rows, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
