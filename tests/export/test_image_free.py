"""Layers that the image has no part in - of its places, as in EdgeNeXt - stay in float and stop no format."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from edgetl_export import capture
from edgetl_export.quantize.calibrate import calibrate
from edgetl_export.quantize.pixels import on_pixels
from edgetl_export.quantize.simulate import Simulation
from edgetl_export.targets import open_target
from edgetl_runtime.comparison import sqnr_db
from tests.export.conftest import logits_of_file, static_for_this_cpu
from tests.zoo import Trained

pytestmark = pytest.mark.slow


def test_a_convolution_of_places_alone_does_not_stop_int8(trained: Trained) -> None:
    edgenext = pytest.importorskip("timm.models.edgenext")
    torch.manual_seed(0)
    network = edgenext.EdgeNeXt(
        num_classes=4, dims=(16, 16, 16, 16), depths=(1, 2, 1, 1), global_block_counts=(0, 1, 0, 0), heads=(1, 2, 1, 1)
    ).eval()
    for name, values in network.named_parameters():
        if name.endswith("gamma"):
            torch.nn.init.ones_(values)  # blocks of random weights would pass on what they are given
    captured = on_pixels(capture(replace(trained.source, module=network)))
    quantized = static_for_this_cpu(captured, calibrate(captured, trained.samples))
    wanted = Simulation(captured, quantized.quantization).outputs(trained.tensors[:16])["logits"]
    for target in ("onnx", "openvino"):
        logits = logits_of_file(target, open_target(target).quantize(quantized), trained.tensors[:16])
        assert np.isfinite(logits).all()
        assert sqnr_db(wanted, logits) > 10, target
