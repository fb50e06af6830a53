"""Images of one channel, four, or any number: every band is resized and cropped as torchvision does it."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from edgetl_runtime import BundleError, ImageError, Manifest, Preprocess, UsageError, fake_classifier, preprocess
from edgetl_runtime.manifest import Normalize
from edgetl_runtime.npy import read_npy, write_npy
from edgetl_runtime.preprocess import load_bands, load_image, stack_bands

Pixels = npt.NDArray[np.uint8]
BandPreset = Callable[[Image.Image, Preprocess], Pixels]

SIZES = [(1, 1), (1, 40), (7, 500), (64, 64), (63, 64), (333, 77), (255, 257), (640, 480)]


def spec(channels: int, *, interpolation: str = "bilinear") -> Preprocess:
    return Preprocess(resize=64, crop=(56, 60), interpolation=interpolation, channels=channels)


def noise(size: tuple[int, int], channels: int, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (size[1], size[0], channels), dtype=np.uint8)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


@pytest.fixture(scope="module")
def torchvision_preset() -> BandPreset:
    """torchvision's preset on one grey PIL image."""
    functional = pytest.importorskip("torchvision.transforms.functional")

    def apply(image: Image.Image, spec: Preprocess) -> Pixels:
        mode = functional.InterpolationMode(spec.interpolation)
        resized = functional.resize(image, [spec.resize], interpolation=mode, antialias=True)
        return np.asarray(functional.center_crop(resized, list(spec.crop)))

    return apply


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("channels", [1, 2, 4, 7])
def test_every_band_equals_torchvision(channels: int, interpolation: str, torchvision_preset: BandPreset) -> None:
    wanted = spec(channels, interpolation=interpolation)
    for seed, size in enumerate(SIZES):
        array = noise(size, channels, seed)
        found = preprocess(array, wanted)
        assert found.shape == (56, 60, channels)
        assert found.flags.c_contiguous
        for band in range(channels):
            expected = torchvision_preset(Image.fromarray(array[:, :, band]), wanted)
            np.testing.assert_array_equal(found[:, :, band], expected, err_msg=f"{size}, band {band}")


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P", "1", "CMYK"])
def test_one_channel_is_the_luminance(mode: str, torchvision_preset: BandPreset) -> None:
    functional = pytest.importorskip("torchvision.transforms.functional")
    content = encoded(Image.fromarray(noise((90, 70), 3)).convert(mode), "TIFF" if mode == "CMYK" else "PNG")
    with Image.open(io.BytesIO(content)) as image:
        assert image.mode == mode
        expected = torchvision_preset(functional.to_grayscale(image), spec(1))
    np.testing.assert_array_equal(preprocess(content, spec(1))[:, :, 0], expected)


def test_the_order_of_colours_counts_for_their_luminance() -> None:
    frame = noise((70, 60), 3)
    grey = preprocess(frame, spec(1))
    np.testing.assert_array_equal(preprocess(np.ascontiguousarray(frame[:, :, ::-1]), spec(1), color="BGR"), grey)
    assert (preprocess(frame, spec(1), color="BGR") != grey).any()
    with pytest.raises(UsageError, match="4 channels"):
        preprocess(noise((70, 60), 4), spec(4), color="BGR")


def test_16_bit_greys_keep_their_shades() -> None:
    greys = np.linspace(0, 65535, 100 * 80).astype(np.uint16).reshape(80, 100)
    (band,) = load_bands(encoded(Image.fromarray(greys)), 1)
    assert band.mode == "L"
    np.testing.assert_array_equal(np.asarray(band), greys >> 8)


def test_every_source_of_four_channels_gives_the_same_tensor(tmp_path: Path) -> None:
    array = noise((70, 90), 4)
    image = Image.fromarray(array, "RGBA")
    (tmp_path / "a.png").write_bytes(encoded(image))
    (tmp_path / "a.npy").write_bytes(write_npy(array))
    np.save(tmp_path / "fortran.npy", np.asfortranarray(array))
    image.save(tmp_path / "a.tiff")
    files = [tmp_path / name for name in ("a.png", "a.npy", "fortran.npy", "a.tiff")]
    expected = preprocess(array, spec(4))
    for source in (image, *files, *(file.read_bytes() for file in files), str(files[1])):
        np.testing.assert_array_equal(preprocess(source, spec(4)), expected, err_msg=str(source)[:40])
    assert (expected[:, :, 3] != 255).any()


def test_transparency_is_a_channel_of_its_own() -> None:
    """Pillow resizes RGBA with colours weighted by opacity: pixels that are see-through would lose theirs."""
    array = noise((90, 90), 4)
    array[:, :45, 3] = 0
    opaque = array.copy()
    opaque[:, :, 3] = 255
    np.testing.assert_array_equal(
        preprocess(Image.fromarray(array, "RGBA"), spec(4))[:, :, :3],
        preprocess(Image.fromarray(opaque, "RGBA"), spec(4))[:, :, :3],
    )


@pytest.mark.parametrize("channels", [1, 4])
def test_exif_orientation_is_applied(channels: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.fromarray(noise((30, 20), 4), "RGBA")
    upright = stack_bands(load_bands(image.transpose(Image.Transpose.ROTATE_270), channels))
    np.testing.assert_array_equal(stack_bands(load_bands(encoded(image, exif=exif), channels)), upright)


def test_an_image_object_is_not_shared() -> None:
    image = Image.fromarray(noise((9, 7), 1)[:, :, 0])
    load_bands(image, 1)[0].paste(0, (0, 0, 9, 7))
    assert np.asarray(image).any()


def test_grey_arrays_with_and_without_an_axis_are_the_same(tmp_path: Path) -> None:
    grey = noise((70, 80), 1)
    (tmp_path / "a.npy").write_bytes(write_npy(grey[:, :, 0]))
    for source in (grey[:, :, 0], tmp_path / "a.npy"):
        np.testing.assert_array_equal(preprocess(source, spec(1)), preprocess(grey, spec(1)))
    np.testing.assert_array_equal(np.asarray(load_image(tmp_path / "a.npy"))[:, :, 2], grey[:, :, 0])


@pytest.mark.parametrize(
    ("channels", "source", "said"),
    [
        (4, encoded(Image.fromarray(noise((9, 9), 3))), r"has 3 channels \(RGB\), the model takes 4"),
        (4, encoded(Image.fromarray(noise((9, 9), 3)).convert("CMYK"), "JPEG"), r"has 4 channels \(CMYK\)"),
        (2, encoded(Image.fromarray(noise((9, 9), 1)[:, :, 0])), r"has 1 channel \(L\), the model takes 2"),
        (5, encoded(Image.fromarray(noise((9, 9), 4), "RGBA")), r"has 4 channels \(RGBA\), the model takes 5"),
        (4, noise((9, 9), 3), r"must be \(H, W, 4\), this one is \(9, 9, 3\)"),
        (4, noise((9, 9), 1)[:, :, 0], r"must be \(H, W, 4\), this one is \(9, 9\)"),
        (1, noise((9, 9), 4), r"must be \(H, W, 3\) or \(H, W\), this one is \(9, 9, 4\)"),
        (5, noise((9, 9), 5).astype(np.uint16), "must be uint8, this one is uint16"),
    ],
)
def test_another_number_of_channels_is_an_image_error(channels: int, source: bytes | Pixels, said: str) -> None:
    with pytest.raises(ImageError, match=said) as caught:
        preprocess(source, spec(channels))
    assert caught.value.fix


def test_a_file_of_the_wrong_kind_is_named(tmp_path: Path) -> None:
    (tmp_path / "leaf.png").write_bytes(encoded(Image.fromarray(noise((9, 9), 3))))
    (tmp_path / "leaf.npy").write_bytes(write_npy(noise((9, 9), 5)))
    for name in ("leaf.png", "leaf.npy"):
        with pytest.raises(ImageError, match=rf"leaf\.{name[-3:]}"):
            preprocess(tmp_path / name, spec(4))


class Trap:
    """What a pickle could do to whoever loads it."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("unpickled",)


def damaged_arrays() -> dict[str, bytes]:
    content = write_npy(noise((20, 10), 4))
    pickled = io.BytesIO()
    np.save(pickled, np.array([Trap()], dtype=object), allow_pickle=True)
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (%d, %d, 4), }"
    return {
        "cut": content[:-1],
        "longer": content + b"\0",
        "no header": content[:9],
        "objects": pickled.getvalue(),
        "version": content[:6] + b"\x09\0" + content[8:],
        "huge": content[:8] + b"\x76\0" + (header % (10**6, 10**6)).ljust(118) + content[128:],
        "negative": content[:8] + b"\x76\0" + (header % (-20, -10)).ljust(118) + content[128:],
        "no dictionary": content[:10] + b"[" * 118 + content[128:],
    }


@pytest.mark.parametrize("damage", damaged_arrays())
def test_a_damaged_array_is_an_image_error(damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "field.npy"
    path.write_bytes(damaged_arrays()[damage])
    for source in (path, path.read_bytes()):
        with pytest.raises(ImageError, match="field" if source is path else "bytes"):
            load_bands(source, 4)
    assert "unpickled" not in capsys.readouterr().out


def test_an_array_is_read_as_it_was_written() -> None:
    array = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    content = write_npy(array)
    np.testing.assert_array_equal(read_npy(io.BytesIO(content), "x", most_bytes=48), array)
    with pytest.raises(ImageError, match="too large"):
        read_npy(io.BytesIO(content), "x", most_bytes=47)


def test_a_classifier_takes_the_channels_of_its_model() -> None:
    classifier = fake_classifier(
        ["infra", "plain"], lambda x: {"infra" if x[..., 3].mean() > 128 else "plain": 0.9}, size=(24, 32), channels=4
    )
    dark = np.zeros((40, 50, 4), np.uint8)
    bright = dark.copy()
    bright[:, :, 3] = 255
    both = classifier.predict(np.stack([dark, bright]))
    assert [prediction.top.name for prediction in both] == ["plain", "infra"]
    assert classifier.predict(write_npy(bright)).top.name == "infra"
    assert classifier.predict(Image.fromarray(bright, "RGBA")).top.name == "infra"
    with pytest.raises(ImageError, match="the model takes 4"):
        classifier.predict(Image.fromarray(bright[:, :, :3]))


def test_a_manifest_without_channels_is_of_three(pristine_bundle: Path) -> None:
    text = (pristine_bundle / "manifest.json").read_text()
    assert '"channels": 3' in text
    old = Manifest.from_json(text.replace('"channels": 3', '"other": 1'), where="old")
    assert old.preprocess == Manifest.from_json(text, where="new").preprocess


@pytest.mark.parametrize("channels", [0, -1, 257, 10**9, '"4"', "true"])
def test_a_number_of_channels_that_cannot_be_is_refused(channels: int | str, pristine_bundle: Path) -> None:
    text = (pristine_bundle / "manifest.json").read_text().replace('"channels": 3', f'"channels": {channels}')
    with pytest.raises(BundleError, match="channels"):
        Manifest.from_json(text, where="x")


def test_a_fake_of_one_channel_has_the_manifest_of_one() -> None:
    manifest = fake_classifier(["a"], lambda _: {"a": 1.0}, size=(8, 8), channels=1).manifest
    assert manifest.input.shape == (1, 8, 8, 1)
    assert manifest.normalize == Normalize((0.0,), (1.0,))
