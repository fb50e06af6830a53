"""Fuzz what people hand over besides photos and weights: saved data sets, recipes, gates, baselines, bundles' records.

    python tests/fuzz/fuzz_documents.py [--n 4000] [--seed 0] [--only KIND[:INDEX]]

Every input is a sound one that something was done to; some name files of a canary that nobody may touch, pipes and
devices. Reading it gives an answer or an `EdgetlError` with a fix. The exit code is 1 when anything else was found.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import shutil
import sys
import tarfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(folder) for folder in (Path(__file__).parent, ROOT, ROOT / "export", ROOT / "runtime")]

import canary  # noqa: E402
from children import Kinds, Random, main  # noqa: E402
from fuzz_names import a_report  # noqa: E402
from fuzz_weights import damaged, senseless  # noqa: E402

from edgetl.data.dataset import DataOptions, load_dataset, load_photos  # noqa: E402
from edgetl.models.training_history import read_rows  # noqa: E402
from edgetl.recipe import Recipe, read_recipe, verify_options  # noqa: E402
from edgetl.reports.calibration_ranges import read_ranges  # noqa: E402
from edgetl.reports.html import render_html  # noqa: E402
from edgetl.reports.junit import render_junit  # noqa: E402
from edgetl.reports.markdown import render_markdown  # noqa: E402
from edgetl.reports.terminal import render_terminal  # noqa: E402
from edgetl.verify.gate.limits import read_gate  # noqa: E402
from edgetl.verify.gate.propose import propose_gate  # noqa: E402
from edgetl.verify.gate.regression import Baseline  # noqa: E402
from edgetl.verify.measure.original_outputs import RecordingOriginal, read_kept_outputs  # noqa: E402
from edgetl.verify.record import read_record  # noqa: E402
from edgetl_runtime import open_bundle  # noqa: E402
from tests import conftest as colours  # noqa: E402

__all__ = ["KINDS"]

PLACES: tuple[str, ...] = (*canary.PLACES, "/dev/zero", "/dev/stdin", "\0", "")
PLACES += ("http://127.0.0.1:9/x", "zip://a::../canary/secret", "..", "/", "~", "x" * 300, "hf://datasets/a/b")
_TOML = (
    *("nan", "inf", "-inf", "1e308", "-1", "0", "1", "true", '""', '"\\u0000"', "[]", "{}", "9" * 30, "-9" * 9, "1.5"),
    *(
        "[" * 20 + "]" * 20,
        "[" * 3000,
        '"' + "y" * 3000 + '"',
        ".".join("a" * 900) + " = 1",
        "1979-05-27",
        "0x1f",
        "'x'",
    ),
    *(f'"{place}"' for place in PLACES if "\0" not in place),
)
_GATE = """
reference = "onnx.fp32"
[default]
top1_agreement = 0.98
delta = -0.01
p95_ratio = 1.2
[precision.int8]
top1_agreement = 0.95
[target.tflite]
bytes = 1000000
[variant."onnx.int8"]
sqnr_db = 20.0
"""


@cache
def _picture() -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(content, "PNG")
    return content.getvalue()


@cache
def _saved_set(split: bool) -> Path:
    """A sound data set as its library saves it, made once in a process."""
    import tempfile

    import datasets

    rows = {
        "image": [{"bytes": _picture(), "path": None} for _ in range(8)],
        "label": [place % 2 for place in range(8)],
    }
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    made = datasets.Dataset.from_dict(rows, features=features)
    folder = Path(tempfile.mkdtemp(prefix="edgetl-fuzz-", dir=Path.cwd())) / "set"
    whole: Any = datasets.DatasetDict({"train": made, "test": made}) if split else made
    datasets.disable_progress_bars()
    whole.save_to_disk(str(folder))
    return folder


def _fresh(folder: Path, split: bool) -> Path:
    target = folder / "set"
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(_saved_set(split), target)
    return target


def _read_set(path: Path) -> None:
    import datasets

    datasets.disable_progress_bars()
    load_dataset(path, DataOptions(min_per_class=1, skip_bad=True))
    load_photos(path)


def _saved_json(rng: Random, folder: Path) -> None:
    """A data set whose JSON files make no sense, or name other files."""
    path = _fresh(folder, bool(rng.integers(2)))
    files = sorted(path.rglob("*.json"))
    file = files[int(rng.integers(len(files)))]
    if file.name == "dataset_dict.json" and rng.random() < 0.5:
        file.write_text(json.dumps({"splits": ["train", f"../{canary.PLACES[int(rng.integers(2))]}"]}))
        _read_set(path)
        return
    raw = json.loads(file.read_text())
    if "_data_files" in raw and rng.random() < 0.5:
        place = str(rng.choice(np.array(PLACES, object)))
        raw["_data_files"] = [{"filename": f"../{place}" if place.startswith("..") else place}]
        file.write_text(json.dumps(raw))
    else:
        file.write_bytes(senseless(raw, rng))
    _read_set(path)


def _saved_arrow(rng: Random, folder: Path) -> None:
    """A data set whose tables are damaged."""
    path = _fresh(folder, bool(rng.integers(2)))
    files = sorted(path.rglob("*.arrow"))
    file = files[int(rng.integers(len(files)))]
    file.write_bytes(damaged(file.read_bytes(), rng))
    _read_set(path)


def _saved_rows(rng: Random, folder: Path) -> None:
    """A sound data set whose rows name other files, have labels that are none, or no picture."""
    import datasets

    datasets.disable_progress_bars()
    n = int(rng.integers(1, 6))
    images = [
        {
            "bytes": [_picture(), b"no picture", b"", None][int(rng.integers(4))],
            "path": PLACES[int(rng.integers(len(PLACES)))],
        }
        for _ in range(n)
    ]
    labels: list[Any] = [int(rng.choice([-1, 0, 1])) for _ in range(n)]
    # Not as images yet: those would be read now.
    image = {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}
    features = datasets.Features({"image": image, "label": datasets.Value("int64")})
    made = datasets.Dataset.from_dict({"image": images, "label": labels}, features=features)
    path = folder / "set"
    shutil.rmtree(path, ignore_errors=True)
    made.save_to_disk(str(path))
    file = path / "dataset_info.json"
    raw = json.loads(file.read_text())
    names = ["a", "b"][: int(rng.integers(0, 3))]
    raw["features"]["label"] = (
        {"names": names, "_type": "ClassLabel"} if rng.random() < 0.7 else {"dtype": "int64", "_type": "Value"}
    )
    raw["features"]["image"] = {"_type": "Image"}
    file.write_text(json.dumps(raw))
    _read_set(path)


def _shards(rng: Random, folder: Path) -> None:
    """Tar shards with odd members: links, devices, names that lead out, labels that are none; and damaged ones."""
    stream = io.BytesIO()
    with tarfile.open(
        fileobj=stream, mode="w", format=int(rng.choice([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]))
    ) as tar:
        for place in range(int(rng.integers(2, 7))):
            for ending, content in (("png", _picture()), ("cls", str(place % 2).encode())):
                member = tarfile.TarInfo(f"{place}.{ending}")
                if rng.random() < 0.2:
                    outside = PLACES[int(rng.integers(len(PLACES)))].replace("\0", "x") or "x"
                    member.name = f"{outside}/{place}.{ending}" if rng.random() < 0.5 else outside
                if rng.random() < 0.15:
                    kinds = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE)
                    member.type, member.linkname = kinds[int(rng.integers(5))], str(rng.choice(canary.PLACES))
                if rng.random() < 0.1:
                    content = [b"", b"\xff", b"[" * 5000, b"x" * 70_000, b"\x1b[31m"][int(rng.integers(5))]
                member.size = len(content) if member.isreg() else 0
                tar.addfile(member, io.BytesIO(content))
    content = stream.getvalue()
    (folder / "a.tar").write_bytes(damaged(content, rng) if rng.random() < 0.5 else content)
    _read_set(folder / "a.tar")


def _toml(text: str, rng: Random) -> bytes:
    """TOML with values replaced, keys renamed or doubled, sections moved, or bytes damaged."""
    lines = text.strip().splitlines()
    for _ in range(int(rng.integers(1, 4))):
        place = int(rng.integers(len(lines)))
        key, equals, _ = lines[place].partition("=")
        way = int(rng.integers(0, 8))
        if way < 5 and equals:
            lines[place] = f"{key}= {_TOML[int(rng.integers(len(_TOML)))]}"
        elif way == 5:
            lines.insert(int(rng.integers(len(lines))), lines[place])
        elif way == 6:
            lines[place] = f"{_TOML[int(rng.integers(len(_TOML)))]}{equals}{lines[place]}"
        else:
            del lines[place]
        lines = lines or ["a = 1"]
    content = "\n".join(lines).encode()
    return damaged(content, rng) if rng.random() < 0.2 else content


@cache
def _recipe_text() -> str:
    return Recipe().updated({"data": {"path": "photos"}, "export": {"max_drop": 0.1}}).to_toml()


def _recipe(rng: Random, folder: Path) -> None:
    (folder / "r.toml").write_bytes(_toml(_recipe_text(), rng))
    recipe = read_recipe(folder / "r.toml")
    verify_options(recipe)
    recipe.to_toml().encode()


def _gate(rng: Random, folder: Path) -> None:
    (folder / "g.toml").write_bytes(_toml(_GATE, rng))
    gate = read_gate(folder / "g.toml")
    gate.limits_for("onnx.int8", target="onnx", precision="int8")


@cache
def _report_raw() -> Any:
    return json.loads(a_report(random.Random(0)).to_json())


def _baseline(rng: Random, folder: Path) -> None:
    """An earlier report, and what is made of one that could be read."""
    (folder / "b.json").write_bytes(senseless(_report_raw(), rng))
    report = Baseline.read(folder / "b.json").report
    for made in (render_html, render_junit, render_markdown, render_terminal):
        made(report).encode()
    report.to_json().encode()
    propose_gate(report)


def _record(rng: Random, folder: Path) -> None:
    """``report.json`` as `verify --record` finds it."""
    bundle = folder / "bundle"
    bundle.mkdir(exist_ok=True)
    (bundle / "report.json").write_bytes(senseless(_report_raw(), rng))
    read_record(bundle)


@cache
def _answering() -> tuple[Path, bytes, Any]:
    """A bundle that keeps the original's answers: the folder, the arrays, and what says what they are."""
    import tempfile

    folder = Path(tempfile.mkdtemp(prefix="edgetl-fuzz-", dir=Path.cwd()))
    colours.write_bundle(folder)
    bundle = folder / "bundle"
    manifest = open_bundle(bundle).manifest
    recording = RecordingOriginal(lambda images: np.zeros((len(images), len(manifest.labels)), np.float32))
    recording(np.arange(108, dtype=np.uint8).reshape(4, 3, 3, 3))
    recording.keep(bundle, manifest, [0] * 4)
    kept = bundle / "reference"
    return bundle, (kept / "logits.npz").read_bytes(), json.loads((kept / "logits.json").read_text())


def _answers(rng: Random, folder: Path) -> None:
    """Answers of the original, damaged and with a hash that is right, or described senselessly."""
    bundle, content, about = _answering()
    if rng.random() < 0.6:
        content = damaged(content, rng)
        text = json.dumps(about | {"sha256": hashlib.sha256(content).hexdigest()}).encode()
    else:
        text = senseless(about, rng)
    (bundle / "reference" / "logits.npz").write_bytes(content)
    (bundle / "reference" / "logits.json").write_bytes(text)
    read_kept_outputs(open_bundle(bundle))


def _calibrations(rng: Random, folder: Path) -> None:
    """``quantization.json`` and the history of the training, as the page of a report reads them from a bundle."""
    grids = {"conv": {"scale": 0.1, "zero_point": 3}, "relu": {"scale": 0.2, "zero_point": 0}}
    one = {"variants": ["onnx.int8"], "rung": "ptq", "calibration": {"n": 3}, "activations": grids}
    one |= {
        "weights": {"conv": {"scale": [0.1, 0.2], "axis": 0}},
        "in_float": ["relu"],
        "saturation": {"onnx.int8": []},
    }
    (folder / "quantization.json").write_bytes(senseless({"schema": 1, "quantizations": [one]}, rng))
    (folder / "history.json").write_bytes(
        senseless({"epochs": [{"epoch": 0, "val_top1": 0.5, "spent": {"a": 1.0}}]}, rng)
    )
    rows = read_rows(folder / "history.json")
    json.dumps(rows)
    read_ranges(folder / "quantization.json")


KINDS: Kinds = {
    "saved_json": _saved_json,
    "saved_arrow": _saved_arrow,
    "saved_rows": _saved_rows,
    "shards": _shards,
    "recipe": _recipe,
    "gate": _gate,
    "baseline": _baseline,
    "record": _record,
    "calibrations": _calibrations,
    "answers": _answers,
}


if __name__ == "__main__":
    sys.exit(main(__file__, KINDS, __doc__ or ""))
