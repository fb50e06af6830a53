"""Features beside the logits: as the original's own layers give them, in all three formats."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from edgetl_export import CalibrationSamples, Captured, ExportOptions, Source, capture, export
from edgetl_export.artifact import Artifact
from edgetl_export.features import check_features, with_features
from edgetl_export.int8 import Int8Options
from edgetl_export.quantize.calibrate import calibrate
from edgetl_export.quantize.pixels import on_pixels
from edgetl_export.targets import TARGETS, open_target
from edgetl_runtime import load, open_bundle, self_test
from edgetl_runtime.comparison import sqnr_db
from edgetl_runtime.engines import open_session
from edgetl_runtime.engines.binding import Execution, ModelBytes, Signature
from edgetl_runtime.errors import ExportError, UsageError
from tests.export.conftest import static_for_this_cpu

pytestmark = pytest.mark.slow

FEATURES = ("pooled", "add", "expand")
"""What the head is given, a residual sum, and a block that ends with a ReLU6 in front of squeeze-excite."""

LEAST_SQNR = {"fp32": 80.0, "int8": 15.0}
IMAGES = 40

Outputs = dict[str, npt.NDArray[np.float32]]


@dataclass(frozen=True)
class Featured:
    """A trained network with features: the source, and by variant its file's outputs for the first test images."""

    source: Source
    captured: Captured
    files: dict[str, Artifact]
    outputs: dict[str, Outputs]
    reference: Outputs


@pytest.fixture(scope="module")
def featured(trained) -> Featured:
    source = dataclasses.replace(trained.source, features=FEATURES)
    captured = capture(source)
    quantized = static_for_this_cpu(pixels := on_pixels(captured), calibrate(pixels, trained.samples))
    files = {}
    for name in TARGETS:
        target = open_target(name)
        files[f"{name}.fp32"] = target.write(captured, "fp32")
        files[f"{name}.int8"] = target.quantize(quantized)
    images = trained.tensors[:IMAGES]
    outputs = {variant: run(captured, variant, artifact, images) for variant, artifact in files.items()}
    return Featured(source, captured, files, outputs, source.reference().outputs(images))


def run(captured: Captured, variant: str, artifact: Artifact, images: npt.NDArray[np.uint8]) -> Outputs:
    contents = list(artifact.files.values())
    model = ModelBytes(contents[0], variant, contents[1] if len(contents) > 1 else None)
    signature = Signature((captured.input,), captured.all_outputs)
    with open_session(TARGETS[variant.partition(".")[0]].engine, model, signature, Execution(1)) as session:
        rows = [session.run({"image": image[None]}) for image in images]
    return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}


def hooked(source: Source, images: npt.NDArray[np.uint8]) -> Outputs:
    """Two of the features by hooks on the network itself, which no tracing has seen."""
    network, kept = source.module.eval(), {}

    def keep(name: str, value: torch.Tensor) -> None:
        kept[name] = value.detach().clone()

    handles = [
        network.head.register_forward_pre_hook(lambda module, inputs: keep("pooled", inputs[0])),
        network.expand.register_forward_hook(lambda module, inputs, output: keep("expand", output)),
    ]
    mean, std = torch.tensor(source.normalize.mean), torch.tensor(source.normalize.std)
    with torch.no_grad():
        network(((torch.tensor(images) / 255.0 - mean) / std).permute(0, 3, 1, 2))
    for handle in handles:
        handle.remove()
    return {"pooled": kept["pooled"].numpy(), "expand": kept["expand"].permute(0, 2, 3, 1).numpy()}


def test_the_reference_gives_what_the_layers_do(featured: Featured, trained) -> None:
    found = hooked(featured.source, trained.tensors[:IMAGES])
    for name, values in found.items():
        assert sqnr_db(values, featured.reference[name]) > 120
    assert sqnr_db(trained.source.reference()(trained.tensors[:IMAGES]), featured.reference["logits"]) > 120
    assert {name: values.shape[1:] for name, values in featured.reference.items()} == {
        "logits": (4,),
        "pooled": (32,),
        "add": (16, 16, 16),
        "expand": (16, 16, 32),
    }
    assert [spec.layout for spec in featured.captured.features] == [None, "NHWC", "NHWC"]


@pytest.mark.parametrize("precision", list(LEAST_SQNR))
@pytest.mark.parametrize("target", list(TARGETS))
def test_every_file_gives_them(target: str, precision: str, featured: Featured) -> None:
    outputs = featured.outputs[f"{target}.{precision}"]
    assert list(outputs) == ["logits", *FEATURES]
    for name, expected in featured.reference.items():
        assert outputs[name].dtype == np.float32
        assert sqnr_db(expected, outputs[name]) >= LEAST_SQNR[precision], name


@pytest.mark.parametrize("target", list(TARGETS))
def test_int8_logits_are_what_they_are_without(target: str, featured: Featured, int8) -> None:
    alone = int8.logits(target)[:IMAGES]
    assert sqnr_db(alone, featured.outputs[f"{target}.int8"]["logits"]) > 100


def test_int8_files_name_their_outputs_in_order(featured: Featured) -> None:
    import onnx
    import openvino
    from ai_edge_litert.interpreter import Interpreter

    names = ["logits", *FEATURES]
    model = onnx.ModelProto.FromString(featured.files["onnx.int8"].files[".onnx"])
    assert [output.name for output in model.graph.output] == names
    interpreter = Interpreter(model_content=featured.files["tflite.int8"].files[".tflite"])
    assert [detail["name"] for detail in interpreter.get_output_details()] == names
    read = openvino.Core().read_model(*featured.files["openvino.int8"].files.values())
    assert [output.any_name for output in read.outputs] == names


def test_quantisation_does_not_see_features(featured: Featured) -> None:
    alone = capture(dataclasses.replace(featured.source, features=()))
    assert featured.captured.batched.code == alone.batched.code
    assert featured.captured.outputs_alone.features == ()
    assert alone.outputs_alone is alone


def test_a_bundle_holds_them_and_the_device_gives_them(trained, tmp_path: Path) -> None:
    source = dataclasses.replace(trained.source, features=("pooled",))
    options = ExportOptions(targets=("onnx",), precisions=("fp32", "w8"))
    exported = export(source, trained.samples, trained.calibration[:4], tmp_path, options)
    assert exported.manifest.features == exported.captured.features
    golden = open_bundle(tmp_path).golden()
    assert golden is not None
    assert golden.features["pooled"].shape == (4, 32)
    assert self_test(open_bundle(tmp_path)).passed
    expected = source.reference().outputs(golden.tensors)["pooled"]
    with load(tmp_path, variant="onnx.fp32") as classifier:
        assert sqnr_db(expected, classifier.embed(golden.images)) > 80


def source_of(network: nn.Module, *features: str, like: Source) -> Source:
    return dataclasses.replace(like, module=network.eval(), features=features)


@pytest.mark.parametrize(
    ("features", "problem", "fix"),
    [
        (("expend",), "no layer 'expend'", "expand"),
        (("head",), "gives the logits", "pooled"),
        (("expand", "expand.5"), "same layer", "once"),
        (("add", "add"), "twice", "once"),
        (("logits",), "cannot be the name", "layer"),
        (("stem.0",), "one layer with the batch norm", "stem.1"),
    ],
)
def test_a_name_that_makes_no_sense_is_refused(features: Sequence[str], problem: str, fix: str, trained) -> None:
    with pytest.raises(UsageError, match=problem) as error:
        dataclasses.replace(trained.source, features=tuple(features)).network()
    assert error.value.fix is not None
    assert fix in error.value.fix


class Winding(nn.Module):
    """What it computes depends on the image: no tracing follows that."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3)) if x.sum() > 0 else x.amax((2, 3))


class Sizes(nn.Module):
    """Gives its head a size, and rows for places instead of images."""

    def __init__(self) -> None:
        super().__init__()
        self.mixed, self.head = nn.Identity(), nn.Linear(3, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        places = self.mixed(x.permute(0, 2, 3, 1).flatten(0, 2))
        logits: torch.Tensor = self.head(places.reshape(x.size(0), -1, 3).mean(1))
        return logits


def test_a_network_that_has_none_says_so(trained, pooling) -> None:
    with pytest.raises(ExportError, match="cannot be traced"):
        source_of(Winding(), "pooled", like=trained.source).network()
    with pytest.raises(UsageError, match="does not end with a linear layer"):
        source_of(pooling.trained.source.module, "pooled", like=trained.source).network()
    with pytest.raises(UsageError, match="for 2 images, not one row"):
        source_of(Sizes(), "mixed", like=trained.source).network()
    with pytest.raises(UsageError, match="gives no tensor"):
        source_of(Sizes(), "size", like=trained.source).network()


@pytest.mark.parametrize(
    ("precision", "io", "problem"), [("int8", "int8", "features are computed in float"), ("w8a16", "float", "at w8a16")]
)
def test_where_features_cannot_be_had_is_said_first(
    precision: str, io: str, problem: str, trained, tmp_path: Path
) -> None:
    options = ExportOptions(targets=("tflite",), precisions=(precision,), int8=Int8Options(io=io))
    source = dataclasses.replace(trained.source, features=("pooled",))
    with pytest.raises(UsageError, match=problem):
        export(source, CalibrationSamples(trained.calibration, source.preprocess), [], tmp_path, options)
    check_features((), io=io, precisions=(precision,))


def test_what_works_in_place_does_not_reach_a_feature() -> None:
    network = nn.Sequential(nn.Conv2d(3, 5, 1), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(5 * 16, 4)).eval()
    image = torch.randn(2, 3, 4, 4)
    _, found = with_features(network, ("0",), image)(image)
    with torch.no_grad():
        expected = network[0](image)
    assert expected.min() < 0
    torch.testing.assert_close(found, expected.permute(0, 2, 3, 1))


def test_a_map_with_channels_last_stays_as_it_is() -> None:
    class Windows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.head = nn.Identity(), nn.Linear(3, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.head(self.inner(x.permute(0, 2, 3, 1)).mean((1, 2)))
            return logits

    image = torch.randn(2, 3, 8, 6)
    _, found = with_features(Windows().eval(), ("inner",), image)(image)
    torch.testing.assert_close(found, image.permute(0, 2, 3, 1))
