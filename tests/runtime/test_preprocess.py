"""Preprocessing is torchvision's presets, to the last grey level, and refuses what it cannot read."""

from __future__ import annotations

import io
import os
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from edgetl_runtime import ImageError, Preprocess, UsageError, fake_classifier, load_image, preprocess
from edgetl_runtime.preprocess import file_content

PRESETS = {
    "bilinear": Preprocess(resize=64, crop=(56, 56), interpolation="bilinear"),
    "bicubic": Preprocess(resize=64, crop=(56, 56), interpolation="bicubic"),
    "mobilenet": Preprocess(resize=256, crop=(224, 224), interpolation="bilinear"),
    "wide crop": Preprocess(resize=60, crop=(48, 101), interpolation="bicubic"),
}
ODD_SIZES = [
    *((1, 1), (1, 40), (40, 1), (2, 3), (3, 2), (7, 500), (500, 7), (55, 57), (56, 56), (64, 64), (64, 65), (65, 64)),
    *((63, 64), (101, 48), (48, 101), (333, 77), (256, 256), (255, 257), (1023, 640), (640, 480)),
    *((int(w), int(h)) for w, h in np.random.default_rng(3).integers(2, 400, (40, 2))),
]
Preset = Callable[[Image.Image, Preprocess], npt.NDArray[np.uint8]]


@pytest.fixture(scope="module")
def torchvision_preset() -> Preset:
    """torchvision's own classification preset on a PIL image, up to where it becomes floating point."""
    functional = pytest.importorskip("torchvision.transforms.functional")
    modes = functional.InterpolationMode

    def apply(image: Image.Image, spec: Preprocess) -> npt.NDArray[np.uint8]:
        image = functional.resize(image, [spec.resize], interpolation=modes(spec.interpolation), antialias=True)
        return np.asarray(functional.center_crop(image, list(spec.crop)))

    return apply


def noise(size: tuple[int, int], mode: str = "RGB", seed: int = 0) -> Image.Image:
    width, height = size
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


@pytest.mark.parametrize("preset", PRESETS)
def test_odd_sizes_equal_torchvision(preset: str, torchvision_preset: Preset) -> None:
    spec = PRESETS[preset]
    for seed, size in enumerate(ODD_SIZES):
        image = noise(size, seed=seed)
        expected = torchvision_preset(image, spec)
        assert expected.shape == (*spec.crop, 3), size
        np.testing.assert_array_equal(preprocess(image, spec), expected, err_msg=str(size))


@pytest.mark.parametrize("covered", [(64, 107), (107, 64), (40, 41), (9, 300)])
def test_a_rectangle_is_covered_without_stretching_or_borders(
    covered: tuple[int, int], torchvision_preset: Preset
) -> None:
    """By torchvision's own resize: the shorter side such that the image covers the rectangle, not one pixel more."""
    rows, columns = covered
    spec = Preprocess(resize=covered, crop=(rows - 4, columns - 3), interpolation="bicubic")
    for seed, (width, height) in enumerate(ODD_SIZES):
        image = noise((width, height), seed=seed)
        if max(rows / height, columns / width) * max(width, height) > 4000:
            continue
        scaled = max(rows / height, columns / width)
        size = (
            (rows, int(rows * width / height)) if rows / height == scaled else (int(columns * height / width), columns)
        )
        assert size[0] >= rows
        assert size[1] >= columns
        alone = image.resize(size[::-1], Image.Resampling.BICUBIC)
        expected = torchvision_preset(alone, Preprocess(resize=min(size), crop=spec.crop, interpolation="bicubic"))
        np.testing.assert_array_equal(preprocess(image, spec), expected, err_msg=str((width, height)))


def test_a_square_is_covered_as_by_its_side() -> None:
    for seed, size in enumerate(ODD_SIZES):
        image = noise(size, seed=seed)
        both = (Preprocess(resize=resize, crop=(56, 50)) for resize in (64, (64, 64)))
        np.testing.assert_array_equal(*(preprocess(image, spec) for spec in both), err_msg=str(size))


def test_a_long_image_that_would_not_fit_the_memory_is_refused() -> None:
    thin = Image.new("L", (1, 60_000))
    with pytest.raises(ImageError, match="too long and thin: resized it has 400x24000000"):
        preprocess(thin, Preprocess(resize=(100, 400), crop=(100, 400)))


def test_a_wide_fake_sees_all_of_a_wide_image() -> None:
    seen: list[npt.NDArray[np.uint8]] = []

    def answer(pixels: npt.NDArray[np.uint8]) -> dict[str, float]:
        seen.append(pixels)
        return {"a": 0.9}

    classifier = fake_classifier(["a", "b"], answer, size=(20, 40))
    for width, height in ((40, 20), (80, 40), (30, 30), (20, 400)):
        classifier.predict(Image.new("RGB", (width, height), (200, 200, 200)))
    assert [pixels.shape for pixels in seen] == [(20, 40, 3)] * 4
    assert all((pixels == 200).all() for pixels in seen)  # no black borders


@pytest.mark.data
@pytest.mark.parametrize("preset", ["mobilenet", "bicubic"])
def test_real_photos_equal_torchvision(preset: str, torchvision_preset: Preset) -> None:
    default = Path(__file__).parents[3] / "shared" / "data"
    folder = Path(os.environ.get("EDGETL_DATA", default)) / "imagenet_sample" / "evaluation"
    photos = sorted(folder.rglob("*.jpg"))[::6]
    if not photos:
        pytest.skip(f"no photos in {folder}: set EDGETL_DATA")
    assert len(photos) >= 40
    for photo in photos:
        with Image.open(photo) as image:
            expected = torchvision_preset(image.convert("RGB"), PRESETS[preset])
        np.testing.assert_array_equal(preprocess(photo, PRESETS[preset]), expected, err_msg=photo.name)


@pytest.mark.parametrize(
    ("mode", "kind"),
    [("L", "PNG"), ("LA", "PNG"), ("RGBA", "PNG"), ("P", "GIF"), ("1", "PNG"), ("CMYK", "JPEG"), ("L", "JPEG")],
)
def test_other_modes_equal_torchvision(mode: str, kind: str, torchvision_preset: Preset) -> None:
    content = encode(noise((90, 70), mode), kind)
    with Image.open(io.BytesIO(content)) as image:
        assert image.mode == mode
        expected = torchvision_preset(image.convert("RGB"), PRESETS["bilinear"])
    np.testing.assert_array_equal(preprocess(content, PRESETS["bilinear"]), expected)


def test_16_bit_greys_keep_their_shades() -> None:
    """Pillow's own convert would make everything above 255 of 65535 white."""
    greys = np.linspace(0, 65535, 100 * 80).astype(np.uint16).reshape(80, 100)
    upright = load_image(encode(Image.fromarray(greys), "PNG"))
    np.testing.assert_array_equal(np.asarray(upright)[:, :, 1], greys >> 8)


def test_pixels_without_a_range_are_refused() -> None:
    with pytest.raises(ImageError, match="no known range"):
        load_image(Image.fromarray(np.zeros((4, 4), np.float32)))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    upright = noise((30, 20))
    # What each orientation asks the reader to do is undone here, so that reading gives `upright` again.
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(undo[orientation]) if orientation in undo else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encode(stored, "PNG", exif=exif)
    np.testing.assert_array_equal(np.asarray(load_image(content)), np.asarray(upright))


def test_every_source_gives_the_same_tensor(tmp_path: Path) -> None:
    image, spec = noise((70, 90)), PRESETS["bicubic"]
    content = encode(image, "PNG")
    path = tmp_path / "photo.png"
    path.write_bytes(content)
    array = np.asarray(image)
    expected = preprocess(image, spec)
    for source in (path, str(path), content, array):
        np.testing.assert_array_equal(preprocess(source, spec), expected)
    np.testing.assert_array_equal(preprocess(array[:, :, ::-1], spec, color="BGR"), expected)
    assert expected.dtype == np.uint8
    assert (preprocess(array[:, :, ::-1], spec) != expected).any()


def test_grey_arrays_become_three_channels() -> None:
    grey = np.random.default_rng(0).integers(0, 256, (70, 80), dtype=np.uint8)
    tensor = preprocess(grey, PRESETS["bilinear"])
    np.testing.assert_array_equal(preprocess(grey[:, :, None], PRESETS["bilinear"]), tensor)
    np.testing.assert_array_equal(tensor[:, :, 0], tensor[:, :, 2])


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF"])
def test_truncated_file_is_an_image_error(kind: str, tmp_path: Path) -> None:
    content = encode(noise((120, 90)), kind)
    path = tmp_path / "cut.img"
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ImageError, match=r"cut\.img"):
        load_image(path)


@pytest.mark.parametrize("content", [b"", b"not an image", b"\xff\xd8\xff\xe0" + b"\0" * 50])
def test_foreign_bytes_are_an_image_error(content: bytes) -> None:
    with pytest.raises(ImageError, match="cannot read"):
        load_image(content)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((2, 4, 4, 3), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_arrays_that_are_no_image_are_refused(array: npt.NDArray[np.uint8]) -> None:
    with pytest.raises(ImageError):
        load_image(array)


def test_an_upright_image_is_not_turned_twice() -> None:
    """What `load_image` gives may be given to it again."""
    exif = Image.Exif()
    exif[0x0112] = 6
    for kind in ("JPEG", "PNG", "WEBP", "TIFF"):
        once = load_image(encode(noise((30, 20)), kind, exif=exif))
        assert once.size == (20, 30)
        np.testing.assert_array_equal(np.asarray(load_image(once)), np.asarray(once), err_msg=kind)


def test_an_image_object_is_not_shared() -> None:
    image = noise((9, 7))
    load_image(image).paste((0, 0, 0), (0, 0, 9, 7))
    assert np.asarray(image).any()


@pytest.mark.parametrize("size", [(0, 0), (0, 5), (5, 0)])
def test_an_image_without_pixels_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ImageError, match="no pixels"):
        preprocess(Image.new("RGB", size), PRESETS["bilinear"])


def test_too_many_pixels_are_refused_before_they_are_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    huge = np.broadcast_to(np.zeros(3, np.uint8), (100_000, 100_000, 3))  # 3 bytes now, 30 GB as a copy
    with pytest.raises(ImageError, match="too large"):
        load_image(huge)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)  # an application may have lifted Pillow's own limit
    header = b"\x89PNG\r\n\x1a\n" + b"\0\0\0\rIHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    content = header + struct.pack(">I", zlib.crc32(header[12:])) + b"\0\0\0\x01IDAT\0" + struct.pack(">I", 0)
    with pytest.raises(ImageError, match="too many"):
        load_image(content)


def test_masked_pixels_are_not_taken_for_colours() -> None:
    array = np.ma.masked_array(np.zeros((4, 4, 3), np.uint8), mask=np.eye(4)[:, :, None].repeat(3, 2))
    with pytest.raises(ImageError, match="masked"):
        load_image(array)
    np.testing.assert_array_equal(load_image(np.ma.masked_array(np.full((4, 4, 3), 7, np.uint8))), 7)


def test_drawings_are_not_given_to_another_program() -> None:
    content = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n"
    with pytest.raises(ImageError, match="EPS files are drawings"):
        load_image(content)


@pytest.mark.parametrize("color", ["rgb", None, ["RGB"], np.array(["RGB", "BGR"])])
def test_the_colour_order_is_checked_for_every_source(color: object) -> None:
    for source in (noise((4, 4)), encode(noise((4, 4)), "PNG"), np.zeros((4, 4, 3), np.uint8)):
        with pytest.raises(UsageError, match="colour order"):
            load_image(source, color=color)  # type: ignore[arg-type]


def test_a_path_that_cannot_be_read_is_one_error(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    for path in (tmp_path / "pipe.jpg", tmp_path, Path("/dev/zero"), "x" * 5000, "a\0b", "\ud800"):
        with pytest.raises(ImageError):
            load_image(path)


@pytest.mark.parametrize("spec", [Preprocess(0, (8, 8)), Preprocess(8, (8, -1)), Preprocess(8, (10**6, 10**6))])
def test_sizes_that_cannot_be_are_refused(spec: Preprocess) -> None:
    with pytest.raises(UsageError, match="cannot resize"):
        preprocess(noise((9, 9)), spec)


def test_other_mistakes_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="no image file"):
        load_image(tmp_path / "missing.jpg")
    with pytest.raises(UsageError, match="NoneType"):
        load_image(None)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="colour order"):
        load_image(np.zeros((2, 2, 3), np.uint8), color="rgb")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="lanczos"):
        preprocess(noise((9, 9)), Preprocess(8, (8, 8), "lanczos"))
    with pytest.raises(ImageError, match="too long and thin"):
        preprocess(noise((10_000, 1)), PRESETS["mobilenet"])


class Stored:
    """An image that lies somewhere else."""

    def __init__(self, content: object) -> None:
        self.content = content

    def __str__(self) -> str:
        return "store/7"

    def read_bytes(self) -> bytes:
        if isinstance(self.content, Exception):
            raise self.content
        return self.content  # type: ignore[return-value]


def test_whatever_gives_bytes_is_a_source(tmp_path: Path) -> None:
    content, spec = encode(noise((70, 90)), "PNG"), PRESETS["bicubic"]
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("inside/a.png", content)
    expected = preprocess(content, spec)
    for source in (Stored(content), zipfile.Path(tmp_path / "a.zip", "inside/a.png")):
        np.testing.assert_array_equal(preprocess(source, spec), expected)
        assert file_content(source) == content
        assert fake_classifier(["a"], lambda _: {"a": 0.9}).predict(source).top.name == "a"
    failures = (OSError("gone"), zipfile.BadZipFile("gone"), KeyError("gone"))
    for broken in (*map(Stored, failures), Stored("gone"), Stored(content[:60])):
        with pytest.raises(ImageError, match="store/7"):
            preprocess(broken, spec)


def test_the_content_of_a_source_is_read_once_and_for_all(tmp_path: Path) -> None:
    image = noise((9, 7))
    (tmp_path / "a.png").write_bytes(encode(image, "PNG"))
    for source in (tmp_path / "a.png", str(tmp_path / "a.png"), encode(image, "PNG")):
        assert file_content(source) == encode(image, "PNG")
    assert file_content(image) is image
    os.mkfifo(tmp_path / "pipe.png")
    for missing in (tmp_path / "b.png", tmp_path / "pipe.png"):
        with pytest.raises(ImageError, match="no image file"):
            file_content(missing)
    with pytest.raises(UsageError, match="int"):
        file_content(7)  # type: ignore[arg-type]
