"""What keeps a variant from running here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from edgetl_runtime import open_bundle
from edgetl_runtime.preflight import obstacle


@pytest.mark.parametrize(
    ("minimum", "able"), [("99", False), ("1.9", True), ("1.17.0", True), (None, True), ("any", True)]
)
def test_version_is_compared_by_numbers(
    minimum: str | None, able: bool, bundle_path: Path, edit_manifest: Callable[..., None]
) -> None:
    edit_manifest(bundle_path, lambda raw: raw["variants"][0]["requires"].update(min_version=minimum))
    found = obstacle(open_bundle(bundle_path).manifest.variant("onnx.fp32"))
    assert (found is None) is able
    assert found is None or "pip install --upgrade onnxruntime" in str(found.error)
