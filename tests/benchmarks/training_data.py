"""Milliseconds per training image on one core: decoding and augmenting it each epoch, against the cache and the batch.

    python tests/benchmarks/training_data.py --photos 192

The plain way is a torchvision v2 pipeline on each decoded photo, as training scripts have it (random resized crop,
mirror, colour). edgetl's is: the content hashed once per run, the photo decoded once, then each epoch a row of the
cache read (its checksum with it) and augmented in a batch of 32. The best of several rounds counts.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torchvision.transforms import v2
from workloads import data_folder

from edgetl.data.augment import augmented, epoch_draws
from edgetl.data.augmentation import PRESETS
from edgetl.data.content import content_of
from edgetl.data.dataset import Sample, load_photos, pick
from edgetl.data.loader import Pixels, margin
from edgetl_runtime.cache import CACHE_VARIABLE
from edgetl_runtime.errors import EdgetlError
from edgetl_runtime.manifest import Preprocess
from edgetl_runtime.preprocess import load_image, preprocess

__all__ = ["main", "measured"]

PHOTOS = "flowers/train"
SPEC = Preprocess(resize=256, crop=(224, 224))
ROUNDS = 5
_BATCH = 32


def main(arguments: Sequence[str]) -> int:
    """Measure and print a table; 2 when there is something for the user to fix."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="photos; default: EDGETL_DATA, else ../shared/data")
    parser.add_argument("--photos", type=int, default=192, metavar="N", help=f"how many photos of {PHOTOS}")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    try:
        samples = pick(load_photos(data_folder(given.data) / PHOTOS), given.photos)
        found = measured(samples)
    except EdgetlError as error:
        print(f"training_data: error: {error}", file=sys.stderr)
        return 2
    print("| | ms per image |", "|---|---|", *(f"| {what} | {ms:.2f} |" for what, ms in found.items()), sep="\n")
    return 0


def measured(samples: Sequence[Sample]) -> dict[str, float]:
    """What was done, and the milliseconds of one thread per image that it took at best."""
    sources = [str(sample.source) for sample in samples]
    plain = v2.Compose(
        [
            v2.RandomResizedCrop(SPEC.crop, scale=(0.35, 1.0)),
            v2.RandomHorizontalFlip(),
            v2.ColorJitter(0.2, 0.2, 0.2),
            v2.PILToTensor(),
        ]
    )

    def best(call: Callable[[], object], n: int) -> float:
        times = []
        for _ in range(ROUNDS):
            began = time.perf_counter()
            call()
            times.append(time.perf_counter() - began)
        return min(times) / n * 1000

    n = len(samples)
    found = {
        "plain: decode": best(lambda: [load_image(source) for source in sources], n),
        "plain: decode and augment": best(lambda: [plain(load_image(source)) for source in sources], n),
        "once a run: hash the content": best(lambda: [content_of(source) for source in sources], n),
        "once: decode to 256 x 256": best(lambda: [preprocess(source, margin(SPEC)) for source in sources], n),
    }
    with tempfile.TemporaryDirectory() as folder:
        os.environ[CACHE_VARIABLE] = folder
        pixels = Pixels(samples, SPEC, kind="train")
        found["each epoch: read"] = best(lambda: pixels.read(range(n)), n)
        batch = pixels.read(range(min(n, _BATCH)))
        draws = epoch_draws(len(batch), 0, 0)
        for name, preset in PRESETS.items():
            run = lambda preset=preset: augmented(batch, draws, preset, SPEC.crop)  # noqa: E731
            found[f"each epoch: augment, {name}"] = best(run, len(batch))
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
