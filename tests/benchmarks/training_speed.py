"""Training throughput against a plain torchvision loop on the same photos, side by side in one run.

The plain loop is torchvision's reference in short: ImageFolder, RandomResizedCrop, flip, ColorJitter on PIL images
in DataLoader workers, mixed precision with ``--amp``, the default memory layout. ``ceiling`` is that loop on one
batch that is already on the device. The first epoch of each (decoding into edgetl's cache, warm-up) does not count.
Every measurement has a process of its own.
By hand: ``python tests/benchmarks/training_speed.py --data flowers/train --images 480 --amp``
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn
from torchvision.transforms import v2

from edgetl.data.dataset import Dataset, load_dataset, pick
from edgetl.models.backbones import build
from edgetl.recipe import ModelOptions
from edgetl.training.finetune import finetune
from edgetl.training.options import TrainOptions

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Files(torch.utils.data.Dataset[tuple[Tensor, int]]):
    """Photos, decoded and augmented each time, as ImageFolder does."""

    def __init__(self, data: Dataset, size: int) -> None:
        self.samples = data.train
        self.transform = v2.Compose(
            [
                v2.RandomResizedCrop(size, scale=(0.35, 1.0)),
                v2.RandomHorizontalFlip(),
                v2.ColorJitter(0.2, 0.2, 0.2),
                v2.PILToTensor(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(MEAN, STD),
            ]
        )

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        sample = self.samples[index]
        image = torchvision.datasets.folder.default_loader(str(sample.source))
        return self.transform(image), sample.label


def plain_epochs(data: Dataset, given: argparse.Namespace, *, ceiling: bool = False) -> Iterator[float]:
    """Images a second of each epoch of the plain loop."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = build(given.backbone, len(data.labels)).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    loader = torch.utils.data.DataLoader(
        Files(data, given.image_size),
        given.batch_size,
        shuffle=True,
        num_workers=given.workers,
        drop_last=True,
        pin_memory=device.type == "cuda",
        persistent_workers=given.workers > 0,
    )
    steps = len(data.train) // given.batch_size
    still = torch.randn(given.batch_size, 3, given.image_size, given.image_size, device=device)
    labels = torch.randint(len(data.labels), (given.batch_size,), device=device)
    while True:
        began = time.perf_counter()
        batches = itertools.repeat((still, labels), steps) if ceiling else iter(loader)
        for images, truth in batches:
            images, truth = images.to(device, non_blocking=True), truth.to(device, non_blocking=True)
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=given.amp):
                loss = nn.functional.cross_entropy(model(images), truth)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        yield steps * given.batch_size / (time.perf_counter() - began)


def edgetl_speed(data: Dataset, given: argparse.Namespace) -> float:
    """Images a second of edgetl's epochs after the first, validation not counted."""
    options = TrainOptions(
        "full",
        epochs=given.epochs,
        batch_size=given.batch_size,
        lr=1e-4,
        batch_norm="train",
        precision=given.precision,
        compile=given.compile,
    )
    trained = finetune(data, ModelOptions(given.backbone, "none", given.image_size), options, tell=print)
    spent = [
        seconds for epoch in trained.history.epochs[1:] for part, seconds in epoch.spent.items() if part != "validation"
    ]
    return len(data.train) * (given.epochs - 1) / sum(spent)


def plain_speed(data: Dataset, given: argparse.Namespace) -> float:
    """Images a second of the plain loop's epochs after the first."""
    return _after_the_first(plain_epochs(data, given), given.epochs)


def ceiling_speed(data: Dataset, given: argparse.Namespace) -> float:
    """Images a second of the plain loop when it waits for no image."""
    return _after_the_first(plain_epochs(data, given, ceiling=True), given.epochs)


def _after_the_first(speeds: Iterator[float], epochs: int) -> float:
    return statistics.harmonic_mean(list(itertools.islice(speeds, 1, epochs)))


WAYS: dict[str, Callable[[Dataset, argparse.Namespace], float]] = {
    "plain loop": plain_speed,
    "edgetl": edgetl_speed,
    "ceiling": ceiling_speed,
}


def main() -> int:
    parser = argparse.ArgumentParser(allow_abbrev=False, description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--backbone", default="mobilenet_v2")
    parser.add_argument("--images", type=int, default=480)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--workers", type=int, default=min(8, os.cpu_count() or 1))
    parser.add_argument("--amp", action="store_true", help="mixed precision in the plain loop too")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--rounds", type=int, default=2)
    given = parser.parse_args()
    whole = load_dataset(given.data)
    data = dataclasses.replace(whole, train=pick(whole.train, given.images), val=pick(whole.val, 16))
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{torch.get_num_threads()} threads"
    print(f"{given.backbone}, {given.image_size} px, {len(data.train)} photos, batch {given.batch_size}, {name}")
    speeds: dict[str, list[float]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["EDGETL_CACHE"] = folder
        for _ in range(given.rounds):
            for way, measure in WAYS.items():
                with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as alone:
                    speeds[way].append(alone.submit(measure, data, given).result())
                print(f"{way}: {speeds[way][-1]:.1f} images/s", flush=True)
    best = {way: max(values) for way, values in speeds.items()}
    print(f"edgetl / plain loop: {best['edgetl'] / best['plain loop']:.2f}")
    print(f"edgetl / ceiling: {best['edgetl'] / best['ceiling']:.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
