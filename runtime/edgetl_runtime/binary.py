"""The two binary formats of model files - protobuf (ONNX) and flatbuffer (TFLite) - just enough of each to walk them.

Every offset is checked against the length of the file.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

__all__ = ["DamagedFile", "Flatbuffer", "protobuf_fields"]

_VARINT, _BYTES = 0, 2
_MOST_TABLES = 1_000_000
_WIDTHS = {1: 8, 5: 4}  # bytes of a value, by wire type


class DamagedFile(Exception):  # noqa: N818 - it becomes a BundleError, nobody sees it
    """The bytes do not follow their format."""


def protobuf_fields(content: bytes, start: int, end: int, *, most: int) -> Iterator[tuple[int, int, int, int | None]]:
    """Fields of the protobuf message in ``content[start:end]``: number, first byte of the value, the byte behind it,
    and the value where it is a number (None where it is bytes). Nothing is copied.

    Raises `DamagedFile`, also for more than `most` fields: they would only keep the reader busy.
    """
    position, found = start, 0
    while position < end:
        found += 1
        if found > most:
            raise DamagedFile(f"more than {most} fields")
        tag, position = content[position], position + 1
        if tag >= 0x80:
            tag, position = _varint(content, position - 1, end)
        number, kind = tag >> 3, tag & 7
        # Readers that keep 32 bits of a tag would take a larger one for another field.
        if number == 0 or tag >= 2**32:
            raise DamagedFile(f"field number {number} at byte {position}")
        value: int | None = None
        first = position
        if kind == _BYTES:
            length, first = _varint(content, position, end)
            position = first + length
        elif kind == _VARINT:
            value, position = _varint(content, position, end)
        elif kind in _WIDTHS:
            position += _WIDTHS[kind]
        else:
            raise DamagedFile(f"wire type {kind} at byte {position}")
        if position > end:
            raise DamagedFile(f"a field ends at byte {position} of {end}")
        yield number, first, position, value


def _varint(content: bytes, position: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= end:
            raise DamagedFile("a number is cut off")
        byte = content[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise DamagedFile(f"a number of more than ten bytes at byte {position}")


class Flatbuffer:
    """Tables of a flatbuffer, one after the other; positions are from the start of the file."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def slice(self, start: int, length: int) -> bytes:
        """`length` bytes from `start`."""
        if start < 0 or start + length > len(self._content):
            raise DamagedFile(f"bytes {start}..{start + length} of {len(self._content)}")
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
        if length > _MOST_TABLES:
            raise DamagedFile(f"a list of {length} tables")
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
