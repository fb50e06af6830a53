from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from dense_int8 import Row, main, table
from dense_networks import NETWORKS
from torchvision.models import mobilenet_v2


def test_an_unknown_network_and_missing_data_end_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--networks", "unett"]) == 2
    assert "unknown network 'unett'" in capsys.readouterr().err
    assert main(["--networks", "unet", "--data", str(tmp_path / "missing")]) == 2
    assert "missing with weights and photos" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["ssdlite", "lraspp", "unet", "ssdlite_mobilenet_v3"])
def test_networks_give_raw_outputs_by_name(name: str) -> None:
    network = NETWORKS[name]
    with torch.inference_mode():
        outputs = network.make(mobilenet_v2()).eval()(torch.zeros(1, 3, network.size, network.size))
    assert tuple(outputs) == network.outputs


def test_the_table_says_a_dash_for_what_was_not_measured() -> None:
    rows = [
        Row("unet", "onnx.fp32", 8.0, 1.0, None, 1.0, {"logits": 115.0}),
        Row("unet", "onnx.int8", 4.0, 2.0, 0.9, 0.28, {"logits": 24.0}, {"logits": np.inf}, {"Resize": 1}),
    ]
    lines = table(rows).splitlines()
    assert len(lines) == 4
    assert lines[2] == "| onnx.fp32 | 8.00 | 1.00 | - | 1.000 | 115.0 | - | - |"
    assert lines[3] == "| onnx.int8 | 4.00 | 2.00 | 0.90 | 0.280 | 24.0 | inf | Resize 1 |"
