"""Fuzz the reading of photos with boxes, and their decoding: what is wrong is an `EdgetlError`, nothing else escapes.

    python tests/fuzz/fuzz_boxes.py [--n 5000] [--seed 0] [--only INDEX]

Inputs are data sets in COCO, Pascal VOC and YOLO with damage, as in `fuzz_masks`: files and texts, photos among them;
and manifests of detection with fields changed, and outputs of any value. The exit code is 1 when anything but an
`EdgetlError` escaped, a box was read that lies outside of its photo or has no area, or one was found that does.
"""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from fuzz_masks import Generator, damage, main

from edgetl.data.dataset import USUAL
from edgetl.data.options import DataOptions
from edgetl.tasks.detection.reading import read_dataset
from edgetl_export.progress import silent
from edgetl_runtime import Detector, FakeSession, Manifest, fake_detector
from edgetl_runtime.errors import EdgetlError
from edgetl_runtime.preprocess import load_image
from tests.edgetl.tasks.detection import made_up

__all__ = ["try_one"]

WRITERS: tuple[Callable[[Path], Path], ...] = (made_up.coco, made_up.voc, made_up.yolo)
_EXIF_TURNED = 6
_ODD: tuple[Any, ...] = (0, -1, 1, 2.5, 1e300, float("nan"), None, "x", [], {}, True, [[1, 1]], [[[0.5, 0.5]]], 10**30)


def try_one(seed: int, index: int, folder: Path) -> str:
    """What became of one input, in a word. Raises what should not have escaped."""
    rng = np.random.default_rng((seed, index))
    return _try_data(rng, folder) if rng.random() < 0.5 else _try_manifest(rng)


def _try_data(rng: Generator, folder: Path) -> str:
    root = WRITERS[rng.integers(len(WRITERS))](folder)
    files = sorted(file for file in root.rglob("*") if file.is_file())
    texts = [file for file in files if file.suffix != ".png"]
    for _ in range(int(rng.integers(1, 4))):
        damage(rng, texts if rng.random() < 0.6 else files)
    if rng.random() < 0.1:
        _turn(files[rng.integers(len(files))])
    try:
        options = DataOptions(skip_bad=bool(rng.random() < 0.5))
        data = read_dataset(root, options, spec=USUAL, track=silent, task="detection")
        for sample in (*data.train, *data.val):
            _check(sample, len(data.labels))
    except EdgetlError:
        return "refused"
    return "read"


def _turn(file: Path) -> None:
    """A photo that says it lies on its side."""
    if file.suffix == ".png" and file.exists():
        try:
            image = load_image(file.read_bytes())
        except EdgetlError:
            return
        exif = image.getexif()
        exif[0x0112] = _EXIF_TURNED
        image.save(file, exif=exif)


def _check(sample: Any, labels: int) -> None:
    width, height = load_image(sample.source).size
    assert sample.size == (width, height), f"{sample.name}: {sample.size}"
    target = np.zeros((0, 6)) if sample.target is None else np.asarray(sample.target)
    assert np.isfinite(target).all(), f"{sample.name}: {target}"
    left, top, right, bottom, label, _ = target.T
    assert ((right > left) & (bottom > top)).all(), f"{sample.name}: no area"
    assert ((left >= -1) & (top >= -1) & (right <= width + 1) & (bottom <= height + 1)).all(), f"{sample.name}: outside"
    assert np.isin(label, range(labels)).all(), f"{sample.name}: labels"


def _try_manifest(rng: Generator) -> str:
    """A manifest whose decoder was changed in its text, and outputs of any value."""
    base = fake_detector(["a", "b"], lambda image: [], size=(32, 48)).manifest
    raw = json.loads(base.to_json())
    if rng.random() < 0.7:
        _change(rng, raw, ["decoder", "outputs", "labels", "preprocess"])
    try:
        manifest = Manifest.from_json(json.dumps(raw), where="fuzz")
        return _decode(rng, manifest)
    except EdgetlError:
        return "refused"


def _change(rng: Generator, raw: dict[str, Any], names: list[str]) -> None:
    """Something in one of these fields becomes another value, or goes."""
    place: Any = raw
    key: Any = names[rng.integers(len(names))]
    while rng.random() < 0.8 and isinstance(place[key], (dict, list)) and place[key]:
        place = place[key]
        key = list(place)[rng.integers(len(place))] if isinstance(place, dict) else int(rng.integers(len(place)))
    if rng.random() < 0.2:
        del place[key]
    else:
        place[key] = copy.deepcopy(_ODD[rng.integers(len(_ODD))])


def _decode(rng: Generator, manifest: Manifest) -> str:
    scale = float(rng.choice([1.0, 30.0, 1e-30, 1e30]))
    with np.errstate(all="ignore"):
        outputs = {
            spec.name: rng.normal(0, scale, [abs(side) for side in spec.shape]).astype(np.float32)
            for spec in manifest.outputs
        }
    if rng.random() < 0.2:
        values = next(iter(outputs.values())).reshape(-1)
        values[rng.integers(len(values))] = rng.choice([np.nan, np.inf])
    session = FakeSession((manifest.input,), manifest.outputs, lambda feeds: outputs)
    detector = Detector(manifest, manifest.variants[0], session)
    height, width = (int(side) for side in rng.integers(1, 90, 2))
    photo = rng.integers(0, 255, (height, width, 3)).astype(np.uint8)
    found = detector.predict(photo, score=float(rng.choice([0.0, 0.02, 0.3, 1.0])), iou=float(rng.choice([0, 0.5, 1])))
    assert np.isfinite(found.boxes).all()
    assert ((found.boxes >= 0) & (found.boxes <= [width, height, width, height])).all(), f"{found.boxes}"
    assert (found.boxes[:, 2:] > found.boxes[:, :2]).all(), f"{found.boxes}"
    assert ((found.scores >= 0) & (found.scores <= 1)).all()
    assert (np.diff(found.scores) <= 0).all()
    assert len(str(found)) >= 0
    assert found.drawn(load_image(photo)).size == (width, height)
    json.dumps(found.to_json(), allow_nan=False)
    return "decoded"


if __name__ == "__main__":
    sys.exit(main(__doc__, try_one))
