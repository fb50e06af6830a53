from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from edgetl.data.augment import augmented, epoch_draws, evaluation_crop
from edgetl.data.augmentation import PRESETS
from edgetl.data.dataset import Sample, load_dataset
from edgetl.data.loader import Normalizer, Pixels, ahead, evaluation_batches, margin
from edgetl_runtime.errors import DataError, ImageError
from edgetl_runtime.manifest import Normalize, Preprocess
from edgetl_runtime.preprocess import preprocess

SPEC = Preprocess(resize=36, crop=(32, 32))

Fresh = Callable[[], "tuple[Sample, ...]"]


@pytest.fixture
def fresh(make_photos: Callable[..., Path], tmp_path: Path) -> Fresh:
    """Reads ten photos of two labels as a new process would, one lying on its side."""
    folder = make_photos(tmp_path / "photos", {"a": 6, "b": 6})
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(folder / "a" / "000.jpg").save(folder / "a" / "000.jpg", exif=exif)
    return lambda: load_dataset(folder).train


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGETL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "pixels"


def rows_of(cache: Path) -> list[Path]:
    return sorted(cache.glob("*/rows.u8"))


def damage(cache: Path) -> None:
    for rows in rows_of(cache):
        rows.write_bytes(bytes(rows.stat().st_size))


def test_evaluation_is_the_runtimes_preprocessing(fresh: Fresh, cache: Path) -> None:
    samples = [*fresh(), *(Sample(np.full((8, 8, 3), level, np.uint8), 1, "grey") for level in (7, 200))]
    expected = torch.from_numpy(np.stack([preprocess(sample.source, SPEC) for sample in samples]))
    for cached in (True, True, False):
        pixels = Pixels(samples, SPEC, kind="eval", cache=cached)
        assert pixels.shape == (32, 32, 3)
        assert torch.equal(pixels.read(range(len(samples))), expected)
        assert pixels.labels.tolist() == [sample.label for sample in samples]
    assert len(rows_of(cache)) == 1


@pytest.mark.parametrize(
    "spec",
    [
        SPEC,
        *(Preprocess(*sizes) for sizes in ((36, (31, 29)), (20, (24, 24)), ((27, 46), (24, 40)), ((46, 30), (40, 26)))),
    ],
)
def test_training_sees_a_margin_around_what_evaluation_sees(fresh: Fresh, spec: Preprocess) -> None:
    train, val = Pixels(fresh(), spec, kind="train"), Pixels(fresh(), spec, kind="eval")
    order = range(len(train))
    if spec is SPEC:
        assert train.shape == (36, 36, 3)
    if spec.resize == (27, 46):
        assert train.shape == (24, 44, 3)  # as much as there is on each side, in steps of 4
    assert torch.equal(evaluation_crop(train.read(order), spec.crop).permute(0, 2, 3, 1), val.read(order).float())


def test_without_a_cache_the_pixels_are_the_same(
    fresh: Fresh, cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    kept = Pixels(fresh(), SPEC, kind="train")
    assert kept.notes == ()
    (tmp_path / "file").write_text("")
    for value, why in (("", "the cache is off"), (str(tmp_path / "file"), "cannot keep decoded images")):
        monkeypatch.setenv("EDGETL_CACHE", value)
        decoded = Pixels(fresh(), SPEC, kind="train")
        assert torch.equal(decoded.read([4, 0, 4]), kept.read([4, 0, 4]))
        assert len(decoded.notes) == 1
        assert decoded.notes[0].startswith(f"images are decoded each time they are read: {why}")


def test_a_damaged_cache_is_told_of(fresh: Fresh, cache: Path) -> None:
    expected = Pixels(fresh(), SPEC, kind="eval").read(range(10))
    damage(cache)
    again = Pixels(fresh(), SPEC, kind="eval")
    assert torch.equal(again.read(range(10)), expected)
    assert again.notes == ("10 images of the cache were damaged, and were decoded again",)


def test_what_the_pixels_depend_on_is_in_the_key(fresh: Fresh, cache: Path) -> None:
    Pixels(fresh(), SPEC, kind="eval")
    Pixels(fresh(), SPEC, kind="eval")
    assert len(rows_of(cache)) == 1
    Pixels(fresh(), SPEC, kind="train")
    Pixels(fresh(), Preprocess(36, (32, 32), "bicubic"), kind="eval")
    Pixels(fresh()[1:], SPEC, kind="eval")
    Pixels(fresh()[::-1], SPEC, kind="eval")
    assert len(rows_of(cache)) == 5
    for number, spec in enumerate((((36, 36), (32, 24)), (36, (32, 24)), ((36, 36), (24, 32)), ((40, 36), (32, 24)))):
        Pixels(fresh(), Preprocess(*spec), kind="eval")
        assert len(rows_of(cache)) == 6 + number


def test_a_source_that_changed_is_another_image(fresh: Fresh, cache: Path) -> None:
    before = Pixels(fresh(), SPEC, kind="eval").read([2])
    path = Path(str(fresh()[2].source))
    path.write_bytes(Path(str(fresh()[-1].source)).read_bytes())
    after = Pixels(fresh(), SPEC, kind="eval")
    assert not torch.equal(after.read([2]), before)
    assert torch.equal(after.read([2])[0], torch.from_numpy(preprocess(path, SPEC).copy()))
    assert len(rows_of(cache)) == 2


@pytest.mark.parametrize("cached", [True, False])
def test_a_source_that_changes_while_it_is_used_is_noticed(fresh: Fresh, cache: Path, *, cached: bool) -> None:
    samples = fresh()
    pixels = Pixels(samples, SPEC, kind="eval", cache=cached)
    pixels.read(range(10))
    damage(cache)
    path = Path(str(samples[3].source))
    path.write_bytes(Path(str(samples[-1].source)).read_bytes())
    pixels.read([0, 1, 2])
    with pytest.raises(DataError, match=rf"{path.name} has changed"):
        pixels.read([3])


def test_images_of_a_cache_outlive_their_files(fresh: Fresh, cache: Path) -> None:
    samples = fresh()
    pixels = Pixels(samples, SPEC, kind="eval")
    Path(str(samples[3].source)).unlink()
    assert pixels.read([3]).shape == (1, 32, 32, 3)
    damage(cache)
    with pytest.raises(ImageError, match=rf"no image file at .*{Path(str(samples[3].source)).name}"):
        pixels.read([3])


def test_an_image_that_becomes_unreadable_ends_the_batches_at_its_place(fresh: Fresh) -> None:
    samples = fresh()
    pixels = Pixels(samples, SPEC, kind="train", cache=False)
    pixels.read(range(10))
    Path(str(samples[7].source)).unlink()
    reading = ahead(pixels, [[1, 2], [3, 4], [6, 7], [8, 9]])
    assert [next(reading)[2], next(reading)[2]] == [[1, 2], [3, 4]]
    with pytest.raises(ImageError, match=r"no image file at .*\.jpg"):
        next(reading)


def test_files_and_arrays_that_are_no_image_are_named(fresh: Fresh, tmp_path: Path, cache: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(b"no")
    torn = io.BytesIO()
    Image.new("RGB", (40, 40)).save(torn, "PNG")
    (tmp_path / "torn.png").write_bytes(torn.getvalue()[:60])
    values = np.zeros((8, 8, 3), np.float32)
    values[0, 0, 0] = np.nan
    for source, says in (
        (tmp_path / "x.jpg", r"x\.jpg: "),
        (tmp_path / "torn.png", r"torn\.png: "),
        (values, "digit-7: an image array must be uint8, this one is float32"),
    ):
        bad = Sample(source, 0, "digit-7")  # type: ignore[arg-type]
        for cached in (True, False):
            with pytest.raises(DataError, match=says):
                Pixels([*fresh(), bad], SPEC, kind="eval", cache=cached).read([10])
    assert not rows_of(cache)


def test_contents_are_hashed_once(fresh: Fresh, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = fresh()
    contents = [sample.content for sample in samples]
    monkeypatch.setattr("edgetl.data.dataset.content_of", None)
    Pixels(samples, SPEC, kind="eval").read([1])
    assert [sample.content for sample in samples] == contents


def test_batches_come_in_the_order_that_was_asked_for(fresh: Fresh) -> None:
    pixels = Pixels(fresh(), SPEC, kind="eval")
    order = [[4, 1, 9], [0], [], [*range(9, -1, -1), *range(10), 5], [2, 2]]
    found = list(ahead(pixels, iter(order)))
    assert [indices for _, _, indices in found] == order
    for read, labels, indices in found:
        assert torch.equal(read, pixels.read(indices))
        assert torch.equal(labels, pixels.labels[torch.tensor(indices, dtype=torch.int64)])
    assert list(ahead(pixels, [])) == []


def test_only_a_few_batches_are_read_ahead(fresh: Fresh) -> None:
    asked: list[int] = []

    def batches() -> Iterator[list[int]]:
        for number in range(100):
            asked.append(number)
            yield [number % 10]

    reading = ahead(Pixels(fresh(), SPEC, kind="eval"), batches())
    next(reading)
    assert len(asked) == 4
    next(reading)
    assert len(asked) == 5
    reading.close()  # type: ignore[attr-defined]
    assert len(asked) == 5


def test_evaluation_batches_are_all_images_once(fresh: Fresh) -> None:
    pixels = Pixels(fresh(), SPEC, kind="eval")
    found = list(evaluation_batches(pixels, 4))
    assert [len(labels) for _, labels in found] == [4, 4, 2]
    assert torch.equal(torch.cat([read for read, _ in found]), pixels.read(range(10)))
    assert torch.equal(torch.cat([labels for _, labels in found]), pixels.labels)


def test_no_samples_are_no_batches() -> None:
    pixels = Pixels([], SPEC, kind="eval")
    assert len(pixels) == 0
    assert list(evaluation_batches(pixels, 4)) == []
    assert pixels.notes == ()


def test_training_and_evaluation_are_normalised_alike(fresh: Fresh) -> None:
    normalized = Normalizer(Normalize((0.5, 0.4, 0.3), (0.2, 0.3, 0.1)), torch.device("cpu"))
    train, val = Pixels(fresh(), SPEC, kind="train").read(range(10)), Pixels(fresh(), SPEC, kind="eval").read(range(10))
    seen = normalized.levels(augmented(train, epoch_draws(10, 0, 0), PRESETS["none"], SPEC.crop))
    assert torch.equal(seen, normalized(val))
    assert seen.is_contiguous(memory_format=torch.channels_last)
    expected = (val.numpy() / 255 - [0.5, 0.4, 0.3]) / [0.2, 0.3, 0.1]
    np.testing.assert_allclose(seen.permute(0, 2, 3, 1), expected, atol=1e-5)


def test_large_photos_are_reduced_in_training_too_and_kept_apart(tmp_path: Path, cache: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    path = tmp_path / "large.jpg"
    Image.fromarray(noise).resize((800, 600), Image.Resampling.BICUBIC).save(path)
    scaled = replace(SPEC, decode="scaled")
    read = {}
    for spec in (SPEC, scaled, SPEC, scaled):
        pixels = Pixels([Sample(path, 0, "large")], spec, kind="eval")
        read[spec.decode] = pixels.read([0])[0].numpy()
        np.testing.assert_array_equal(read[spec.decode], preprocess(path, spec))
        train = Pixels([Sample(path, 0, "large")], spec, kind="train")
        np.testing.assert_array_equal(train.read([0])[0].numpy(), preprocess(path, margin(spec)))
    assert (read["exact"] != read["scaled"]).any()
    assert len(rows_of(cache)) == 4
