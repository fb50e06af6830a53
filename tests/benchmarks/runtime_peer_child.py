"""One process of `runtime_peers.py`, in the environment of one library: PEER MODEL N PHOTO...

The first photo's label ends the start; every photo is then classified N times. Needs nothing but that library.
"""

import sys
import time
from collections.abc import Callable

__all__ = ["main"]

Classify = Callable[[str], str]


def _edgetl(model: str) -> Classify:
    import edgetl_runtime

    classifier = edgetl_runtime.load(model)
    return lambda photo: classifier.predict(photo).top.name


def _hugging_face(model: str) -> Classify:
    from optimum.onnxruntime import ORTModelForImageClassification
    from transformers import AutoImageProcessor, pipeline

    processor = AutoImageProcessor.from_pretrained(model)
    network = ORTModelForImageClassification.from_pretrained(model)
    classify = pipeline("image-classification", model=network, image_processor=processor)
    return lambda photo: str(classify(photo)[0]["label"])


def _mediapipe(model: str) -> Classify:
    import mediapipe
    from mediapipe.tasks.python import BaseOptions, vision

    options = vision.ImageClassifierOptions(base_options=BaseOptions(model_asset_path=model), max_results=5)
    classifier = vision.ImageClassifier.create_from_options(options)

    def classify(photo: str) -> str:
        found = classifier.classify(mediapipe.Image.create_from_file(photo))
        return str(found.classifications[0].categories[0].index)

    return classify


def _ultralytics(model: str) -> Classify:
    from ultralytics import YOLO

    network = YOLO(model, task="classify")

    def classify(photo: str) -> str:
        found = network.predict(photo, imgsz=224, verbose=False)[0]
        return str(found.names[found.probs.top1])

    return classify


PEERS: dict[str, Callable[[str], Classify]] = {
    "edgetl": _edgetl,
    "huggingface": _hugging_face,
    "mediapipe": _mediapipe,
    "ultralytics": _ultralytics,
}


def main() -> None:
    """Measure one start and one series, and report as `runtime_child` does."""
    peer, model, repeats, *photos = sys.argv[1:]
    classify = PEERS[peer](model)
    label = classify(photos[0])
    ended = time.monotonic_ns()

    from runtime_child import report

    times: list[int] = []
    for photo in photos * int(repeats):
        before = time.perf_counter_ns()
        classify(photo)
        times.append(time.perf_counter_ns() - before)
    report(label, ended, p50_ms=sorted(times)[len(times) // 2] / 1e6)


if __name__ == "__main__":
    main()
