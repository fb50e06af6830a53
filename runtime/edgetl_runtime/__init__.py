"""The thin runtime of edgetl: load what was exported, preprocess as in training, predict. No torch.

::

    import edgetl_runtime

    with edgetl_runtime.load("flowers.edgetl") as classifier:
        print(classifier.predict("photo.jpg"))
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from edgetl_runtime.bundle import Bundle, open_bundle
from edgetl_runtime.engines import DEVICES, ENGINES, installed
from edgetl_runtime.errors import (
    BundleError,
    CheckpointError,
    DataError,
    EdgetlError,
    EngineError,
    ExportError,
    ImageError,
    MissingDependency,
    OutputError,
    UsageError,
)
from edgetl_runtime.loading import load
from edgetl_runtime.manifest import (
    FileEntry,
    Golden,
    Label,
    Manifest,
    Normalize,
    Preprocess,
    Requires,
    TensorSpec,
    Variant,
)
from edgetl_runtime.placement import FallbackWarning, OperatorPlace, Placement
from edgetl_runtime.placing import Placed
from edgetl_runtime.preprocess import load_image, preprocess, preprocess_placed
from edgetl_runtime.session import FakeSession, Session
from edgetl_runtime.tasks.classification import Classifier, Prediction, Score, softmax

if TYPE_CHECKING:
    from edgetl_runtime.choice import Candidate, Choice, Wish, choose
    from edgetl_runtime.comparison import sqnr_db
    from edgetl_runtime.fake import fake_classifier, fake_segmenter
    from edgetl_runtime.fake_detections import fake_detector
    from edgetl_runtime.golden import GoldenSamples
    from edgetl_runtime.selftest import FeatureTest, SelfTest, VariantTest, self_test
    from edgetl_runtime.tasks.detection import Detector
    from edgetl_runtime.tasks.detections import Detection, Detections
    from edgetl_runtime.tasks.segmentation import Segmenter
    from edgetl_runtime.tasks.segmentations import Segmentation
    from edgetl_runtime.timing import LatencyStats, measure
    from edgetl_runtime.verification import FailedCheck

__version__ = "0.1.0"

__all__ = [
    "DEVICES",
    "ENGINES",
    "Bundle",
    "BundleError",
    "Candidate",
    "CheckpointError",
    "Choice",
    "Classifier",
    "DataError",
    "Detection",
    "Detections",
    "Detector",
    "EdgetlError",
    "EngineError",
    "ExportError",
    "FailedCheck",
    "FakeSession",
    "FallbackWarning",
    "FeatureTest",
    "FileEntry",
    "Golden",
    "GoldenSamples",
    "ImageError",
    "Label",
    "LatencyStats",
    "Manifest",
    "MissingDependency",
    "Normalize",
    "OperatorPlace",
    "OutputError",
    "Placed",
    "Placement",
    "Prediction",
    "Preprocess",
    "Requires",
    "Score",
    "Segmentation",
    "Segmenter",
    "SelfTest",
    "Session",
    "TensorSpec",
    "UsageError",
    "Variant",
    "VariantTest",
    "Wish",
    "choose",
    "fake_classifier",
    "fake_detector",
    "fake_segmenter",
    "installed",
    "load",
    "load_image",
    "measure",
    "open_bundle",
    "preprocess",
    "preprocess_placed",
    "self_test",
    "softmax",
    "sqnr_db",
]

# Not needed to load and to predict, so imported when asked for.
_LATER = {
    "FailedCheck": "edgetl_runtime.verification",
    "GoldenSamples": "edgetl_runtime.golden",
    "Candidate": "edgetl_runtime.choice",
    "Choice": "edgetl_runtime.choice",
    "Wish": "edgetl_runtime.choice",
    "choose": "edgetl_runtime.choice",
    "sqnr_db": "edgetl_runtime.comparison",
    "fake_classifier": "edgetl_runtime.fake",
    "fake_detector": "edgetl_runtime.fake_detections",
    "Detection": "edgetl_runtime.tasks.detections",
    "Detections": "edgetl_runtime.tasks.detections",
    "Detector": "edgetl_runtime.tasks.detection",
    "fake_segmenter": "edgetl_runtime.fake",
    "Segmentation": "edgetl_runtime.tasks.segmentations",
    "Segmenter": "edgetl_runtime.tasks.segmentation",
    "FeatureTest": "edgetl_runtime.selftest",
    "SelfTest": "edgetl_runtime.selftest",
    "VariantTest": "edgetl_runtime.selftest",
    "self_test": "edgetl_runtime.selftest",
    "LatencyStats": "edgetl_runtime.timing",
    "measure": "edgetl_runtime.timing",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LATER[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__doc__", "__version__"]
