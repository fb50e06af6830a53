"""A Keras model in a process with another backend is exported by a second process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgetl_runtime import open_bundle

PROGRAM = """
import keras
from edgetl import api
assert keras.config.backend() == "numpy"
model = keras.Sequential([
    keras.Input((32, 32, 3)), keras.layers.Rescaling(1 / 255), keras.layers.Conv2D(4, 3, activation="relu"),
    keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(2, activation="softmax"),
])
try:
    api.export(model, calibration="photos", out="a.edgetl", labels=["a"], targets=["onnx"], precisions=["fp32"])
except Exception as error:
    print(type(error).__name__, error)
api.export(model, calibration="photos", out="a.edgetl", targets=["onnx"], precisions=["fp32"], tell=print)
"""


@pytest.mark.slow
def test_a_model_of_another_backend_goes_through_a_file(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for label in ("left", "right"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for number in range(8):
            pixels = generator.integers(0, 256, (40, 40, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / label / f"{number}.png")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=tmp_path, env={**os.environ, "KERAS_BACKEND": "numpy"}, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "ExportError" in done.stdout
    assert "has 1 labels" in done.stdout
    assert "pixels 0..255 (as they are), the model itself scales them" in done.stdout
    manifest = open_bundle(tmp_path / "a.edgetl").manifest
    assert [label.id for label in manifest.labels] == ["left", "right"]
