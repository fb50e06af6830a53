from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import runtime_hand
from PIL import Image
from runtime_by_hand import agreement, main, overhead_us, photos_of_side

from edgetl_runtime.errors import DataError
from edgetl_runtime.manifest import Preprocess
from edgetl_runtime.preprocess import preprocess

SIZES = [(256, 256), (256, 259), (480, 640), (333, 501), (224, 900), (100, 90)]


def noise(height: int, width: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("size", SIZES)
def test_the_hand_written_pixels_are_those_of_edgetl(size: tuple[int, int]) -> None:
    image = noise(*size)
    ours = preprocess(image, Preprocess(256, (224, 224)))
    np.testing.assert_array_equal(runtime_hand.as_it_is(runtime_hand.crop(image))[0], ours)


@pytest.mark.parametrize("reverse", [False, True])
def test_the_fast_normalisations_equal_the_plain_one(reverse: bool) -> None:
    image = noise(224, 224)
    given = Image.fromarray(np.asarray(image)[:, :, ::-1].copy()) if reverse else image
    plain = runtime_hand.normalise_plain(image)
    assert abs(plain).max() > 1
    np.testing.assert_allclose(runtime_hand.normalise_nchw(given, reverse), plain, atol=2e-6)
    np.testing.assert_allclose(runtime_hand.normalise_nhwc(given, reverse), plain.transpose(0, 2, 3, 1), atol=2e-6)


def test_five_labels_the_best_first() -> None:
    logits = np.array([0, 3, 1, 2, -1, 5], np.float32)
    found = runtime_hand.top5(logits, list("abcdef"))
    assert [name for name, _ in found] == list("fbdca")
    assert found[0][1] == pytest.approx(np.exp(5) / np.exp(logits).sum())


def test_the_overhead_is_the_difference_and_not_the_time_of_a_run() -> None:
    now = [0]

    def engine() -> None:
        now[0] += 3_000_000

    def run() -> None:
        engine()
        now[0] += 25_000

    assert overhead_us(engine, run, rounds=3, clock=lambda: now[0]) == [25, 25, 25]
    assert overhead_us(engine, engine, rounds=3, clock=lambda: now[0]) == [0, 0, 0]


def test_photos_get_their_longer_side(tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    for folder in (source, out):
        folder.mkdir()
    noise(64, 32).save(source / "a.jpg")
    noise(30, 60).save(source / "b.jpg")
    sizes = set()
    for path in photos_of_side(source, 2, 96, out):
        with Image.open(path) as image:
            sizes.add((image.size, image.format))
    assert sizes == {((48, 96), "JPEG"), ((96, 48), "JPEG")}
    assert {path.parent for path in photos_of_side(source, 2, 0, out)} == {source}
    with pytest.raises(DataError, match="2 photos, not 3"):
        photos_of_side(source, 3, 0, out)


def test_agreement_is_the_share_of_equal_labels() -> None:
    assert agreement(["a", "b", "c", "d"], ["a", "x", "c", "d"]) == 0.75


@pytest.mark.parametrize(
    "options", [["--engines", "onnxrt"], ["--parts", "photos"], ["--rounds", "2"], ["--threads", "0"]]
)
def test_options_that_make_no_sense_are_exit_code_2(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bundle", "--photos", str(tmp_path), "--work", str(tmp_path), *options]) == 2
    assert "fix: " in capsys.readouterr().err
