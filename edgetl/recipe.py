"""Every option of a run, as dataclasses and as a TOML file: a section for each stage, a key for each option.

Paths are used as they are written: relative ones start at the folder that edgetl is called in.
"""

from __future__ import annotations

import dataclasses
import types
import typing
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from edgetl.data.augmentation import AugmentOptions
from edgetl.data.dataset import DataOptions
from edgetl.models.options import ModelOptions, require
from edgetl.toml_file import read_toml
from edgetl.training.options import LARGEST_SEED, MOST_EPOCHS, TrainOptions
from edgetl.verify.gate.limits import Gate, read_gate
from edgetl.verify.gate.regression import Baseline
from edgetl.verify.options import VerifyOptions
from edgetl_export.device import DEVICES
from edgetl_runtime.errors import UsageError, nearest
from edgetl_runtime.escaping import encodable
from edgetl_runtime.quantities import DROP
from edgetl_runtime.writing import write_file

__all__ = [
    "DataSection",
    "ExportSection",
    "ModelOptions",
    "Recipe",
    "TrainOptions",
    "VerifySection",
    "demo_recipe",
    "read_recipe",
    "verify_options",
]


RECIPE_SCHEMA = 1
_MOST = 1_000_000
"""Of photos and threads, and of minutes (two years)."""
_TRAIN_PRECISION = ("train_precision", "precision")
"""Key of [train] and the field of `TrainOptions`: in a file, ``precision`` is taken for what is exported."""


@dataclass(frozen=True)
class DataSection(DataOptions):
    """The photos: a folder or a CSV file, and how it is read. Raises `UsageError` for values that make no sense."""

    path: Path | None = None

    def __post_init__(self) -> None:
        require(0 <= self.seed <= LARGEST_SEED, "seed", self, f"from 0 to {LARGEST_SEED}")
        require(0 < self.val_fraction < 1, "val_fraction", self, "above 0, below 1, such as 0.2")
        require(0 <= self.min_per_class <= _MOST, "min_per_class", self, f"from 0 to {_MOST}")


@dataclass(frozen=True)
class ExportSection:
    """What is written, how many images it is calibrated on, and how int8 is made.

    ``quantize`` is ``ptq``, ``distill`` or ``qat`` (on the photos' labels too); with ``max_drop`` (a share of photos,
    below a half) every rung of the ladder is tried until no more of them get another label, judged on photos of the
    folder ``tune_data`` or on held-out calibration photos. ``ranges`` is ``mse``, ``percentile`` or ``minmax``;
    ``int8_safe`` is for CPUs without VNNI; ``io`` is ``float`` or ``int8``. ``activation`` (``relu6``, ``hardswish``)
    and ``no_se`` change the network first. ``device``, one of `DEVICES`, is where it is distilled. ``features`` are
    given besides the logits: ``pooled``, or names of layers. ``opset`` is the operator set of ONNX files for old
    runtimes.
    """

    targets: tuple[str, ...] = ("onnx", "tflite", "openvino")
    precisions: tuple[str, ...] = ("fp32", "fp16", "int8")
    calibration_samples: int = 250
    quantize: str = "ptq"
    max_drop: float | None = None
    tune_data: Path | None = None
    ranges: str = "mse"
    int8_safe: bool = False
    io: str = "float"
    activation: str | None = None
    no_se: bool = False
    distill_epochs: int = 16
    distill_minutes: float = 8.0
    device: str = "auto"
    features: tuple[str, ...] = ()
    opset: int | None = None

    def __post_init__(self) -> None:
        if self.max_drop is not None:
            DROP.check("max_drop", self.max_drop)
        require(1 <= self.calibration_samples <= _MOST, "calibration_samples", self, f"from 1 to {_MOST}")
        require(1 <= self.distill_epochs <= MOST_EPOCHS, "distill_epochs", self, f"from 1 to {MOST_EPOCHS}")
        require(0 < self.distill_minutes <= _MOST, "distill_minutes", self, f"above 0, at most {_MOST}")
        require(self.device in DEVICES, "device", self, "auto, cpu or cuda")


@dataclass(frozen=True)
class VerifySection:
    """How variants are judged: a gate file, the threads of one run, and whether peak memory is measured too.

    ``baseline`` is an earlier report that nothing may be worse than; ``keep_reference`` keeps the original's answers to
    all photos in the bundle, for devices without torch.
    Raises `UsageError` for values that make no sense.
    """

    gate: Path | None = None
    threads: int = 1
    memory: bool = False
    baseline: Path | None = None
    keep_reference: bool = False

    def __post_init__(self) -> None:
        require(1 <= self.threads <= _MOST, "threads", self, f"from 1 to {_MOST}")


@dataclass(frozen=True)
class Recipe:
    """All options of ``edgetl run``."""

    data: DataSection = field(default_factory=DataSection)
    model: ModelOptions = field(default_factory=ModelOptions)
    train: TrainOptions = field(default_factory=TrainOptions)
    augment: AugmentOptions = field(default_factory=AugmentOptions)
    export: ExportSection = field(default_factory=ExportSection)
    verify: VerifySection = field(default_factory=VerifySection)

    def updated(self, changes: Mapping[str, Any], *, where: str = "the options") -> Self:
        """A copy with other values: ``{"train": {"epochs": 5}}``, values as TOML has them (paths may be `Path`).

        Raises `UsageError` for an unknown section or key and for a value of another type, naming `where` it stands.
        """
        sections = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        for name, values in changes.items():
            if name not in sections:
                raise UsageError(f"{where}: unknown section [{name}]", fix=nearest(name, list(sections)))
            if not isinstance(values, Mapping):
                raise UsageError(f"{where}: {name} is a section, not {values!r}", fix=f"[{name}] on a line of its own")
            sections[name] = _section(sections[name], values, f"{where}: [{name}]")
        return dataclasses.replace(self, **sections)

    def to_toml(self) -> str:
        """The file that `read_recipe` reads back; options that are ``None`` are left out."""
        import tomli_w

        document = {
            section: {key: _plain(value) for key, value in values.items() if value is not None}
            for section, values in dataclasses.asdict(self).items()
        }
        key, field_name = _TRAIN_PRECISION
        document["train"] = {key if name == field_name else name: v for name, v in document["train"].items()}
        return tomli_w.dumps({"schema": RECIPE_SCHEMA, **document})

    def save(self, path: Path) -> None:
        """Write the TOML file. Raises `OutputError`."""
        write_file(path, self.to_toml())


def read_recipe(path: Path) -> Recipe:
    """A recipe file. Raises `UsageError` when it is missing, no TOML, or holds what `Recipe.updated` refuses."""
    document = read_toml(path, "recipe")
    schema = document.pop("schema", RECIPE_SCHEMA)
    if not isinstance(schema, int) or isinstance(schema, bool) or schema > RECIPE_SCHEMA:
        raise UsageError(
            f"{path} has schema {schema!r}, this edgetl reads {RECIPE_SCHEMA}", fix="pip install --upgrade edgetl"
        )
    return Recipe().updated(document, where=str(path))


def demo_recipe() -> Recipe:
    """What ``edgetl demo`` trains on the built-in digits: from random weights, so that nothing is downloaded."""
    return Recipe(
        model=ModelOptions(backbone="mobilenet_v2", weights="none", image_size=48),
        train=TrainOptions(strategy="full", epochs=16, lr=3e-3, augment="shift"),
    )


def verify_options(recipe: Recipe) -> VerifyOptions:
    """The recipe's section on verification, its gate and its baseline read."""
    section = recipe.verify
    return VerifyOptions(
        threads=section.threads,
        memory=section.memory,
        gate=Gate() if section.gate is None else read_gate(section.gate),
        baseline=None if section.baseline is None else Baseline.read(section.baseline),
    )


def _section(section: Any, values: Mapping[str, Any], where: str) -> Any:
    hints = typing.get_type_hints(type(section))
    found: dict[str, Any] = {}
    if isinstance(section, TrainOptions):
        values = _with_train_precision(values, where)
    for key, value in values.items():
        if key not in hints:
            raise UsageError(f"{where} unknown key {key!r}", fix=nearest(key, list(hints)))
        found[key] = _value(hints[key], value, f"{where} {key}")
    try:
        return dataclasses.replace(section, **found)
    except UsageError as error:
        raise UsageError(f"{where} {error.what}", fix=error.fix) from None


def _with_train_precision(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """`values` with the field's name for ``train_precision``. The former key works, and a `FutureWarning` says so."""
    key, name = _TRAIN_PRECISION
    if name in values and key in values:
        raise UsageError(f"{where} has both {key} and {name}", fix=f"{name} is the former name of {key}: remove it")
    if name in values:
        warnings.warn(f"{where} {name} is called {key} now", FutureWarning, stacklevel=2)
    return {name if given == key else given: value for given, value in values.items()}


def _value(kind: Any, value: Any, where: str) -> Any:
    """`value` as the annotation `kind` wants it: scalars, paths, tuples of strings or of numbers, each perhaps None."""
    wanted = [part for part in typing.get_args(kind) if part is not type(None)]
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        return None if value is None else _value(wanted[0], value, where)
    if typing.get_origin(kind) is tuple:
        item, kinds = (str, "strings") if wanted[0] is str else (int | float, "numbers")
        if isinstance(value, list | tuple) and all(isinstance(v, item) and not isinstance(v, bool) for v in value):
            return tuple(value if wanted[0] is str else map(float, value))
        raise _mismatch(where, f"a list of {kinds}", value)
    if kind is Path and isinstance(value, str | Path):
        return Path(value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        names = {str: "a string", int: "a whole number", float: "a number", bool: "true or false", Path: "a path"}
        raise _mismatch(where, names[kind], value)
    return value


def _mismatch(where: str, wanted: str, value: Any) -> UsageError:
    return UsageError(f"{where} must be {wanted}, not {value!r}", fix=f"write {wanted}")


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return encodable(value.as_posix())  # a file of TOML cannot hold more
    if isinstance(value, str):
        return encodable(value)
    return list(value) if isinstance(value, tuple) else value
