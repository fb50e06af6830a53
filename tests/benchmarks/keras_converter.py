"""TensorFlow's own way to an int8 TFLite file: TFLiteConverter on a Keras model, as its documentation says.

``python keras_converter.py MODEL.keras PIXELS.npy OUT.tflite``: the pixels are float32 (n, H, W, 3), as the model takes
them. It runs in an environment that has TensorFlow; nothing of edgetl is imported.
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

import numpy as np


def main(model: str, pixels: str, out: str) -> None:
    """Write OUT: activations and weights int8, input and output float32."""
    keras, tensorflow = import_module("keras"), import_module("tensorflow")
    images = np.load(pixels)
    converter = tensorflow.lite.TFLiteConverter.from_keras_model(keras.saving.load_model(model, compile=False))
    converter.optimizations = [tensorflow.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([image[None]] for image in images)
    converter.target_spec.supported_ops = [tensorflow.lite.OpsSet.TFLITE_BUILTINS_INT8]
    Path(out).write_bytes(converter.convert())


if __name__ == "__main__":
    main(*sys.argv[1:])
