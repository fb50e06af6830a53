"""Trained weights and what rebuilds them: ``model.safetensors`` beside ``checkpoint.json``."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as read_safetensors
from safetensors.torch import save as write_safetensors
from torch import nn

from edgetl.models.backbones import add_hidden_layer, build, preset
from edgetl.models.heads import HeadSpec, head_named
from edgetl.models.image_size import ImageSize
from edgetl.models.sources import allow_code, kind_of_name
from edgetl.models.weight_files import CHECKPOINT_WEIGHTS, State, read_state
from edgetl.models.weights import fit, infer_channels, infer_num_classes, put_back
from edgetl_export.labels_file import check_label_names
from edgetl_export.soundness import check_decides
from edgetl_export.staging import staged
from edgetl_runtime.decoding import decode, parse
from edgetl_runtime.errors import BundleError, CheckpointError, UsageError
from edgetl_runtime.escaping import json_value
from edgetl_runtime.files import read_regular
from edgetl_runtime.manifest import DECODINGS, LARGEST_MANIFEST, Label, Normalize, Preprocess

__all__ = ["CHECKPOINT_FILE", "Checkpoint", "attached", "load_labels", "open_checkpoint"]

_SCHEMA = 1
_WIDEST = 2**16
_USUAL_TASK = "classification"
CHECKPOINT_FILE = "checkpoint.json"
_LABELS_FIX = 'a JSON list of {"id": ..., "name": ...} or of strings, or a text file with one label a line'


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A trained network that rebuilds itself without the data and without a connection.

    ``state`` is the state dict, floating point tensors in float32; ``training`` says how it was made (plain JSON).
    ``hidden`` is the width of the head's hidden layer, when it has one; ``task`` is what it was trained for. ``head``
    is what stands behind the backbone, None where that is its own classifier.
    """

    backbone: str
    labels: tuple[Label, ...]
    preprocess: Preprocess
    normalize: Normalize
    state: State
    training: dict[str, Any] = field(default_factory=dict)
    hidden: int | None = None
    task: str = _USUAL_TASK
    head: HeadSpec | None = None

    @classmethod
    def of(cls, model: nn.Module, *, backbone: str, labels: tuple[Label, ...], **about: Any) -> Checkpoint:
        """The weights of `model` as they are now, copied to the CPU."""
        state = {key: value.detach().cpu().contiguous().clone() for key, value in model.state_dict().items()}
        return cls(backbone=backbone, labels=labels, state=state, **about)

    @classmethod
    def from_weights(
        cls,
        path: Path,
        *,
        backbone: str,
        labels: tuple[Label, ...] | None = None,
        image_size: ImageSize | None = None,
        channels: int | None = None,
        normalize: Normalize | None = None,
    ) -> Checkpoint:
        """A plain state dict of torchvision's or timm's network as a checkpoint.

        See `edgetl.models.weight_files`.

        Labels are called ``"0"`` ... when they are not given; the preprocessing is the backbone's first published one.
        ``training["loading"]`` says what was done to the weights. Raises `CheckpointError` when the weights do not fit
        the backbone, or labels or `channels` do not fit the weights.
        """
        file = read_state(path)
        found = infer_channels(file.state, backbone)
        if channels not in (None, found):
            raise CheckpointError(
                f"{path.name} is for images of {found} channels, not {channels}",
                fix="leave --channels out; to adapt weights to other channels, train: edgetl train --weights FILE",
            )
        preprocess, normalize = preset(backbone, image_size, channels=found, normalize=normalize)
        outputs = infer_num_classes(file.state)
        check_decides(outputs, path.name)
        if labels is None:
            labels = tuple(Label(str(i), str(i)) for i in range(outputs))
        if len(labels) != outputs:
            raise CheckpointError(
                f"{path.name} gives {outputs} logits, but there are {len(labels)} labels",
                fix="give one label for each logit, in their order",
            )
        model = build(backbone, outputs, image_size=preprocess.crop, channels=found)
        done = fit(model, file.state, backbone, where=str(path), keep_head=True)
        return cls.of(
            model,
            backbone=backbone,
            labels=labels,
            preprocess=preprocess,
            normalize=normalize,
            training={"weights": path.name, "loading": "; ".join((*file.notes, done))},
        )

    @classmethod
    def load(cls, folder: Path) -> Checkpoint:
        """Read what `save` wrote. Raises `CheckpointError` when it is missing, damaged or of a newer schema."""
        about = _read_about(folder)
        file = folder / CHECKPOINT_WEIGHTS
        try:
            raw = read_regular(file)
            state = read_safetensors(raw) if hashlib.sha256(raw).hexdigest() == about.sha256 else None
        except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"cannot read {file}: it is missing or damaged", fix="copy the folder again"
            ) from error
        if state is None:
            raise CheckpointError(f"{file} is not the file that was saved", fix="copy the folder again")
        return cls(
            backbone=about.backbone,
            labels=about.labels,
            preprocess=about.preprocess,
            normalize=about.normalize,
            state=state,
            training=about.training,
            hidden=about.hidden,
            task=about.task,
            head=about.head,
        )

    def build(self) -> nn.Module:
        """The network in eval mode: normalised float32 (N, C, H, W) to logits (N, labels), or to what its head gives.

        Raises `CheckpointError` when the weights do not fit it.
        """
        spec = self.preprocess
        model = build(self.backbone, len(self.labels), image_size=spec.crop, channels=spec.channels)
        if self.head is not None:
            model = attached(model, self.head, len(self.labels), spec)
        elif self.hidden is not None:
            add_hidden_layer(model, self.hidden)
        if kind_of_name(self.backbone) == "own":  # its layers have any names
            put_back(model, self.state, where=self.backbone)
        else:
            fit(model, self.state, self.backbone, where="the checkpoint", keep_head=True)
        return model.eval()

    @property
    def decoder(self) -> dict[str, Any] | None:
        """What a device needs to decode what the head gives."""
        if self.head is None:
            return None
        return head_named(self.head.name).decoder(self.head.settings, self.preprocess.crop)

    def decoding(self, decode: str | None) -> Checkpoint:
        """The same network for images that are decoded in another way: `Preprocess.decode`; None leaves it as it is."""
        if decode is None:
            return self
        preprocess = replace(self.preprocess, decode=decode)
        if preprocess.problem is not None:
            raise UsageError(preprocess.problem, fix=" or ".join(DECODINGS))
        return replace(self, preprocess=preprocess)

    @cached_property
    def _bytes(self) -> bytes:
        raw: bytes = write_safetensors(self.state)
        return raw

    @property
    def sha256(self) -> str:
        """SHA-256 (hex) of the weights as the file holds them."""
        return hashlib.sha256(self._bytes).hexdigest()

    def save(self, folder: Path, *, force: bool = False) -> None:
        """Write the checkpoint to `folder`, whole or not at all.

        Raises `OutputError` when it exists (unless `force`, and then only a checkpoint is replaced) or cannot be
        written.
        """
        with staged(folder, holds=CHECKPOINT_FILE, force=force) as fresh:
            self.write(fresh)

    def write(self, folder: Path) -> None:
        """The two files, into a folder that somebody else is putting together."""
        about = {
            "schema": _SCHEMA,
            "source": kind_of_name(self.backbone),
            "backbone": self.backbone,
            "labels": [asdict(label) for label in self.labels],
            "preprocess": self.preprocess.fields(),
            "normalize": asdict(self.normalize),
            "hidden": self.hidden,
            "sha256": self.sha256,
            "training": self.training,
        }
        if self.task != _USUAL_TASK:  # so that one of a classifier is what it was before there were other tasks
            about["task"] = self.task
        if self.head is not None:
            about["head"] = asdict(self.head)
        (folder / CHECKPOINT_WEIGHTS).write_bytes(self._bytes)
        (folder / CHECKPOINT_FILE).write_text(json.dumps(json_value(about), indent=2) + "\n", encoding="utf-8")


def attached(trunk: nn.Module, head: HeadSpec, labels: int, spec: Preprocess) -> nn.Module:
    """`head` for so many labels behind the backbone `trunk`, for images that `spec` makes."""
    return head_named(head.name).attach(trunk, labels, head.settings, crop=spec.crop, channels=spec.channels)


def open_checkpoint(
    path: Path,
    *,
    backbone: str | None = None,
    labels: Path | Sequence[str] | None = None,
    image_size: ImageSize | None = None,
    channels: int | None = None,
    decode: str | None = None,
    normalize: Normalize | None = None,
) -> Checkpoint:
    """A checkpoint folder, or a plain weights file of `backbone` with `labels` from a file or by name.

    `decode` is how JPEG files are decoded from here on (see `Preprocess`), by default as the checkpoint says. Raises
    `UsageError` when a weights file comes without a backbone, or a folder, which knows all else itself, with other
    options.
    """
    if path.is_file():
        if backbone is None:
            raise UsageError(
                f"{path} is a plain weights file: of which architecture?",
                fix="--backbone NAME, of a network of your own --backbone module.py:function",
            )
        known = None if labels is None else load_labels(labels)
        opened = Checkpoint.from_weights(
            path, backbone=backbone, labels=known, image_size=image_size, channels=channels, normalize=normalize
        )
        return opened.decoding(decode)
    if backbone is not None and path.is_dir() and kind_of_name(backbone) == "own":
        return _with_code(Checkpoint.load(path), backbone).decoding(decode)
    given = {"--backbone": backbone, "--labels": labels, "--image-size": image_size, "--channels": channels}
    extra = [name for name, value in given.items() if value is not None]
    if extra and path.is_dir():
        raise UsageError(f"{path} is a checkpoint, which knows its own {', '.join(extra)}", fix="leave them out")
    return Checkpoint.load(path).decoding(decode)


def _with_code(checkpoint: Checkpoint, backbone: str) -> Checkpoint:
    """A checkpoint of a network of your own, built by the code that is named now."""
    if kind_of_name(checkpoint.backbone) != "own":
        raise UsageError(f"the checkpoint is of {checkpoint.backbone}", fix="leave --backbone out")
    allow_code(backbone)
    return replace(checkpoint, backbone=backbone)


def load_labels(path: Path | Sequence[str]) -> tuple[Label, ...]:
    """Labels in the order of the logits: a list of their names, or a file.

    A file is a JSON list of ``{"id", "name"}`` or of strings, or a text file, one a line.
    Strings may be there twice, as ImageNet has two "crane": such a label keeps its name, and its id is its place among
    the logits, from 0 on, as labels without names have it. Raises `CheckpointError` when the file is missing, holds
    something else, fewer than two labels, one without a name, gives an id twice, or all labels the same name.
    """
    rows: Any = _rows_of(path) if isinstance(path, Path) else list(path)
    where = str(path) if isinstance(path, Path) else "the list of labels"
    if isinstance(rows, list) and all(isinstance(row, str) for row in rows):
        names = [row.strip() for row in rows if row.strip()]
        often = Counter(names)
        numbered = len(often) > 1  # otherwise all are called the same
        labels = tuple(
            Label(str(place) if numbered and often[name] > 1 else name, name) for place, name in enumerate(names)
        )
    elif isinstance(rows, list) and all(_is_label(row) for row in rows):
        labels = tuple(Label(row["id"], row.get("name", row["id"])) for row in rows)
    else:
        raise CheckpointError(f"{where} is not a list of labels", fix=_LABELS_FIX)
    nameless = [f"label {place} of {where}" for place, label in enumerate(labels, 1) if not label.is_named]
    if nameless:
        raise CheckpointError(f"{nameless[0]} has no name", fix=_LABELS_FIX)
    check_label_names((text for label in labels for text in (label.id, label.name)), where)
    twice = sorted(id_ for id_, n in Counter(label.id for label in labels).items() if n > 1)
    if twice or len(labels) < 2:
        what = f"gives labels twice: {', '.join(twice[:5])}" if twice else f"has {len(labels) or 'no'} labels"
        raise CheckpointError(f"{where} {what}", fix=_LABELS_FIX if twice else f"two at least: {_LABELS_FIX}")
    return labels


def _rows_of(path: Path) -> Any:
    """What a file of labels lists."""
    text = _text_of(path, "labels")
    try:
        return parse(text) if path.suffix.lower() == ".json" else text.split("\n")
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"cannot read labels from {path}: {error}", fix=_LABELS_FIX) from error


def _is_label(row: Any) -> bool:
    return isinstance(row, dict) and isinstance(row.get("id"), str) and isinstance(row.get("name", ""), str)


def _text_of(path: Path, what: str) -> str:
    """The text of a regular file of sensible size. Raises `CheckpointError`."""
    try:
        return read_regular(path, limit=LARGEST_MANIFEST).decode("utf-8-sig")
    except (OSError, ValueError) as error:
        reason = "it is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else error
        if isinstance(error, OSError):
            reason = error.strerror or error
        raise CheckpointError(f"cannot read {what} from {path}: {reason}", fix="check the path") from error


@dataclass(frozen=True)
class _About:
    """``checkpoint.json``."""

    backbone: str
    labels: tuple[Label, ...]
    preprocess: Preprocess
    normalize: Normalize
    sha256: str
    training: dict[str, Any]
    hidden: int | None = None
    task: str = _USUAL_TASK
    head: HeadSpec | None = None


def _read_about(folder: Path) -> _About:
    """What is beside the weights. Raises `CheckpointError`."""
    file = folder / CHECKPOINT_FILE
    if not file.is_file():
        what = "is not a checkpoint" if folder.exists() else "does not exist"
        raise CheckpointError(
            f"{folder} {what}", fix="name a folder that edgetl train wrote, or a weights file with --backbone"
        )
    try:
        found = parse(_text_of(file, "a checkpoint"))
        schema = found.get("schema") if isinstance(found, dict) else None
        if not isinstance(schema, int) or isinstance(schema, bool) or schema > _SCHEMA:
            raise CheckpointError(f"{file} has schema {schema!r:.60}, this edgetl reads {_SCHEMA}", fix="update edgetl")
        about: _About = decode(_About, found, str(file))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"cannot read {file}: {error}", fix="copy the folder again") from error
    except BundleError as error:
        raise CheckpointError(error.what, fix="copy the folder again") from error
    problem = _senseless(about)
    if problem is not None:
        raise CheckpointError(f"{file} is damaged: {problem}", fix="copy the folder again")
    if about.task == _USUAL_TASK:
        check_decides(len(about.labels), str(folder))
    return about


def _senseless(about: _About) -> str | None:
    """What is wrong with values that are of the right types; None when nothing is."""
    spec, deviations = about.preprocess, about.normalize.std
    if spec.problem is not None:
        return spec.problem
    if not len(about.normalize.mean) == len(deviations) == spec.channels or 0 in deviations:
        return "the mean and the deviation to normalise with do not fit the channels"
    if about.hidden is not None and not 1 <= about.hidden <= _WIDEST:
        return f"a head with {about.hidden} hidden units"
    ids = {label.id for label in about.labels}
    if not all(label.is_named for label in about.labels) or len(ids) < len(about.labels):
        return "a label has no name, or stands there twice"
    return None
