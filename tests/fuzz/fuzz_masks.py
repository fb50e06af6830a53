"""Fuzz the reading of masks, and their decoding: what is wrong is an `EdgetlError`, and nothing else escapes.

    python tests/fuzz/fuzz_masks.py [--n 5000] [--seed 0] [--only INDEX]

Inputs are data sets of photos with masks in every layout (values, palettes, colours, COCO, YOLO) with damage: bytes of
a file changed, cut off or exchanged, files gone or renamed, numbers in texts changed; and manifests of segmentation
with fields changed, and outputs of any shape and value. The exit code is 1 when anything but an `EdgetlError` escaped,
or a mask was read that has another size than its photo, or values that are no labels.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "export"), str(ROOT / "runtime")]

from edgetl.data.dataset import USUAL  # noqa: E402
from edgetl.data.options import DataOptions  # noqa: E402
from edgetl.tasks.segmentation.mask_files import IGNORED  # noqa: E402
from edgetl.tasks.segmentation.reading import read_masks, truth_of  # noqa: E402
from edgetl_export.progress import silent  # noqa: E402
from edgetl_runtime import FakeSession, Label, Manifest, Preprocess, Segmenter, TensorSpec, fake_segmenter  # noqa: E402
from edgetl_runtime.errors import EdgetlError  # noqa: E402
from edgetl_runtime.preprocess import load_image  # noqa: E402
from tests.edgetl.tasks.segmentation import scenes  # noqa: E402

__all__ = ["Trying", "damage", "main", "try_all", "try_one"]

Generator = np.random.Generator
Trying = Callable[[int, int, Path], str]
WRITERS: tuple[Callable[[Path], Path], ...] = (
    lambda root: scenes.with_values(root, n=2),
    lambda root: scenes.with_values(root, n=2, palette=True),
    lambda root: scenes.with_colours(root, n=2),
    lambda root: scenes.with_colours(root, "labelmap.txt", n=2),
    lambda root: scenes.with_coco(root, n=2),
    lambda root: scenes.with_yolo(root, n=2),
)
_NUMBER = re.compile(rb"-?\d+(\.\d+)?")
_NUMBERS = (b"0", b"-1", b"255", b"256", b"1e9", b"99999999999999999999", b"nan", b"0.5", b"", b"x", b"[]", b"null")


def try_one(seed: int, index: int, folder: Path) -> str:
    """What became of one input, in a word. Raises what should not have escaped."""
    rng = np.random.default_rng((seed, index))
    return _try_data(rng, folder) if rng.random() < 0.7 else _try_manifest(rng)


def _try_data(rng: Generator, folder: Path) -> str:
    root = WRITERS[rng.integers(len(WRITERS))](folder)
    files = sorted(file for file in root.rglob("*") if file.is_file())
    for _ in range(int(rng.integers(1, 4))):
        damage(rng, files)
    try:
        data = read_masks(root, DataOptions(skip_bad=bool(rng.random() < 0.5)), spec=USUAL, track=silent)
        for sample in (*data.train, *data.val):
            mask = truth_of(sample)
            assert mask.shape == load_image(sample.source).size[::-1], f"{sample.name}: {mask.shape}"
            assert set(np.unique(mask)) <= {*range(len(data.labels)), IGNORED}, f"{sample.name}: values"
    except EdgetlError:
        return "refused"
    return "read"


def damage(rng: Generator, files: list[Path]) -> None:
    """Something done to one of `files`."""
    file = files[rng.integers(len(files))]
    if not file.exists():
        return
    content = file.read_bytes()
    kind = rng.integers(7)
    if kind == 0 and content:
        places = rng.integers(0, len(content), rng.integers(1, 9))
        changed = bytearray(content)
        for place in places.tolist():
            changed[place] = int(rng.integers(256))
        file.write_bytes(changed)
    elif kind == 1:
        file.write_bytes(content[: rng.integers(0, len(content) + 1)])
    elif kind == 2:
        file.unlink()
    elif kind == 3:
        file.rename(file.with_name(str(rng.choice(["labels.txt", "0.png", "x", "7.jpg", "class_dict.csv"]))))
    elif kind == 4:
        other = files[rng.integers(len(files))]
        file.write_bytes(other.read_bytes() if other.exists() else b"")
    else:
        found = list(_NUMBER.finditer(content))
        if found and file.suffix != ".png":
            where = found[rng.integers(len(found))]
            number = _NUMBERS[rng.integers(len(_NUMBERS))]
            file.write_bytes(content[: where.start()] + number + content[where.end() :])


def _try_manifest(rng: Generator) -> str:
    """A manifest with fields changed, and outputs of its shape or of another."""
    n = int(rng.choice([1, 2, 3, 21, 255, 300]))
    base = fake_segmenter(["a", "b"], lambda image: image[:, :, 0], size=(32, 48)).manifest
    shape = tuple(rng.choice([-1, 1, 2, 4, 8, n], rng.integers(1, 6)).tolist())
    shape = (1, 4, 6, n) if rng.random() < 0.8 else shape
    dtype = str(rng.choice(["float32", "uint8", "int64", "int32", "float64", "float16"], p=[0.8, *[0.04] * 5]))
    mode = str(rng.choice(["stretch", "crop", "letterbox"]))
    spec = Preprocess(0 if mode != "crop" else 32, (32, 48), mode=mode)
    try:
        labels = tuple(Label(str(index), str(index)) for index in range(n))
        output = TensorSpec("logits", dtype, shape)
        manifest = dataclasses.replace(base, labels=labels, output=output, outputs=(), preprocess=spec)
        return _decode(rng, manifest, dtype, shape)
    except EdgetlError:
        return "refused"


def _decode(rng: Generator, manifest: Manifest, dtype: str, shape: tuple[int, ...]) -> str:
    sides = tuple(abs(side) for side in shape)
    if rng.random() < 0.2:
        sides = (*sides[:-1], int(rng.integers(1, 9)))
    values: Any = rng.normal(0, float(rng.choice([1.0, 1e-30, 1e30])), sides)
    with np.errstate(all="ignore"):
        values = np.abs(values).astype(dtype) if dtype.startswith(("u", "i")) else values.astype(dtype)
    if values.size and dtype.startswith("f") and rng.random() < 0.2:
        values.reshape(-1)[rng.integers(values.size)] = rng.choice([np.nan, np.inf])
    session = FakeSession((manifest.input,), (manifest.output,), lambda feeds: {"logits": values})
    segmenter = Segmenter(manifest, manifest.variants[0], session)
    height, width = (int(side) for side in rng.integers(1, 90, 2))
    photo = rng.integers(0, 255, (height, width, 3)).astype(np.uint8)
    found = segmenter.predict(photo, smooth=bool(rng.random() < 0.5))
    assert found.mask.shape == (height, width)
    assert np.isin(found.mask, [*range(len(manifest.labels)), IGNORED]).all()
    assert len(str(found)) > 0
    assert found.drawn(load_image(photo)).size == (width, height)
    assert "counts" in found.to_json()
    return "decoded"


def try_all(n: int, seed: int, only: int | None = None, *, trying: Trying = try_one) -> Iterator[tuple[int, str]]:
    """Number and outcome of each input; what escaped is told as its outcome."""
    for index in range(n) if only is None else [only]:
        with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                yield index, trying(seed, index, Path(name) / "data")
            except Exception as error:
                if only is not None:
                    raise
                yield index, f"ESCAPED {type(error).__name__}: {error}"


def main(about: str | None = __doc__, trying: Trying = try_one) -> int:
    """The command line of a fuzzer that tries inputs one by one."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int)
    arguments = parser.parse_args()
    counts: Counter[str] = Counter()
    for index, outcome in try_all(arguments.n, arguments.seed, arguments.only, trying=trying):
        counts[outcome.split()[0]] += 1
        if outcome.startswith("ESCAPED"):
            print(f"{index}: {outcome}")
    print(dict(counts))
    return 1 if counts["ESCAPED"] else 0


if __name__ == "__main__":
    sys.exit(main())
