"""The manifest inside one model file, read without the library that wrote the file.

ONNX is protobuf, TFLite is a flatbuffer, OpenVINO IR is XML: a few lines each are enough to find one text, so a
device needs no converter to know what a file is.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from edgetl_runtime.binary import DamagedFile, Flatbuffer, protobuf_fields
from edgetl_runtime.errors import BundleError
from edgetl_runtime.manifest import METADATA_KEY, Manifest

__all__ = ["check_plain_xml", "embedded_manifest", "embedded_text"]

_ONNX_METADATA_PROPS = 14  # ModelProto: repeated StringStringEntryProto {1: key, 2: value}
_MOST_FIELDS = 100_000
"""A model has a few; more would only keep the reader busy."""
_TFLITE_BUFFERS, _TFLITE_METADATA = 4, 6  # fields of the schema's table Model


def embedded_manifest(content: bytes, *, suffix: str, where: str) -> Manifest:
    """The manifest in `content`, the bytes of a model file whose name ends with `suffix` (.onnx, .tflite or .xml).

    `where` names the file in errors. Raises `BundleError` when the file is damaged or carries no manifest.
    """
    return Manifest.from_json(embedded_text(content, suffix=suffix, where=where), where=where)


def embedded_text(content: bytes, *, suffix: str, where: str) -> bytes:
    """The JSON of `embedded_manifest`, as it stands in the file."""
    try:
        text = _READERS[suffix](content)
    except (DamagedFile, struct.error) as error:
        raise BundleError(
            f"{where} carries no edgetl manifest: it is not a whole {suffix} file ({error})",
            fix="copy or export the file again",
        ) from None
    if text is None:
        raise BundleError(
            f"{where} carries no edgetl manifest: edgetl did not write it",
            fix="load a file that `edgetl export` wrote, or the bundle it came from",
        )
    return text


def _from_onnx(content: bytes) -> bytes | None:
    for number, start, end, value in protobuf_fields(content, 0, len(content), most=_MOST_FIELDS):
        if number == _ONNX_METADATA_PROPS and value is None:
            entry = {
                n: content[a:b] for n, a, b, v in protobuf_fields(content, start, end, most=_MOST_FIELDS) if v is None
            }
            if entry.get(1) == METADATA_KEY.encode():
                return entry.get(2, b"")
    return None


def _from_tflite(content: bytes) -> bytes | None:
    if content[4:8] != b"TFL3":
        raise DamagedFile("its file identifier is not TFL3")
    flat = Flatbuffer(content)
    model = flat.indirect(0)
    for metadata in flat.tables(model, _TFLITE_METADATA):
        if flat.text(metadata, 0) == METADATA_KEY.encode():
            buffers = flat.tables(model, _TFLITE_BUFFERS)
            index = flat.number(metadata, 1, "<I")
            if index >= len(buffers):
                raise DamagedFile(f"buffer {index} of {len(buffers)}")
            return _tflite_buffer(flat, buffers[index])
    return None


def _tflite_buffer(flat: Flatbuffer, buffer: int) -> bytes:
    """Table Buffer {0: data, 1: offset, 2: size}: large files keep the data behind the flatbuffer."""
    offset, size = flat.number(buffer, 1, "<Q"), flat.number(buffer, 2, "<Q")
    if offset > 1:  # 0 and 1 mean that the data is inside
        return flat.slice(offset, size)
    return flat.text(buffer, 0) or b""


def _from_openvino(content: bytes) -> bytes | None:
    check_plain_xml(content)
    from xml.etree import ElementTree  # here: only this format needs it

    try:
        root = ElementTree.fromstring(content)
    except (ElementTree.ParseError, LookupError, ValueError) as error:  # the last two: unknown encodings
        raise DamagedFile(str(error)) from None
    if root.tag != "net":
        raise DamagedFile(f"its root is <{root.tag}>, not <net>")
    info = root.find("rt_info")
    found = None if info is None else next(info.iter(METADATA_KEY), None)
    return None if found is None else found.get("value", found.text or "").encode()


def check_plain_xml(content: bytes) -> None:
    """Raises `DamagedFile` for a DOCTYPE: no IR has one, and entities could blow up a parser. UTF-16 would hide it."""
    if b"<!DOCTYPE" in content or b"\0" in content:
        raise DamagedFile("it has a DOCTYPE or NUL characters")


_READERS: dict[str, Callable[[bytes], bytes | None]] = {
    ".onnx": _from_onnx,
    ".tflite": _from_tflite,
    ".xml": _from_openvino,
}
