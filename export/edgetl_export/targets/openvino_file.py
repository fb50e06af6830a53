"""OpenVINO IR: the captured module in float, with int8 weights, or int8 as FakeQuantize from the shared ranges."""

from __future__ import annotations

import re
import tempfile
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import openvino

from edgetl_export.artifact import Artifact
from edgetl_export.capture import Captured
from edgetl_export.quantize.quantization import Quantized
from edgetl_export.sealing import with_room_for_seal
from edgetl_export.targets.openvino_compress import halve_in_place, round_weights_in_place
from edgetl_export.targets.openvino_fake_quantize import quantize_in_place
from edgetl_export.targets.summaries import weight_summary
from edgetl_runtime.engines import its_environment
from edgetl_runtime.errors import ExportError
from edgetl_runtime.manifest import METADATA_KEY

__all__ = ["OpenvinoTarget"]

_OVERLOAD = re.compile(r"/aten\.[^/]+")
_JSON_VALUE = re.compile(rb'value="(\{&quot;[^"]*)"')


class OpenvinoTarget:
    """Writes ``.xml`` + ``.bin``. What was captured is converted once, and each variant is made of a copy."""

    def __init__(self) -> None:
        self._converted: dict[Captured, openvino.Model] = {}

    def write(self, captured: Captured, precision: str) -> Artifact:
        """fp32, fp16 as half-precision weights, w8 and dynamic as int8 weights that are dequantised inside."""
        model = self._float(captured)
        summary: dict[str, object] | None = None
        if precision == "fp16":
            halve_in_place(model)
        elif precision in ("w8", "dynamic"):
            round_weights_in_place(model, dynamic=precision == "dynamic")
            summary = weight_summary(precision, "int8 in groups of 32 channels, matrix products only")
        elif precision != "fp32":
            raise ExportError(f"openvino cannot be written at precision {precision!r}")
        return Artifact(_saved(model), summary)

    def quantize(self, quantized: Quantized, precision: str = "int8", *, io: str = "float") -> Artifact:
        """int8 as FakeQuantize in front of what is worth it."""
        if (precision, io) != ("int8", "float"):
            raise ExportError(f"openvino cannot be written at precision {precision!r} with {io} borders")
        model = self._float(quantized.captured)
        left = quantize_in_place(model, quantized)
        summary = quantized.quantization.summary()
        return Artifact(_saved(model), {**summary, "activations": "uint8", "float_operators": left})

    def _float(self, captured: Captured) -> openvino.Model:
        if captured not in self._converted:
            self._converted[captured] = _exported(captured)
        return self._converted[captured].clone()

    def embed(self, artifact: Artifact, manifest_json: str) -> Artifact:
        """The manifest as an entry of rt_info, sealed."""
        model = openvino.Core().read_model(artifact.files[".xml"], artifact.files[".bin"])
        model.set_rt_info(with_room_for_seal(manifest_json), METADATA_KEY)
        return replace(artifact, files=_saved(model)).sealed()


def _exported(captured: Captured) -> openvino.Model:
    with its_environment("openvino"):  # each conversion would be reported to its maker, by three forks of this process
        model = openvino.convert_model(captured.program)
    model.reshape(list(captured.input.shape))
    _remove_gathers_of_all(model)
    _shorten_names(model)
    model.input(0).get_tensor().set_names({captured.input.name})
    for index, output in enumerate(captured.all_outputs):
        model.output(index).get_tensor().set_names({output.name})
    return model


def _shorten_names(model: openvino.Model) -> None:
    """``convolution_3/Add`` instead of ``convolution_3/aten.convolution.default/Add``, and no names for tensors: a
    hundredth of an int8 file."""
    for node in model.get_ordered_ops():
        node.set_friendly_name(_OVERLOAD.sub("", node.get_friendly_name()))
        for output in node.outputs():
            output.get_tensor().set_names(set())


def _remove_gathers_of_all(model: openvino.Model) -> None:
    """Take out what gathers every value in the order that it already has.

    PyTorch's pooling to one place (`adaptive_avg_pool2d`) is a mean and an `as_strided` to the program, which becomes
    a Gather: it makes the plugin change the layout twice in every squeeze-excite block.
    """
    for node in model.get_ordered_ops():
        if node.get_type_name() != "Gather" or node.input_value(0).get_node().get_type_name() != "Reshape":
            continue
        indices, source = node.input_value(1).get_node(), node.input_value(0).get_node().input_value(0)
        if indices.get_type_name() != "Constant" or source.get_partial_shape() != node.output(0).get_partial_shape():
            continue
        places = indices.get_data().reshape(-1)
        if np.array_equal(places, np.arange(places.size)):
            node.output(0).replace(source)


def _saved(model: openvino.Model) -> dict[str, bytes]:
    """Serialised by OpenVINO, which writes two files or none."""
    with tempfile.TemporaryDirectory(prefix="edgetl-") as folder:
        path = Path(folder) / "model.xml"
        openvino.save_model(model, path, compress_to_fp16=False)
        return {".xml": _compact(path.read_bytes()), ".bin": path.with_suffix(".bin").read_bytes()}


def _compact(xml: bytes) -> bytes:
    """Without the indentation, a fifth of the file, and the manifest's JSON with its own quotes instead of entities."""
    tree = ElementTree.fromstring(xml)
    for element in tree.iter():
        element.text = element.text if element.text and element.text.strip() else None
        element.tail = None
    text = _JSON_VALUE.sub(_with_its_quotes, ElementTree.tostring(tree))
    return b'<?xml version="1.0"?>\n' + text


def _with_its_quotes(value: re.Match[bytes]) -> bytes:
    return b"value='" + value[1].replace(b"'", b"&apos;").replace(b"&quot;", b'"') + b"'"
