"""What the OpenVINO target takes out of the converted graph, and what it leaves in."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import openvino
import pytest
import torch
from torch import nn

from edgetl_export import capture
from edgetl_export.artifact import Artifact
from edgetl_export.quantize.quantization import Grid
from edgetl_export.targets.openvino_file import OpenvinoTarget
from edgetl_runtime.comparison import sqnr_db
from tests.export.conftest import logits_of_file
from tests.zoo import Trained

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]

if TYPE_CHECKING:
    from tests.export.conftest import Int8


class Gathering(nn.Module):
    """Another network behind a gather that matters: it turns the channels round."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.network(x[:, [2, 0, 1]])
        return logits


def gathers(artifact: Artifact) -> int:
    """How many operators gather activations; shapes are gathered too, once, when a model is loaded."""
    model = openvino.Core().read_model(artifact.files[".xml"], artifact.files[".bin"])
    found = [node for node in model.get_ordered_ops() if node.get_type_name() == "Gather"]
    return sum(node.input_value(0).get_node().get_type_name() != "Constant" for node in found)


def test_pooling_to_one_place_gathers_nothing(trained: Trained) -> None:
    written = OpenvinoTarget().write(capture(trained.source), "fp32")
    assert gathers(written) == 0
    wanted = trained.source.reference()(trained.tensors)
    assert sqnr_db(wanted, logits_of_file("openvino", written, trained.tensors)) > 80


def test_a_gather_that_moves_something_stays(trained: Trained) -> None:
    source = replace(trained.source, module=Gathering(trained.source.module))
    written = OpenvinoTarget().write(capture(source), "fp32")
    assert gathers(written) >= 1
    wanted = source.reference()(trained.tensors)
    assert sqnr_db(wanted, logits_of_file("openvino", written, trained.tensors)) > 80


def test_what_was_captured_is_converted_once_and_no_variant_changes_another(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, captured = OpenvinoTarget(), capture(trained.source)
    first = target.write(captured, "fp32")
    monkeypatch.setattr(openvino, "convert_model", None)
    halved, rounded = (target.write(captured, precision) for precision in ("fp16", "w8"))
    assert len(first.files[".bin"]) > len(halved.files[".bin"]) > len(rounded.files[".bin"])
    assert target.write(captured, "fp32").files == first.files


_COUNTING_PROCESSES = """
import multiprocessing
import os
import time

started = []
multiprocessing.Process.start = lambda process: started.append(process)
from edgetl_export import Source, capture
from edgetl_export.targets import open_target
from tests.zoo import LABELS, NORMALIZE, SPEC, Pooling

source = Source("shapes", Pooling(4).eval(), LABELS, SPEC, NORMALIZE, checkpoint_sha256="0" * 64)
open_target("openvino").write(capture(source), "fp32")
time.sleep(0.5)  # a thread of its own reports
print("started", len(started), "CI" in os.environ)
"""


def test_a_conversion_is_not_reported_to_anybody() -> None:
    """Each report would be a fork of this process, with all its threads. In a process of its own: what other tests
    convert without edgetl is reported."""
    environment = {name: value for name, value in os.environ.items() if name != "CI"}
    words = [sys.executable, "-c", _COUNTING_PROCESSES]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=ROOT, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "started 0 False"


def kinds_in(artifact: Artifact) -> Counter[str]:
    model = openvino.Core().read_model(artifact.files[".xml"], artifact.files[".bin"])
    return Counter(node.get_type_name() for node in model.get_ordered_ops())


def test_rounding_clips_where_its_grid_ends_like_the_activation(inverted: Int8) -> None:
    assert kinds_in(inverted.files["openvino"])["Clamp"] == 0
    old = inverted.quantized.quantization
    name = next(name for name in old.activations if name.startswith("hardtanh"))
    wider = Grid(old.activations[name].scale * 1.5, old.activations[name].zero_point)
    quantization = replace(old, activations={**old.activations, name: wider})
    written = inverted.targets["openvino"].quantize(replace(inverted.quantized, quantization=quantization))
    assert kinds_in(written)["Clamp"] == 1


def test_names_are_short_and_tell_operators_apart(trained: Trained) -> None:
    written = OpenvinoTarget().write(capture(trained.source), "fp32")
    model = openvino.Core().read_model(written.files[".xml"], written.files[".bin"])
    names = [node.get_friendly_name() for node in model.get_ordered_ops()]
    assert len(set(names)) == len(names)
    assert "convolution/Convolution" in names
    assert model.input(0).get_names() == {"image"}
    assert model.output(0).get_names() == {"logits"}
