"""The original's answers that a bundle keeps are input: damaged or made up, they are one error."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgetl.verify.measure.original_outputs import RecordingOriginal, read_kept_outputs
from edgetl_runtime import open_bundle
from edgetl_runtime.errors import BundleError

N = 5


@pytest.fixture
def bundle(pristine_bundle: Path, tmp_path: Path) -> Path:
    folder = Path(shutil.copytree(pristine_bundle, tmp_path / "kept.edgetl"))
    manifest = open_bundle(folder).manifest
    recording = RecordingOriginal(lambda images: np.zeros((len(images), len(manifest.labels)), np.float32))
    recording(np.arange(N * 27, dtype=np.uint8).reshape(N, 3, 3, 3))
    recording.keep(folder, manifest, [0] * N)
    return folder


def put(bundle: Path, content: bytes, **index: Any) -> None:
    """Replace the arrays, with a hash that is right."""
    file = bundle / "reference" / "logits.json"
    (bundle / "reference" / "logits.npz").write_bytes(content)
    raw = json.loads(file.read_text()) | {"sha256": hashlib.sha256(content).hexdigest(), **index}
    file.write_text(json.dumps(raw))


def npz(**arrays: Any) -> bytes:
    content = io.BytesIO()
    sound = {"images": np.zeros((N, 32), np.uint8), "logits": np.zeros((N, 4), np.float32)}
    np.savez_compressed(content, **{name: value for name, value in (sound | arrays).items() if value is not None})
    return content.getvalue()


def bomb(size: int) -> bytes:
    """Logits of so many bytes, all zero, by what the header says."""
    content = io.BytesIO(npz(logits=None))
    header = io.BytesIO()
    about = {"descr": "<f4", "fortran_order": False, "shape": (size // 16, 4)}
    np.lib.format.write_array_header_1_0(header, about)
    archive = zipfile.ZipFile(content, "a", zipfile.ZIP_DEFLATED, compresslevel=1)
    with archive, archive.open("logits.npy", "w") as file:
        file.write(header.getvalue())
        for _ in range(size // 2**20):
            file.write(bytes(2**20))
    return content.getvalue()


def test_sound_answers_are_read(bundle: Path) -> None:
    kept = read_kept_outputs(open_bundle(bundle))
    assert kept is not None
    assert kept.values["logits"].shape == (N, 4)
    put(bundle, npz())
    assert read_kept_outputs(open_bundle(bundle)) is not None


@pytest.mark.parametrize(
    "arrays",
    [
        {"images": None},
        {"logits": None},
        {"images": np.zeros((N, 31), np.uint8)},
        {"images": np.uint8(3)},
        {"images": np.zeros(N, "U3")},
        {"images": np.zeros((N, 32), [("a", "u1")])},
        {"logits": np.zeros((N, 5), np.float32)},
        {"logits": np.zeros((N + 1, 4), np.float32)},
        {"logits": np.float32(1)},
        {"logits": np.zeros((N, 4), "M8[s]")},
        {"logits": np.zeros((N, 4), np.complex64)},
        {"logits": np.array([[None] * 4] * N, object)},
    ],
)
def test_other_arrays_are_one_error(bundle: Path, arrays: dict[str, Any]) -> None:
    put(bundle, npz(**arrays))
    with pytest.raises(BundleError, match="damaged"):
        read_kept_outputs(open_bundle(bundle))


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-30],
        lambda content: content[: len(content) // 2],
        lambda content: b"",
        lambda content: content.replace(b"PK\x01\x02-\x03-", b"PK\x01\x02-\x03\xff"),
        lambda content: b"PK\x05\x06" + bytes(18),
        lambda content: content.replace(b"\x93NUMPY", b"\x93NUMPX"),
        lambda content: content.replace(b"{'descr'", b"{((((((("),
    ],
)
def test_damage_is_one_error(bundle: Path, damage: Callable[[bytes], bytes]) -> None:
    stored = io.BytesIO()
    np.savez(stored, images=np.zeros((N, 32), np.uint8), logits=np.zeros((N, 4), np.float32))
    put(bundle, damage(stored.getvalue()))
    with pytest.raises(BundleError, match="damaged"):
        read_kept_outputs(open_bundle(bundle))


@pytest.mark.parametrize("n", [N, 2**27, 10**12, -1, 0, 1.5, "5", None, [], True])
def test_a_bomb_is_not_inflated(bundle: Path, n: Any) -> None:
    put(bundle, bomb(200 * 2**20), n=n)
    with pytest.raises(BundleError, match="damaged"):
        read_kept_outputs(open_bundle(bundle))


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 5000, "[]", '"\\ud800"', "NaN", '{"schema": 1e999}', "\0"])
def test_a_senseless_index_is_one_error(bundle: Path, text: str) -> None:
    (bundle / "reference" / "logits.json").write_text(text)
    with pytest.raises(BundleError, match="damaged"):
        read_kept_outputs(open_bundle(bundle))
