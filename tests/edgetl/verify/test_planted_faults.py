"""Twenty faults, each planted in a real bundle: all fail the default gate, and the diagnosis says what they are.

A small network is trained and exported once; a fault is an edit of a copy's files, or of what stands around them.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import io
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from torch import nn

from edgetl.data.dataset import Sample
from edgetl.verify.report import Report
from edgetl.verify.verify import VerifyOptions, verify
from edgetl_export import CalibrationSamples, ExportOptions, Source, capture, export
from edgetl_export.bundle_writer import write_manifest
from edgetl_export.targets.onnx_file import OnnxTarget
from edgetl_runtime.bundle import Bundle, open_bundle
from edgetl_runtime.machine import cpu_features
from edgetl_runtime.manifest import FileEntry, Label, Manifest, Normalize, Preprocess
from edgetl_runtime.preprocess import preprocess
from edgetl_runtime.session import FakeSession, Session
from tests.zoo import train

pytestmark = pytest.mark.slow

SIZE = 32
SPEC = Preprocess(resize=36, crop=(SIZE, SIZE))
NORMALIZE = Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
LABELS = tuple(Label(name, name) for name in ("red", "green", "blue", "sloped", "checks"))
LOUD = 30_000.0
QUICK = VerifyOptions(latency_seconds=0)
Floats = npt.NDArray[np.float32]


class Net(nn.Module):
    """Strided and depthwise convolutions with batch norms, ReLU and ReLU6, a residual and a linear head."""

    def __init__(self) -> None:
        super().__init__()

        def conv(i: int, o: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
            return [nn.Conv2d(i, o, kernel, stride, kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(o)]

        self.stem = nn.Sequential(*conv(3, 16, 3, 2), nn.ReLU())
        self.expand = nn.Sequential(*conv(16, 32, 1), nn.ReLU6())
        self.depthwise = nn.Sequential(*conv(32, 32, 3, groups=32), nn.ReLU())
        self.project = nn.Sequential(*conv(32, 16, 1))
        self.last = nn.Sequential(*conv(16, 32, 3, 2), nn.ReLU())
        self.head = nn.Linear(32, len(LABELS))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = x + self.project(self.depthwise(self.expand(x)))
        logits: torch.Tensor = self.head(torch.flatten(nn.functional.adaptive_avg_pool2d(self.last(x), 1), 1))
        return logits


class OwnStatistics(nn.Module):
    """A batch norm in training mode, for one image: it normalises by the image's own mean and variance."""

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean = x.mean((0, 2, 3), keepdim=True)
        variance = (x - mean).square().mean((0, 2, 3), keepdim=True)
        weight, bias = self.norm.weight.reshape(1, -1, 1, 1), self.norm.bias.reshape(1, -1, 1, 1)
        normal: torch.Tensor = (x - mean) / torch.sqrt(variance + self.norm.eps) * weight + bias
        return normal


def pictures(n: int, seed: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """(n, 40, 40, 3) uint8 noisy pictures of five kinds, not the same upside down, and which kind each is."""
    rng = np.random.default_rng(seed)
    kinds = rng.integers(0, len(LABELS), n)
    rows, columns = np.mgrid[0:40, 0:40]
    coarse = rng.normal(0, 25, (n, 10, 10, 3)).repeat(4, axis=1).repeat(4, axis=2)
    images = 120 + coarse + rng.normal(0, 15, (n, 40, 40, 3))
    slope = (rows + 2 * columns - 60) * 0.5
    patterns = np.stack([rows * 0, rows * 0, rows * 0, slope, 40 * ((rows // 5 + columns // 5) % 2) - 20])[kinds]
    images += patterns[..., None]
    for kind in range(3):
        images[kinds == kind, ..., kind] += 25
    return np.clip(images, 0, 255).astype(np.uint8), kinds


def trained() -> Source:
    torch.manual_seed(0)
    network = Net()
    images, kinds = pictures(400, 0)
    train(network, np.stack([preprocess(image, SPEC) for image in images]), kinds, NORMALIZE, epochs=6, batch_size=50)
    return Source("shapes", network, LABELS, SPEC, NORMALIZE, checkpoint_sha256="0" * 64)


@dataclass
class Planted:
    """A bundle to plant a fault in, and what verification is given beside it."""

    folder: Path
    source: Source
    samples: list[Sample]
    patch: pytest.MonkeyPatch
    original: Source | None = None
    variants: list[str] = field(default_factory=list)

    @property
    def manifest(self) -> Manifest:
        return open_bundle(self.folder).manifest

    def edit_manifest(self, **changes: Any) -> None:
        write_manifest(self.folder, dataclasses.replace(self.manifest, **changes))

    def onnx(self, precision: str) -> onnx.ModelProto:
        return onnx.load(self.folder / f"onnx/model.{precision}.onnx")

    def write(self, precision: str, content: bytes, *, record: bool = True) -> None:
        """Replace the file of a variant, in the manifest too: the fault is no damage on the way."""
        path = f"onnx/model.{precision}.onnx"
        (self.folder / path).write_bytes(content)
        self.variants = [f"onnx.{precision}"]
        if record:
            entry = FileEntry(path, hashlib.sha256(content).hexdigest(), len(content))
            manifest = self.manifest
            self.edit_manifest(
                variants=tuple(
                    dataclasses.replace(variant, files=(entry,)) if variant.id == f"onnx.{precision}" else variant
                    for variant in manifest.variants
                )
            )

    def write_from(self, precision: str, source: Source) -> None:
        """The variant as it comes out of another source."""
        model = onnx.ModelProto.FromString(OnnxTarget().write(capture(source), "fp32").files[".onnx"])
        model.metadata_props.extend(self.onnx(precision).metadata_props)
        self.write(precision, model.SerializeToString())


def constant(model: onnx.ModelProto, name: str) -> onnx.TensorProto:
    found = [tensor for tensor in model.graph.initializer if tensor.name.endswith(name)]
    assert len(found) == 1, (name, [tensor.name for tensor in model.graph.initializer])
    return found[0]


def change(tensor: onnx.TensorProto, to: Callable[[npt.NDArray[Any]], npt.NDArray[Any]]) -> None:
    values = onnx.numpy_helper.to_array(tensor)
    changed = np.asarray(to(values.copy()), values.dtype, order="C")
    tensor.CopyFrom(onnx.numpy_helper.from_array(changed, tensor.name))


def before_everything(planted: Planted, *nodes: onnx.NodeProto, **constants: npt.NDArray[Any]) -> None:
    """Put `nodes`, from ``image`` to ``changed``, between the image and whoever reads it."""
    model = planted.onnx("fp32")
    for node in model.graph.node:
        for place, name in enumerate(node.input):
            if name == "image":
                node.input[place] = "changed"
    kept = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*nodes, *kept])
    model.graph.initializer.extend(onnx.numpy_helper.from_array(value, name) for name, value in constants.items())
    planted.write("fp32", model.SerializeToString())


def bgr(planted: Planted) -> None:
    swap = onnx.helper.make_node("Gather", ["image", "order"], ["changed"], axis=3)
    before_everything(planted, swap, order=np.array([2, 1, 0]))


def nchw(planted: Planted) -> None:
    before_everything(
        planted,
        onnx.helper.make_node("Reshape", ["image", "planes"], ["read"]),
        onnx.helper.make_node("Transpose", ["read"], ["changed"], perm=[0, 2, 3, 1]),
        planes=np.array([1, 3, SIZE, SIZE]),
    )


def other_normalisation(planted: Planted, normalize: Normalize) -> None:
    planted.write_from("fp32", dataclasses.replace(planted.source, normalize=normalize))


def wrong_filter(planted: Planted) -> None:
    planted.edit_manifest(preprocess=dataclasses.replace(SPEC, interpolation="bicubic"))
    planted.variants = ["onnx.fp32"]


def crop_off_by_one(planted: Planted) -> None:
    """The bundle was written where the crop starts one pixel too far down."""
    manifest = planted.manifest
    assert manifest.golden is not None
    larger = dataclasses.replace(SPEC, crop=(SIZE + 2, SIZE + 2))
    golden = open_bundle(planted.folder).golden()
    assert golden is not None
    tensors = np.stack([preprocess(image, larger)[2 : 2 + SIZE, 1 : 1 + SIZE] for image in golden.images])
    content = io.BytesIO()
    np.savez(content, tensors=tensors, logits=planted.source.reference()(tensors))
    path = manifest.golden.expected.path
    (planted.folder / path).write_bytes(content.getvalue())
    entry = FileEntry(path, hashlib.sha256(content.getvalue()).hexdigest(), len(content.getvalue()))
    planted.edit_manifest(golden=dataclasses.replace(manifest.golden, expected=entry))
    planted.variants = ["onnx.fp32"]


def shuffled_labels(planted: Planted) -> None:
    order = [2, 0, 1, 4, 3]
    planted.edit_manifest(labels=tuple(LABELS[index] for index in order))
    # Photos get their label by the name of their folder.
    planted.samples = [dataclasses.replace(sample, label=order.index(sample.label)) for sample in planted.samples]
    planted.variants = ["onnx.fp32"]


def permuted_head(planted: Planted) -> None:
    model = planted.onnx("fp32")
    for name in ("head.weight", "head.bias"):
        change(constant(model, name), lambda values: values[[3, 0, 4, 1, 2]])
    planted.write("fp32", model.SerializeToString())


def zeroed_channel(planted: Planted) -> None:
    model = planted.onnx("fp32")
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    conv = [node for node in model.graph.node if node.op_type == "Conv"][3]
    largest = int(np.abs(onnx.numpy_helper.to_array(weights[conv.input[1]])).sum((1, 2, 3)).argmax())

    def without(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        values[largest] = 0
        return values

    for name in conv.input[1:]:
        change(weights[name], without)
    planted.write("fp32", model.SerializeToString())


def integer_weights(model: onnx.ModelProto) -> Iterator[tuple[onnx.TensorProto, onnx.TensorProto]]:
    """Int8 weights of convolutions and the head with their scales."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in constants:
            weights, scales = constants[node.input[0]], constants[node.input[1]]
            if weights.data_type == onnx.TensorProto.INT8 and len(weights.dims) > 1:
                yield weights, scales


def per_tensor(planted: Planted) -> None:
    model = planted.onnx("int8")
    axes = {node.input[0]: node for node in model.graph.node if node.op_type == "DequantizeLinear"}
    for weights, scales in integer_weights(model):
        node = axes[weights.name]
        axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
        by_channel = onnx.numpy_helper.to_array(scales)
        shape = [-1 if place == axis else 1 for place in range(len(weights.dims))]
        values = onnx.numpy_helper.to_array(weights) * by_channel.reshape(shape)
        scale = np.float32(np.abs(values).max() / 127)
        change(weights, lambda _, values=values, scale=scale: np.round(values / scale))
        scales.CopyFrom(onnx.numpy_helper.from_array(np.array(scale, np.float32), scales.name))
        if len(node.input) > 2:
            zero = constant(model, node.input[2])
            zero.CopyFrom(onnx.numpy_helper.from_array(np.array(0, np.int8), zero.name))
    planted.write("int8", model.SerializeToString())


def narrow_ranges(planted: Planted) -> None:
    model = planted.onnx("int8")
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    scales = {node.input[1] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    for name in scales:
        change(constants[name], lambda values: values * 0.2)
    planted.write("int8", model.SerializeToString())


def four_bits(planted: Planted) -> None:
    model = planted.onnx("int8")
    weights, _ = list(integer_weights(model))[1]
    change(weights, lambda values: np.round(np.round(values / 127.0 * 7) / 7 * 127))
    planted.write("int8", model.SerializeToString())


def stale_calibration(planted: Planted) -> None:
    """Calibrated on pictures of a grey wall."""
    walls = np.random.default_rng(3).normal(124, 3, (48, 40, 40, 3)).astype(np.uint8)
    grey = CalibrationSamples(list(walls), SPEC)
    shutil.rmtree(planted.folder)
    planted.folder.mkdir()
    golden = [sample.source for sample in planted.samples[:4]]
    export(planted.source, grey, golden, planted.folder, ExportOptions(targets=("onnx",), precisions=("int8",)))
    planted.variants = ["onnx.int8"]


def softmax_twice(planted: Planted) -> None:
    model = planted.onnx("fp32")
    last = next(node for node in model.graph.node if "logits" in node.output)
    last.output[0] = "true_logits"
    model.graph.node.extend(
        [
            onnx.helper.make_node("Softmax", ["true_logits"], ["once"], axis=-1),
            onnx.helper.make_node("Softmax", ["once"], ["logits"], axis=-1),
        ]
    )
    planted.write("fp32", model.SerializeToString())


def training_mode(planted: Planted) -> None:
    network = copy.deepcopy(planted.source.module)
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, OwnStatistics(child))
    planted.write_from("fp32", dataclasses.replace(planted.source, module=network))


def overflow(planted: Planted) -> None:
    """The same function with one layer's output 30,000 times as large, which the file holds in float16."""
    network = copy.deepcopy(planted.source.module)
    with torch.no_grad():
        norm, behind = network.get_submodule("depthwise.1"), network.get_submodule("project.0")
        for parameter in norm.parameters():
            parameter.mul_(LOUD)
        next(behind.parameters()).div_(LOUD)
    planted.original = dataclasses.replace(planted.source, module=network)
    planted.write_from("fp16", planted.original)
    model = planted.onnx("fp16")
    convolution = [node for node in model.graph.node if node.op_type == "Conv"][2]
    relu = next(node for node in model.graph.node if convolution.output[0] in node.input)
    place, name = list(model.graph.node).index(relu) + 1, relu.output[0]
    relu.output[0] = "loud"
    half = onnx.helper.make_node("Cast", ["loud"], ["half"], to=onnx.TensorProto.FLOAT16)
    model.graph.node.insert(place, half)
    model.graph.node.insert(place + 1, onnx.helper.make_node("Cast", ["half"], [name], to=onnx.TensorProto.FLOAT))
    planted.write("fp16", model.SerializeToString())


def truncated(planted: Planted) -> None:
    content = (planted.folder / "onnx/model.fp32.onnx").read_bytes()
    planted.write("fp32", content[: len(content) // 2], record=False)


def another_manifest(planted: Planted) -> None:
    manifest = planted.manifest
    variants = tuple(
        dataclasses.replace(
            variant, files=tuple(dataclasses.replace(entry, sha256="1" * 64, bytes=9999) for entry in variant.files)
        )
        for variant in manifest.variants
    )
    provenance = {**manifest.provenance, "checkpoint_sha256": "7" * 64}
    planted.edit_manifest(name="flowers", variants=variants, provenance=provenance)
    planted.variants = [variant.id for variant in variants]


def engine_of_nan(planted: Planted) -> None:
    opened = Bundle.session

    def session(self: Bundle, variant_id: str, **options: Any) -> Session:
        real = opened(self, variant_id, **options)
        if variant_id != "onnx.fp32":
            return real
        nothing = np.full((1, len(LABELS)), np.nan, np.float32)
        return FakeSession((self.manifest.input,), (self.manifest.output,), lambda feeds: {"logits": nothing})

    planted.patch.setattr(Bundle, "session", session)
    planted.variants = ["onnx.fp32"]


def renamed(planted: Planted) -> None:
    planted.write("int8", (planted.folder / "onnx/model.fp32.onnx").read_bytes())


FAULTS: dict[str, tuple[Callable[[Planted], None], str]] = {
    "BGR": (bgr, "BGR"),
    "missing normalisation": (
        partial(other_normalisation, normalize=Normalize((0.0,) * 3, (1.0,) * 3)),
        "normalisation is missing",
    ),
    "wrong mean": (
        partial(other_normalisation, normalize=Normalize((0.70, 0.50, 0.25), NORMALIZE.std)),
        "another mean or std",
    ),
    "wrong resize filter": (wrong_filter, "resize filter"),
    "centre crop off by one": (crop_off_by_one, "crop is off by one"),
    "NCHW/NHWC swap": (nchw, "layout is wrong"),
    "labels shuffled": (shuffled_labels, "labels are shuffled"),
    "head weights permuted": (permuted_head, "logits are permuted"),
    "one channel zeroed": (zeroed_channel, "channels of a layer are zeroed"),
    "per-tensor int8": (per_tensor, "one scale per tensor"),
    "narrow ranges": (narrow_ranges, "ranges are too narrow"),
    "one layer int4": (four_bits, "4 bits"),
    "stale calibration from another domain": (stale_calibration, "calibration is of another domain"),
    "wrong output layer (softmax twice)": (softmax_twice, "softmax"),
    "batch norm in training mode": (training_mode, "training mode"),
    "a fp16 overflow": (overflow, "float16 overflows"),
    "a truncated file": (truncated, "truncated"),
    "a manifest of another model": (another_manifest, "manifest is that of another model"),
    "an engine that answers with NaN": (engine_of_nan, "engine answers with NaN"),
    "an fp32 file renamed int8": (renamed, "float model renamed"),
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> tuple[Source, Path, list[Sample]]:
    source = trained()
    folder = tmp_path_factory.mktemp("faults") / "shapes.edgetl"
    folder.mkdir()
    images, kinds = pictures(120, 1)
    samples = [
        Sample(image, int(kind), f"{index}.png") for index, (image, kind) in enumerate(zip(images, kinds, strict=True))
    ]
    calibration = CalibrationSamples(list(pictures(64, 2)[0]), SPEC)
    export(source, calibration, list(images[:6]), folder, ExportOptions(targets=("onnx",)))
    right = source.reference()(np.stack([preprocess(image, SPEC) for image in images])).argmax(axis=1) == kinds
    assert right.mean() > 0.8, "the test network was not trained as it should be"
    return source, folder, samples


@pytest.fixture
def planted(sound: tuple[Source, Path, list[Sample]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Planted:
    source, pristine, samples = sound
    folder = tmp_path / "shapes.edgetl"
    shutil.copytree(pristine, folder)
    return Planted(folder, source, list(samples), monkeypatch)


def verified(planted: Planted) -> Report:
    original = planted.original or planted.source
    return verify(planted.folder, planted.samples, original.reference(), QUICK, original=original)


def causes(report: Report, variant: str) -> list[str]:
    return [finding.cause for finding in report.variant(variant).findings]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_fails_the_default_gate_and_is_named(planted: Planted, fault: str) -> None:
    plant, named = FAULTS[fault]
    if plant is four_bits and cpu_features().adds_in_16_bits:
        pytest.skip("int8 weights made for this kind of CPU have fewer bits already: one layer of 4 hurts too little")
    plant(planted)
    report = verified(planted)
    assert not report.verdict.passed
    failed = {check.variant for check in report.verdict.failed}
    for variant in planted.variants:
        assert variant in failed
        assert any(named in cause for cause in causes(report, variant)), report.variant(variant).findings
    assert Report.from_json(report.to_json(), where="test") == report


def test_a_sound_bundle_passes_and_nothing_is_found(planted: Planted) -> None:
    report = verified(planted)
    assert report.verdict.passed, report.verdict.failed
    assert [variant.findings for variant in report.variants] == [()] * 3


def test_a_finding_has_numbers_and_a_fix(planted: Planted) -> None:
    bgr(planted)
    (finding,) = verified(planted).variant("onnx.fp32").findings
    assert any(character.isdigit() for character in finding.evidence)
    assert finding.fix
