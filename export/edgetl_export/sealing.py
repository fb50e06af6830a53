"""Hashes and seals are written here; what seals are, and how a device checks them, says `edgetl_runtime.seal`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from edgetl_runtime.errors import ExportError
from edgetl_runtime.manifest import FileEntry
from edgetl_runtime.seal import SEAL_MARK, seal_digest

__all__ = ["file_entry", "sealed", "sealed_manifest", "with_room_for_seal"]

_ROOM = SEAL_MARK + b"0" * 12 + b":" + b"0" * 64


def file_entry(path: str, content: bytes) -> FileEntry:
    """The entry of a file at `path` with this `content`."""
    return FileEntry(path, hashlib.sha256(content).hexdigest(), len(content))


def with_room_for_seal(manifest_json: str) -> str:
    """The same JSON object with the two fields of a seal, which `sealed` fills in when the file's bytes are final."""
    fields = {key: value for key, value in json.loads(manifest_json).items() if key not in ("sealed", "seal")}
    layout: dict[str, Any] = {"indent": 1} if "\n" in manifest_json else {"separators": (",", ":")}
    return json.dumps({"sealed": True, **fields, "seal": _ROOM.decode()}, ensure_ascii=False, **layout)


def sealed(contents: Sequence[bytes]) -> tuple[bytes, ...]:
    """`contents`, the files of a model of which the first has room for a seal, with the seal in it.

    Raises `ExportError` when there is not exactly one place for it.
    """
    main, *others = contents
    if main.count(_ROOM) != 1:
        raise ExportError(f"a file has {main.count(_ROOM)} places for its seal, not one", fix="rename the labels")
    size = sum(len(content) for content in contents)
    at = main.find(_ROOM) + len(SEAL_MARK)
    main = main[:at] + b"%012d" % size + main[at + 12 :]
    digits = at + 13
    digest = seal_digest((main, *others), digits).encode()
    return main[:digits] + digest + main[digits + 64 :], *others


def sealed_manifest(manifest_json: str) -> bytes:
    """The content of a ``manifest.json``: JSON with its seal. Raises `ExportError` as `sealed` does."""
    (content,) = sealed([with_room_for_seal(manifest_json).encode() + b"\n"])
    return content
