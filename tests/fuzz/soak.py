"""Does memory stay flat over thousands of predictions, and do threads get the answers of one?

    python tests/fuzz/soak.py BUNDLE [--n 10000] [--threads 8] [--per-thread 500] [--json FILE]

Every engine that is installed runs the bundle's smallest precision in a process of its own: JPEG bytes and numpy arrays
in turn. The exit code is 1 when the process grew by more than 5 MB after a tenth of the predictions as warm-up, or an
answer differed.
"""

from __future__ import annotations

import argparse
import gc
import io
import json
import os
import subprocess
import sys
import threading
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "runtime"))

from edgetl_runtime import Classifier, Prediction, load, open_bundle  # noqa: E402

__all__ = ["Soaked", "main", "soak"]

MOST_GROWTH = 5 * 2**20
PREFERRED = ("int8", "fp16", "fp32")


@dataclass(frozen=True)
class Soaked:
    """Bytes of resident memory after warm-up and what was added since, and how many answers of threads differed."""

    variant: str
    predictions: int
    warm: int
    growth: int
    threads: int
    threaded: int
    different: int

    @property
    def passed(self) -> bool:
        """Memory flat, answers the same."""
        return self.growth < MOST_GROWTH and not self.different


def resident() -> int:
    """Bytes of memory that this process has now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def sources(seed: int = 0) -> list[bytes | np.ndarray]:
    """JPEG files and arrays of several sizes, the same pictures for every engine."""
    rng = np.random.default_rng(seed)
    found: list[bytes | np.ndarray] = []
    for width, height in ((64, 64), (320, 240), (120, 200), (33, 47)):
        coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
        picture = coarse.resize((width, height), Image.Resampling.BICUBIC)
        content = io.BytesIO()
        picture.save(content, "JPEG")
        found += [content.getvalue(), np.asarray(picture)]
    return found


def soak(path: Path, variant: str, *, n: int, threads: int, per_thread: int) -> Soaked:
    """`n` predictions one after the other, then `per_thread` of each of `threads` on the same session."""
    pictures = sources()
    with load(path, variant=variant, threads=1) as classifier:
        expected = [classifier.predict(picture) for picture in pictures]
        warm, different = 0, 0
        for turn in range(n):
            place = turn % len(pictures)
            different += classifier.predict(pictures[place]) != expected[place]
            if turn == n // 10:
                gc.collect()
                warm = resident()
        gc.collect()
        growth = resident() - warm
        different += _hammered(classifier, pictures, expected, threads, per_thread)
    return Soaked(variant, n, warm, growth, threads, threads * per_thread, different)


def _hammered(
    classifier: Classifier,
    pictures: list[bytes | np.ndarray],
    expected: list[Prediction],
    threads: int,
    per_thread: int,
) -> int:
    """How many answers differ when `threads` ask the same session at the same time."""
    different: list[int] = []
    start = threading.Barrier(threads)

    def ask(offset: int) -> None:
        start.wait()
        for turn in range(per_thread):
            place = (turn + offset) % len(pictures)
            if classifier.predict(pictures[place]) != expected[place]:
                different.append(place)
        different.append(-1)  # it came to its end

    running = [threading.Thread(target=ask, args=(offset,)) for offset in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    finished = different.count(-1)
    return len(different) - finished + (threads - finished)


def main(words: list[str] | None = None) -> int:
    """Soak every engine; see the module."""
    parser = argparse.ArgumentParser(allow_abbrev=False, description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--n", type=int, default=10_000)
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--per-thread", type=int, default=500)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--variant", help=argparse.SUPPRESS)
    given = parser.parse_args(words)
    if given.variant:
        found = soak(given.bundle, given.variant, n=given.n, threads=given.threads, per_thread=given.per_thread)
        print(json.dumps(asdict(found)))
        return 0
    best: dict[str, str] = {}
    for precision in reversed(PREFERRED):
        for variant in open_bundle(given.bundle).manifest.variants:
            if variant.precision == precision:
                best[variant.target] = variant.id
    options = ["--n", str(given.n), "--threads", str(given.threads), "--per-thread", str(given.per_thread)]
    results = []
    for variant_id in best.values():
        command = [sys.executable, __file__, str(given.bundle), "--variant", variant_id, *options]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        result = Soaked(**json.loads(done.stdout.splitlines()[-1]))
        results.append(result)
        print(
            f"{result.variant:14} {result.predictions} predictions: {result.warm / 2**20:.1f} MB after warm-up, "
            f"{result.growth / 2**20:+.2f} MB since; {result.threads} threads, {result.threaded} predictions: "
            f"{result.different} differ; {'passed' if result.passed else 'FAILED'}"
        )
    if given.json is not None:
        given.json.write_text(json.dumps([asdict(result) for result in results], indent=1) + "\n")
    return 0 if results and all(result.passed for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
