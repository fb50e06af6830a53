"""What an input of the fuzzer is, and the tiny bundle that it goes to."""

from __future__ import annotations

import dataclasses
import functools
import io
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

ROOT = Path(__file__).parents[2]
# In front of all else: a library that brings a package `tests` of its own is among the converters' requirements.
sys.path[:0] = [str(folder) for folder in (ROOT, ROOT / "export", ROOT / "runtime")]

from edgetl_export.sealing import sealed, with_room_for_seal  # noqa: E402
from edgetl_runtime import Classifier, Manifest, Prediction, load, open_bundle, preprocess  # noqa: E402
from tests import conftest as colours  # noqa: E402

__all__ = ["Answer", "Case", "Corpus", "Generator", "Kind", "expected_tensor", "judge_prediction", "upright_rgb"]

Pixels = npt.NDArray[np.uint8]
Generator = np.random.Generator
MODELS = {"onnx": "onnx/model.fp32.onnx", "tflite": "tflite/model.fp32.tflite", "openvino": "openvino/model.fp32.xml"}


@dataclass(frozen=True)
class Answer:
    """The tensor that an image became, and what was predicted for it."""

    tensor: Pixels
    prediction: Prediction


@dataclass(frozen=True)
class Case:
    """One input: how the runtime meets it (``act``), and what is wrong with an answer (``judge``: None if nothing).

    ``must`` says whether there has to be an answer, an `EdgetlError`, or either. ``files`` reproduce the input.
    """

    act: Callable[[], object]
    judge: Callable[[Any], str | None]
    must: Literal["answer", "error", "either"] = "either"
    files: dict[str, bytes] = field(default_factory=dict)


Kind = Callable[["Corpus", Generator], Case]
"""Makes a case; the same generator makes the same one."""


class Corpus:
    """The sealed bundle of colours in `folder`, loaded when first needed; its victims are written into `scratch`."""

    def __init__(self, folder: Path, scratch: Path | None = None) -> None:
        self.bundle = folder / "bundle"
        self.scratch = folder / f"scratch-{os.getpid()}" if scratch is None else scratch
        self.scratch.mkdir(exist_ok=True)

    @staticmethod
    def write(folder: Path) -> None:
        """Make the bundle, every file of it sealed as the export does."""
        colours.write_bundle(folder)
        bundle = folder / "bundle"
        manifest = colours.base_manifest()
        raw = json.loads((bundle / "manifest.json").read_text())
        for target, path in MODELS.items():
            text = with_room_for_seal(manifest.embedded(f"{target}.fp32").to_json(compact=True))
            if target == "openvino":
                contents = sealed(colours.openvino_model(text, folder))
            else:
                contents = sealed([(colours.onnx_model if target == "onnx" else colours.tflite_model)(text)])
            names = [path, path.replace(".xml", ".bin")][: len(contents)]
            for name, content in zip(names, contents, strict=True):
                (bundle / name).write_bytes(content)
            entries = [dataclasses.asdict(colours.entry(*item)) for item in zip(names, contents, strict=True)]
            next(item for item in raw["variants"] if item["id"] == f"{target}.fp32")["files"] = entries
        (content,) = sealed([with_room_for_seal(json.dumps(raw, indent=1)).encode()])
        (bundle / "manifest.json").write_bytes(content)

    @functools.cached_property
    def manifest(self) -> Manifest:
        return open_bundle(self.bundle).manifest

    @functools.cached_property
    def raw(self) -> dict[str, Any]:
        """The manifest's JSON without its seal, so that a change of it is not found by that."""
        raw = json.loads((self.bundle / "manifest.json").read_text())
        return {key: value for key, value in raw.items() if key not in ("sealed", "seal")}

    @functools.cached_property
    def files(self) -> dict[str, bytes]:
        """The bundle's files by their path in it."""
        found = sorted(path for path in self.bundle.rglob("*") if path.is_file())
        return {path.relative_to(self.bundle).as_posix(): path.read_bytes() for path in found}

    @functools.cached_property
    def classifiers(self) -> dict[str, Classifier]:
        """By engine."""
        loaded = [load(self.bundle, variant=f"{target}.fp32", threads=1) for target in MODELS]
        return {item.session.engine: item for item in loaded}

    def predict(self, source: Any, **options: Any) -> Answer:
        """`source` through the runtime: preprocessed alone, and predicted."""
        tensor = preprocess(source, self.manifest.preprocess, **options)
        return Answer(tensor, self.classifiers["onnxruntime"].predict(source, top=4, **options))

    def folder(self, changed: dict[str, bytes | None]) -> Path:
        """A bundle folder like the corpus's but for the `changed` files (None: left out)."""
        made = self.scratch / "victim.edgetl"
        for path in sorted(made.rglob("*"), reverse=True) if made.exists() else ():
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
        for path, content in {**self.files, **changed}.items():
            if content is not None:
                (made / path).parent.mkdir(parents=True, exist_ok=True)
                if path in changed:
                    (made / path).write_bytes(content)
                else:
                    (made / path).symlink_to(self.bundle / path)
        return made

    @functools.cached_property
    def photo(self) -> bytes:
        """A red photo."""
        return colours.photo(colours.COLOURS["red"], seed=99)

    def judge_photo(self, prediction: Prediction) -> str | None:
        """Whether `photo` was predicted as the sound bundle does."""
        return judge_prediction(expected_tensor(upright_rgb(self.photo), self.raw["preprocess"]), prediction, self.raw)


def upright_rgb(content: bytes) -> Image.Image:
    """An image file as Pillow alone reads it: upright, RGB, the high byte of 16-bit greys."""
    with Image.open(io.BytesIO(content)) as image:
        kind = image.format
        upright = ImageOps.exif_transpose(image)
        if upright.mode.startswith("I;16") or (upright.mode == "I" and kind == "PNG"):
            upright = Image.fromarray((np.asarray(upright).astype(np.int64) // 256).astype(np.uint8))
        if upright.mode in ("I", "F"):
            raise ValueError("pixels without a range")
        return upright.convert("RGB")


def expected_tensor(image: Image.Image, spec: dict[str, Any]) -> Pixels:
    """What torchvision's preset makes of an RGB image; `spec` is the manifest's ``preprocess``."""
    from torchvision.transforms import functional

    mode = functional.InterpolationMode(spec.get("interpolation", "bilinear"))
    resized = functional.resize(image, [spec["resize"]], interpolation=mode, antialias=True)
    return np.asarray(functional.center_crop(resized, list(spec["crop"])))


def judge_prediction(tensor: Pixels, prediction: Prediction, raw: dict[str, Any]) -> str | None:
    """`prediction` against the model in closed form on `tensor`, with the labels of the manifest `raw`."""
    logits = colours.reference_logits(tensor[None])[0].astype(np.float64)
    exponentials = np.exp(logits - logits.max())
    probabilities = exponentials / exponentials.sum()
    for score in prediction.scores:
        if abs(score.probability - probabilities[score.index]) > 1e-4:
            return f"{score.name} has {score.probability}, not {probabilities[score.index]}"
        label = raw["labels"][score.index]
        if (score.id, score.name) != (label["id"], label["name"]):
            return f"label {score.index} is {score.id!r} {score.name!r}, not {label}"
    if probabilities[prediction.top.index] < probabilities.max() - 1e-4:
        return f"{prediction.top.name} is not the most probable"
    return None
