"""What the targets of one export share: the captured module, one calibration, one float ONNX graph."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, BinaryIO

import torch

from edgetl_export.calibration import CalibrationSamples
from edgetl_export.capture import Captured
from edgetl_export.progress import Track, silent
from edgetl_export.quantize.calibrate import Calibration, calibrate

if TYPE_CHECKING:
    import onnx

__all__ = ["Artifact", "Workshop", "chatter_to"]


@dataclass(frozen=True)
class Artifact:
    """A variant's files by suffix, the one that is loaded first: ``{".xml": ..., ".bin": ...}``.

    ``quantization`` is what the manifest says of it, ``None`` for a variant that is not quantised.
    """

    files: dict[str, bytes]
    quantization: dict[str, object] | None = None


@dataclass
class Workshop:
    """Made once per export; what is costly is made on first use and kept."""

    captured: Captured
    samples: CalibrationSamples
    track: Track = silent
    seconds: dict[str, float] = field(default_factory=dict)

    @cached_property
    def calibration(self) -> Calibration:
        """The one calibration pass that all targets share."""
        return calibrate(self.captured, self.samples, track=self.track)

    @cached_property
    def float_onnx(self) -> onnx.ModelProto:
        """The float ONNX graph: the fp32 variant, and what QDQ models are made from."""
        program = torch.onnx.export(
            self.captured.program,
            (),
            dynamo=True,
            input_names=[self.captured.input.name],
            output_names=[self.captured.output.name],
            verbose=False,
        )
        if program is None:
            raise RuntimeError("torch.onnx.export gave no program")
        return _without_traces(program.model_proto)


def _without_traces(model: onnx.ModelProto) -> onnx.ModelProto:
    """The exporter notes the stack of every node, with the paths of this machine: nothing that a device needs."""
    del model.graph.metadata_props[:]
    for part in (*model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output):
        del part.metadata_props[:]
        part.ClearField("doc_string")
    return model


@contextlib.contextmanager
def chatter_to(log: BinaryIO) -> Iterator[None]:
    """Send all that converters print, log and warn into `log`: from Python and, through the descriptors, from C++."""
    sys.stdout.flush()
    sys.stderr.flush()
    saved = {descriptor: os.dup(descriptor) for descriptor in (1, 2)}
    streams = sys.stdout, sys.stderr
    text = io.TextIOWrapper(open(log.fileno(), "wb", closefd=False), write_through=True)  # noqa: SIM115
    root_handlers = logging.root.handlers[:]
    logging.root.handlers[:] = [logging.StreamHandler(text)]
    try:
        for descriptor in saved:
            os.dup2(log.fileno(), descriptor)
        sys.stdout = sys.stderr = text
        with warnings.catch_warnings():
            warnings.simplefilter("default")
            yield
    finally:
        text.flush()
        sys.stdout, sys.stderr = streams
        logging.root.handlers[:] = root_handlers
        for descriptor, copy in saved.items():
            os.dup2(copy, descriptor)
            os.close(copy)
