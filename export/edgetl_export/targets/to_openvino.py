"""OpenVINO IR: fp32 and fp16 from the captured module, int8 as FakeQuantize from the shared ranges."""

from __future__ import annotations

import tempfile
from pathlib import Path
from xml.etree import ElementTree

import openvino

from edgetl_export.targets.compress import halve_in_place, quantize_in_place
from edgetl_export.workshop import Artifact, Workshop
from edgetl_runtime.errors import ExportError
from edgetl_runtime.manifest import METADATA_KEY

__all__ = ["OpenvinoTarget"]


class OpenvinoTarget:
    """Writes ``.xml`` + ``.bin``."""

    def build(self, workshop: Workshop, precision: str) -> Artifact:
        """The model at `precision`."""
        model = _converted(workshop)
        if precision == "fp32":
            return Artifact(_saved(model))
        if precision == "fp16":
            halve_in_place(model)
            return Artifact(_saved(model))
        if precision == "int8":
            summary = quantize_in_place(model, workshop.calibration)
            return Artifact(_saved(model), summary)
        raise ExportError(f"openvino cannot be written at precision {precision!r}")

    def embed(self, artifact: Artifact, manifest_json: str) -> Artifact:
        """The manifest as an entry of rt_info."""
        model = openvino.Core().read_model(artifact.files[".xml"], artifact.files[".bin"])
        model.set_rt_info(manifest_json, METADATA_KEY)
        return Artifact(_saved(model), artifact.quantization)


def _converted(workshop: Workshop) -> openvino.Model:
    captured = workshop.captured
    model = openvino.convert_model(captured.program)
    model.reshape(list(captured.input.shape))
    model.input(0).get_tensor().set_names({captured.input.name})
    model.output(0).get_tensor().set_names({captured.output.name})
    return model


def _saved(model: openvino.Model) -> dict[str, bytes]:
    """Serialised by OpenVINO, which writes two files or none."""
    with tempfile.TemporaryDirectory(prefix="edgetl-") as folder:
        path = Path(folder) / "model.xml"
        openvino.save_model(model, path, compress_to_fp16=False)
        return {".xml": _compact(path.read_bytes()), ".bin": path.with_suffix(".bin").read_bytes()}


def _compact(xml: bytes) -> bytes:
    """Without the indentation, a fifth of the file."""
    tree = ElementTree.fromstring(xml)
    for element in tree.iter():
        element.text = element.text if element.text and element.text.strip() else None
        element.tail = None
    return b'<?xml version="1.0"?>\n' + ElementTree.tostring(tree)
