"""Ways to damage a bundle, and to hide engines; the bundle itself is in ``tests/conftest.py``."""

from __future__ import annotations

import json
import shutil
import sys
import zipfile
from collections.abc import Callable
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
