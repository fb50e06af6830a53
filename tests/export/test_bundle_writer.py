"""What the export writes is sealed: every file that decides can be held against itself."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from edgetl_export.artifact import Artifact
from edgetl_export.bundle_writer import write_manifest, write_variant
from edgetl_export.targets import TARGETS, open_target
from edgetl_runtime import BundleError, EdgetlError, Manifest, load, open_bundle
from edgetl_runtime.manifest import Label

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def manifest(pristine_bundle: Path) -> Manifest:
    """Of the bundle that was written by hand, with labels that need quoting in JSON and XML."""
    found = open_bundle(pristine_bundle).manifest
    labels = tuple(Label(label.id, f'<{label.name}\'s> "ä" & {{&quot;') for label in found.labels)
    return dataclasses.replace(found, labels=labels)


@pytest.fixture(scope="module")
def written(pristine_bundle: Path, manifest: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fp32 variants, embedded and written as the export does."""
    folder = tmp_path_factory.mktemp("sealed")
    variants = []
    for target in TARGETS:
        variant = manifest.variant(f"{target}.fp32")
        files = {Path(entry.path).suffix: (pristine_bundle / entry.path).read_bytes() for entry in variant.files}
        text = manifest.embedded(variant.id).to_json(compact=True)
        artifact = open_target(target).embed(Artifact(files, {"method": "none"}, input=manifest.input), text)
        assert (artifact.quantization, artifact.input) == ({"method": "none"}, manifest.input)
        variants.append(write_variant(folder, variant, artifact))
    write_manifest(folder, dataclasses.replace(manifest, variants=tuple(variants), golden=None))
    return folder


@pytest.mark.parametrize("target", TARGETS)
def test_model_files_carry_a_seal_that_any_changed_byte_breaks(
    target: str, written: Path, manifest: Manifest, red_photo: bytes, tmp_path: Path
) -> None:
    entries = open_bundle(written).manifest.variant(f"{target}.fp32").files
    contents = {Path(entry.path).name: (written / entry.path).read_bytes() for entry in entries}
    main = next(iter(contents))
    with load(written / entries[0].path) as classifier:
        top = classifier.predict(red_photo).top
        assert (top.id, top.name) == ("red", manifest.labels[0].name)
    rng = np.random.default_rng(5)
    for turn in range(24):
        name = list(contents)[turn % len(contents)]
        damaged = bytearray(contents[name])
        damaged[rng.integers(len(damaged))] ^= 1 << rng.integers(8)
        for other, content in contents.items():
            (tmp_path / other).write_bytes(bytes(damaged) if other == name else content)
        with pytest.raises(BundleError):
            open_bundle(tmp_path / main).check()
        with pytest.raises(EdgetlError):
            load(tmp_path / main)


def test_the_manifest_of_a_bundle_is_sealed(written: Path, tmp_path: Path) -> None:
    bundle = open_bundle(written)
    bundle.check()
    text = (written / "manifest.json").read_text(encoding="utf-8")
    assert list(json.loads(text))[:3] == ["sealed", "schema", "name"]
    assert "\n" in text.strip()
    for entry in written.iterdir():
        (tmp_path / entry.name).symlink_to(entry)
    (tmp_path / "manifest.json").unlink()
    (tmp_path / "manifest.json").write_text(text.replace('"red"', '"rod"'), encoding="utf-8")
    changed = open_bundle(tmp_path)
    with pytest.raises(BundleError, match=r"manifest\.json .* is not the file that was exported: the SHA-256 differs"):
        changed.session("onnx.fp32")
    with pytest.raises(BundleError, match="SHA-256"):
        changed.check()
    changed.session("onnx.fp32", verify=False).close()
