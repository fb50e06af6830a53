"""The last layer of a TFLite file multiplies integers and gives float logits."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from edgetl_export.artifact import Artifact
from edgetl_export.capture import capture
from edgetl_export.targets import tflite_flatbuffer, tflite_int8, tflite_last_layer
from edgetl_export.targets.tflite_last_layer import with_integer_products
from edgetl_runtime import sqnr_db
from tests.export.conftest import Int8


def logits(network: Int8, content: bytes) -> npt.NDArray[np.float32]:
    return network.logits("tflite", Artifact({".tflite": content}))


def test_weights_stay_integers_and_logits_what_they_were(int8: Int8, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tflite_int8, "with_integer_products", lambda content: content)
    before = int8.targets["tflite"].quantize(int8.quantized).files[".tflite"]
    after = with_integer_products(before)
    model = tflite_flatbuffer.opened(after)
    kinds = [tflite_flatbuffer.kind(model, operator) for operator in model.subgraphs[0].operators]
    assert kinds[-3:] == ["FULLY_CONNECTED", "MUL", "ADD"]
    assert kinds.count("DEQUANTIZE") == 1  # the features; before also the weights
    assert sqnr_db(logits(int8, before), logits(int8, after)) > 40
    assert int8.files["tflite"].files[".tflite"] == after


def test_scales_by_channel_are_kept(int8: Int8, monkeypatch: pytest.MonkeyPatch) -> None:
    """With one scale for all channels the small ones would be off."""
    monkeypatch.setattr(tflite_int8, "with_integer_products", lambda content: content)
    before = int8.targets["tflite"].quantize(int8.quantized).files[".tflite"]
    monkeypatch.setattr(tflite_last_layer.np, "broadcast_to", lambda values, shape: np.ones(shape, np.float32))
    broken = with_integer_products(before)
    assert sqnr_db(logits(int8, before), logits(int8, broken)) < 35


@pytest.mark.slow
def test_what_does_not_end_so_is_left_alone(int8: Int8, trained) -> None:
    after = int8.files["tflite"].files[".tflite"]
    assert with_integer_products(after) is after
    float_file = int8.targets["tflite"].write(capture(trained.source), "fp32").files[".tflite"]
    assert with_integer_products(float_file) is float_file
