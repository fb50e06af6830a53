"""Image files, damaged and odd, and the answers that Pillow, torchvision and numpy give for them."""

from __future__ import annotations

import functools
import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from cases import Answer, Case, Corpus, Generator, Kind, expected_tensor, judge_prediction, upright_rgb
from PIL import Image

__all__ = ["KINDS"]

FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "PPM", "ICO", "TGA", "JPEG2000", "AVIF")
ORIENTED: dict[int, Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.uint8]]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a),
}
"""What a reader does for each value of EXIF's Orientation, by the standard, in numpy."""


def pixels(rng: Generator, width: int | None = None, height: int | None = None) -> npt.NDArray[np.uint8]:
    """Noise around one colour, (H, W, 3)."""
    shape = (height or int(rng.integers(2, 90)), width or int(rng.integers(2, 90)), 3)
    return (rng.uniform(0, 255, 3) + rng.normal(0, 30, shape)).clip(0, 255).astype(np.uint8)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    content = io.BytesIO()
    if kind == "ICO":
        options |= {"sizes": [(min(image.width, 64), min(image.height, 64))]}
    image.save(content, kind, **options)
    return content.getvalue()


def some_file(rng: Generator) -> bytes:
    image = Image.fromarray(pixels(rng))
    mode = str(rng.choice(["RGB", "RGB", "L", "P", "RGBA"]))
    kind = str(rng.choice(FORMATS))
    try:
        return encoded(image.convert(mode), kind)
    except (OSError, KeyError):  # not every format has every mode, nor every Pillow every format
        return encoded(image, "PNG")


def damaged(content: bytes, rng: Generator) -> bytes:
    """Some bits flipped, a piece overwritten, moved, doubled or taken out."""
    result = bytearray(content)
    for _ in range(int(rng.integers(1, 12))):
        if not result:
            break
        a, b = sorted(rng.integers(0, len(result), 2).tolist())
        b = min(b, a + 64)
        match int(rng.integers(0, 6)):
            case 0 | 1 | 2:
                result[a] ^= 1 << int(rng.integers(8))
            case 3:
                result[a:b] = rng.bytes(b - a)
            case 4:
                result[a:a] = result[a:b]
            case 5:
                del result[a:b]
    return bytes(result)


def file_case(corpus: Corpus, rng: Generator, content: bytes, *, must: Any = "either") -> Case:
    """`content` as bytes or as a file, held against Pillow's and torchvision's reading of it."""

    def judge(answer: Answer) -> str | None:
        try:
            image = upright_rgb(content)
        except Exception as error:  # noqa: BLE001 - whatever Pillow says, it could not read it
            return f"read something that Pillow cannot: {error!r}"
        return judge_image(corpus, image, answer)

    def act() -> Answer:
        if rng.integers(3):
            return corpus.predict(content)
        path = corpus.scratch / "photo.jpg"
        path.write_bytes(content)
        return corpus.predict(path if rng.integers(2) else str(path))

    return Case(act, judge, must, {"photo": content})


def array_file(corpus: Corpus, rng: Generator, content: bytes, array: npt.NDArray[np.uint8]) -> Case:
    """A file that must be read as exactly `array` (H, W, 3)."""
    image = Image.fromarray(np.ascontiguousarray(array))
    case = file_case(corpus, rng, content, must="answer")
    return Case(case.act, lambda answer: judge_image(corpus, image, answer), "answer", case.files)


def judge_image(corpus: Corpus, image: Image.Image, answer: Answer) -> str | None:
    tensor = expected_tensor(image, corpus.raw["preprocess"])
    if answer.tensor.shape != tensor.shape or (answer.tensor != tensor).any():
        return "the pixels are not torchvision's"
    return judge_prediction(tensor, answer.prediction, corpus.raw)


def truncated(corpus: Corpus, rng: Generator) -> Case:
    content = some_file(rng)
    return file_case(corpus, rng, content[: int(rng.integers(0, len(content)))])


def corrupt(corpus: Corpus, rng: Generator) -> Case:
    return file_case(corpus, rng, damaged(some_file(rng), rng))


def sound(corpus: Corpus, rng: Generator) -> Case:
    return file_case(corpus, rng, some_file(rng), must="answer")


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, depth: int, colour: int, data: bytes, *between: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = [chunk(b"IHDR", header), *between, chunk(b"IDAT", zlib.compress(data, 1)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@functools.cache
def inflating(size: int) -> bytes:
    return zlib.compress(b"\0" * size, 1)


def bomb(corpus: Corpus, rng: Generator) -> Case:
    """Few bytes that ask for gigabytes."""
    side = int(rng.integers(14_000, 60_000))
    match int(rng.integers(0, 6)):
        case 0:
            content = png(side, side, int(rng.choice([1, 8])), 0, b"\0" * 1000)
        case 1:
            content = png(side, side, 8, 2, b"\0" * 200_000)
        case 2:
            content = b"GIF89a" + struct.pack("<HHBBB", side, side, 0x80, 0, 0) + b"\0" * 6 + b","
            content += struct.pack("<HHHHB", 0, 0, side, side, 0) + b"\x02\x02\x44\x01\x00;"
        case 3:
            tags = [(256, side), (257, side), (258, 8), (259, 1), (262, 1), (273, 8), (277, 1), (278, side), (279, 8)]
            content = b"II*\0" + struct.pack("<IH", 8, len(tags))
            content += b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags) + bytes(12)
        case 4:
            sides = struct.pack("<I", side)[:3] * 2
            body = b"WEBPVP8X" + struct.pack("<I", 10) + b"\0\0\0\0" + sides + rng.bytes(30)
            content = b"RIFF" + struct.pack("<I", len(body)) + body
        case _:
            content = png(1, 1, 8, 0, b"\0\0", chunk(b"zTXt", b"Comment\0\0" + inflating(40_000_000)))
    return file_case(corpus, rng, content, must="error")


def sizes(corpus: Corpus, rng: Generator) -> Case:
    """Nothing, one pixel, lines; a line that resizing would make huge has to be refused."""
    long = int(rng.choice([1, 2, 3, 100, 1000, 10_000]))
    if rng.integers(10) == 0:
        shape = [(0, 0), (0, 5), (5, 0)][int(rng.integers(3))]
        return file_case(corpus, rng, png(*shape, 8, 2, b""), must="error")
    width, height = (1, long) if rng.integers(2) else (long, 1)
    array = pixels(rng, width, height)
    return array_file(corpus, rng, encoded(Image.fromarray(array), str(rng.choice(["PNG", "BMP", "TIFF"]))), array)


def modes(corpus: Corpus, rng: Generator) -> Case:
    """Every way of storing colours that a camera or a designer uses."""
    image = Image.fromarray(pixels(rng))
    options = [
        ("CMYK", "JPEG"), ("CMYK", "TIFF"), ("L", "JPEG"), ("L", "PNG"), ("LA", "PNG"), ("RGBA", "PNG"), ("1", "PNG"),
        ("P", "PNG"), ("P", "GIF"), ("RGBA", "WEBP"), ("RGBA", "TIFF"), ("1", "TIFF"), ("YCbCr", "JPEG"), ("P", "BMP"),
        ("LAB", "TIFF"), ("L", "GIF"), ("PA", "PNG"), ("RGB", "JPEG"),
    ]  # fmt: skip
    mode, kind = options[int(rng.integers(len(options)))]
    if mode == "LAB":
        from PIL import ImageCms

        profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        return file_case(corpus, rng, encoded(ImageCms.profileToProfile(image, *profiles, outputMode="LAB"), kind))
    if mode == "PA":
        palette = image.convert("P")
        return file_case(corpus, rng, encoded(palette, kind, transparency=int(rng.integers(256))), must="answer")
    extra = {"progressive": True} if kind == "JPEG" and rng.integers(2) else {}
    return file_case(corpus, rng, encoded(image.convert(mode), kind, **extra), must="answer")


def adobe(corpus: Corpus, rng: Generator) -> Case:
    """CMYK as Photoshop writes it, inverted: plain colours must come out as they went in."""
    colour = rng.integers(0, 256, 3)
    image = Image.new("RGB", (40, 30), tuple(int(value) for value in colour))
    content = encoded(image.convert("CMYK"), "JPEG", quality=95)
    if b"Adobe\0" not in content:
        content = content[:2] + b"\xff\xee\x00\x0eAdobe\x00d\0\0\0\0\0" + content[2:]
    case = file_case(corpus, rng, content, must="answer")

    def judge(answer: Answer) -> str | None:
        off = np.abs(answer.tensor.astype(int) - colour).max()
        return case.judge(answer) if off <= 6 else f"colours are {off} grey levels off"

    return Case(case.act, judge, "answer", case.files)


def deep(corpus: Corpus, rng: Generator) -> Case:
    """16 bits per channel: the high byte counts."""
    height, width = (int(value) for value in rng.integers(2, 60, 2))
    if rng.integers(2):
        greys = rng.integers(0, 65536, (height, width), dtype=np.uint16)
        high = np.repeat((greys // 256).astype(np.uint8)[:, :, None], 3, axis=2)
        kind = str(rng.choice(["PNG", "TIFF"]))
        return array_file(corpus, rng, encoded(Image.fromarray(greys), kind), high)
    channels = int(rng.choice([3, 4]))
    colours = rng.integers(0, 65536, (height, width, channels), dtype=np.uint16)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in colours)
    content = png(width, height, 16, 2 if channels == 3 else 6, rows)
    return array_file(corpus, rng, content, (colours[:, :, :3] // 256).astype(np.uint8))


def animated(corpus: Corpus, rng: Generator) -> Case:
    """The first frame counts."""
    frames = [Image.fromarray(pixels(rng, 31, 23)) for _ in range(int(rng.integers(2, 5)))]
    kind = str(rng.choice(["GIF", "WEBP", "PNG", "TIFF"]))
    extra: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {}
    first = frames[0].quantize(64) if kind == "GIF" else frames[0]
    content = encoded(first, kind, save_all=True, append_images=frames[1:], **extra)
    return array_file(corpus, rng, content, np.asarray(first.convert("RGB")))


def oriented(corpus: Corpus, rng: Generator) -> Case:
    """All orientations of EXIF, and values that are none."""
    value = int(rng.integers(0, 10))
    array = pixels(rng, 40, 25)
    exif = Image.Exif()
    exif[0x0112] = value
    exif[0x010F] = "maker"
    kind = str(rng.choice(["PNG", "WEBP", "TIFF", "JPEG"]))
    extra: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {}
    content = encoded(Image.fromarray(array), kind, exif=exif, **extra)
    if kind == "JPEG":
        array = np.asarray(Image.open(io.BytesIO(encoded(Image.fromarray(array), kind))))
    return array_file(corpus, rng, content, ORIENTED.get(value, ORIENTED[1])(array))


def broken_exif(corpus: Corpus, rng: Generator) -> Case:
    exif = Image.Exif()
    exif[0x0112] = int(rng.integers(1, 9))
    exif[0x8769] = {0x9003: "2020:01:01 00:00:00", 0x829A: 0.5}
    content = encoded(Image.fromarray(pixels(rng)), str(rng.choice(["JPEG", "PNG", "WEBP"])), exif=exif.tobytes())
    start = max(content.find(b"Exif"), content.find(b"eXIf"), content.find(b"EXIF"), 0)
    result = bytearray(content)
    for _ in range(int(rng.integers(1, 9))):
        result[min(start + int(rng.integers(0, 90)), len(result) - 1)] = int(rng.integers(256))
    return file_case(corpus, rng, bytes(result))


def mpo(corpus: Corpus, rng: Generator) -> Case:
    """Two pictures in a file, of which the first counts; whole and damaged."""
    first, second = (Image.fromarray(pixels(rng, 40, 30)) for _ in range(2))
    content = encoded(first, "MPO", save_all=True, append_images=[second])
    if rng.integers(2):
        return file_case(corpus, rng, damaged(content, rng))
    alone = np.asarray(Image.open(io.BytesIO(encoded(first, "JPEG"))))
    return array_file(corpus, rng, content, alone)


def foreign(corpus: Corpus, rng: Generator) -> Case:
    """Things that are no image: they must be refused, and must not be waited for."""
    texts = [b"", b"hello, this is text\n" * 20, b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 50 50\n%%EndComments\n"]
    texts += [b"%PDF-1.4\n", b"<svg xmlns='http://www.w3.org/2000/svg'/>", corpus.files["manifest.json"], b"\0" * 5000]
    texts += [corpus.files["onnx/model.fp32.onnx"], rng.bytes(int(rng.integers(1, 3000))), b"BM" + bytes(60)]
    return file_case(corpus, rng, texts[int(rng.integers(len(texts)))], must="error")


def paths(corpus: Corpus, rng: Generator) -> Case:
    pipe, loop = corpus.scratch / "pipe.jpg", corpus.scratch / "loop.jpg"
    if not pipe.exists():
        os.mkfifo(pipe)
        loop.symlink_to(loop)
    named: list[Any] = [pipe, loop, corpus.scratch, Path("/dev/zero"), "/dev/stdin", "/dev/full", "", "a\0b.jpg"]
    named += ["x" * 5000, "\ud800.jpg", corpus.scratch / "missing.jpg", "~/photo.jpg", "http://localhost/a.jpg", ".."]
    named += [None, 3, 2.5, object(), {"a": 1}, bytearray(corpus.photo[:60]), memoryview(b""), io.BytesIO()]
    source = named[int(rng.integers(len(named)))]
    return Case(lambda: corpus.predict(source), lambda _: "accepted", "error", {"source": repr(source).encode()})


def objects(corpus: Corpus, rng: Generator) -> Case:
    """Pillow's own images, of every mode, closed, empty, or with a file that is cut off."""
    image = Image.fromarray(pixels(rng))
    mode = str(rng.choice(["RGB", "L", "1", "P", "RGBA", "LA", "CMYK", "YCbCr", "HSV", "RGBX", "I", "F", "I;16"]))
    match int(rng.integers(0, 6)):
        case 0:
            empty = Image.new("RGB", [(0, 0), (0, 7), (7, 0)][int(rng.integers(3))])
            return Case(lambda: corpus.predict(empty), lambda _: "accepted", "error")
        case 1:
            closed = Image.open(io.BytesIO(encoded(image, "PNG")))
            closed.close()
            return Case(lambda: corpus.predict(closed), lambda _: "accepted", "error")
        case 2:
            content = encoded(image, "PNG")
            cut = Image.open(io.BytesIO(content[: len(content) - 30]))
            return Case(lambda: corpus.predict(cut), lambda _: "accepted", "error")
    if mode in ("I", "F"):
        other = image.convert("L").convert(mode)
        return Case(lambda: corpus.predict(other), lambda _: "accepted", "error")
    if mode == "I;16":
        greys = rng.integers(0, 65536, (9, 12), dtype=np.uint16)
        expected = Image.fromarray((greys // 256).astype(np.uint8)).convert("RGB")
        deep_image = Image.fromarray(greys)
        return Case(lambda: corpus.predict(deep_image), lambda answer: judge_image(corpus, expected, answer), "answer")
    other = image.convert(mode)
    expected = other.convert("RGB")
    return Case(lambda: corpus.predict(other), lambda answer: judge_image(corpus, expected, answer), "answer")


KINDS: dict[str, Kind] = {
    f"image/{kind.__name__}": kind
    for kind in (
        truncated, corrupt, sound, bomb, sizes, modes, adobe, deep, animated, oriented, broken_exif, mpo, foreign,
        paths, objects,
    )
}  # fmt: skip
