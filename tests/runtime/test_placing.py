"""Where a photo lies in the tensor: what `preprocess` does and what `Placed` says are one thing, in every mode."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgetl_runtime import Manifest, Preprocess, open_bundle, preprocess
from edgetl_runtime.errors import BundleError, ImageError, UsageError
from edgetl_runtime.placing import Placed, place
from edgetl_runtime.preprocess import preprocess_placed

CROP = Preprocess(32, (24, 20))
PADDED = Preprocess(16, (24, 40))
STRETCH = Preprocess(0, (24, 20), mode="stretch")
LETTERBOX = Preprocess(0, (24, 20), mode="letterbox")
ALL = [CROP, PADDED, STRETCH, LETTERBOX]
SIZES = [(100, 60), (60, 100), (40, 30), (9, 7), (64, 64), (20, 24), (333, 500)]


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8))


def with_square(width: int, height: int, box: tuple[int, int, int, int]) -> Image.Image:
    """A black image with a white box in it."""
    image = Image.new("RGB", (width, height))
    image.paste((255, 255, 255), box)
    return image


def white(tensor: np.ndarray) -> tuple[float, float, float, float]:
    """Left, top, right, bottom of what is white, in parts of pixels: edges in between are grey."""
    grey = tensor[..., 0].astype(float) / 255
    columns, rows = grey.max(0), grey.max(1)
    left, top = np.flatnonzero(columns > 0.5)[0], np.flatnonzero(rows > 0.5)[0]
    return left, top, left + columns.sum(), top + rows.sum()


@pytest.mark.parametrize("size", SIZES)
def test_stretched_pixels_are_those_of_one_resize(size: tuple[int, int]) -> None:
    image = noise(*size)
    for name, kind in (("bilinear", Image.Resampling.BILINEAR), ("bicubic", Image.Resampling.BICUBIC)):
        spec = Preprocess(0, (24, 20), name, mode="stretch")
        assert np.array_equal(preprocess(image, spec), np.asarray(image.resize((20, 24), kind)))


@pytest.mark.parametrize(
    ("size", "inner", "corner"),
    [
        ((100, 60), (20, 12), (0, 6)),
        ((60, 100), (14, 24), (3, 0)),
        ((40, 30), (20, 15), (0, 4)),
        ((10, 12), (20, 24), (0, 0)),
        ((1000, 2), (20, 1), (0, 11)),
        ((20, 24), (20, 24), (0, 0)),
    ],
)
def test_letterboxed_pixels_are_one_resize_between_black_borders(
    size: tuple[int, int], inner: tuple[int, int], corner: tuple[int, int]
) -> None:
    image = noise(*size)
    expected = np.zeros((24, 20, 3), np.uint8)
    expected[corner[1] : corner[1] + inner[1], corner[0] : corner[0] + inner[0]] = np.asarray(
        image.resize(inner, Image.Resampling.BILINEAR)
    )
    tensor, placed = preprocess_placed(image, LETTERBOX)
    assert np.array_equal(tensor, expected)
    assert placed == Placed(size, inner, *corner, (20, 24))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_every_number_of_channels_is_placed_alike(size: tuple[int, int], channels: int) -> None:
    rng = np.random.default_rng(0)
    array = rng.integers(0, 256, (size[1], size[0], channels), dtype=np.uint8)
    for spec in ALL:
        spec = Preprocess(spec.resize, spec.crop, channels=channels, mode=spec.mode)
        tensor, placed = preprocess_placed(array, spec)
        assert tensor.shape == (*spec.crop, channels)
        assert placed == place(size, spec)
        for band in range(channels):
            alone = Preprocess(spec.resize, spec.crop, channels=1, mode=spec.mode)
            assert np.array_equal(tensor[..., band], preprocess(array[..., band], alone)[..., 0])


def test_bgr_frames_are_placed_like_rgb() -> None:
    frame = np.asarray(noise(60, 100))
    for spec in ALL:
        tensor, placed = preprocess_placed(frame[..., ::-1], spec, color="BGR")
        assert np.array_equal(tensor, preprocess(frame, spec))
        assert placed.photo == (60, 100)


@pytest.mark.parametrize("size", [(100, 60), (60, 100), (640, 480), (300, 300)])
@pytest.mark.parametrize("spec", ALL, ids=lambda spec: f"{spec.mode} {spec.resize}")
def test_a_box_is_found_where_the_pixels_are(spec: Preprocess, size: tuple[int, int]) -> None:
    width, height = size
    box = (int(width * 0.4), int(height * 0.3), int(width * 0.6), int(height * 0.7))
    tensor, placed = preprocess_placed(with_square(width, height, box), spec)
    expected = placed.to_tensor([box])[0]
    assert np.abs(expected - white(tensor)).max() < 0.51
    assert placed.to_photo(expected[np.newaxis])[0] == pytest.approx(box, abs=1e-3)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("spec", ALL, ids=lambda spec: f"{spec.mode} {spec.resize}")
def test_pixels_are_those_of_the_upright_photo(spec: Preprocess, orientation: int) -> None:
    turns = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,  # what the camera did; 6 says how to undo it
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    box = (30, 40, 50, 70)
    upright = with_square(90, 110, box)
    stored = upright.transpose(turns[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    stored.save(buffer, "PNG", exif=exif)
    tensor, placed = preprocess_placed(buffer.getvalue(), spec)
    assert placed.photo == (90, 110)
    assert np.array_equal(tensor, preprocess(upright, spec))
    assert placed.to_photo([white(tensor)])[0] == pytest.approx(box, abs=2.3)


def test_the_photo_has_the_size_of_its_file_however_it_is_decoded() -> None:
    buffer = io.BytesIO()
    noise(1600, 1200).save(buffer, "JPEG")
    for spec in ALL:
        assert preprocess_placed(buffer.getvalue(), spec)[1].photo == (1600, 1200)


def test_boxes_end_where_the_photo_does() -> None:
    placed = place((100, 60), LETTERBOX)
    assert placed.to_photo([[-5, -5, 30, 30]]).tolist() == [[0, 0, 100, 60]]
    assert placed.to_photo(np.zeros((0, 4))).shape == (0, 4)
    assert placed.to_photo([10, 12]).tolist() == [50, 30]
    with pytest.raises(UsageError, match=r"given \[3\]"):
        placed.to_photo([1, 2, 3])


@pytest.mark.parametrize("spec", ALL, ids=lambda spec: f"{spec.mode} {spec.resize}")
def test_a_mask_of_the_tensor_is_one_of_the_photo(spec: Preprocess) -> None:
    box = (36, 20, 64, 40)
    tensor, placed = preprocess_placed(with_square(100, 60, box), spec)
    mask = placed.mask((tensor[..., 0] > 127).astype(np.uint8), outside=255)
    assert mask.shape == (60, 100)
    found = np.argwhere(mask == 1)
    (top, left), (bottom, right) = found.min(0), found.max(0) + 1
    assert np.abs(np.subtract((left, top, right, bottom), box)).max() <= 3
    # What the crop left out is said to be unknown, and nothing else is.
    y, x = np.mgrid[0:60, 0:100] + 0.5
    centres = placed.to_tensor(np.stack([x, y], -1))
    assert np.array_equal(mask != 255, ((centres >= 0) & (centres < placed.tensor)).all(-1))


def test_values_are_interpolated_as_pillow_does_and_in_strips_alike() -> None:
    image = Image.fromarray(np.random.default_rng(0).random((6, 5), np.float32))
    placed = place((50, 48), Preprocess(0, (24, 20), mode="stretch"))
    found = placed.values(np.asarray(image)[..., np.newaxis])
    expected = np.asarray(image.resize((50, 48), Image.Resampling.BILINEAR))
    assert np.abs(found[..., 0] - expected).max() < 1e-5
    strips = [placed.values(np.asarray(image)[..., np.newaxis], rows=slice(at, at + 10)) for at in range(0, 48, 10)]
    assert np.array_equal(np.concatenate(strips), found)


def test_what_no_photo_can_be_is_said() -> None:
    assert "resize must be 0" in str(Preprocess(32, (24, 20), mode="stretch").problem)
    assert "mode 'squash'" in str(Preprocess(0, (24, 20), mode="squash").problem)
    assert "positive" in str(Preprocess(0, (24, 20)).problem)
    assert STRETCH.problem is None
    with pytest.raises(UsageError, match="squash"):
        place((3, 4), Preprocess(0, (24, 20), mode="squash"))
    with pytest.raises(ImageError, match="too long and thin"):
        place((1, 2**21), Preprocess(224, (224, 224)))
    assert place((1, 2**21), Preprocess(0, (224, 224), mode="letterbox")).resized == (1, 224)


def test_a_mode_is_written_where_it_is_another_than_the_first(pristine_bundle: Path) -> None:
    manifest = open_bundle(pristine_bundle).manifest
    assert '"mode"' not in manifest.to_json()
    assert repr(CROP) == "Preprocess(resize=32, crop=(24, 20), interpolation='bilinear', channels=3)"
    for spec in (STRETCH, LETTERBOX):
        text = dataclasses.replace(manifest, preprocess=spec).to_json()
        assert Manifest.from_json(text, where="here").preprocess == spec
        # A runtime from before there were modes reads everything but `mode`, and must not crop.
        raw = json.loads(text)
        del raw["preprocess"]["mode"]
        with pytest.raises(BundleError, match="must be positive"):
            Manifest.from_json(json.dumps(raw), where="here")


def test_outputs_stand_beside_the_output(pristine_bundle: Path) -> None:
    manifest = open_bundle(pristine_bundle).manifest
    assert manifest.outputs == (manifest.output,)
    assert '"outputs"' not in manifest.to_json()
    boxes = dataclasses.replace(manifest.output, name="boxes", shape=(1, 9, 4))
    logits = dataclasses.replace(manifest.output, shape=(1, 9, 5))
    several = dataclasses.replace(manifest, task="detection", output=boxes, outputs=(boxes, logits))
    again = Manifest.from_json(several.to_json(), where="here")
    assert again == several
    assert [spec.name for spec in again.all_outputs] == ["boxes", "logits"]
    for wrong in ((logits, boxes), (boxes, boxes)):
        with pytest.raises(BundleError, match="damaged"):
            Manifest.from_json(dataclasses.replace(several, outputs=wrong).to_json(), where="here")
