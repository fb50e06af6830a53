"""The manifest inside one model file, read without the library that wrote the file.

ONNX is protobuf, TFLite is a flatbuffer, OpenVINO IR is XML: a few lines each are enough to find one text, so a
device needs no converter to know what a file is. Every offset is checked against the length of the file.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

from edgetl_runtime.errors import BundleError
from edgetl_runtime.manifest import METADATA_KEY, Manifest

__all__ = ["embedded_manifest", "embedded_text"]

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_ONNX_METADATA_PROPS = 14  # ModelProto: repeated StringStringEntryProto {1: key, 2: value}
_MOST_FIELDS = 100_000
"""A model has a few; more would only keep the reader busy."""
_TFLITE_BUFFERS, _TFLITE_METADATA = 4, 6  # fields of the schema's table Model


class _Damaged(Exception):  # noqa: N818 - it becomes a BundleError, nobody sees it
    """The bytes do not follow their format."""


def embedded_manifest(content: bytes, *, suffix: str, where: str) -> Manifest:
    """The manifest in `content`, the bytes of a model file whose name ends with `suffix` (.onnx, .tflite or .xml).

    `where` names the file in errors. Raises `BundleError` when the file is damaged or carries no manifest.
    """
    return Manifest.from_json(embedded_text(content, suffix=suffix, where=where), where=where)


def embedded_text(content: bytes, *, suffix: str, where: str) -> bytes:
    """The JSON of `embedded_manifest`, as it stands in the file."""
    try:
        text = _READERS[suffix](content)
    except (_Damaged, struct.error) as error:
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
    view = memoryview(content)
    key = METADATA_KEY.encode()
    for number, value in _fields(view):
        if number == _ONNX_METADATA_PROPS and value is not None:
            entry = dict(_fields(value))
            if bytes(entry.get(1) or b"") == key:
                return bytes(entry.get(2) or b"")
    return None


def _fields(view: memoryview) -> Iterator[tuple[int, memoryview | None]]:
    """Fields of a protobuf message: number, and the bytes of those that have a length (a view, nothing is copied)."""
    position = found = 0
    while position < len(view):
        found += 1
        if found > _MOST_FIELDS:
            raise _Damaged(f"more than {_MOST_FIELDS} fields")
        tag, position = _varint(view, position)
        number, kind = tag >> 3, tag & 7
        if number == 0:
            raise _Damaged(f"field number 0 at byte {position}")
        value = None
        if kind == _VARINT:
            _, position = _varint(view, position)
        elif kind == _FIXED64:
            position += 8
        elif kind == _FIXED32:
            position += 4
        elif kind == _BYTES:
            length, position = _varint(view, position)
            value = view[position : position + length]
            position += length
        else:
            raise _Damaged(f"wire type {kind} at byte {position}")
        if position > len(view):
            raise _Damaged(f"a field ends at byte {position} of {len(view)}")
        yield number, value


def _varint(view: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(view):
            raise _Damaged("a number is cut off")
        byte = view[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise _Damaged(f"a number of more than ten bytes at byte {position}")


def _from_tflite(content: bytes) -> bytes | None:
    if content[4:8] != b"TFL3":
        raise _Damaged("its file identifier is not TFL3")
    flat = _Flatbuffer(content)
    model = flat.indirect(0)
    for metadata in flat.tables(model, _TFLITE_METADATA):
        if flat.text(metadata, 0) == METADATA_KEY.encode():
            buffers = flat.tables(model, _TFLITE_BUFFERS)
            index = flat.number(metadata, 1, "<I")
            if index >= len(buffers):
                raise _Damaged(f"buffer {index} of {len(buffers)}")
            return _tflite_buffer(flat, buffers[index])
    return None


def _tflite_buffer(flat: _Flatbuffer, buffer: int) -> bytes:
    """Table Buffer {0: data, 1: offset, 2: size}: large files keep the data behind the flatbuffer."""
    offset, size = flat.number(buffer, 1, "<Q"), flat.number(buffer, 2, "<Q")
    if offset > 1:  # 0 and 1 mean that the data is inside
        return flat.slice(offset, size)
    return flat.text(buffer, 0) or b""


class _Flatbuffer:
    """Just enough of the format to walk tables; positions are from the start of the file."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def slice(self, start: int, length: int) -> bytes:
        if start < 0 or start + length > len(self._content):
            raise _Damaged(f"bytes {start}..{start + length} of {len(self._content)}")
        return self._content[start : start + length]

    def indirect(self, position: int) -> int:
        """The position that the offset at `position` points to."""
        return position + self._read("<I", position)

    def number(self, table: int, field: int, kind: str) -> int:
        """A scalar field, 0 when it is left out."""
        position = self._field(table, field)
        return 0 if position is None else self._read(kind, position)

    def text(self, table: int, field: int) -> bytes | None:
        """A field that is a string or a vector of bytes."""
        position = self._field(table, field)
        if position is None:
            return None
        start = self.indirect(position)
        return self.slice(start + 4, self._read("<I", start))

    def tables(self, table: int, field: int) -> list[int]:
        """A field that is a vector of tables: their positions."""
        position = self._field(table, field)
        if position is None:
            return []
        start = self.indirect(position)
        length = self._read("<I", start)
        self.slice(start + 4, 4 * length)
        return [self.indirect(start + 4 + 4 * i) for i in range(length)]

    def _field(self, table: int, field: int) -> int | None:
        """Position of a field by the table's vtable: {u16 its size, u16 the table's size, u16 offset per field}."""
        vtable = table - self._read("<i", table)
        entry = 4 + 2 * field
        if entry + 2 > self._read("<H", vtable):
            return None
        offset = self._read("<H", vtable + entry)
        return table + offset if offset else None

    def _read(self, kind: str, position: int) -> int:
        (value,) = struct.unpack(kind, self.slice(position, struct.calcsize(kind)))
        return int(value)


def _from_openvino(content: bytes) -> bytes | None:
    # No IR has one; entities could blow up the parser. In UTF-16 it would not be found.
    if b"<!DOCTYPE" in content or b"\0" in content:
        raise _Damaged("it has a DOCTYPE or NUL characters")
    from xml.etree import ElementTree  # here: only this format needs it

    try:
        root = ElementTree.fromstring(content)
    except (ElementTree.ParseError, LookupError, ValueError) as error:  # the last two: unknown encodings
        raise _Damaged(str(error)) from None
    if root.tag != "net":
        raise _Damaged(f"its root is <{root.tag}>, not <net>")
    info = root.find("rt_info")
    found = None if info is None else next(info.iter(METADATA_KEY), None)
    return None if found is None else found.get("value", found.text or "").encode()


_READERS: dict[str, Callable[[bytes], bytes | None]] = {
    ".onnx": _from_onnx,
    ".tflite": _from_tflite,
    ".xml": _from_openvino,
}
