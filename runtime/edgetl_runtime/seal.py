"""The seal: a file's own SHA-256 inside the file, so that a model file alone can be held against what was exported.

A sealed file carries two fields in the JSON of its manifest: ``"sealed": true`` as the first, and as the last
``"seal": "edgetl-seal:BYTES:SHA256"``. BYTES is the size of the model's files together in twelve digits, SHA256 the
hash of their contents one after the other (an OpenVINO .xml, then its .bin) in 64 hex digits, computed with these 64
taken as zeros. The two fields stand apart so that no damage to one place can make a sealed file look like one that
was written before there were seals; those are loaded as they are.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from typing import Any

from edgetl_runtime.errors import BundleError, ExportError
from edgetl_runtime.frozen import dataclass

__all__ = ["Sealed", "sealed", "sealed_manifest", "with_room_for_seal"]

_MARK = b"edgetl-seal:"
_ZEROS = b"0" * 64
_ROOM = _MARK + b"0" * 12 + b":" + _ZEROS
_SEAL = re.compile(re.escape(_MARK) + rb"([0-9]{12}):([0-9a-f]{64})")
_PROMISE = re.compile(rb'\s*\{\s*"sealed"\s*:\s*true\b')


@dataclass(frozen=True)
class Sealed:
    """Files that may hold a seal: those of a model, or a manifest.json alone.

    The seal is in the first of ``contents``, as is the manifest, whose text is ``manifest_json``; ``name`` is for
    errors.
    """

    name: str
    contents: tuple[bytes, ...]
    manifest_json: bytes

    def check(self) -> None:
        """Raises `BundleError` when they are not what was sealed. Those that never were sealed pass."""
        reason = self._difference()
        if reason is not None:
            raise BundleError(
                f"{self.name} is not the file that was exported: {reason}",
                fix="copy it again, or export it again",
            )

    def _difference(self) -> str | None:
        main = self.contents[0]
        at = main.find(_MARK)
        seal = None if at < 0 else _SEAL.match(main, at)
        if seal is None:
            return "its seal is damaged" if at >= 0 or _PROMISE.match(self.manifest_json) else None
        size = sum(len(content) for content in self.contents)
        if int(seal[1]) != size:
            return f"{size} bytes, {int(seal[1])} when it was exported"
        return None if _digest(self.contents, seal.start(2)).encode() == seal[2] else "the SHA-256 differs"


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
    at = main.find(_ROOM) + len(_MARK)
    main = main[:at] + b"%012d" % size + main[at + 12 :]
    digits = at + 13
    digest = _digest((main, *others), digits).encode()
    return main[:digits] + digest + main[digits + 64 :], *others


def sealed_manifest(manifest_json: str) -> bytes:
    """The content of a ``manifest.json``: JSON with its seal. Raises `ExportError` as `sealed` does."""
    (content,) = sealed([with_room_for_seal(manifest_json).encode() + b"\n"])
    return content


def _digest(contents: Sequence[bytes], digits: int) -> str:
    """SHA-256 of `contents` with zeros in place of the 64 characters at `digits` of the first."""
    main = memoryview(contents[0])
    hashed = hashlib.sha256(main[:digits])
    hashed.update(_ZEROS)
    hashed.update(main[digits + 64 :])
    for content in contents[1:]:
        hashed.update(content)
    return hashed.hexdigest()
