from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from edgetl.verify.measure.original_outputs import KEPT_FILES, RecordingOriginal, read_kept_outputs
from edgetl_runtime.bundle import Bundle, open_bundle
from edgetl_runtime.errors import BundleError, DataError, OutputError

Model = Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]]


def brightness(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """(batch, H, W, 3) to (batch, 4)."""
    means = images.mean(axis=(1, 2, 3))
    return np.stack([means, -means, means**2, means * 0], axis=1).astype(np.float32)


def shape(bundle: Bundle) -> tuple[int, ...]:
    return bundle.manifest.input.shape[1:]


@pytest.fixture
def bundle(pristine_bundle: Path, tmp_path: Path) -> Path:
    """A bundle of four labels that may be changed."""
    return Path(shutil.copytree(pristine_bundle, tmp_path / "colours.edgetl"))


@pytest.fixture
def images(bundle: Path) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (5, *shape(open_bundle(bundle))), dtype=np.uint8)


@pytest.fixture
def kept(bundle: Path, images: npt.NDArray[np.uint8]) -> Path:
    recording = RecordingOriginal(brightness)
    for start in (0, 3):
        recording(images[start : start + 3])
    recording(images[:1] // 2)  # golden samples, say: asked afterwards, not among the photos
    recording.keep(bundle, open_bundle(bundle).manifest, [0, 1, 2, 3, 0])
    return bundle


def test_answers_are_looked_up_by_pixels_in_any_order(kept: Path, images: npt.NDArray[np.uint8]) -> None:
    found = read_kept_outputs(open_bundle(kept))
    assert found is not None
    order = [4, 0, 2]
    np.testing.assert_array_equal(found(images[order]), brightness(images[order]))
    open_bundle(kept).check()


def test_an_image_that_is_not_among_them(kept: Path, images: npt.NDArray[np.uint8]) -> None:
    found = read_kept_outputs(open_bundle(kept))
    assert found is not None
    other = images.copy()
    other[1, 0, 0, 0] ^= 1
    with pytest.raises(DataError, match="1 of 5 images are not among the 5"):
        found(other)


def test_a_bundle_that_keeps_none(bundle: Path) -> None:
    assert read_kept_outputs(open_bundle(bundle)) is None


def truncated(folder: Path) -> None:
    path = folder / KEPT_FILES[0]
    path.write_bytes(path.read_bytes()[:-9])


def no_json(folder: Path) -> None:
    (folder / KEPT_FILES[1]).write_text("{")


def lacks(folder: Path) -> None:
    path = folder / KEPT_FILES[1]
    path.write_text(path.read_text().replace('"n"', '"m"'))


def newer(folder: Path) -> None:
    change(folder, schema=2)


def fewer(folder: Path) -> None:
    change(folder, n=4)


def another_model(folder: Path) -> None:
    change(folder, checkpoint_sha256="f" * 64)


def other_labels(folder: Path) -> None:
    change(folder, labels=["a", "b", "c", "d"])


def change(folder: Path, **fields: object) -> None:
    path = folder / KEPT_FILES[1]
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncated, "SHA-256 differs"),
        (no_json, "damaged"),
        (lacks, "damaged"),
        (newer, "schema 2"),
        (fewer, r"damaged: images is uint8 \[5, 32\], not \[4, 32\]"),
        (another_model, "another model"),
        (other_labels, "another model"),
    ],
)
def test_what_cannot_be_used_says_so(kept: Path, damage: Callable[[Path], None], message: str) -> None:
    damage(kept)
    with pytest.raises(BundleError, match=message):
        read_kept_outputs(open_bundle(kept))


def test_keeping_replaces_what_was_kept(kept: Path, images: npt.NDArray[np.uint8]) -> None:
    recording = RecordingOriginal(lambda given: brightness(given) * 2)
    recording(images[:2])
    recording.keep(kept, open_bundle(kept).manifest, [0, 1])
    found = read_kept_outputs(open_bundle(kept))
    assert found is not None
    np.testing.assert_array_equal(found(images[:2]), brightness(images[:2]) * 2)
    assert not list(kept.glob("reference/*.part"))


def test_one_file_keeps_nothing(bundle: Path, tmp_path: Path) -> None:
    manifest = replace(open_bundle(bundle).manifest)
    with pytest.raises(OutputError, match="one file"):
        RecordingOriginal(brightness).keep(tmp_path / "x.edgetl", manifest, [])
