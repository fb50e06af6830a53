"""Bundles whose manifest, report, golden samples, zip or models are damaged or made up."""

from __future__ import annotations

import hashlib
import io
import json
import os
import stat
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
from canary import PLACES
from cases import MODELS, Case, Corpus, Generator, Kind, expected_tensor, judge_prediction, upright_rgb
from images import damaged

from edgetl_runtime import GoldenSamples, Prediction, load, open_bundle

__all__ = ["KINDS"]

ODD: list[Any] = [
    None,
    True,
    False,
    0,
    1,
    -1,
    2**31,
    2**63,
    10**300,
    10**4000,
    -1.5,
    1e308,
    "",
    "x",
    "red",
    "\0",
    "\ud800",
]
ODD += [
    "../../etc/passwd",
    "/etc/passwd",
    "C:\\x",
    "a" * 5000,
    [],
    {},
    [[]],
    [None],
    {"a": 1},
    "ä\u202e",
    "onnx",
    "uint8",
]
CANARY = [f"../{place}" for place in PLACES]
"""It lies beside the folder that the bundle is in."""
ODD += CANARY
LITERALS = ("NaN", "Infinity", "-Infinity", "1e999", "-1e999", "9" * 5000, "[" * 3000 + "]" * 3000, '"\\ud800"', "01")
VARIANTS = [f"{target}.fp32" for target in MODELS]


def nodes(raw: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) in JSON."""
    found: list[tuple[Any, Any]] = []
    todo = [raw]
    while todo:
        item = todo.pop()
        keys = list(item) if isinstance(item, dict) else range(len(item)) if isinstance(item, list) else ()
        found += [(item, key) for key in keys]
        todo += [item[key] for key in keys]
    return found


def mutated(raw: Any, rng: Generator) -> Any:
    """A copy of JSON with fields taken out, doubled, replaced by something odd, or exchanged."""
    raw = json.loads(json.dumps(raw))
    for _ in range(int(rng.choice([1, 1, 1, 2, 3]))):
        everything = nodes(raw)
        if not everything:
            break
        # The many images and hashes would take all turns otherwise.
        short = [node for node in everything if not isinstance(node[1], int) and "path" not in node[0]]
        pool = short if short and rng.integers(4) else everything
        container, key = pool[int(rng.integers(len(pool)))]
        match int(rng.integers(0, 10)):
            case 6 | 7 | 8 | 9:
                container[key] = alike(container[key], everything, rng)
            case 0:
                del container[key]
            case 1 | 2:
                container[key] = ODD[int(rng.integers(len(ODD)))]
            case 3 if isinstance(container, list):
                container.append(container[key])
            case 4:
                other, place = everything[int(rng.integers(len(everything)))]
                if place in other if isinstance(other, dict) else place < len(other):
                    container[key] = json.loads(json.dumps(other[place]))
            case _:
                container[key] = [container[key]]
    return raw


def alike(value: Any, everything: list[tuple[Any, Any]], rng: Generator) -> Any:
    """Another value of the same type, mostly one that stands elsewhere."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return int(rng.choice([value + 1, value - 1, 2 * value, -value, int(rng.integers(1, 60))]))
    if isinstance(value, float):
        return float(rng.choice([-value, 2 * value, 1e-30, 1e30]))
    others = [place[key] for place, key in everything if type(place[key]) is type(value)]
    return json.loads(json.dumps(others[int(rng.integers(len(others)))]))


def predicting(corpus: Corpus, path: Callable[[], Any], rng: Generator, *, raw: Any = None) -> Case:
    """Load what is at `path` and predict the photo, by the manifest `raw` when it is another than the corpus's."""
    variant = [None, *VARIANTS][int(rng.integers(4))]

    def act() -> Prediction:
        with load(path(), variant=variant, threads=1) as classifier:
            return classifier.predict(corpus.photo, top=9)

    def judge(prediction: Prediction) -> str | None:
        used = raw or corpus.raw
        return judge_prediction(expected_tensor(upright_rgb(corpus.photo), used["preprocess"]), prediction, used)

    return Case(act, judge)


def fields(corpus: Corpus, rng: Generator) -> Case:
    """A manifest that is JSON but not what a manifest is; without a seal, which would find every change."""
    raw = mutated(corpus.raw, rng)
    text = json.dumps(raw).encode()
    case = predicting(corpus, lambda: corpus.folder({"manifest.json": text}), rng, raw=raw)
    return Case(case.act, case.judge, "either", {"manifest.json": text})


def literals(corpus: Corpus, rng: Generator) -> Case:
    """What JSON's readers let through, or trip over."""
    raw = json.loads(json.dumps(corpus.raw))
    container, key = nodes(raw)[int(rng.integers(len(nodes(raw))))]
    container[key] = "@@"
    text = json.dumps(raw).replace('"@@"', LITERALS[int(rng.integers(len(LITERALS)))]).encode()
    case = predicting(corpus, lambda: corpus.folder({"manifest.json": text}), rng)
    return Case(case.act, lambda _: "accepted", "error", {"manifest.json": text})


def manifest_bytes(corpus: Corpus, rng: Generator) -> Case:
    """The sealed manifest with bytes changed: never another answer."""
    text = damaged(corpus.files["manifest.json"], rng)
    if rng.integers(4) == 0:
        text = text[: int(rng.integers(len(text) + 1))]
    case = predicting(corpus, lambda: corpus.folder({"manifest.json": text}), rng)
    same = text == corpus.files["manifest.json"]
    return Case(case.act, case.judge, "answer" if same else "error", {"manifest.json": text})


def wrong_hashes(corpus: Corpus, rng: Generator) -> Case:
    raw = json.loads(json.dumps(corpus.raw))
    target = str(rng.choice(list(MODELS)))
    variant = next(item for item in raw["variants"] if item["id"] == f"{target}.fp32")
    entry = variant["files"][int(rng.integers(len(variant["files"])))]
    digest = list(entry["sha256"])
    place = int(rng.integers(64))
    digest[place] = "0" if digest[place] != "0" else "1"
    changes = [{"sha256": "".join(digest)}, {"bytes": entry["bytes"] + int(rng.integers(1, 2**40))}, {"bytes": -1}]
    changes += [{"path": "golden/00.png"}, {"sha256": entry["sha256"].upper()}, {"sha256": ""}, {"path": "missing"}]
    changes += [{"path": CANARY[0]}] * 2
    entry |= changes[int(rng.integers(len(changes)))]
    text = json.dumps(raw).encode()

    def act() -> Any:
        with load(corpus.folder({"manifest.json": text}), variant=f"{target}.fp32", threads=1) as classifier:
            return classifier.predict(corpus.photo)

    return Case(act, lambda _: "accepted", "error", {"manifest.json": text})


def report(corpus: Corpus, rng: Generator) -> Case:
    """A report that is damaged: an error, or a variant that did not fail."""
    checks = [{"variant": id_, "what": "top1", "limit": 0.9, "value": 0.95, "passed": True} for id_ in VARIANTS]
    checks[0] |= {"value": 0.1, "passed": False}
    sound = {"schema": 1, "verdict": {"passed": False, "checks": checks}}
    text = json.dumps(mutated(sound, rng)).encode()
    if rng.integers(3) == 0:
        text = damaged(json.dumps(sound).encode(), rng)
    if rng.integers(8) == 0:
        text = json.dumps(sound).replace("0.9", LITERALS[int(rng.integers(len(LITERALS)))]).encode()
    case = predicting(corpus, lambda: corpus.folder({"report.json": text}), rng)
    return Case(case.act, case.judge, "either", {"report.json": text})


def golden(corpus: Corpus, rng: Generator) -> Case:
    """Golden samples whose hash is right and whose content is not."""
    n, (height, width) = corpus.raw["golden"]["n"], corpus.raw["preprocess"]["crop"]
    sound = corpus.files["golden/expected.npz"]
    match int(rng.integers(0, 5)):
        case 4:
            buffer = io.BytesIO()
            np.savez_compressed(buffer, **np.load(io.BytesIO(sound)))
            content = buffer.getvalue()
        case 0:
            content = damaged(sound, rng)
        case 1:
            content = sound[: int(rng.integers(len(sound)))]
        case 2:
            buffer = io.BytesIO()
            shape = tuple(int(size) for size in rng.choice([0, 1, 2, 3, n, height, width], int(rng.integers(0, 6))))
            kind = str(rng.choice(["uint8", "float32", "float64", "U3", "object"]))
            np.savez(buffer, tensors=np.zeros(shape, kind), logits=np.zeros((n, 4), np.float32))
            content = buffer.getvalue()
        case _:
            content = npz_bomb(rng)
    raw = json.loads(json.dumps(corpus.raw))
    raw["golden"]["expected"] |= {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    changed = {"golden/expected.npz": content, "manifest.json": json.dumps(raw).encode()}

    def judge(found: GoldenSamples) -> str | None:
        fits = found.tensors.shape[0] == found.logits.shape[0] == len(found.images) == n
        return None if fits and found.tensors.ndim == 4 else f"{found.tensors.shape} {found.logits.shape}"

    return Case(lambda: open_bundle(corpus.folder(changed)).golden(), judge, "either", {"expected.npz": content})


def npz_bomb(rng: Generator) -> bytes:
    """Arrays that are larger than they look: by their header, or by how they deflate."""
    buffer = io.BytesIO()
    shape = tuple(int(size) for size in rng.choice([2**10, 2**20, 2**40, 2**62], int(rng.integers(1, 5))))
    header = repr({"descr": "|u1", "fortran_order": False, "shape": shape}).encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    if rng.integers(4) == 0:
        header = rng.choice(
            [b"(" * 500, b"{'descr': '|O', 'fortran_order': False, 'shape': (1,)}\n", b"'\\", b"\xff" * 9]
        )
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        start = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
        archive.writestr("tensors.npy", start + b"\0" * int(rng.choice([0, 100, 20_000_000])))
        archive.writestr("logits.npy", start)
    return buffer.getvalue()


def zipped(corpus: Corpus, rng: Generator) -> Case:
    """Zips that are cut, changed, bombs, or that play with names."""
    names = dict(corpus.files)
    top = str(rng.choice(["", "colours/"]))
    method = int(rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2]))
    buffer = io.BytesIO()
    trick = int(rng.integers(0, 9))
    with zipfile.ZipFile(buffer, "w", method, compresslevel=1) as archive:
        for name, content in names.items():
            if name.startswith("golden/") and trick:
                continue
            if trick == 1 and name == "onnx/model.fp32.onnx":
                link = zipfile.ZipInfo(top + name)
                link.external_attr = (stat.S_IFLNK | 0o777) << 16
                archive.writestr(link, str(rng.choice(["/etc/passwd", *CANARY])))
            elif trick == 2 and name in ("manifest.json", "onnx/model.fp32.onnx"):
                archive.writestr(top + name, content + b"\0" * 30_000_000)
            else:
                archive.writestr(top + name, content)
        if trick == 3:
            for name in ("../../escaped", "../escaped", *PLACES):
                archive.writestr(name, b"x")
            archive.writestr("/tmp/escaped", b"x")
        if trick == 4:
            archive.filelist[0].flag_bits |= 1  # says that it is encrypted
    content = buffer.getvalue()
    if trick == 5:
        content = content.replace(b"onnx/model.int8.onnx", b"onnx/model.fp32.onnx")
    if trick == 6:
        content = content[: int(rng.integers(len(content)))]
    if trick >= 7:
        content = damaged(content[:-1500], rng) + damaged(content[-1500:], rng)
    path = corpus.scratch / "bundle.zip"

    def zip_path() -> Any:
        path.write_bytes(content)
        return path

    case = predicting(corpus, zip_path, rng)
    return Case(case.act, case.judge, "either", {"bundle.zip": content})


def model(corpus: Corpus, rng: Generator, *, alone: bool) -> Case:
    """A sealed model file with bytes changed, in its bundle or alone: refused, and never run."""
    target = str(rng.choice(list(MODELS)))
    names = [MODELS[target], *([MODELS[target].replace(".xml", ".bin")] if target == "openvino" else [])]
    contents = {name: corpus.files[name] for name in names}
    name = names[int(rng.integers(len(names)))]
    match int(rng.integers(0, 4)):
        case 0:
            contents[name] = contents[name][: int(rng.integers(len(contents[name])))]
        case 1:
            contents[name] += rng.bytes(int(rng.integers(1, 100)))
        case _:
            contents[name] = damaged(contents[name], rng)
    same = contents[name] == corpus.files[name]

    def act() -> Prediction:
        folder = corpus.folder(dict(contents))
        path = folder / names[0] if alone else folder
        with load(path, variant=None if alone else f"{target}.fp32", threads=1) as classifier:
            return classifier.predict(corpus.photo)

    return Case(act, corpus.judge_photo, "answer" if same else "error", contents)


def model_in_bundle(corpus: Corpus, rng: Generator) -> Case:
    return model(corpus, rng, alone=False)


def model_alone(corpus: Corpus, rng: Generator) -> Case:
    return model(corpus, rng, alone=True)


def foreign(corpus: Corpus, rng: Generator) -> Case:
    """Paths that are no bundle; a pipe must not be waited for."""
    pipes = [corpus.scratch / f"pipe{suffix}" for suffix in (".onnx", ".edgetl", ".xml")]
    for pipe in pipes:
        if not pipe.exists():
            os.mkfifo(pipe)
    text = corpus.scratch / f"text{rng.choice(['.onnx', '.tflite', '.xml', '.edgetl', '.zip', ''])}"
    text.write_bytes(rng.bytes(int(rng.integers(0, 400))))
    options: list[Any] = [
        *pipes,
        text,
        "/dev/zero",
        "/dev/stdin",
        "",
        "a\0b",
        "x" * 5000,
        "\ud800",
        None,
        3,
        corpus.scratch,
    ]
    options += [corpus.bundle / "golden", corpus.bundle / "golden/00.png", corpus.scratch / "missing.onnx", b"x"]
    path = options[int(rng.integers(len(options)))]
    return Case(lambda: load(path), lambda _: "accepted", "error", {"path": repr(path).encode()})


KINDS: dict[str, Kind] = {
    **{f"manifest/{kind.__name__}": kind for kind in (fields, literals, manifest_bytes, wrong_hashes)},
    **{f"bundle/{kind.__name__}": kind for kind in (report, golden, zipped, foreign)},
    **{f"model/{kind.__name__}": kind for kind in (model_in_bundle, model_alone)},
}
