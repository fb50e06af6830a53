"""Fuzz what people load networks from: weights files, checkpoints, labels, states of trainings. No traceback, no crash.

    python tests/fuzz/fuzz_weights.py [--n 4000] [--seed 0] [--only KIND[:INDEX]]

Every input is a sound file that something was done to. Reading it gives an answer or an `EdgetlError` with a fix;
children read some hundreds each, so that one that dies is found. The exit code is 1 when anything was found.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(folder) for folder in (Path(__file__).parent, ROOT, ROOT / "export", ROOT / "runtime")]

import torch  # noqa: E402
from children import Kinds, Random, main  # noqa: E402
from safetensors.torch import save as save_tensors  # noqa: E402

from edgetl.models.backbones import build  # noqa: E402
from edgetl.models.checkpoint import CHECKPOINT_FILE, Checkpoint, load_labels  # noqa: E402
from edgetl.models.weight_files import CHECKPOINT_WEIGHTS, read_state  # noqa: E402
from edgetl.training.resume import Keeping  # noqa: E402
from edgetl_runtime.manifest import Label, Normalize, Preprocess  # noqa: E402

__all__ = ["KINDS", "damaged", "senseless"]

_SENSELESS: tuple[str, ...] = (
    *("null", "true", "[]", "{}", '""', '" "', "-1", "0", "1", "1e308", "1e999", "NaN", "-0.0", "1" + "0" * 400),
    *('"\\ud800"', '"\\u0000"', "[" * 80 + "]" * 80, "[" * 50_000, '{"a":' * 70 + "1" + "}" * 70, '"x"', "[[1, 2], 3]"),
    *('["a", "a"]', '[{"id": ""}]', '[{"id": "a", "name": ""}, {"id": "b"}]', "1.5", '"' + "y" * 5000 + '"'),
)


def _state() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"features.0.weight": (4, 3, 3, 3), "features.0.bias": (4,), "classifier.1.weight": (3, 4)}
    return {key: torch.randn(shape, generator=generator) for key, shape in shapes.items()}


def _saved(value: object, *, zipped: bool = True) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream, _use_new_zipfile_serialization=zipped)
    return stream.getvalue()


def damaged(content: bytes, rng: Random) -> bytes:
    """Some bytes changed, taken out, doubled, or the end cut off."""
    data = bytearray(content)
    for _ in range(int(rng.integers(1, 8))):
        at, n = int(rng.integers(0, len(data))), int(rng.integers(1, 16))
        way = rng.integers(0, 5)
        if way < 2:
            data[at] = int(rng.integers(0, 256))
        elif way == 2 and len(data) > n + 1:
            del data[at : at + n]
        elif way == 3:
            data[at:at] = data[at : at + n]
        else:
            data[at : at + n] = rng.integers(0, 256, n, np.uint8).tobytes()
        data = data or bytearray(b"x")
    return bytes(data[: int(rng.integers(0, len(data) + 1))]) if rng.random() < 0.1 else bytes(data)


def _inner_damaged(content: bytes, rng: Random) -> bytes:
    """A zip whose pickle is damaged, and whose checksums are right all the same."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(stream, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            new.writestr(name, damaged(data, rng) if name.endswith(("data.pkl", "byteorder", "version")) else data)
    return stream.getvalue()


def senseless(value: object, rng: Random) -> bytes:
    """JSON with one or two of its values replaced by what makes no sense, or left out."""
    marker = "@@senseless@@"
    raw = json.loads(json.dumps(value))
    for _ in range(int(rng.integers(1, 3))):
        holder: Any = {"": raw}
        key: Any = ""
        while isinstance(holder[key], (dict, list)) and holder[key] and rng.random() < 0.8:
            holder = holder[key]
            key = (
                list(holder)[rng.integers(len(holder))] if isinstance(holder, dict) else int(rng.integers(len(holder)))
            )
        if rng.random() < 0.2 and holder is not None and isinstance(holder, dict) and key:
            del holder[key]
        elif key == "":
            raw = marker
        else:
            holder[key] = marker
    text = json.dumps(raw).replace(f'"{marker}"', str(rng.choice(np.array(_SENSELESS, object))))
    return damaged(text.encode(), rng) if rng.random() < 0.1 else text.encode()


def _checkpoint(folder: Path) -> dict[str, Any]:
    checkpoint = Checkpoint.of(
        build("squeezenet1_1", 3),
        backbone="squeezenet1_1",
        labels=tuple(Label(name, name.upper()) for name in "abc"),
        preprocess=Preprocess(36, (32, 32)),
        normalize=Normalize((0.5,) * 3, (0.2,) * 3),
    )
    if not folder.exists():
        checkpoint.save(folder)
    about: dict[str, Any] = json.loads((folder / CHECKPOINT_FILE).read_text())
    return about


def _read_weights(name: str, content: bytes, folder: Path) -> None:
    (folder / name).write_bytes(content)
    read_state(folder / name)


def _wrapped(rng: Random) -> object:
    wrappers = (
        lambda state: state,
        lambda state: {"state_dict": {f"module.{key}": value for key, value in state.items()}, "epoch": 3},
        lambda state: {"model": state, "args": argparse.Namespace(lr=1.0, names=["a"])},
        lambda state: torch.nn.Sequential(torch.nn.Linear(2, 2)),
    )
    return wrappers[rng.integers(len(wrappers))](_state())


def _pth(rng: Random, folder: Path) -> None:
    _read_weights("w.pth", damaged(_saved(_wrapped(rng)), rng), folder)


def _pickle_in_pth(rng: Random, folder: Path) -> None:
    _read_weights("w.pth", _inner_damaged(_saved(_wrapped(rng)), rng), folder)


def _old_pth(rng: Random, folder: Path) -> None:
    _read_weights("w.pth", damaged(_saved(_wrapped(rng), zipped=False), rng), folder)


def _safetensors(rng: Random, folder: Path) -> None:
    _read_weights("w.safetensors", damaged(save_tensors(_state()), rng), folder)


def _safetensors_header(rng: Random, folder: Path) -> None:
    content = save_tensors(_state())
    size = int.from_bytes(content[:8], "little")
    header = senseless(json.loads(content[8 : 8 + size]), rng)
    _read_weights("w.safetensors", len(header).to_bytes(8, "little") + header + content[8 + size :], folder)


def _checkpoint_json(rng: Random, folder: Path) -> None:
    target = folder / "checkpoint"
    about = _checkpoint(target)
    try:
        (target / CHECKPOINT_FILE).write_bytes(senseless(about, rng))
        Checkpoint.load(target).build()
    finally:
        (target / CHECKPOINT_FILE).write_text(json.dumps(about))


def _checkpoint_weights(rng: Random, folder: Path) -> None:
    target = folder / "damaged"
    _checkpoint(target)
    whole = (target / CHECKPOINT_WEIGHTS).read_bytes()
    try:
        (target / CHECKPOINT_WEIGHTS).write_bytes(damaged(whole[:4096], rng))
        Checkpoint.load(target)
    finally:
        (target / CHECKPOINT_WEIGHTS).write_bytes(whole)


def _labels(rng: Random, folder: Path) -> None:
    labels = [{"id": "n01", "name": "crane"}, {"id": "n02", "name": "crane"}, "b"][: int(rng.integers(1, 4))]
    suffix = str(rng.choice(["json", "txt"]))
    (folder / f"labels.{suffix}").write_bytes(senseless(labels, rng))
    for label in load_labels(folder / f"labels.{suffix}"):
        label.name.encode()


def _training_state(rng: Random, folder: Path) -> None:
    about = {"photos": "x", "seed": 3}
    content = _saved({"schema": 1, "about": about, "model": _state()})
    damage = damaged if rng.random() < 0.5 else _inner_damaged
    (folder / "snapshot.pt").write_bytes(damage(content, rng))
    Keeping(folder, resume=True).read(about)


KINDS: Kinds = {
    "pth": _pth,
    "pickle_in_pth": _pickle_in_pth,
    "old_pth": _old_pth,
    "safetensors": _safetensors,
    "safetensors_header": _safetensors_header,
    "checkpoint_json": _checkpoint_json,
    "checkpoint_weights": _checkpoint_weights,
    "labels": _labels,
    "training_state": _training_state,
}


if __name__ == "__main__":
    sys.exit(main(__file__, KINDS, __doc__ or ""))
