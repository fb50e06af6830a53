"""The contract between export and runtime: frozen dataclasses, and their JSON.

``manifest.json`` stands in every bundle; the same JSON, with one variant and without the files that cannot hold
their own hash, stands inside every model file. Fields may be added within a schema, never renamed or removed, so
unknown fields are passed over when reading. The two fields of a seal (`edgetl_runtime.seal`) belong to the bytes of a
file and are not among the `Manifest`'s.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from edgetl_runtime.batch_sizes import LARGEST_BATCH
from edgetl_runtime.decoding import decode, parse
from edgetl_runtime.errors import BundleError
from edgetl_runtime.escaping import json_value
from edgetl_runtime.frozen import dataclass, field

__all__ = [
    "DECODINGS",
    "LARGEST_MANIFEST",
    "METADATA_KEY",
    "MODES",
    "SCHEMA",
    "FileEntry",
    "Golden",
    "Label",
    "Manifest",
    "Normalize",
    "Packed",
    "Preprocess",
    "Requires",
    "TensorSpec",
    "Variant",
]

SCHEMA = 1
METADATA_KEY = "edgetl_manifest"
"""Where a model file carries its manifest: ONNX metadata_props key, TFLite metadata name, OpenVINO rt_info key."""

MODES = ("crop", "stretch", "letterbox")
"""Ways to bring an image to the size of the tensor: see `Preprocess`."""

LARGEST_MANIFEST = 8 * 2**20
"""Bytes. The manifest of nine variants and 1,000 labels has 60 kB."""

_LARGEST_SIDE = 2**14
"""Pixels. What is resized or cropped to more would not fit the memory of any device."""
_MOST_CHANNELS = 256
_LONGEST_VERSION = 64
_DTYPES = ("uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64")
_INTERPOLATIONS = ("bilinear", "bicubic", "nearest", "bilinear_no_antialias")
DECODINGS = ("exact", "scaled")
"""How JPEG files are decoded: at full size, or at a fraction of it (`edgetl_runtime.reduced`)."""
_OF_THE_BUNDLE = ("ladder", "methods")
"""Provenance about all variants, which would only make every model file larger."""


@dataclass(frozen=True)
class Label:
    """One class, in the order of the logits. ``id`` is stable (a folder name, a wnid), ``name`` is for people."""

    id: str
    name: str

    @property
    def is_named(self) -> bool:
        """Whether it has an id and a name that can be seen."""
        return bool(self.id.strip() and self.name.strip())


@dataclass(frozen=True)
class TensorSpec:
    """One input or output: ``shape`` in elements (``-1`` where the length is free), numpy ``dtype`` name.

    Integers that stand for other values have a ``scale`` and a ``zero_point``: ``(integer - zero_point) * scale``.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    layout: str | None = None
    scale: float | None = None
    zero_point: int | None = None


@dataclass(frozen=True)
class Preprocess:
    """Image to tensor: EXIF orientation, RGB, then to ``crop`` = (height, width) pixels in one of three ways.

    ``mode`` "crop" is what torchvision's presets do on PIL images: the shorter side to ``resize`` pixels, then a centre
    crop. Where ``resize`` is (height, width) too, the image becomes as small as covers both: one side is what that
    says, the other at least that, its proportions kept. "stretch" resizes to ``crop``, whatever that does to the
    proportions. "letterbox" makes the whole image as large as fits into ``crop``, in its proportions, and puts it in
    the middle of black borders. In these two ``resize`` is 0, which a runtime that knows no modes refuses.
    ``interpolation`` is bilinear or bicubic, antialiased; ``nearest``; or ``bilinear_no_antialias``, between the four
    nearest pixels however much smaller the image becomes, as TensorFlow resizes by default.
    With ``channels`` = 1 the image is grey instead of RGB; any
    other number than 3 is that of the image itself, and every channel is resized and cropped as a grey image is.
    ``decode`` is ``exact``, or ``scaled``: JPEG files are decoded at 1/2, 1/4 or 1/8 of their size where that leaves at
    least twice the pixels of ``resize``. All else - other files, arrays, PIL images, small photos - is then as ever.
    """

    resize: int | tuple[int, int]
    crop: tuple[int, int]
    interpolation: str = "bilinear"
    channels: int = 3
    decode: str = "exact"
    mode: str = "crop"

    @property
    def covered(self) -> tuple[int, int]:
        """(height, width) in pixels that every image covers when it is resized, before the crop; the crop's where there
        is none."""
        if self.mode != "crop":
            return self.crop
        return (self.resize, self.resize) if isinstance(self.resize, int) else self.resize

    @property
    def problem(self) -> str | None:
        """Why no image can be brought to that, None when images can."""
        if self.mode not in MODES:
            return f"mode {self.mode!r:.60} is not one of {', '.join(MODES)}"
        if self.mode != "crop" and self.resize != 0:
            return f"mode {self.mode} resizes to the crop, so that resize must be 0"
        sides = (*self.covered, *self.crop)
        if min(sides) < 1 or max(sides) > _LARGEST_SIDE:
            return f"the sizes to resize and crop to must be positive, and at most {_LARGEST_SIDE}"
        if not 1 <= self.channels <= _MOST_CHANNELS:
            return f"an image has 1 to {_MOST_CHANNELS} channels"
        if self.interpolation not in _INTERPOLATIONS:
            return f"interpolation {self.interpolation!r:.60} is not one of {', '.join(_INTERPOLATIONS)}"
        if self.decode not in DECODINGS:
            return f"decode {self.decode!r:.60} is not one of {', '.join(DECODINGS)}"
        return None

    def fields(self) -> dict[str, Any]:
        """Its fields as they are recorded: without mode "crop" and decoding "exact", as before there were others.

        What was recorded then - manifests, contracts, fingerprints - stays equal to what is recorded now.
        """
        usual = {"mode": "crop", "decode": "exact"}
        return {name: value for name, value in dataclasses.asdict(self).items() if usual.get(name) != value}

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={value!r}" for name, value in self.fields().items())
        return f"{type(self).__name__}({values})"


@dataclass(frozen=True)
class Normalize:
    """``(pixel / 255 - mean) / std`` per channel. It is inside the model; it is recorded, not applied again."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class FileEntry:
    """A file of the bundle: path relative to the bundle with forward slashes, SHA-256 in hex, size in bytes."""

    path: str
    sha256: str
    bytes: int


@dataclass(frozen=True)
class Requires:
    """The engine that runs a variant, and the least version of it that was tried and runs it.

    ``min_version`` is that of the engine's first library, None where none was tried. ``libraries`` has the least
    version by module name, for every library of the engine that was tried: each counts its versions on its own.
    Raises `BundleError` when one of those is not a string.
    """

    engine: str
    min_version: str | None = None
    libraries: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for module, version in self.libraries.items():
            if not isinstance(version, str):
                raise BundleError(
                    f"the least version of {module} for engine {self.engine} is {version!r}, not a string",
                    fix="export the bundle again",
                )


@dataclass(frozen=True)
class Variant:
    """One target at one precision. ``files[0]`` is the one that is loaded.

    ``input`` and ``output`` are the file's own where they differ from the manifest's: int8 in and out, where sessions
    take and give the manifest's all the same, or another number of images in one run (`batch`).
    """

    id: str
    target: str
    precision: str
    files: tuple[FileEntry, ...]
    requires: Requires
    quantization: dict[str, Any] | None = None
    input: TensorSpec | None = None
    output: TensorSpec | None = None

    @property
    def in_integers(self) -> bool:
        """Whether its file takes int8 images or gives int8 outputs, which sessions hide."""
        return (self.input is not None and self.input.dtype != "uint8") or (
            self.output is not None and self.output.scale is not None
        )

    @property
    def bytes(self) -> int:
        """Size of all its files together."""
        return sum(file.bytes for file in self.files)


@dataclass(frozen=True)
class Golden:
    """Input images with the outputs that the original model gave for them.

    ``images`` are PNG files (.npy files of arrays where channels are not 1, 3 or 4) as they stood before `Preprocess`;
    ``expected`` is an .npz with ``tensors`` (n, H, W, C) uint8 as they left it, and each of the manifest's outputs and
    features by name, with a row for every image.
    """

    n: int
    images: tuple[FileEntry, ...]
    expected: FileEntry


@dataclass(frozen=True)
class Packed:
    """What ``edgetl pack`` left out of a bundle: ``variants`` by id, ``files`` by path, a folder as ``reference/``."""

    variants: tuple[str, ...] = ()
    files: tuple[str, ...] = ()


@dataclass(frozen=True)
class Manifest:
    """Everything a runtime needs to know of a bundle.

    ``outputs`` are what the task is decoded from, in the order in which every variant gives them; ``output`` is the
    first of them, and often the only one. ``features`` are what every variant gives besides, float32, in this order
    behind the outputs: ``pooled``, what the last linear layer is given, or an inner layer by its name in the network
    (maps as NHWC). ``decoded`` is what stands behind them: computed of the outputs in the file, for apps that do not
    decode themselves; nothing here looks at it. ``files`` are other files: ``labels.txt``. ``decoder`` is what the task
    decodes the outputs by, where they do not say all themselves: the boxes that a detector's are relative to.
    """

    name: str
    task: str
    labels: tuple[Label, ...]
    input: TensorSpec
    preprocess: Preprocess
    normalize: Normalize
    output: TensorSpec
    variants: tuple[Variant, ...]
    golden: Golden | None = None
    provenance: dict[str, Any] = field(default_factory=dict)
    schema: int = SCHEMA
    features: tuple[TensorSpec, ...] = ()
    decoded: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    files: tuple[FileEntry, ...] = ()
    packed: Packed | None = None
    decoder: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if len(self.outputs) < 2:  # one of before there were several, or one whose only output was replaced
            object.__setattr__(self, "outputs", (self.output,))

    @property
    def all_outputs(self) -> tuple[TensorSpec, ...]:
        """All that a variant gives, in its order: the outputs, the features, what is decoded."""
        return (*self.outputs, *self.features, *self.decoded)

    @property
    def left_out(self) -> str:
        """The variants that ``edgetl pack`` left out, in words."""
        return f"; left out when it was packed: {', '.join(self.packed.variants)}" if self.packed else ""

    def variant(self, variant_id: str) -> Variant:
        """The variant called `variant_id`; `BundleError` with the known ones when there is none."""
        for variant in self.variants:
            if variant.id == variant_id:
                return variant
        known = ", ".join(variant.id for variant in self.variants)
        if self.packed is not None and variant_id in self.packed.variants:
            raise BundleError(
                f"variant {variant_id} was left out of bundle {self.name!r} when it was packed",
                fix=f"choose one of: {known}; or pack it again",
            )
        raise BundleError(f"bundle {self.name!r} has no variant {variant_id!r}", fix=f"choose one of: {known}")

    def batch_of(self, variant: Variant) -> int:
        """How many images a file of `variant` takes in one run; -1 is any number."""
        return (variant.input or self.input).shape[0]

    def outputs_of(self, variant: Variant) -> tuple[TensorSpec, ...]:
        """All that a session of `variant` gives: `all_outputs`, with as many rows as it takes images."""
        batch = self.batch_of(variant)
        if batch == self.input.shape[0]:
            return self.all_outputs
        return tuple(dataclasses.replace(spec, shape=(batch, *spec.shape[1:])) for spec in self.all_outputs)

    def embedded(self, variant_id: str) -> Manifest:
        """What a model file carries of it: this variant alone, without hashes of files that hold this text.

        Provenance that compares variants (``ladder``, ``methods``) stays in the bundle.
        """
        variant = dataclasses.replace(self.variant(variant_id), files=())
        provenance = {key: value for key, value in self.provenance.items() if key not in _OF_THE_BUNDLE}
        return dataclasses.replace(self, variants=(variant,), golden=None, provenance=provenance, files=(), packed=None)

    def to_json(self, *, compact: bool = False) -> str:
        """JSON with keys in the order of the contract: indented for people, or `compact` for inside a model file."""
        order = ("schema", "name", "task", "labels", "input", "preprocess", "normalize", "output")
        fields = json_value({**dataclasses.asdict(self), "preprocess": self.preprocess.fields()})
        for name in ("features", "decoded", "files", "packed", "decoder"):
            if not fields[name]:
                del fields[name]  # so that a file without any is what it was before there were some
        if len(self.outputs) == 1:
            del fields["outputs"]  # likewise
        layout: dict[str, Any] = {"separators": (",", ":")} if compact else {"indent": 1}
        return json.dumps({**{key: fields[key] for key in order}, **fields}, ensure_ascii=False, **layout)

    @classmethod
    def from_json(cls, text: str | bytes, *, where: str) -> Manifest:
        """Read a manifest; `where` names its source in errors.

        Raises `BundleError` when it is not JSON, of a newer schema, or a field is missing or of another type.
        """
        if len(text) > LARGEST_MANIFEST:
            raise BundleError(f"the manifest of {where} has {len(text)} bytes", fix="export the bundle again")
        try:
            raw = parse(text)
        except (ValueError, RecursionError) as error:
            raise BundleError(f"the manifest of {where} is not JSON: {error}", fix="export the bundle again") from None
        if not isinstance(raw, dict):
            raise BundleError(f"the manifest of {where} is not a JSON object", fix="export the bundle again")
        schema = raw.get("schema")
        if not isinstance(schema, int) or isinstance(schema, bool) or not 1 <= schema <= SCHEMA:
            raise BundleError(
                f"{where} has manifest schema {schema!r}; this edgetl reads up to {SCHEMA}",
                fix="pip install --upgrade edgetl",
            )
        manifest = decode(cls, raw, where)
        assert isinstance(manifest, cls)
        _check_consistent(manifest, where)
        return manifest


def _check_consistent(manifest: Manifest, where: str) -> None:
    """What types cannot say. Raises `BundleError`."""
    ids = [variant.id for variant in manifest.variants]
    golden, spec = manifest.golden, manifest.preprocess
    names = [output.name for output in manifest.all_outputs]
    tensors = [manifest.input, manifest.output, *manifest.all_outputs]
    tensors += [spec for variant in manifest.variants for spec in (variant.input, variant.output) if spec is not None]
    problems = {
        "it has no variants": not ids,
        "two variants have the same id": len(set(ids)) < len(ids),
        str(spec.problem): spec.problem is not None,
        "a label has no name": not all(label.is_named for label in manifest.labels),
        "a tensor has a dtype or a shape that none has": not all(map(_is_possible, tensors)),
        f"{len(manifest.labels)} labels for an output of {list(manifest.output.shape)}": (
            manifest.task == "classification" and manifest.output.shape[-1:] != (len(manifest.labels),)
        ),
        "the first of its outputs is not its output": manifest.outputs[0] != manifest.output,
        "two outputs have the same name": len(set(names)) < len(names),
        "int8 logits stand beside other outputs": len(manifest.outputs) > 1
        and any(variant.in_integers for variant in manifest.variants),
        "features stand beside int8 logits": bool(manifest.features or manifest.decoded)
        and any(variant.in_integers for variant in manifest.variants),
        "a feature is not float32": any(feature.dtype != "float32" for feature in manifest.features),
        "the number of golden samples is not that of their images": golden is not None
        and golden.n != len(golden.images),
        "an int8 input is not grey levels, or an int8 output has no scale": not all(
            _is_convertible(variant, manifest) for variant in manifest.variants
        ),
        "a variant takes no image at once, or more than there is room for": not all(
            _is_batch(spec) for spec in (manifest.input, *(variant.input for variant in manifest.variants))
        ),
        "it asks for a version that is none": any(
            len(variant.requires.min_version or "") > _LONGEST_VERSION for variant in manifest.variants
        ),
    }
    for problem, found in problems.items():
        if found:
            raise BundleError(f"the manifest of {where} is damaged: {problem}", fix="export the bundle again")


def _is_possible(tensor: TensorSpec) -> bool:
    return tensor.dtype in _DTYPES and all(size == -1 or 0 < size < 2**31 for size in tensor.shape)


def _is_convertible(variant: Variant, manifest: Manifest) -> bool:
    """Whether a variant's own input is grey levels, shifted, and its own output says what its integers stand for; or
    they are the manifest's for another number of images."""
    image, logits = variant.input, variant.output
    shifted = image is None or (image.dtype == "int8" and image.scale == 1.0 and image.zero_point == -128)
    scaled = logits is None or None not in (logits.scale, logits.zero_point)
    return (shifted or _differs_in_batch(image, manifest.input)) and (
        scaled or _differs_in_batch(logits, manifest.output)
    )


def _differs_in_batch(own: TensorSpec | None, of_all: TensorSpec) -> bool:
    return own is not None and dataclasses.replace(own, shape=(of_all.shape[:1] + own.shape[1:])) == of_all


def _is_batch(image: TensorSpec | None) -> bool:
    return image is None or all(size <= LARGEST_BATCH for size in image.shape[:1])
