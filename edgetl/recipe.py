"""Every option of a run, as dataclasses and as a TOML file: a section for each stage, a key for each option.

Paths are used as they are written: relative ones start at the folder that edgetl is called in.
"""

from __future__ import annotations

import dataclasses
import types
import typing
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias

from edgetl.data.augmentation import AugmentOptions
from edgetl.data.options import DataOptions
from edgetl.models.image_size import ImageSize, image_size_of, size_text
from edgetl.models.options import ModelOptions, device_option
from edgetl.option import OneOf, Option, Section, option, options_of, within
from edgetl.toml_file import read_toml
from edgetl.training.options import MOST_EPOCHS, TrainOptions
from edgetl_runtime.batch_sizes import FREE, FREE_WORD, batch_of
from edgetl_runtime.errors import UsageError, nearest
from edgetl_runtime.escaping import encodable
from edgetl_runtime.quantities import DROP
from edgetl_runtime.writing import write_file

if TYPE_CHECKING:
    from edgetl.verify.options import VerifyOptions

__all__ = [
    "MADE_FOR",
    "DataSection",
    "ExportSection",
    "ModelOptions",
    "Recipe",
    "TrainOptions",
    "VerifySection",
    "declared_options",
    "read_recipe",
    "verify_options",
]


RECIPE_SCHEMA = 1
_MOST = 1_000_000
"""Of photos and threads, and of minutes (two years)."""
MADE_FOR: Mapping[str, Mapping[str, Any]] = {
    "raspberry-pi": {"targets": ["tflite", "onnx"], "precisions": ["fp32", "int8"]},
    "android": {"targets": ["tflite"], "precisions": ["fp16", "int8"]},
    "browser": {"targets": ["onnx"], "precisions": ["fp16", "int8"]},
    "x86": {"targets": ["onnx", "openvino"], "precisions": ["fp32", "int8"]},
    "mcu": {"targets": ["tflite"], "precisions": ["int8"], "io": "int8"},
}
"""What ``for`` stands for: each of these keys of ``[export]`` that is not given beside it. On an ARM or x86 CPU int8 is
the smallest and mostly the fastest, and fp32 is there to compare with; the GPUs of phones and browsers take fp16;
microcontrollers have integers alone."""
_INT8 = "int8"
"""Title of the options on how int8 is made."""


Batch: TypeAlias = int | Literal["free"]
"""Images that a file takes in one run."""


@dataclass(frozen=True)
class DataSection(DataOptions, Section):
    """The photos: a folder or a CSV file, and how it is read. Raises `UsageError` for values that make no sense."""

    path: Path | None = option(
        None, "one folder per label, or a CSV: path,label[,split]", metavar="DIR", flag="--data", shown=True
    )


@dataclass(frozen=True)
class ExportSection(Section):
    """What is written, how many images it is calibrated on, and how int8 is made.

    With ``max_drop`` (a share of photos, below a half) every rung of the ladder is tried until no more of them get
    another label, judged on photos of the folder ``tune_data`` or on held-out calibration photos. ``activation`` and
    ``no_se`` change the network first. ``made_for`` stands for keys of `MADE_FOR`, which `Recipe.updated` fills in.
    Names of targets, precisions, ways and ranges are checked where they are used.
    """

    targets: tuple[str, ...] = option(
        ("onnx", "tflite", "openvino"),
        "formats that are written",
        choices=("onnx", "tflite", "openvino"),
        metavar="NAME,...",
        shown=True,
    )
    precisions: tuple[str, ...] = option(
        ("fp32", "fp16", "int8"),
        "of each format; also w8, dynamic and w8a16",
        choices=("fp32", "fp16", "int8", "w8", "dynamic", "w8a16"),
        metavar="NAME,...",
        shown=True,
    )
    calibration_samples: int = option(250, "images to calibrate int8 on", check=within(1, _MOST))
    quantize: str = option(
        "ptq",
        "no training, on photos alone, or on labels too",
        choices=("ptq", "distill", "qat"),
        group=_INT8,
    )
    max_drop: float | None = option(
        None,
        "climb until no more photos change their label",
        usual="no limit",
        metavar="SHARE",
        check=DROP.check,
        group=_INT8,
        shown=True,
    )
    tune_data: Path | None = option(None, "photos that judge it", usual="held-out ones", metavar="DIR", group=_INT8)
    ranges: str = option("mse", "how activation ranges are found", choices=("mse", "percentile", "minmax"), group=_INT8)
    int8_safe: bool | None = option(
        None, "no sum outgrows 16 bits, for x86 CPUs without VNNI", usual="on such a CPU, sums as seen", group=_INT8
    )
    io: str = option("float", "what tflite.int8 takes and gives", choices=("float", "int8"), group=_INT8)
    activation: str | None = option(
        None, "replace SiLU and its like, then distil", choices=("relu6", "hardswish"), group=_INT8
    )
    no_se: bool = option(False, "replace squeeze-excite by constants", group=_INT8)
    distill_epochs: int = option(16, "at most", check=within(1, MOST_EPOCHS), group=_INT8)
    distill_minutes: float = option(8.0, "at most", metavar="N", check=within(0, _MOST, but=(0,)), group=_INT8)
    device: str = device_option()
    features: tuple[str, ...] = option(
        (), "outputs besides the logits: what the head is given, or layers", metavar="pooled|NAME,..."
    )
    boxes_in_graph: bool = option(False, "detection: decoded boxes and scores beside the raw outputs")
    upsample: str = option(
        "device", "segmentation: graph gives the logits at the input's size too", choices=("device", "graph")
    )
    labels_in_graph: bool = option(False, "segmentation: the label of every pixel beside the logits")
    opset: int | None = option(
        None, "operator set of ONNX files, for old runtimes (13 to 20)", usual="the newest that is needed"
    )
    made_for: str | None = option(
        None,
        "picks formats and precisions for it",
        usual="all formats",
        choices=tuple(MADE_FOR),
        check=OneOf(tuple(MADE_FOR)),
        key="for",
        flag="--for",
        shown=True,
    )
    batch: Batch | None = option(
        None,
        "images that a file takes in one run, or free: any number (not TFLite)",
        usual="1",
        metavar="N|free",
        check=lambda name, value: batch_of(value, where=name),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch is not None:  # a text is what it says
            object.__setattr__(self, "batch", _batch(self.batch))

    @property
    def in_graph(self) -> tuple[str, ...]:
        """Those of the options that ask for a decoding of the task (`edgetl.tasks.task.Task.decodings`)."""
        asked = {
            "boxes_in_graph": self.boxes_in_graph,
            "upsample": self.upsample == "graph",
            "labels_in_graph": self.labels_in_graph,
        }
        return tuple(name for name, wanted in asked.items() if wanted)

    @property
    def images_at_once(self) -> int:
        """``batch`` as a manifest has it."""
        return 1 if self.batch is None else batch_of(self.batch)


@dataclass(frozen=True)
class VerifySection(Section):
    """How variants are judged. Raises `UsageError` for values that make no sense."""

    gate: Path | None = option(None, "limits", usual="decisions must not fall apart", metavar="FILE.toml", shown=True)
    threads: int = option(1, "cores of one run", check=within(1, _MOST))
    memory: bool = option(False, "measure peak memory and cold start too")
    baseline: Path | None = option(
        None, "an accepted report: nothing may be worse", usual="none", metavar="REPORT.json"
    )
    keep_reference: bool = option(False, "keep the original's answers, to verify sans torch")
    no_photos: bool = option(False, "leave thumbnails of photos out of the report")


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
        if self.model.image_size is not None and not isinstance(self.model.image_size, int):
            document["model"]["image_size"] = size_text(self.model.image_size)
        for section, options in declared_options().items():
            for one in options:
                if one.key != one.name and one.name in document[section]:
                    document[section] = {one.key if n == one.name else n: v for n, v in document[section].items()}
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


@cache
def declared_options() -> dict[str, tuple[Option, ...]]:
    """Name of each section of a recipe -> its options: what the command line is made from."""
    sections = typing.get_type_hints(Recipe)
    return {name: options_of(section) for name, section in sections.items()}


def verify_options(recipe: Recipe) -> VerifyOptions:
    """The recipe's section on verification, its gate and its baseline read."""
    from edgetl.verify.gate.limits import Gate, read_gate
    from edgetl.verify.gate.regression import Baseline
    from edgetl.verify.options import VerifyOptions

    section = recipe.verify
    return VerifyOptions(
        threads=section.threads,
        memory=section.memory,
        photos=not section.no_photos,
        gate=Gate() if section.gate is None else read_gate(section.gate),
        baseline=None if section.baseline is None else Baseline.read(section.baseline),
    )


def _section(section: Any, values: Mapping[str, Any], where: str) -> Any:
    if isinstance(section, ExportSection) and isinstance(values.get("for"), str):
        values = {**MADE_FOR.get(values["for"], {}), **values}
    hints = typing.get_type_hints(type(section))
    options = options_of(type(section))
    fields = {name: name for name in hints} | {one.name: one.key for one in options}
    names = {key: name for name, key in fields.items()}
    found: dict[str, Any] = {}
    for key, value in _with_present_names(options, values, where).items():
        if key not in names:
            raise UsageError(f"{where} unknown key {key!r}", fix=nearest(key, list(names)))
        found[names[key]] = _value(hints[names[key]], value, f"{where} {key}")
    try:
        return dataclasses.replace(section, **found)
    except UsageError as error:
        raise UsageError(f"{where} {error.what}", fix=error.fix) from None


def _with_present_names(options: Sequence[Option], values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """`values` with the present keys for former ones. Those work, and a `FutureWarning` says so."""
    present = {one.former: one.key for one in options if one.former and one.former in values}
    for former, key in present.items():
        if key in values:
            raise UsageError(
                f"{where} has both {key} and {former}", fix=f"{former} is the former name of {key}: remove it"
            )
        warnings.warn(f"{where} {former} is called {key} now", FutureWarning, stacklevel=2)
    return {present.get(given, given): value for given, value in values.items()}


def _value(kind: Any, value: Any, where: str) -> Any:
    """`value` as the annotation `kind` wants it: scalars, paths, tuples of strings or of numbers, each perhaps None."""
    if kind == ImageSize | None:
        return None if value is None else image_size_of(value, where=where)
    if kind == Batch | None:
        return None if value is None else _batch(value, where=where)
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


def _batch(value: object, *, where: str = "batch") -> Batch:
    number = batch_of(value, where=where)
    return FREE_WORD if number == FREE else number


def _mismatch(where: str, wanted: str, value: Any) -> UsageError:
    return UsageError(f"{where} must be {wanted}, not {value!r}", fix=f"write {wanted}")


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return encodable(value.as_posix())  # a file of TOML cannot hold more
    if isinstance(value, str):
        return encodable(value)
    return list(value) if isinstance(value, tuple) else value
