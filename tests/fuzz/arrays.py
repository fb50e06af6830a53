"""numpy arrays as images, and as raw tensors of a session."""

from __future__ import annotations

from typing import Any

import numpy as np
from cases import Answer, Case, Corpus, Generator, Kind, expected_tensor, judge_prediction
from numpy.lib.stride_tricks import as_strided
from PIL import Image

from tests.conftest import CROP, reference_logits

__all__ = ["KINDS"]

DTYPES = (
    "float16",
    "float32",
    "float64",
    ">f4",
    "int8",
    "int16",
    ">u2",
    "int32",
    "int64",
    "uint64",
    "bool",
    "complex64",
)
DTYPES += ("S3", "U2", "datetime64[s]", "V4", "object")


class Subclass(np.ndarray):
    """An array that is more than one."""


def image(rng: Generator) -> Any:
    shape = (int(rng.integers(2, 70)), int(rng.integers(2, 70)), 3)
    return (rng.uniform(0, 255, 3) + rng.normal(0, 30, shape)).clip(0, 255).astype(np.uint8)


def relaid(array: Any, rng: Generator) -> Any:
    """The same values, laid out otherwise in memory, or as another kind of array."""
    match int(rng.integers(0, 9)):
        case 0:
            return np.asfortranarray(array)
        case 1:
            return np.ascontiguousarray(array[::-1])[::-1]
        case 2:
            return np.ascontiguousarray(array[:, ::-1])[:, ::-1]
        case 3:
            return np.repeat(array, 2, axis=0)[::2]
        case 4:
            return np.ascontiguousarray(np.swapaxes(array, 0, 1)).swapaxes(0, 1)
        case 5:
            return array.astype(">u1") if array.dtype == np.uint8 else array
        case 6:
            return array.view(Subclass)
        case 7:
            return np.ma.masked_array(array)
        case _:
            frozen = array.copy()
            frozen.setflags(write=False)
            return frozen


def judged(corpus: Corpus, source: Any, plain: Any, color: str = "RGB") -> Case:
    if plain.ndim == 3 and color == "BGR":
        plain = plain[:, :, ::-1]
    upright = Image.fromarray(np.ascontiguousarray(plain)).convert("RGB")

    def judge(answer: Answer) -> str | None:
        tensor = expected_tensor(upright, corpus.raw["preprocess"])
        if not np.array_equal(answer.tensor, tensor):
            return "the pixels are not torchvision's"
        return judge_prediction(tensor, answer.prediction, corpus.raw)

    return Case(lambda: corpus.predict(source, color=color), judge, "answer", {"array": plain.tobytes()})


def refused(corpus: Corpus, source: Any, **options: Any) -> Case:
    about = f"{type(source)} {getattr(source, 'dtype', '')} {getattr(source, 'shape', '')} {options}".encode()
    return Case(lambda: corpus.predict(source, **options), lambda _: "accepted", "error", {"about": about})


def strides(corpus: Corpus, rng: Generator) -> Case:
    array = image(rng)
    return judged(corpus, relaid(array, rng), array, str(rng.choice(["RGB", "BGR"])))


def broadcast(corpus: Corpus, rng: Generator) -> Case:
    """No strides at all: one pixel or one row, repeated; also so often that a copy would fill the memory."""
    pixel = image(rng)[:1, :1]
    if rng.integers(3) == 0:
        side = int(rng.integers(20_000, 10_000_000))
        return refused(corpus, as_strided(pixel[0, 0], (side, side, 3), (0, 0, 1)))
    height, width = (int(value) for value in rng.integers(1, 60, 2))
    array = np.broadcast_to(pixel, (height, width, 3))
    return judged(corpus, array, array.copy())


def grey(corpus: Corpus, rng: Generator) -> Case:
    array = image(rng)[:, :, int(rng.integers(3))]
    source = relaid(array, rng)
    return judged(corpus, source[:, :, None] if rng.integers(2) else source, array.copy())


def dtypes(corpus: Corpus, rng: Generator) -> Case:
    """Other dtypes, among them floats with NaN: never scaled by guessing."""
    array = np.zeros((9, 8, 3), np.dtype(DTYPES[int(rng.integers(len(DTYPES)))]))
    if array.dtype.kind == "f":
        array[0, 0] = [np.nan, np.inf, -1]
    return refused(corpus, array)


def shapes(corpus: Corpus, rng: Generator) -> Case:
    options: list[tuple[int, ...]] = [(), (0,), (5,), (0, 4), (4, 0, 3), (4, 4, 0), (4, 4, 2), (4, 4, 4), (3, 9, 9)]
    options += [(1, 4, 4, 3), (2, 4, 4, 3), (1,) * 30, (4, 4, 1, 3), (4, 4, 3, 1), (0, 0, 0)]
    return refused(corpus, np.zeros(options[int(rng.integers(len(options)))], np.uint8))


def masked(corpus: Corpus, rng: Generator) -> Case:
    array = image(rng)
    return refused(corpus, np.ma.masked_array(array, mask=array >= array.max()))


def colors(corpus: Corpus, rng: Generator) -> Case:
    options: list[Any] = ["rgb", "", "RGBA", None, 3, ["RGB"], np.array(["RGB", "BGR"]), b"RGB", {}, float("nan")]
    sources = [image(rng), corpus.photo, Image.fromarray(image(rng))]
    return refused(corpus, sources[int(rng.integers(3))], color=options[int(rng.integers(len(options)))])


def raw(corpus: Corpus, rng: Generator) -> Case:
    """Right tensors in any layout, to each engine."""
    tensor = rng.integers(0, 256, (1, *CROP, 3), dtype=np.uint8)
    engine = str(rng.choice(list(corpus.classifiers)))
    source = relaid(tensor[0], rng)[None] if rng.integers(2) else tensor
    if rng.integers(6) == 0:
        source = np.broadcast_to(tensor[:, :1, :1], tensor.shape)
        tensor = source.copy()

    def judge(result: dict[str, Any]) -> str | None:
        logits = reference_logits(tensor)
        if list(result) != ["logits"] or result["logits"].dtype != np.float32 or result["logits"].shape != logits.shape:
            return f"gave {result}"
        off = np.abs(result["logits"] - logits).max()
        return None if off <= 1e-3 else f"{engine}: logits are {off} off"

    def act() -> Any:
        return corpus.classifiers[engine].session.run({"image": source})

    return Case(act, judge, "answer", {"tensor": tensor.tobytes(), "engine": engine.encode()})


def wrong_raw(corpus: Corpus, rng: Generator) -> Case:
    """Tensors that the model does not take, and things that are no tensors."""
    tensor = np.zeros((1, *CROP, 3), np.uint8)
    feeds: list[Any] = [
        {},
        {"image": None},
        {"image": tensor.tolist()},
        {"image": 3},
        {"Image": tensor},
        {None: tensor},
    ]
    feeds += [{"image": tensor, "mask": tensor}, {"image": tensor[0]}, {"image": tensor[:, 1:]}, {"image": tensor[:0]}]
    feeds += [{"image": np.repeat(tensor, 2, 0)}, {"image": tensor.transpose(0, 3, 1, 2)}, {"image": tensor.tobytes()}]
    feeds += [{"image": tensor.astype(name)} for name in ("float32", "int8", ">f4", "bool", "object", "S3")]
    feeds += [None, [tensor], tensor, "image", 3, {"image": Image.fromarray(tensor[0])}, {"image": {}}]
    given = feeds[int(rng.integers(len(feeds)))]
    engine = str(rng.choice(list(corpus.classifiers)))

    def act() -> Any:
        return corpus.classifiers[engine].session.run(given)

    return Case(act, lambda _: "accepted", "error", {"feeds": f"{engine} {given!r:.300}".encode()})


KINDS: dict[str, Kind] = {
    **{f"array/{kind.__name__}": kind for kind in (strides, broadcast, grey, dtypes, shapes, masked, colors)},
    **{f"tensor/{kind.__name__}": kind for kind in (raw, wrong_raw)},
}
