"""TFLite flatbuffers as objects of their schema, and back to bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["opened", "packed"]


def opened(content: bytes) -> Any:
    """The model's schema object; weights that stand behind the flatbuffer, by offset, are taken into it.

    Older runtimes only find them there.
    """
    from ai_edge_quantizer.utils import tfl_flatbuffer_utils

    model = tfl_flatbuffer_utils.flatbuffer_utils.convert_bytearray_to_object(bytearray(content))
    for buffer in model.buffers:
        if buffer.offset > 1:
            buffer.data = np.frombuffer(content, np.uint8, buffer.size, buffer.offset)
            buffer.offset = buffer.size = 0
    return model


def packed(model: Any) -> bytes:
    """The flatbuffer of a schema object.

    Weights are aligned as the schema asks (force_align: 16), which the generated Python code forgets. Equal vectors are
    stored once: the zero points of per-channel weights, all zero, are a tenth of an int8 MobileNetV2.
    """
    import flatbuffers

    class Builder(flatbuffers.Builder):  # type: ignore[misc] # flatbuffers ships no types
        def __init__(self) -> None:
            super().__init__(1 << 20)
            self.written: dict[tuple[str, bytes], int] = {}

        def CreateNumpyVector(self, x: npt.NDArray[Any]) -> int:  # noqa: N802 - overrides
            key = (x.dtype.str, x.tobytes())
            if key not in self.written:
                if x.dtype == np.uint8:
                    self.Prep(16, x.nbytes)
                self.written[key] = super().CreateNumpyVector(x)
            return self.written[key]

    builder = Builder()
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())
