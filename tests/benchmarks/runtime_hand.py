"""What a colleague who knows numpy, Pillow and an engine writes without edgetl: a photo to five labels.

    python runtime_hand.py ENGINE MODEL LABELS.json PHOTO float32|uint8

Run as a script it is the process that `runtime_startup.py` compares a start with: it imports what it needs and no more,
and reports as `runtime_child` does. Imported it gives the same code to `runtime_by_hand.py`.

The pixels are torchvision's preset for ImageNet at 224 px. ``pixels`` says what the model file takes: "float32" is the
normalised tensor of a model made by other tools (NCHW for ONNX and OpenVINO, NHWC for TFLite, as each engine likes it),
"uint8" is the crop as it is, which is what edgetl's files take.
"""

import json
import sys
import time

import numpy as np
from PIL import Image

__all__ = ["BY_HAND", "LiteRtByHand", "OnnxRuntimeByHand", "OpenVinoByHand", "crop", "normalise_plain", "top5"]

RESIZE, CROP = 256, 224
MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)
# pixel / 255, minus the mean, over the deviation, as one product and one sum.
FACTOR, OFFSET = 1 / (255 * STD), -MEAN / STD
ROW_FACTOR, ROW_OFFSET = np.tile(FACTOR, CROP), np.tile(OFFSET, CROP)


def crop(image: Image.Image) -> Image.Image:
    """torchvision's ``Resize(256)`` and ``CenterCrop(224)`` of an RGB image, by Pillow."""
    width, height = image.size
    long = int(RESIZE * max(width, height) / min(width, height))
    width, height = (RESIZE, long) if width <= height else (long, RESIZE)
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = round((width - CROP) / 2), round((height - CROP) / 2)
    return image.crop((left, top, left + CROP, top + CROP))


def opened(photo: str) -> Image.Image:
    """The photo as RGB. A copy is made only of what is not RGB already."""
    image = Image.open(photo)
    return image if image.mode == "RGB" else image.convert("RGB")


def normalise_plain(image: Image.Image) -> np.ndarray:
    """(1, 3, 224, 224) float32 as tutorials write it."""
    pixels = (np.asarray(image, np.float32) / 255 - MEAN) / STD
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])


def normalise_nchw(image: Image.Image, reverse: bool = False) -> np.ndarray:
    """(1, 3, 224, 224) float32, the fastest of seven ways that were timed; ``reverse`` for pixels in BGR."""
    pixels, result = np.asarray(image), np.empty((1, 3, CROP, CROP), np.float32)
    for channel in range(3):
        plane = result[0, channel]
        np.multiply(pixels[:, :, 2 - channel if reverse else channel], FACTOR[channel], out=plane)
        plane += OFFSET[channel]
    return result


def normalise_nhwc(image: Image.Image, reverse: bool = False) -> np.ndarray:
    """(1, 224, 224, 3) float32: a row of pixels is one run of numbers for numpy; ``reverse`` for pixels in BGR."""
    pixels, result = as_it_is(image, reverse).reshape(CROP, 3 * CROP), np.empty((CROP, 3 * CROP), np.float32)
    np.multiply(pixels, ROW_FACTOR, out=result)
    result += ROW_OFFSET
    return result.reshape(1, CROP, CROP, 3)


def as_it_is(image: Image.Image, reverse: bool = False) -> np.ndarray:
    """(1, 224, 224, 3) uint8; ``reverse`` for pixels in BGR."""
    pixels = np.asarray(image)
    return np.ascontiguousarray(pixels[:, :, ::-1])[None] if reverse else pixels[None]


def top5(logits: np.ndarray, labels: list[str]) -> list[tuple[str, float]]:
    """The five most probable labels of (classes,) logits, the best first."""
    weights = np.exp(logits - logits.max())
    best = np.argsort(-logits)[:5]
    total = weights.sum()
    return [(labels[i], float(weights[i] / total)) for i in best]


class ByHand:
    """Photo or frame to five labels; the engines differ in ``infer`` alone."""

    layout = staticmethod(normalise_nchw)

    def __init__(self, labels: list[str], pixels: str) -> None:
        self.labels = labels
        self.tensor = as_it_is if pixels == "uint8" else self.layout

    def infer(self, tensor: np.ndarray) -> np.ndarray:
        """(1, classes) logits."""
        raise NotImplementedError

    def photo(self, path: str) -> list[tuple[str, float]]:
        return top5(self.infer(self.tensor(crop(opened(path))))[0], self.labels)

    def frame(self, frame: np.ndarray, bgr: bool = False) -> list[tuple[str, float]]:
        # Resizing treats the channels alike, so BGR is put right on the small crop.
        return top5(self.infer(self.tensor(crop(Image.fromarray(frame)), bgr))[0], self.labels)


class OnnxRuntimeByHand(ByHand):
    def __init__(self, model: str, labels: list[str], pixels: str = "float32", threads: int = 1) -> None:
        import onnxruntime

        super().__init__(labels, pixels)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self.input, self.outputs = self.session.get_inputs()[0].name, [self.session.get_outputs()[0].name]

    def infer(self, tensor: np.ndarray) -> np.ndarray:
        return self.session.run(self.outputs, {self.input: tensor})[0]


class LiteRtByHand(ByHand):
    layout = staticmethod(normalise_nhwc)

    def __init__(self, model: str, labels: list[str], pixels: str = "float32", threads: int = 1) -> None:
        from ai_edge_litert.interpreter import Interpreter

        super().__init__(labels, pixels)
        self.interpreter = Interpreter(model, num_threads=threads)
        self.interpreter.allocate_tensors()
        self.input = self.interpreter.get_input_details()[0]["index"]
        self.output = self.interpreter.get_output_details()[0]["index"]

    def infer(self, tensor: np.ndarray) -> np.ndarray:
        self.interpreter.set_tensor(self.input, tensor)
        self.interpreter.invoke()
        return self.interpreter.get_tensor(self.output)


class OpenVinoByHand(ByHand):
    def __init__(self, model: str, labels: list[str], pixels: str = "float32", threads: int = 1) -> None:
        import openvino

        super().__init__(labels, pixels)
        hints = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
        if pixels == "uint8":
            # On CPUs with bfloat16 OpenVINO rounds what is not int8 to it; edgetl's files are run without.
            hints["INFERENCE_PRECISION_HINT"] = "f32"
        self.request = openvino.Core().compile_model(model, "CPU", hints).create_infer_request()

    def infer(self, tensor: np.ndarray) -> np.ndarray:
        return self.request.infer({0: tensor}, share_inputs=True)[0]


BY_HAND = {"onnxruntime": OnnxRuntimeByHand, "litert": LiteRtByHand, "openvino": OpenVinoByHand}


def main() -> None:
    engine, model, labels, photo, pixels = sys.argv[1:]
    with open(labels, encoding="utf-8") as file:  # noqa: PTH123 - pathlib would be one more import to measure
        names = [label["name"] for label in json.load(file)]
    label = BY_HAND[engine](model, names, pixels).photo(photo)[0][0]
    ended = time.monotonic_ns()

    from runtime_child import report

    report(label, ended)


if __name__ == "__main__":
    main()
