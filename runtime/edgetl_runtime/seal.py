"""The seal: a file's own SHA-256 inside the file, so that a model file alone can be held against what was exported.

A sealed file carries two fields in the JSON of its manifest: ``"sealed": true`` as the first, and as the last
``"seal": "edgetl-seal:BYTES:SHA256"``. BYTES is the size of the model's files together in twelve digits, SHA256 the
hash of their contents one after the other (an OpenVINO .xml, then its .bin) in 64 hex digits, computed with these 64
taken as zeros. The two fields stand apart so that no damage to one place can make a sealed file look like one that
was written before there were seals; those are loaded as they are.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

from edgetl_runtime.errors import BundleError
from edgetl_runtime.frozen import dataclass

__all__ = ["SEAL_MARK", "Sealed", "seal_digest"]

SEAL_MARK = b"edgetl-seal:"
_ZEROS = b"0" * 64
_SEAL = re.compile(re.escape(SEAL_MARK) + rb"([0-9]{12}):([0-9a-f]{64})")
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
        at = main.find(SEAL_MARK)
        seal = None if at < 0 else _SEAL.match(main, at)
        if seal is None:
            return "its seal is damaged" if at >= 0 or _PROMISE.match(self.manifest_json) else None
        size = sum(len(content) for content in self.contents)
        if int(seal[1]) != size:
            return f"{size} bytes, {int(seal[1])} when it was exported"
        return None if seal_digest(self.contents, seal.start(2)).encode() == seal[2] else "the SHA-256 differs"


def seal_digest(contents: Sequence[bytes], digits: int) -> str:
    """SHA-256 of `contents` with zeros in place of the 64 characters at `digits` of the first."""
    main = memoryview(contents[0])
    hashed = hashlib.sha256(main[:digits])
    hashed.update(_ZEROS)
    hashed.update(main[digits + 64 :])
    for content in contents[1:]:
        hashed.update(content)
    return hashed.hexdigest()
