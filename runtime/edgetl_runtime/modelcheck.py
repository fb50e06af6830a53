"""What a model file may make its engine do is checked before the engine sees it: the bytes of a bundle are input.

An engine trusts its file: ONNX Runtime opens what the file names, LiteRT follows its offsets. The seal finds accidents;
who changes a file can seal it anew.
"""

from __future__ import annotations

from collections.abc import Callable

from edgetl_runtime.binary import DamagedFile, protobuf_fields
from edgetl_runtime.errors import BundleError, EngineError
from edgetl_runtime.files import COPY_AGAIN
from edgetl_runtime.modelfile import check_plain_xml

__all__ = ["check_model"]

_MOST_FIELDS = 5_000_000
"""Of all messages together. The largest networks have a fifth of it, and reading them takes a second."""
_SMALL = 4096
_MARKS = (b"location", b"EPContext")
"""External data has the key "location", a compiled part of a model stands in a node EPContext. In small messages these
are searched for, which takes a tenth of the time of reading the fields; in large ones that would be slow."""
_MODEL, _TRAINING, _GRAPH, _FUNCTION, _NODE, _ATTRIBUTE, _SPARSE, _TENSOR = range(8)
_INNER: dict[int, dict[int, int]] = {
    _MODEL: {7: _GRAPH, 20: _TRAINING, 25: _FUNCTION},
    _TRAINING: {1: _GRAPH, 2: _GRAPH},
    _GRAPH: {1: _NODE, 5: _TENSOR, 15: _SPARSE},
    _FUNCTION: {7: _NODE, 11: _ATTRIBUTE},
    _NODE: {5: _ATTRIBUTE},
    _ATTRIBUTE: {5: _TENSOR, 6: _GRAPH, 10: _TENSOR, 11: _GRAPH, 22: _SPARSE, 23: _SPARSE},
    _SPARSE: {1: _TENSOR, 2: _TENSOR},
    _TENSOR: {},
}
"""The messages of ONNX that can hold a tensor or a node: by field number, what is inside."""
_OP_TYPE = 4  # NodeProto
_NAME, _EXTERNAL_DATA, _DATA_LOCATION = 8, 13, 14  # TensorProto


def check_model(engine: str, main: bytes, weights: bytes | None, *, where: str) -> None:
    """Refuse a model of `engine` that would make it read beyond its own bytes: `main`, and `weights` beside them.

    `where` names the file in errors. Raises `BundleError`, or `EngineError` when only this file is damaged: another
    variant may be sound. An engine that is not known checks nothing.
    """
    check = _CHECKS.get(engine)
    if check is None:
        return
    try:
        elsewhere = check(main, weights)
    except DamagedFile as error:
        raise EngineError(f"{where} is damaged: {error}", fix=COPY_AGAIN) from None
    if elsewhere is not None:
        raise BundleError(
            f"{where} would read another file: {elsewhere}",
            fix="do not use it, or export it again: edgetl puts all that a model needs into its own files",
        )


def _check_onnx(content: bytes, _: bytes | None) -> str | None:
    todo = [(_MODEL, 0, len(content))]
    left = _MOST_FIELDS
    while todo:
        kind, start, end = todo.pop()
        inner = _INNER[kind]
        for number, first, last, value in protobuf_fields(content, start, end, most=_MOST_FIELDS):
            left -= 1
            if left < 0:
                raise DamagedFile(f"more than {_MOST_FIELDS} fields")
            if number in inner:
                # A number is not that field: readers pass over it.
                if value is None and (last - first >= _SMALL or _has_mark(content, first, last)):
                    todo.append((inner[number], first, last))
            elif kind == _TENSOR and (number == _EXTERNAL_DATA or (number == _DATA_LOCATION and value != 0)):
                return _external_tensor(content, start, end)
            elif kind == _NODE and number == _OP_TYPE and content[first:last] == b"EPContext":
                return "a node EPContext stands for a part that was compiled elsewhere"
    return None


def _has_mark(content: bytes, start: int, end: int) -> bool:
    return content.find(_MARKS[0], start, end) >= 0 or content.find(_MARKS[1], start, end) >= 0


def _external_tensor(content: bytes, start: int, end: int) -> str:
    """The tensor in ``content[start:end]`` in words."""
    name, place = b"", b""
    for number, first, last, _ in protobuf_fields(content, start, end, most=_MOST_FIELDS):
        if number == _NAME:
            name = content[first:last]
        elif number == _EXTERNAL_DATA:
            entry = {n: content[a:b] for n, a, b, _ in protobuf_fields(content, first, last, most=_MOST_FIELDS)}
            place = entry.get(2, b"") if entry.get(1) == b"location" else place
    return f"tensor {name.decode(errors='replace')!r:.60} is external data in {place.decode(errors='replace')!r:.200}"


def _check_tflite(content: bytes, _: bytes | None) -> str | None:
    from edgetl_runtime.tflitecheck import check_tflite  # here: only this format needs it

    return check_tflite(content)


def _check_openvino(content: bytes, weights: bytes | None) -> str | None:
    from xml.parsers import expat

    check_plain_xml(content)
    end, tags = len(weights or b""), []

    def start(tag: str, attributes: dict[str, str]) -> None:
        tags.append(tag)
        if "offset" in attributes and "size" in attributes:
            numbers = attributes["offset"], attributes["size"]
            # What Python cannot read as a number another reader may: in base 16, or as far as there are digits.
            if not all(number.isascii() and number.isdigit() for number in numbers):
                raise DamagedFile(f"weights at {numbers[0]!r:.40} of {numbers[1]!r:.40} bytes")
            offset, size = map(int, numbers)
            if offset + size > end:
                raise DamagedFile(f"weights at bytes {offset}..{offset + size} of {end}")

    parser = expat.ParserCreate()
    parser.StartElementHandler = start
    try:
        parser.Parse(content, True)
    except (expat.ExpatError, LookupError, ValueError) as error:  # the last two: unknown encodings
        raise DamagedFile(f"it is no XML: {error}") from None
    if tags[0] != "net":
        raise DamagedFile(f"its root is <{tags[0]:.40}>, not <net>")
    return None


_CHECKS: dict[str, Callable[[bytes, bytes | None], str | None]] = {
    "onnxruntime": _check_onnx,
    "litert": _check_tflite,
    "openvino": _check_openvino,
}
