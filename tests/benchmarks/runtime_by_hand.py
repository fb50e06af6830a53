"""Photo to five labels: edgetl_runtime beside the best hand-written code, in turns in one process.

    python tests/benchmarks/runtime_by_hand.py BUNDLE --photos DIR --work FOLDER

BUNDLE is a MobileNetV2 with ImageNet labels and int8 variants. The hand-written code is `runtime_hand.py`: decode,
resize and crop by Pillow, five labels by numpy, the engine's own API. It runs three ways: with the model that the
engine's own quantiser made (kept in FOLDER, see `runtime_models.py`), normalised as fast as numpy can or as tutorials
write it, and with edgetl's own file and no normalisation ("same file"), so that what the code costs and what the model
costs can be told apart. Exit code 1 when a target of the design is missed.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from runtime_hand import BY_HAND, crop, normalise_plain, opened
from runtime_lines import CLOCKS, Line, compared, heading, in_rounds, write
from runtime_models import HandMade, built
from runtime_pixels import pixel_lines
from runtime_startup import variant_of
from runtime_stream import stream_lines
from workloads import data_folder

import edgetl_runtime
from edgetl.data.dataset import load_photos, pick
from edgetl_runtime.bundle import Bundle, open_bundle
from edgetl_runtime.engines import ENGINES
from edgetl_runtime.errors import DataError, EdgetlError, UsageError, nearest
from edgetl_runtime.tasks.classification import Classifier

__all__ = ["PARTS", "Given", "agreement", "main", "overhead_us", "parse", "photos_of_side"]

PHOTO_LIMIT, FRAME_LIMIT, OVERHEAD_LIMIT_US = 0.95, 0.90, 40.0
PARTS = ("photo", "large", "frame", "model", "overhead", "stream", "pixels")
LARGE_LIMIT, LARGE_SIDE, LARGE_PHOTOS = 0.3, 4000, 4
EDGETL, TUNED, PLAIN, SAME_FILE = "edgetl", "own model", "own model, plain numpy", "same file"
_FRAME = (640, 480)
_OF_THE_ENGINE = {"onnxruntime": "_session", "litert": "_interpreter", "openvino": "_request"}
"""Where a session keeps what it drives: two objects of one file differ by more than the overhead to be measured."""
_PAIRS_PER_ROUND = 40
_RUNS_PER_ROUND = 30


@dataclass(frozen=True)
class Given:
    """The command line, checked. ``photos`` are JPEG files whose longer side has ``side`` pixels."""

    bundle: Bundle
    photos: tuple[Path, ...]
    side: int
    work: Path
    data: Path
    engines: tuple[str, ...]
    parts: tuple[str, ...]
    threads: int
    rounds: int
    clock: str
    json: Path | None
    markdown: Path | None


def main(arguments: Sequence[str]) -> int:
    """Measure and print; 0 when every target is met, 1 when not, 2 when there is something for the user to fix."""
    try:
        with tempfile.TemporaryDirectory(prefix="edgetl-by-hand-") as folder:
            given = parse(arguments, Path(folder))
            by_hand = built(given.work, given.data)
            lines = [line for engine in given.engines for line in _engine_lines(engine, by_hand, given)]
            if "stream" in given.parts:
                variant = variant_of(given.bundle, given.engines[0])
                lines += stream_lines(given.bundle, variant, given.photos, rounds=given.rounds)
        if "pixels" in given.parts:
            lines += pixel_lines(given.data)
        side = f"JPEG files of {given.side} px" if given.side else "JPEG files as they are"
        title = f"Photo to five labels, int8 MobileNetV2, {len(given.photos)} {side}, {given.threads} thread(s)"
        versions = {engine: edgetl_runtime.installed(engine) for engine in given.engines}
        named = ", ".join(f"{engine} {version}" for engine, version in versions.items())
        title = heading(f"{title}, {named}", rounds=given.rounds, clock=given.clock)
        write(lines, title, markdown=given.markdown, as_json=given.json)
    except EdgetlError as error:
        print(f"runtime_by_hand: error: {error}", file=sys.stderr)
        return 2
    return 1 if any(line.met is False for line in lines) else 0


def parse(arguments: Sequence[str], folder: Path) -> Given:
    """The command line; resized photos go to `folder`. Raises `UsageError` or `DataError` for what cannot be run."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--photos", type=Path, required=True, help="folder of JPEG files, searched through")
    parser.add_argument("--limit", type=int, default=20, metavar="N", help="N of the photos")
    parser.add_argument("--side", type=int, default=480, metavar="PX", help="longer side of the photos; 0: as they are")
    parser.add_argument("--work", type=Path, required=True, help="keeps the hand-written code's own models")
    parser.add_argument("--data", type=Path, help="weights and photos; default: EDGETL_DATA, else ../shared/data")
    parser.add_argument("--engines", default=",".join(ENGINES), help=f"of: {','.join(ENGINES)}")
    parser.add_argument("--parts", default=",".join(PARTS), help=f"of: {','.join(PARTS)}")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall", help="cpu: on a busy machine, for one thread")
    parser.add_argument("--json", type=Path, help="write the results there as well")
    parser.add_argument("--markdown", type=Path, help="write the table there as well")
    found = parser.parse_args(arguments)
    engines, parts = tuple(found.engines.split(",")), tuple(found.parts.split(","))
    for word, known in ((engines, tuple(ENGINES)), (parts, PARTS)):
        for name in word:
            if name not in known:
                raise UsageError(f"unknown name {name!r}", fix=nearest(name, known))
    if found.rounds < 3 or found.limit < 2 or found.threads < 1 or found.side < 0:
        raise UsageError("these numbers make no sense", fix="--rounds 3, --limit 2, --threads 1, --side 0, or more")
    photos = photos_of_side(found.photos, found.limit, found.side, folder)
    options = (engines, parts, found.threads, found.rounds, found.clock, found.json, found.markdown)
    return Given(open_bundle(found.bundle), photos, found.side, found.work, data_folder(found.data), *options)


def photos_of_side(source: Path, limit: int, side: int, folder: Path) -> tuple[Path, ...]:
    """`limit` of the photos below `source`; written to `folder` with a longer side of `side` pixels unless it is 0.

    Raises `DataError` when there are too few.
    """
    samples = load_photos(source)
    if len(samples) < limit:
        raise DataError(f"{source} has {len(samples)} photos, not {limit}", fix="a smaller --limit")
    chosen: list[Path] = []
    for number, sample in enumerate(pick(samples, limit)):
        path = Path(str(sample.source))
        if side:
            image = opened(str(path))
            scale = side / max(image.size)
            size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
            path = folder / f"{number}.jpg"
            image.resize(size, Image.Resampling.BICUBIC).save(path, quality=90)
        chosen.append(path)
    return tuple(chosen)


def overhead_us(
    engine_call: Callable[[], object], run: Callable[[], object], *, rounds: int, clock: Callable[[], int]
) -> list[float]:
    """Microseconds that `run` takes longer than `engine_call`, per round: the difference of their medians.

    The two take turns call by call: a few microseconds beside milliseconds are lost in anything coarser.
    """
    found: list[float] = []
    for number in range(-1, rounds):
        times: tuple[list[int], list[int]] = ([], [])
        for pair in range(_PAIRS_PER_ROUND):
            for which in ((0, 1), (1, 0))[(pair + number) % 2]:
                call = (engine_call, run)[which]
                before = clock()
                call()
                times[which].append(clock() - before)
        if number >= 0:
            found.append((float(np.median(times[1])) - float(np.median(times[0]))) / 1e3)
    return found


def agreement(first: Sequence[str], second: Sequence[str]) -> float:
    """Share of equal labels, 0..1."""
    return sum(a == b for a, b in zip(first, second, strict=True)) / len(first)


def _engine_lines(engine: str, by_hand: HandMade, given: Given) -> list[Line]:
    variant = variant_of(given.bundle, engine)
    file = given.bundle.path / given.bundle.manifest.variant(variant).files[0].path
    names = [label["name"] for label in json.loads(by_hand.labels.read_text(encoding="utf-8"))]
    make, threads = BY_HAND[engine], given.threads
    with edgetl_runtime.load(given.bundle, variant=variant, threads=threads) as classifier:
        hands = {
            TUNED: make(str(by_hand.models[engine]), names, threads=threads),
            PLAIN: make(str(by_hand.models[engine]), names, threads=threads),
            SAME_FILE: make(str(file), names, pixels="uint8", threads=threads),
        }
        hands[PLAIN].tensor = _plain(hands[PLAIN].tensor(crop(opened(str(given.photos[0])))).shape)
        lines: list[Line] = []
        if "photo" in given.parts:
            lines += _photo_lines(engine, classifier, hands, given)
        if "large" in given.parts:
            lines += _large_lines(engine, classifier, hands[SAME_FILE], given)
        if "frame" in given.parts:
            lines += _frame_lines(engine, classifier, hands, given)
        if "model" in given.parts:
            lines.append(_model_line(engine, hands, given))
        if "overhead" in given.parts:
            lines.append(_overhead_line(engine, classifier, hands[SAME_FILE], given))
    return lines


def _plain(shape: tuple[int, ...]) -> Callable[..., npt.NDArray[np.float32]]:
    """The tutorial's normalisation, in the layout that the model takes."""

    def tensor(image: Image.Image, reverse: bool = False) -> npt.NDArray[np.float32]:
        found = normalise_plain(Image.fromarray(np.asarray(image)[:, :, ::-1]) if reverse else image)
        return found if shape[1] == 3 else np.ascontiguousarray(found.transpose(0, 2, 3, 1))

    return tensor


def _photo_lines(engine: str, classifier: Classifier, hands: Mapping[str, Any], given: Given) -> list[Line]:
    photos = [str(path) for path in given.photos]

    def ours() -> list[str]:
        return [classifier.predict(photo).top.name for photo in photos]

    def theirs(hand: Any) -> list[str]:
        return [hand.photo(photo)[0][0] for photo in photos]

    _check_same(engine, ours(), theirs(hands[SAME_FILE]))
    calls = {EDGETL: ours, **{name: partial(theirs, hand) for name, hand in hands.items()}}
    per_photo = {
        name: [ms / len(photos) for ms in found]
        for name, found in in_rounds(calls, given.rounds, clock=CLOCKS[given.clock]).items()
    }
    limits = {TUNED: PHOTO_LIMIT}
    same = agreement(ours(), theirs(hands[TUNED]))
    return [
        compared(f"{engine}: JPEG to top 5, {name}", "ms", per_photo[name], per_photo[EDGETL], limit=limits.get(name))
        for name in hands
    ] + [Line(f"{engine}: photos that the own model labels alike", "share", same)]


def _large_lines(engine: str, classifier: Classifier, hand: Any, given: Given) -> list[Line]:
    """Photos of 12 megapixels: enlarged ones, which is honest for time and for nothing else.

    The hand-written code decodes them in full, as edgetl does unless ``decode`` is ``scaled``.
    """
    with tempfile.TemporaryDirectory(prefix="edgetl-large-") as folder:
        photos = []
        for number, path in enumerate(given.photos[:LARGE_PHOTOS]):
            photos.append(f"{folder}/{number}.jpg")
            image = opened(str(path))
            size = (LARGE_SIDE, LARGE_SIDE * 3 // 4)
            image.resize(size if image.width >= image.height else size[::-1]).save(photos[-1], quality=90)
        preprocess = replace(classifier.manifest.preprocess, decode="scaled")
        scaled = Classifier(replace(classifier.manifest, preprocess=preprocess), classifier.variant, classifier.session)
        calls = {
            "exact": lambda: [classifier.predict(photo) for photo in photos],
            "scaled": lambda: [scaled.predict(photo) for photo in photos],
            SAME_FILE: lambda: [hand.photo(photo) for photo in photos],
        }
        found = in_rounds(calls, given.rounds, clock=CLOCKS[given.clock])
    ms = {name: [value / len(photos) for value in values] for name, values in found.items()}
    what = f"{engine}: 12-megapixel JPEG to top 5, {SAME_FILE}"
    return [
        compared(f"{what}, decode exact", "ms", ms[SAME_FILE], ms["exact"]),
        compared(f"{what}, decode scaled", "ms", ms[SAME_FILE], ms["scaled"], limit=LARGE_LIMIT),
    ]


def _frame_lines(engine: str, classifier: Classifier, hands: Mapping[str, Any], given: Given) -> list[Line]:
    rgb = [np.asarray(opened(str(path)).resize(_FRAME, Image.Resampling.BICUBIC)) for path in given.photos]
    lines: list[Line] = []
    for order in ("RGB", "BGR"):
        # As a camera gives them: contiguous, in its own order.
        frames = rgb if order == "RGB" else [np.ascontiguousarray(frame[:, :, ::-1]) for frame in rgb]

        def ours(frames: list[Any] = frames, order: Any = order) -> list[str]:
            return [classifier.predict(frame, color=order).top.name for frame in frames]

        def theirs(hand: Any, frames: list[Any] = frames, order: str = order) -> list[str]:
            return [hand.frame(frame, order == "BGR")[0][0] for frame in frames]

        _check_same(engine, ours(), theirs(hands[SAME_FILE]))
        calls = {EDGETL: ours, **{name: partial(theirs, hand) for name, hand in hands.items()}}
        per_frame = {
            name: [ms / len(frames) for ms in found]
            for name, found in in_rounds(calls, given.rounds, clock=CLOCKS[given.clock]).items()
        }
        lines += [
            compared(
                f"{engine}: {order} frame 480x640, {name}",
                "ms",
                per_frame[name],
                per_frame[EDGETL],
                limit=FRAME_LIMIT if name == TUNED else None,
            )
            for name in hands
        ]
    return lines


def _model_line(engine: str, hands: Mapping[str, Any], given: Given) -> Line:
    """The engine alone: what the two files differ by when nobody's code runs."""
    image = crop(opened(str(given.photos[0])))
    tensors = {name: hand.tensor(image) for name, hand in hands.items()}

    def repeated(name: str) -> None:
        for _ in range(_RUNS_PER_ROUND):
            hands[name].infer(tensors[name])

    calls = {name: partial(repeated, name) for name in (TUNED, SAME_FILE)}
    found = in_rounds(calls, given.rounds, clock=CLOCKS[given.clock])
    ms = {name: [value / _RUNS_PER_ROUND for value in values] for name, values in found.items()}
    return compared(f"{engine}: the engine alone, edgetl's file over own model", "ms", ms[TUNED], ms[SAME_FILE])


def _overhead_line(engine: str, classifier: Classifier, hand: Any, given: Given) -> Line:
    driven = {"onnxruntime": "session", "litert": "interpreter", "openvino": "request"}[engine]
    setattr(hand, driven, getattr(classifier.session, _OF_THE_ENGINE[engine]))
    tensor = edgetl_runtime.preprocess(given.photos[0], classifier.manifest.preprocess)[None]
    feeds = {classifier.manifest.input.name: tensor}
    values = overhead_us(
        partial(hand.infer, tensor),
        partial(classifier.session.run, feeds),
        rounds=given.rounds,
        clock=CLOCKS[given.clock],
    )
    low, high = np.quantile(values, (0.25, 0.75))
    return Line(
        f"{engine}: run() over the engine's own call",
        "us",
        float(np.median(values)),
        spread=(float(low), float(high)),
        limit=OVERHEAD_LIMIT_US,
    )


def _check_same(engine: str, ours: Sequence[str], theirs: Sequence[str]) -> None:
    """Raises `DataError`: then the two do not do the same job, and their times say nothing."""
    if agreement(ours, theirs) < 1:
        raise DataError(f"{engine}: edgetl and the hand-written code label the same file's photos differently")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
