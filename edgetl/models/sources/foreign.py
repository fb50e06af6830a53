"""A finished network from elsewhere, opened: what an export needs of it, and what a bundle keeps to open it again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
from safetensors.torch import save as write_safetensors
from torch import nn

from edgetl.models.checkpoint import CHECKPOINT_FILE
from edgetl_runtime.decoding import decode, parse
from edgetl_runtime.errors import BundleError, CheckpointError, UsageError
from edgetl_runtime.escaping import json_value
from edgetl_runtime.files import read_regular
from edgetl_runtime.manifest import DECODINGS, LARGEST_MANIFEST, Label, Normalize, Preprocess

__all__ = ["About", "Exportable", "Foreign", "OriginalFunction", "read_about", "state_sha256"]

OriginalFunction: TypeAlias = Callable[[npt.NDArray[np.uint8]], Mapping[str, npt.NDArray[np.float32]]]
"""uint8 (N, H, W, C) to the outputs by name, by the user's own model and code."""


class Exportable(Protocol):
    """What is exported: a `Checkpoint`, or a `Foreign` model."""

    @property
    def backbone(self) -> str:
        """What the network is called."""
        ...

    @property
    def labels(self) -> tuple[Label, ...]:
        """In the order of the logits."""
        ...

    @property
    def preprocess(self) -> Preprocess:
        """Photo to tensor."""
        ...

    @property
    def normalize(self) -> Normalize:
        """Tensor to what the network takes."""
        ...

    @property
    def training(self) -> dict[str, Any]:
        """How it was made, plain JSON."""
        ...

    @property
    def task(self) -> str:
        """What it is for."""
        ...

    @property
    def sha256(self) -> str:
        """Of the weights, hex."""
        ...

    @property
    def decoder(self) -> dict[str, Any] | None:
        """What a device needs to decode its outputs; None for a classifier."""
        ...

    def build(self) -> nn.Module:
        """The network in evaluation mode: normalised float32 (N, C, H, W) to its outputs."""
        ...

    def write(self, folder: Path) -> None:
        """What opens it again, into a folder that somebody else is putting together."""
        ...


@dataclass(frozen=True, eq=False)
class Foreign:
    """A finished network of another make.

    ``kind`` is one of `edgetl.models.sources.SOURCES`, ``backbone`` what it is called. ``module`` takes normalised
    float32 (N, C, H, W). ``original`` is the user's own model where ``module`` is a translation of it. ``files`` are
    what opens it again, by name; without any a bundle keeps the answers to its golden photos alone. ``opening`` is
    plain JSON that the source needs to do so. ``refute`` takes the ids of labels and photos by them, and raises
    `UsageError` when these speak against what was said of the network.
    """

    kind: str
    backbone: str
    module: nn.Module
    labels: tuple[Label, ...]
    preprocess: Preprocess
    normalize: Normalize
    sha256: str
    training: dict[str, Any] = field(default_factory=dict)
    task: str = "classification"
    original: OriginalFunction | None = None
    files: Mapping[str, bytes] = field(default_factory=dict)
    opening: dict[str, Any] = field(default_factory=dict)
    decoder: dict[str, Any] | None = None
    refute: Callable[[Sequence[str], Mapping[str, Sequence[Any]]], None] | None = None

    def build(self) -> nn.Module:
        """The network in evaluation mode."""
        return self.module.eval()

    def decoding(self, decode: str | None) -> Foreign:
        """The same for images that are decoded in another way; None leaves it as it is."""
        if decode is None:
            return self
        preprocess = replace(self.preprocess, decode=decode)
        if preprocess.problem is not None:
            raise UsageError(preprocess.problem, fix=" or ".join(DECODINGS))
        return replace(self, preprocess=preprocess)

    def labelled(self, labels: tuple[Label, ...]) -> Foreign:
        """The same network with other labels."""
        return replace(self, labels=labels)

    def write(self, folder: Path) -> None:
        """``checkpoint.json``, and the files that open the network again."""
        about = {
            "schema": 1,
            "source": self.kind,
            "backbone": self.backbone,
            "labels": [asdict(label) for label in self.labels],
            "preprocess": self.preprocess.fields(),
            "normalize": asdict(self.normalize),
            "sha256": self.sha256,
            "training": self.training,
            "files": {name: hashlib.sha256(content).hexdigest() for name, content in self.files.items()},
            "opening": self.opening,
            "task": self.task,
        }
        for name, content in self.files.items():
            (folder / name).write_bytes(content)
        (folder / CHECKPOINT_FILE).write_text(json.dumps(json_value(about), indent=2) + "\n", encoding="utf-8")


def state_sha256(module: nn.Module) -> str:
    """SHA-256 (hex) of the weights, as a file of them would have it."""
    state = {key: value.detach().cpu().contiguous().clone() for key, value in module.state_dict().items()}
    return hashlib.sha256(write_safetensors(state)).hexdigest()


@dataclass(frozen=True)
class About:
    """``checkpoint.json``, of whatever source: what `Foreign.write` says, and what a `Checkpoint` says of the same."""

    backbone: str
    labels: tuple[Label, ...]
    preprocess: Preprocess
    normalize: Normalize
    sha256: str
    source: str = "torchvision"
    training: dict[str, Any] = field(default_factory=dict)
    task: str = "classification"
    files: dict[str, Any] = field(default_factory=dict)
    opening: dict[str, Any] = field(default_factory=dict)

    def content(self, folder: Path, name: str) -> bytes:
        """One of ``files``. Raises `CheckpointError` when it is not the one that was written."""
        try:
            content = read_regular(folder / name)
        except OSError as error:
            raise CheckpointError(
                f"cannot read {folder / name}: {error.strerror}", fix="copy the folder again"
            ) from None
        if hashlib.sha256(content).hexdigest() != self.files.get(name):
            raise CheckpointError(f"{folder / name} is not the file that was written", fix="copy the folder again")
        return content


def read_about(folder: Path) -> About:
    """What ``checkpoint.json`` says. Raises `CheckpointError` when it is missing or damaged."""
    file = folder / CHECKPOINT_FILE
    try:
        about: About = decode(About, parse(read_regular(file, limit=LARGEST_MANIFEST)), str(file))
    except OSError as error:
        raise CheckpointError(f"cannot read {file}: {error.strerror}", fix="check the path") from None
    except (ValueError, RecursionError, BundleError) as error:
        what = error.what if isinstance(error, BundleError) else error
        raise CheckpointError(f"{file} is damaged: {what}", fix="copy the folder again") from None
    if about.preprocess.problem is not None:
        raise CheckpointError(f"{file} is damaged: {about.preprocess.problem}", fix="copy the folder again")
    return about
