"""Where a network comes from: one table.

A *named* source builds a network for any number of labels, so that it can be fine-tuned: torchvision, timm, your own
function. An *opened* one is finished: a Keras file, a program of `torch.export`, a Hugging Face folder, a module in
memory. `edgetl.models.sources.opening` opens either kind for an export.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from edgetl.models.image_size import ImageSize

if TYPE_CHECKING:
    from torch import nn

    from edgetl.models.weight_files import State
    from edgetl_runtime.manifest import Normalize, Preprocess

__all__ = [
    "MEMORY",
    "NOT_OF_A_NAME",
    "PUBLISHED",
    "PUBLISHED_BOXES",
    "SOURCES",
    "TIMM",
    "NamedSource",
    "SourceKind",
    "allow_code",
    "is_allowed",
    "kind_of_name",
    "named_source",
]

TIMM = "timm:"
"""Stands in front of the name of a timm network."""
MEMORY = "memory:"
"""Stands in front of the name that a module in memory has in this process."""


PUBLISHED_BOXES = "published-boxes"
PUBLISHED: dict[str, str] = {
    "ssdlite320_mobilenet_v3_large": PUBLISHED_BOXES,
    "lraspp_mobilenet_v3_large": "published-masks",
    "deeplabv3_mobilenet_v3_large": "published-masks",
    "deeplabv3_resnet50": "published-masks",
}
"""Networks of torchvision that come with a head -> that head, a line of `edgetl.models.heads.HEADS`."""


@dataclass(frozen=True)
class SourceKind:
    """A line of the table: how it is written on a command line, the module that knows it (see above), and what it is
    known by.

    ``marks`` are in the names of a ``named`` source, ``endings`` of its files, ``inside`` are names of files in its
    folders, ``libraries`` have the classes of models in memory. ``without`` are fields of `SourceOptions` that mean
    nothing to it. ``refused`` says why edgetl does not start from it, ``instead`` from what it does.
    """

    written: str
    module: str = ""
    named: bool = False
    marks: tuple[str, ...] = ()
    endings: tuple[str, ...] = ()
    inside: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    refused: str = ""
    instead: str = (
        "name what it was made from: a checkpoint, a .keras file, module.py:function, or weights with --backbone"
    )


NOT_OF_A_NAME = ("backbone", "pixels", "custom", "resize", "interpolation")
"""What is said of no network that is built by name: its source says how photos are resized."""

SOURCES: dict[str, SourceKind] = {
    "torchvision": SourceKind("NAME", "edgetl.models.backbones", named=True, without=NOT_OF_A_NAME),
    "published": SourceKind(
        "NAME of a detector or a segmentation network of torchvision",
        "edgetl.models.sources.torchvision_dense",
        named=True,
        without=NOT_OF_A_NAME,
    ),
    "own": SourceKind(
        "module.py:function, or a module in memory",
        "edgetl.models.sources.own",
        named=True,
        marks=(".py:", MEMORY),
        without=("backbone", "pixels", "custom"),
    ),
    "timm": SourceKind(
        "timm:NAME", "edgetl.models.sources.timm_networks", named=True, marks=(TIMM,), without=NOT_OF_A_NAME
    ),
    "keras": SourceKind(
        "FILE.keras or FILE.h5, or a Keras model in memory",
        "edgetl.models.sources.keras_model",
        endings=(".keras", ".h5", ".hdf5"),
        libraries=("keras", "tf_keras"),
        without=("backbone", "weights", "normalize"),
    ),
    "hugging-face": SourceKind(
        "a folder that save_pretrained wrote",
        "edgetl.models.sources.hugging_face",
        inside=("config.json",),
        libraries=("transformers",),
        without=("backbone", "weights", "pixels", "custom"),
    ),
    "program": SourceKind(
        "FILE.pt2",
        "edgetl.models.sources.program",
        endings=(".pt2",),
        without=("backbone", "weights", "pixels", "custom"),
    ),
    "onnx": SourceKind(
        "FILE.onnx", endings=(".onnx",), refused="An ONNX file is what edgetl writes, not what it starts from"
    ),
    "tflite": SourceKind(
        "FILE.tflite", endings=(".tflite",), refused="A TFLite file is what edgetl writes, not what it starts from"
    ),
    "saved-model": SourceKind(
        "a folder with saved_model.pb",
        endings=(".pb",),
        inside=("saved_model.pb", "keras_metadata.pb"),
        refused="A SavedModel holds a graph, no layers",
        instead="in the program that made it: model.save('model.keras'), then edgetl export model.keras",
    ),
}


class NamedSource(Protocol):
    """What a module of a named source has: functions that take the name of a network.

    It may have ``opened(name, options)`` too, where a network with weights and labels is more than a
    `Checkpoint.from_weights`.
    """

    def build(self, name: str, num_classes: int, *, image_size: ImageSize | None, channels: int) -> nn.Module:
        """A network for so many labels: normalised float32 (N, `channels`, H, W) to logits (N, `num_classes`)."""
        ...

    def preset(
        self, name: str, image_size: ImageSize | None, *, channels: int, decode: str, normalize: Normalize | None
    ) -> tuple[Preprocess, Normalize]:
        """How photos become its input. `normalize` is what the user says; raises `UsageError` where nobody does."""
        ...

    def check_weights(self, name: str) -> None:
        """Raise `CheckpointError` when the weights that come with it cannot be had. Takes a few seconds at most."""
        ...

    def load_own_weights(self, model: nn.Module, name: str) -> str:
        """Put those weights into what `build` gave, all but a head of another size; says what was done."""
        ...

    def converted(self, name: str, model: nn.Module, state: State) -> State:
        """`state` under the names, and in the sizes, that `model` has: nothing else is changed."""
        ...


def kind_of_name(name: str) -> str:
    """Which of `SOURCES` a backbone's name means."""
    marked = (kind for kind, source in SOURCES.items() if any(mark in name for mark in source.marks))
    return next(marked, "published" if name in PUBLISHED else "torchvision")


def named_source(name: str) -> NamedSource | None:
    """The source of a backbone that is none of torchvision's; None for one of these.

    Raises `UsageError` where the library of a source is not installed.
    """
    kind = kind_of_name(name)
    if kind == "torchvision":
        return None
    source: Any = importlib.import_module(SOURCES[kind].module)
    return source  # type: ignore[no-any-return]


_ALLOWED: set[str] = set()


def allow_code(name: str) -> None:
    """A person named this ``module.py:function``: it may be run in this process. Other names are passed over."""
    if kind_of_name(name) == "own":
        _ALLOWED.add(name)


def is_allowed(name: str) -> bool:
    """Whether it is no code, or a person named it. What a checkpoint or a bundle names is not run."""
    return kind_of_name(name) != "own" or name in _ALLOWED
