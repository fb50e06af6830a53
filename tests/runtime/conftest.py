"""Ways to damage a bundle, and to hide engines; the bundle itself is in ``tests/conftest.py``."""

from __future__ import annotations

import json
import shutil
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest


@pytest.fixture
def bundle_path(pristine_bundle: Path, tmp_path: Path) -> Path:
    """A bundle folder that a test may damage."""
    return Path(shutil.copytree(pristine_bundle, tmp_path / "colours.edgetl"))


@pytest.fixture
def edit_manifest() -> Callable[[Path, Callable[[dict[str, object]], object]], None]:
    """Change the manifest of a bundle folder: ``edit_manifest(path, lambda raw: raw.update(schema=9))``."""

    def edit(path: Path, change: Callable[[dict[str, object]], object]) -> None:
        raw = json.loads((path / "manifest.json").read_text())
        change(raw)
        (path / "manifest.json").write_text(json.dumps(raw))

    return edit


@pytest.fixture
def fail_in_report() -> Callable[..., None]:
    """Write a report.json in which the named variants failed a check."""

    def write(path: Path, *variants: str) -> None:
        checks = [{"variant": "tflite.fp32", "what": "top1_agreement", "limit": 1.0, "value": 1.0, "passed": True}]
        checks += [
            {"variant": id_, "what": "top1_agreement", "limit": 0.97, "value": 0.25, "passed": False}
            for id_ in variants
        ]
        (path / "report.json").write_text(json.dumps({"schema": 1, "verdict": {"passed": False, "checks": checks}}))

    return write


@pytest.fixture
def report_of_checks() -> Callable[..., None]:
    """Write a report.json of verified variants: ``write(path, ("onnx.int8", "p50_ratio", 1.34, 1.2), files={...})``,
    each check failed; ``files`` are recorded hashes by variant id, as reports of today have them."""

    def write(path: Path, *failed: tuple[str, str, object, object], files: Mapping[str, object] | None = None) -> None:
        ids = [variant["id"] for variant in json.loads((path / "manifest.json").read_text())["variants"]]
        entries = [
            {
                "id": id_,
                "parity": {"n": 100, "top1_agreement": 1.0},
                "accuracy": {"top1": 0.8, "delta": 0.0},
                **({"files_sha256": files[id_]} if files and id_ in files else {}),
            }
            for id_ in ids
        ]
        checks = [
            {"variant": id_, "what": what, "value": value, "limit": limit, "passed": False}
            for id_, what, value, limit in failed
        ]
        raw = {"schema": 1, "variants": entries, "verdict": {"passed": not checks, "checks": checks}}
        (path / "report.json").write_text(json.dumps(raw))

    return write


@pytest.fixture
def zip_bundle(tmp_path: Path) -> Callable[..., Path]:
    """Zip a bundle folder, its files below `top` in the zip."""

    def make(path: Path, *, top: str = "") -> Path:
        target = tmp_path / "zipped.edgetl"
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in sorted(path.rglob("*")):
                if file.is_file():
                    archive.write(file, top + file.relative_to(path).as_posix())
        return target

    return make


@pytest.fixture
def no_engines(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Make libraries look as if they were not installed: ``no_engines("openvino")``, all of them without names."""

    def hide(*names: str) -> None:
        for name in names or ("onnxruntime", "ai_edge_litert", "tflite_runtime", "tensorflow", "openvino"):
            monkeypatch.setitem(sys.modules, name, None)

    return hide
