"""The int8 model of `runtime_models.py` in the forms that other libraries want: same weights, other wrapping."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper
from runtime_models import HandMade

__all__ = ["hugging_face_folder", "ultralytics_file"]

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_SIZE = 224


def hugging_face_folder(by_hand: HandMade, folder: Path) -> Path:
    """A model folder as the Hub has them: model.onnx (pixel_values to logits), and the JSON files beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(_renamed(onnx.load(by_hand.models["onnxruntime"]), "pixel_values", "logits"), folder / "model.onnx")
    names = _names(by_hand)
    config = {
        "architectures": ["MobileNetV2ForImageClassification"],
        "model_type": "mobilenet_v2",
        "image_size": _SIZE,
        "id2label": {str(i): name for i, name in enumerate(names)},
        "label2id": {name: i for i, name in enumerate(names)},
    }
    processor = {
        "image_processor_type": "MobileNetV2ImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": 256},
        "resample": 2,
        "do_center_crop": True,
        "crop_size": {"height": _SIZE, "width": _SIZE},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": MEAN,
        "image_std": STD,
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "preprocessor_config.json").write_text(json.dumps(processor), encoding="utf-8")
    return folder


def ultralytics_file(by_hand: HandMade, path: Path) -> Path:
    """An ONNX file as Ultralytics exports them: pixels 0..1 in, probabilities out, its metadata inside.

    Ultralytics does not normalise, so a product and a sum in front of the model do.
    """
    model = onnx.load(by_hand.models["onnxruntime"])
    graph = model.graph
    taken, given = graph.input[0].name, graph.output[0].name
    std, mean = (np.array(values, np.float32).reshape(1, 3, 1, 1) for values in (STD, MEAN))
    graph.initializer.extend(
        [numpy_helper.from_array(1 / std, "factor"), numpy_helper.from_array(-mean / std, "offset")]
    )
    graph.node.insert(0, helper.make_node("Mul", ["images", "factor"], ["scaled"]))
    graph.node.insert(1, helper.make_node("Add", ["scaled", "offset"], [taken]))
    graph.node.append(helper.make_node("Softmax", [given], ["output0"], axis=-1))
    graph.input[0].name, graph.output[0].name = "images", "output0"
    about = {
        "task": "classify",
        "stride": "1",
        "batch": "1",
        "imgsz": str([_SIZE, _SIZE]),
        "names": str(dict(enumerate(_names(by_hand)))),
    }
    helper.set_model_props(model, about)
    onnx.save(model, path)
    return path


def _renamed(model: Any, image: str, logits: str) -> Any:
    """`model` with other names of its one input and one output."""
    graph = model.graph
    names = {graph.input[0].name: image, graph.output[0].name: logits}
    for node in graph.node:
        for ends in (node.input, node.output):
            ends[:] = [names.get(name, name) for name in ends]
    graph.input[0].name, graph.output[0].name = image, logits
    return model


def _names(by_hand: HandMade) -> list[str]:
    return [str(label["name"]) for label in json.loads(by_hand.labels.read_text(encoding="utf-8"))]
