"""Keras models: a file or one in memory to a network of torch modules, with the user's model as the original.

Read in this order: `loading`, `translation` (with `layers_weighted`, `layers_shaped`, `activations`), `pixels`,
`original`.
"""

from __future__ import annotations

import copy
import hashlib
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import fx

from edgetl.models.image_size import height_and_width, size_text
from edgetl.models.sources.foreign import About, Foreign
from edgetl.models.sources.keras_model.loading import (
    Custom,
    check_is_model,
    custom_code,
    in_float32,
    load_model,
    saved_bytes,
    with_classes_of,
)
from edgetl.models.sources.keras_model.original import KerasOriginal, compare
from edgetl.models.sources.keras_model.pixels import Convention, absorb, convention_of
from edgetl.models.sources.keras_model.pixels_check import check_convention
from edgetl.models.sources.keras_model.simplify import simplify
from edgetl.models.sources.keras_model.translation import functional_of, translate
from edgetl.models.sources.own import number_of_outputs
from edgetl.models.sources.source_options import SourceOptions
from edgetl_runtime.errors import CheckpointError, UsageError
from edgetl_runtime.manifest import Preprocess
from edgetl_runtime.preprocess import preprocess
from edgetl_runtime.writing import write_file

__all__ = ["KERAS_FILE", "opened", "reopened"]

KERAS_FILE = "model.keras"
"""The model in the folder of a bundle's reference; an HDF5 file keeps its ending."""
_USUAL = "bilinear_no_antialias"
_TRIED_ON = 16
_JUDGED = 60
"""Labelled photos that a convention of pixels is held against."""


def opened(spec: Any, options: SourceOptions) -> Foreign:
    """The model of a file, or one in memory, with what `options` say of it.

    Raises `UsageError` and `CheckpointError` as the modules above do, and `UsageError` when the translation is not what
    Keras computes.
    """
    in_memory = not isinstance(spec, str | Path)
    if in_memory:
        functional_of(spec)  # before Keras fails to make a copy of one without a graph
    name, content = _content(spec)
    custom = custom_code(options.custom)
    where = "the model" if in_memory else str(spec)
    if in_memory:
        custom = with_classes_of(custom, spec)
    model = _loaded(name, content, custom, where=where)
    made = _translated(model, options, custom)
    return Foreign(
        kind="keras",
        backbone=f"keras:{model.name}",
        sha256=hashlib.sha256(content).hexdigest(),
        files={name: content},
        **made,
    )


def reopened(folder: Path, about: About) -> Foreign | None:
    """What a bundle keeps, opened again; None where it needs code of the user's."""
    if about.opening.get("custom"):
        return None
    (name,) = about.files
    content = about.content(folder, name)
    model = _loaded(name, content, Custom(), where=str(folder / name))
    spec = about.preprocess
    options = SourceOptions(image_size=spec.crop, channels=spec.channels, pixels=about.opening.get("pixels"))
    made = _translated(model, options, Custom())
    made |= {"labels": about.labels, "preprocess": about.preprocess, "normalize": about.normalize}
    return Foreign(kind="keras", backbone=about.backbone, sha256=about.sha256, files={name: content}, **made)


def _content(spec: Any) -> tuple[str, bytes]:
    """Name and content of the file, of a model in memory of the one that it saves."""
    if not isinstance(spec, str | Path):
        return KERAS_FILE, saved_bytes(spec)
    path = Path(spec)
    check_is_model(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}", fix="check the path") from None
    # TensorFlow up to 2.11 wrote HDF5 into files called .keras; and files are renamed.
    beginnings = {b"PK": KERAS_FILE, b"\x89H": "model.h5"}
    return beginnings.get(content[:2], f"model{path.suffix.lower()}"), content


def _loaded(name: str, content: bytes, custom: Custom, *, where: str) -> Any:
    with tempfile.TemporaryDirectory(prefix="edgetl-") as folder:
        write_file(Path(folder) / name, content)
        return load_model(Path(folder) / name, custom, where=where)


def _translated(model: Any, options: SourceOptions, custom: Custom) -> dict[str, Any]:
    """Everything that a `Foreign` has of the model itself."""
    resizing = _resizing(model)
    size, channels = _input_of(model, resizing, options)
    precision = in_float32(model)
    module, builder = translate(model, custom.translations, size, channels)
    simplify(module)
    convention, reason = convention_of(model, module, options.pixels)
    outputs = number_of_outputs(module, channels, size, where=model.name)
    if outputs == 1:
        raise UsageError(
            f"{model.name} gives one number: edgetl does not know what decides",
            fix='if it is a logit, a sigmoid behind it: keras.Sequential([model, keras.layers.Activation("sigmoid")])',
        )
    original = KerasOriginal(model, convention, builder)
    spec = _preprocess(size, channels, resizing, options)
    nearness = compare(original, module, builder, _images(spec, options.photos))
    # What the graph itself says is not doubted.
    doubted = not reason.startswith("the model itself")
    refute = partial(_refute, _sharing_weights(module), convention, spec) if doubted else None
    normalize = absorb(module, convention, channels)
    notes = [
        f"pixels {convention.name} ({convention.about}), {reason}",
        f"photos {_about(spec)}",
        *builder.notes,
        *([] if precision is None else [precision]),
        f"translated, {nearness:.0f} dB from Keras",
    ]
    return {
        "module": module,
        "labels": options.labels_for(outputs, model.name),
        "preprocess": spec,
        "normalize": normalize,
        "original": original,
        "training": {"weights": "keras", "loading": "; ".join(notes)},
        "opening": {"pixels": convention.name, "custom": bool(custom.translations or custom.objects)},
        "refute": refute,
    }


def _sharing_weights(module: fx.GraphModule) -> fx.GraphModule:
    """The graph as it is now, with the same layers: `module` may change its own."""
    return fx.GraphModule(module, copy.deepcopy(module.graph)).eval()


def _refute(
    module: fx.GraphModule,
    convention: Convention,
    spec: Preprocess,
    ids: Sequence[str],
    files: Mapping[str, Sequence[Any]],
) -> None:
    """`UsageError` where photos, by the id of their label, refute that the model takes pixels by `convention`.

    `module` is its translation, which takes them alike. Photos of other labels than `ids` say nothing.
    """
    if set(files) != set(ids):
        return
    each = -(-_JUDGED // len(ids))
    some = [
        (file, place)
        for place, label in enumerate(ids)
        for file in files[label][:: max(1, len(files[label]) // each)][:each]
    ]
    images = np.stack([preprocess(file, spec) for file, _ in some])
    check_convention(module, convention, images, np.array([place for _, place in some], np.int64))


def _resizing(model: Any) -> Any:
    """The layer Resizing that images meet first; None without one."""
    functional = functional_of(model)
    for depth in sorted(functional._nodes_by_depth, reverse=True):
        for node in functional._nodes_by_depth[depth]:
            kind = type(node.operation).__name__
            if not node.is_input and kind != "InputLayer" and not kind.startswith("Random"):
                return node.operation if kind == "Resizing" else None
    return None


def _input_of(model: Any, resizing: Any, options: SourceOptions) -> tuple[tuple[int, int], int]:
    """Height, width and channels of what the model is given. Raises `UsageError` where nobody says them."""
    shape = tuple(functional_of(model).inputs[0].shape)
    if len(shape) != 4:
        raise UsageError(
            f"{model.name} takes {list(shape)}, no images", fix="a model of images (height, width, channels)"
        )
    _, height, width, channels = shape
    asked = None if options.image_size is None else height_and_width(options.image_size)
    if height is None or width is None:
        if asked is None and resizing is not None:
            asked = (int(resizing.height), int(resizing.width))
        if asked is None:
            raise UsageError(f"{model.name} takes images of any size, and a file has one", fix="--image-size N or HxW")
        return asked, int(channels or options.channels or 3)
    if asked not in (None, (height, width)):
        raise UsageError(f"{model.name} takes {height} x {width} pixels", fix="leave --image-size out")
    if None not in (channels, options.channels) and channels != options.channels:
        raise UsageError(f"{model.name} takes {channels} channels", fix="leave --channels out")
    return (int(height), int(width)), int(channels)


def _preprocess(size: tuple[int, int], channels: int, resizing: Any, options: SourceOptions) -> Preprocess:
    """As most Keras pipelines have it: stretched, bilinear without antialias; else as the layer Resizing says.

    Raises `UsageError` for a way to resize that edgetl has not.
    """
    interpolation, mode = options.interpolation or _USUAL, options.resize or "stretch"
    if resizing is not None and (resizing.height, resizing.width) == size:
        kept = {"bilinear": "bilinear" if resizing.antialias else _USUAL, "nearest": "nearest"}
        if resizing.interpolation not in kept:
            raise UsageError(f"{resizing.name} resizes by {resizing.interpolation}", fix="bilinear or nearest")
        interpolation = kept[resizing.interpolation]
        mode = "letterbox" if getattr(resizing, "pad_to_aspect_ratio", False) else "stretch"
        mode = "crop" if resizing.crop_to_aspect_ratio else mode
    resize: int | tuple[int, int] = 0
    if mode == "crop":
        resize = size[0] if size[0] == size[1] else size
    spec = Preprocess(resize, size, interpolation, channels, mode=mode)
    if spec.problem is not None:
        raise UsageError(spec.problem, fix="--resize stretch, --interpolation bilinear_no_antialias")
    return spec


def _about(spec: Preprocess) -> str:
    ways = {"stretch": "stretched to", "crop": "resized and cropped to", "letterbox": "with borders in"}
    return f"{ways[spec.mode]} {size_text(spec.crop)}, {spec.interpolation.replace('_', ' ')}"


def _images(spec: Preprocess, photos: Sequence[Any]) -> npt.NDArray[np.uint8]:
    """Some photos as the model gets them; smooth noise where there are none."""
    if photos:
        return np.stack([preprocess(photo, spec) for photo in photos[:_TRIED_ON]])
    generator = np.random.default_rng(0)
    coarse = generator.integers(0, 256, (_TRIED_ON, 8, 8, spec.channels), np.uint8)
    height, width = spec.crop
    rows, columns = np.arange(height) * 8 // height, np.arange(width) * 8 // width
    return np.ascontiguousarray(coarse[:, rows][:, :, columns])
