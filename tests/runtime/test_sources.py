"""One image or many: one rule, whatever an image comes as, in every method."""

from __future__ import annotations

import io
import mmap
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from edgetl_runtime import Classifier, ImageError, UsageError, fake_classifier
from edgetl_runtime.preprocess import file_content, load_image

PHOTO = np.random.default_rng(0).integers(0, 256, (48, 60, 3), np.uint8)


class Upload:
    """As web frameworks have it: it reads, and it iterates over lines."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def read(self) -> bytes:
        return self.content

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.content.splitlines())


class AsyncUpload:
    async def read(self, size: int = -1) -> bytes:
        return b""

    async def seek(self, offset: int) -> None:
        pass


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    Image.fromarray(PHOTO).save(tmp_path / "p.png")
    return tmp_path / "p.png"


@pytest.fixture
def classifier() -> Classifier:
    """Takes the mean of an image for the probability of "a", and for its vector."""

    def share(image: npt.NDArray[np.uint8]) -> dict[str, float]:
        return {"a": float(image.mean()) / 256}

    return fake_classifier(["a", "b"], share, pooled=lambda image: np.array([image.mean(), 1], np.float32))


def mapped(path: Path) -> mmap.mmap:
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def spooled(path: Path) -> Any:
    file = tempfile.SpooledTemporaryFile()  # noqa: SIM115 - as the framework leaves it
    file.write(path.read_bytes())  # and stands at its end, as uploads do
    return file


def temporary(path: Path) -> Any:
    file = tempfile.NamedTemporaryFile()  # noqa: SIM115 - it goes when nobody has it any more
    file.write(path.read_bytes())
    return file


def zipped(path: Path) -> Any:
    with zipfile.ZipFile(path.with_suffix(".zip"), "w") as archive:
        archive.write(path, "p.png")
    return zipfile.ZipFile(path.with_suffix(".zip")).open("p.png")


ONE: dict[str, Callable[[Path], Any]] = {
    "path": lambda path: path,
    "str": str,
    "bytes": Path.read_bytes,
    "bytearray": lambda path: bytearray(path.read_bytes()),
    "memoryview": lambda path: memoryview(path.read_bytes()),
    "open file": lambda path: path.open("rb"),
    "unbuffered file": lambda path: path.open("rb", buffering=0),
    "BytesIO": lambda path: io.BytesIO(path.read_bytes()),
    "upload": lambda path: Upload(path.read_bytes()),
    "spooled upload": spooled,
    "temporary file": temporary,
    "member of a zip": zipped,
    "mmap": mapped,
    "array": lambda path: PHOTO,
    "PIL": Image.open,
}


@pytest.mark.parametrize("kind", ONE)
def test_one_image_is_one_image_everywhere(kind: str, photo: Path, classifier: Classifier) -> None:
    expected = classifier.predict(PHOTO)
    vector = classifier.embed(PHOTO)

    def made() -> Any:
        return ONE[kind](photo)

    assert classifier.predict(made()) == expected
    assert classifier.predict_batch(made()) == [expected]
    assert list(classifier.stream(made())) == [expected]
    assert list(classifier.stream(made(), latest=True)) == [expected]
    np.testing.assert_array_equal(classifier.embed(made()), vector)
    assert load_image(made()).size == (60, 48)
    # Several of them are several.
    assert classifier.predict([made(), made()]) == [expected] * 2
    assert classifier.predict_batch(iter([made(), made()])) == [expected] * 2
    assert classifier.embed((made(), made())).shape == (2, 2)


@pytest.mark.parametrize(
    "many",
    [
        lambda path: [path, PHOTO],
        lambda path: (PHOTO for _ in range(2)),
        lambda path: np.stack([PHOTO, PHOTO]),
        lambda path: np.array([str(path)] * 2),
        lambda path: np.array([path, path], dtype=object),
        lambda path: {path: 1, str(path): 2}.keys(),
    ],
    ids=["list", "generator", "array of four axes", "array of names", "array of objects", "keys"],
)
def test_many_images_are_many_everywhere(many: Callable[[Path], Any], photo: Path, classifier: Classifier) -> None:
    expected = [classifier.predict(PHOTO)] * 2
    assert classifier.predict(many(photo)) == expected
    assert classifier.predict_batch(many(photo)) == expected
    assert list(classifier.stream(many(photo))) == expected
    assert classifier.embed(many(photo)).shape == (2, 2)


def test_a_file_is_read_as_a_whole_wherever_it_stands(photo: Path, classifier: Classifier) -> None:
    """As Pillow does: after `save` into a BytesIO it stands at its end."""
    content = io.BytesIO()
    Image.fromarray(PHOTO).save(content, "PNG")
    with photo.open("rb") as file:
        file.read(10)
        assert classifier.predict(content) == classifier.predict(file) == classifier.predict(file)
        assert file_content(file) == photo.read_bytes()


def test_files_that_are_closed_when_the_next_is_taken(photo: Path, classifier: Classifier) -> None:
    def opened() -> Iterator[io.BufferedReader]:
        for _ in range(12):
            with photo.open("rb") as file:
                yield file

    expected = [classifier.predict(PHOTO)] * 12
    assert list(classifier.stream(opened(), workers=4)) == expected
    assert classifier.predict_batch(opened(), workers=4) == expected


METHODS: dict[str, Callable[[Classifier, Any], object]] = {
    "predict": lambda classifier, image: classifier.predict(image),
    "predict_batch": lambda classifier, image: classifier.predict_batch(image),
    "stream": lambda classifier, image: list(classifier.stream(image)),
    "embed": lambda classifier, image: classifier.embed(image),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("thing", "said"),
    [
        (None, "cannot read an image from NoneType(.|\n)*cv2.imread"),
        (5, "cannot read an image from int"),
        (2.5, "cannot read an image from float"),
        ({"image": "p.png"}, "cannot read an image from dict(.|\n)*pass the image in it"),
        ([[3]], "cannot read an image from list"),
        (["p", None], "no image file at p|cannot read an image from NoneType"),
        (io.StringIO("text"), r"cannot read an image from StringIO: reading it gives str, not bytes(.|\n)*open\(path"),
        (AsyncUpload(), r"cannot read an image from AsyncUpload(.|\n)*await upload.read\(\)"),
    ],
    ids=["None", "int", "float", "dict", "nested list", "list with None", "text", "async"],
)
def test_what_is_no_image_is_told_as_what_it_is(
    method: str, thing: object, said: str, classifier: Classifier, recwarn: pytest.WarningsRecorder
) -> None:
    with pytest.raises((UsageError, ImageError) if isinstance(thing, list) else UsageError, match=said):
        METHODS[method](classifier, thing)
    assert not [warning for warning in recwarn if "never awaited" in str(warning.message)]


def test_a_camera_is_no_image(classifier: Classifier) -> None:
    class Capture:
        def read(self) -> tuple[bool, npt.NDArray[np.uint8]]:
            return True, PHOTO

    with pytest.raises(UsageError, match=r"reading it gives tuple(.|\n)*one by one"):
        classifier.predict(Capture())  # type: ignore[call-overload]


def test_a_file_without_an_end_is_left(monkeypatch: pytest.MonkeyPatch, classifier: Classifier) -> None:
    monkeypatch.setattr("edgetl_runtime.sources.LARGEST_FILE", 3 * 2**20)
    with Path("/dev/zero").open("rb") as zero, pytest.raises(ImageError, match="more than the 3145728 bytes"):
        classifier.predict(zero)


def test_messages_name_the_file_and_no_address(tmp_path: Path, classifier: Classifier) -> None:
    (tmp_path / "no.png").write_bytes(b"no photo")
    with (tmp_path / "no.png").open("rb") as file, pytest.raises(ImageError) as caught:
        classifier.predict(file)
    assert str(tmp_path / "no.png") in caught.value.what
    for source in (b"no photo", io.BytesIO(b"no photo"), Upload(b"no photo"), spooled(tmp_path / "no.png")):
        with pytest.raises(ImageError) as caught:
            classifier.predict(source)
        assert " at 0x" not in str(caught.value)
        assert "cannot identify" in caught.value.what
    closed = (tmp_path / "no.png").open("rb")
    closed.close()
    with pytest.raises(ImageError, match="closed file"):
        classifier.predict(closed)


@pytest.mark.parametrize(
    ("shape", "advice"),
    [
        ((48, 60, 4), r"array\[:, :, :3\]"),
        ((48, 60, 2), r"array\[:, :, 0\]"),
        ((3, 48, 60), r"array.transpose\(1, 2, 0\)"),
        ((1, 48, 60), r"array.transpose\(1, 2, 0\)"),
        ((48, 0, 3), "no pixels"),
        ((60,), r"\(height, width, 3\)"),
        ((48, 60, 7), r"\(height, width, 3\)"),
    ],
    ids=str,
)
def test_advice_is_for_the_array_at_hand(shape: tuple[int, ...], advice: str, classifier: Classifier) -> None:
    with pytest.raises(ImageError, match=advice):
        classifier.predict(np.zeros(shape, np.uint8))


@pytest.mark.parametrize("top", ["3", 2.0, True, 0, -1, [3]])
def test_top_is_a_number_or_none(top: Any, classifier: Classifier) -> None:
    for method in (classifier.predict, classifier.predict_batch, classifier.stream):
        with pytest.raises(UsageError, match="top must be"):
            method(PHOTO, top=top)
    with pytest.raises(UsageError, match="top must be"):
        classifier.interpret(np.zeros(2, np.float32), top=top)


def test_without_top_all_labels_are_given(classifier: Classifier) -> None:
    assert len(classifier.predict(PHOTO, top=None).scores) == 2
    assert len(classifier.predict(PHOTO, top=np.int64(1)).scores) == 1  # type: ignore[call-overload]


@pytest.mark.parametrize(
    "asked", [{"threshold": "0.5"}, {"threshold": None}, {"workers": "2"}, {"workers": 1.5}, {"workers": True}], ids=str
)
def test_other_options_are_checked_too(asked: dict[str, Any], classifier: Classifier) -> None:
    with pytest.raises(UsageError, match=next(iter(asked))):
        classifier.predict_batch(PHOTO, **asked)
