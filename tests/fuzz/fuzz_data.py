"""Fuzz the reading of data sets: every image is in a split, or counted as left out, or there is a `DataError`.

    python tests/fuzz/fuzz_data.py [--n 5000] [--seed 0] [--only INDEX]

Inputs are folders (random trees of split words, labels, nesting, endings, pipes) and CSV files (odd quoting, encodings,
backslashes, damage), made from the seed and their number. What is read is held against what was written; the exit code
is 1 when an image was lost, stands in a split or under a label that is not its own, or anything else than an
`EdgetlError` escaped.
"""

from __future__ import annotations

import argparse
import csv
import io
import os
import shutil
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(folder) for folder in (Path(__file__).parent, ROOT, ROOT / "export", ROOT / "runtime")]

from canary import beside_canary  # noqa: E402

from edgetl.data.dataset import DataOptions, Dataset, load_dataset, load_labelled, load_photos  # noqa: E402
from edgetl_runtime.errors import EdgetlError  # noqa: E402
from edgetl_runtime.manifest import Label  # noqa: E402

__all__ = ["main", "try_all", "try_one"]

WORDS = {
    **dict.fromkeys(("train", "Training", "TRAIN"), "train"),
    **dict.fromkeys(("val", "valid", "Validation", "dev", "eval"), "val"),
    **dict.fromkeys(("test", "Testing"), "test"),
}
"""Written down once more, so that the table of the package is held against something."""
LABELS = ("rose", "tulip", "cr\u00e8me", "cre\u0300me", "a b", "x,y", "\u82b1", "trained", "rose ")
IMAGE_ENDINGS = (".png", ".PNG", ".jpg", ".bmp")
OTHER_ENDINGS = (".txt", "", ".HEIC", ".json", ".gz")
READABLE = DataOptions(min_per_class=1, skip_bad=True)
PLACES = ("images outside of the split folders", "images in no label folder")
Generator = np.random.Generator


def picture() -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(content, "BMP")
    return content.getvalue()


PICTURE = picture()


def choose(rng: Generator, items: tuple[str, ...] | list[str]) -> str:
    return items[int(rng.integers(len(items)))]


def is_hidden(path: Path, root: Path) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in path.relative_to(root).parts)


def write_file(path: Path, rng: Generator) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir() or os.path.lexists(path):
        return
    if rng.random() < 0.01:
        os.mkfifo(path)
    elif rng.random() < 0.02:
        path.symlink_to("/dev/zero" if rng.random() < 0.5 else "nowhere")
    else:
        path.write_bytes(PICTURE if rng.random() < 0.97 else b"no picture")


def random_folder(root: Path, rng: Generator) -> None:
    """Splits with labels as people have them, some of them in disorder."""
    labels = [choose(rng, LABELS) for _ in range(int(rng.integers(2, 5)))]
    if rng.random() < 0.8:  # one name of each split, or none
        named = {WORDS[word]: word for word in rng.permutation(list(WORDS)).tolist()}
        tops = [named[split] for split in ("train", "val", "test")[: int(rng.integers(0, 4))]] or [""]
    else:
        tops = [choose(rng, list(WORDS)) for _ in range(int(rng.integers(1, 4)))]
    fewest = int(rng.random() < 0.9)
    for top in tops:
        for label in labels:
            for n in range(int(rng.integers(fewest, 4))):
                write_file(root / top / label / f"{n}{choose(rng, IMAGE_ENDINGS)}", rng)
    for _ in range(int(rng.integers(0, 4)) if rng.random() < 0.6 else 0):
        own = [*tops, *labels, "deep", ".hidden", "__MACOSX"]
        parts = [choose(rng, own if rng.random() < 0.8 else [*WORDS, *LABELS]) for _ in range(int(rng.integers(0, 4)))]
        ending = choose(rng, IMAGE_ENDINGS if rng.random() < 0.6 else OTHER_ENDINGS)
        try:
            write_file(root.joinpath(*parts) / f"{choose(rng, ('a', '.b', 'c'))}{ending}", rng)
        except (FileExistsError, NotADirectoryError):
            continue


def own_split(path: Path, root: Path) -> str:
    return WORDS.get(path.relative_to(root).parts[0], "all")


def check_dataset(data: Dataset, root: Path) -> str | None:
    """What is wrong with a data set that was read from `root`."""
    files = [path for path in root.rglob("*") if not path.is_dir() and not is_hidden(path, root)]
    images = {path for path in files if path.suffix.lower() in IMAGE_ENDINGS}
    used: list[Path] = []
    for split, samples in (("train", data.train), ("val", data.val), ("test", data.test)):
        for sample in samples:
            path = Path(os.fspath(sample.source))  # type: ignore[arg-type]
            used.append(path)
            its = own_split(path, root)
            apart = {own_split(image, root) for image in images}
            if its != split and not (its in ("all", "train") and split in ("train", "val") and "val" not in apart):
                return f"{path} of {its} is in {split}"
            label = path.relative_to(root).parts[0 if its == "all" else 1]
            if unicodedata.normalize("NFC", label) != data.labels[sample.label].id:
                return f"{path} has the label {data.labels[sample.label].id!r}"
    bad = [Path(str(item.path)) for item in data.bad]
    lost = images - set(used) - set(bad)
    loose = sum(data.left_out.get(place, 0) for place in PLACES)
    if len(used) != len(set(used)) or len(lost) != loose:
        return f"{len(lost)} images are in no split, {loose} are said: {sorted(lost)[:3]}"
    others = Counter(path.suffix.lower() or "without an ending" for path in files if path not in images)
    said = {kind: n for kind, n in data.left_out.items() if kind not in PLACES}
    return None if said == others else f"left out {dict(others)}, said {said}"


def try_folder(root: Path, rng: Generator) -> tuple[str, str | None]:
    random_folder(root, rng)
    known = [Label(name, name) for name in dict.fromkeys(unicodedata.normalize("NFC", label) for label in LABELS)]
    for read in (
        lambda: load_labelled(root, known, skip_bad=True),
        lambda: load_labelled(root, known, training=True, skip_bad=True),
    ):
        with suppress(EdgetlError):
            read()
    try:
        splits = {own_split(Path(os.fspath(photo.source)), root) for photo in load_photos(root)}  # type: ignore[arg-type]
        if len(splits) > 1:
            return "folder", f"calibrates on {splits}"
    except EdgetlError:
        pass
    try:
        return "folder", check_dataset(load_dataset(root, READABLE), root)
    except EdgetlError as error:
        return "folder, refused", None if error.fix else f"no fix: {error}"


def random_table(root: Path, rng: Generator) -> tuple[Path, list[tuple[str, str, str]]]:
    """A table, and its rows as they were meant: file, label, split."""
    second = choose(rng, ("val", "Testing", "eval", "train", "DEV", "holdout"))
    splits = ("", "") if rng.random() < 0.5 else ("train", second)
    labels = rng.permutation(list(LABELS)).tolist()[:3]
    rows = []
    for n in range(int(rng.integers(1, 13))):
        label = str(labels[n % 2] if rng.random() < 0.95 else labels[2])
        name = f"{label.strip()}/{n}{choose(rng, IMAGE_ENDINGS)}"
        write_file(root / name, rng)
        mark = "\\" if rng.random() < 0.2 else "/"
        rows.append((name.replace("/", mark), label, splits[n // 2 % 2]))
    text = io.StringIO()
    quoting = (csv.QUOTE_MINIMAL, csv.QUOTE_ALL)[int(rng.integers(2))]
    ending = choose(rng, ("\n", "\r\n", "\r"))
    writer = csv.writer(text, delimiter=choose(rng, (",",) * 9 + (";",)), quoting=quoting, lineterminator=ending)
    width = 3 if splits[0] else 2
    writer.writerows([("path", "label", "split")[:width], *(row[:width] for row in rows)])
    written = text.getvalue()
    if rng.random() < 0.3:
        for _ in range(int(rng.integers(1, 4))):
            place = int(rng.integers(len(written)))
            new = choose(rng, ('"', ",", "\n", "\\", "", "'", ";", "\0", "x" * 300, '""', "../", " "))
            written = written[:place] + new + written[place + int(rng.integers(0, 3)) :]
        rows = []
    encoding = choose(rng, ("utf-8",) * 5 + ("utf-8-sig", "utf-16", "latin-1"))
    (root / "t.csv").write_bytes(written.encode(encoding, errors="replace"))
    return root / "t.csv", rows


def try_table(root: Path, rng: Generator) -> tuple[str, str | None]:
    table, rows = random_table(root, rng)
    with suppress(EdgetlError):
        load_photos(table)
    try:
        data = load_dataset(table, READABLE)
    except EdgetlError as error:
        return "table, refused", None if error.fix else f"no fix: {error}"
    samples = [*data.train, *data.val, *data.test]
    text = table.read_bytes().decode("utf-8-sig")
    lines = [line for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n") if line]
    if len(samples) + len(data.bad) != len(lines) - 1:
        return "table", f"{len(lines) - 1} lines, {len(samples)} images, {len(data.bad)} unreadable"
    meant = {name.replace("\\", "/"): unicodedata.normalize("NFC", label.strip()) for name, label, _ in rows}
    for sample in samples if rows else ():
        path = Path(os.fspath(sample.source)).relative_to(root).as_posix()  # type: ignore[arg-type]
        if meant.get(path) != data.labels[sample.label].id:
            return "table", f"{path} has the label {data.labels[sample.label].id!r}, meant was {meant.get(path)!r}"
    return "table", None


def try_one(index: int, seed: int, root: Path) -> tuple[str, str | None]:
    """Kind of the input, and what is wrong; None where nothing is."""
    rng = np.random.default_rng((seed, index))
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    try:
        return (try_table if index % 3 == 0 else try_folder)(root, rng)
    except Exception as error:  # noqa: BLE001 - a bug, which is what is looked for
        return "crash", f"{type(error).__name__}: {error}"


def try_all(indices: Iterable[int], seed: int) -> Iterator[tuple[int, str, str | None]]:
    """Of each input its number, its kind and what is wrong; something outside that was opened or changed is, too."""
    with beside_canary() as (work, canary):
        for index in indices:
            kind, problem = try_one(index, seed, work / "set")
            yield index, kind, problem or canary.touched()


def main(words: list[str] | None = None) -> int:
    """Run the fuzzer; see the module."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--n", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, metavar="INDEX")
    given = parser.parse_args(words)
    kinds: Counter[str] = Counter()
    wrong: list[str] = []
    for index, kind, problem in try_all(range(given.n) if given.only is None else [given.only], given.seed):
        kinds[kind] += 1
        if problem is not None:
            wrong.append(f"{index}: {kind}: {problem}")
    print(", ".join(f"{kind}: {n}" for kind, n in sorted(kinds.items())), f"- wrong: {len(wrong)}")
    print("\n".join(wrong[:20]))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
