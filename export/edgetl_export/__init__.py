"""A torch model to files: ONNX, TFLite and OpenVINO at several precisions, in one bundle.

Knows nothing of training, data sets or gates. `export` is the whole of it; `edgetl.export` is what most people call.
Without torch there is nothing to export, but `progress` and `device` are there: verification does without torch.
"""

from importlib.util import find_spec

if find_spec("torch") is not None:
    from edgetl_export.calibration import CalibrationSamples
    from edgetl_export.capture import Captured, Source, capture
    from edgetl_export.export import Exported, ExportOptions, export
    from edgetl_export.targets import PRECISIONS, TARGETS

__all__ = [
    "PRECISIONS",
    "TARGETS",
    "CalibrationSamples",
    "Captured",
    "ExportOptions",
    "Exported",
    "Source",
    "capture",
    "export",
]
