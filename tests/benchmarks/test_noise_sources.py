from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from noise_sources import activations_alone, main, weights_alone
from torch import nn

from edgetl_export import CalibrationSamples, Source, capture
from edgetl_export.quantize.calibrate import calibrate
from edgetl_export.quantize.simulate import Simulation
from edgetl_export.quantize.static import quantize_static
from edgetl_runtime.comparison import sqnr_db
from edgetl_runtime.manifest import Label, Normalize, Preprocess


def test_either_alone_is_nearer_and_both_together_make_the_error() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    labels = tuple(Label(str(i), str(i)) for i in range(8))
    source = Source("n", network, labels, Preprocess(8, (8, 8)), Normalize((0.5,) * 3, (0.5,) * 3), "0")
    images = np.random.default_rng(0).integers(0, 256, (16, 8, 8, 3), dtype=np.uint8)
    captured = capture(source)
    quantized = quantize_static(captured, calibrate(captured, CalibrationSamples(list(images), source.preprocess)))
    exact = source.reference()(images)
    error = {
        name: 10 ** (-sqnr_db(exact, Simulation(quantized.captured, quantization).outputs(images)["logits"]) / 10)
        for name, quantization in (
            ("all", quantized.quantization),
            ("activations", activations_alone(quantized)),
            ("weights", weights_alone(quantized)),
        )
    }
    assert min(error.values()) > 1e-9
    assert error["activations"] + error["weights"] == pytest.approx(error["all"], rel=0.5)


def test_a_folder_without_data_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--data", str(tmp_path / "missing")]) == 2
    assert "missing with weights and photos" in capsys.readouterr().err
