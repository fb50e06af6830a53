"""What keeps a variant from running here."""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgetl_runtime import open_bundle
from edgetl_runtime.engines import ENGINES, Library
from edgetl_runtime.errors import BundleError, EdgetlError, EngineError, MissingDependency
from edgetl_runtime.manifest import Requires, Variant
from edgetl_runtime.preflight import BUILT_FOR_NUMPY_1, obstacle


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Make it look as if these libraries were installed in these versions, and no others: ``{module: version}``."""

    def install(versions: dict[str, str], numpy: str = "1.26.4") -> None:
        monkeypatch.setattr(Library, "version", lambda library: versions.get(library.module))
        monkeypatch.setattr(np, "__version__", numpy)

    return install


def wrong(requires: Requires) -> EdgetlError | None:
    found = obstacle(Variant("some.int8", "some", "int8", (), requires))
    assert found is None or found.variant == "some.int8"
    return None if found is None else found.error


@pytest.mark.parametrize(
    ("version", "able"),
    [
        ("1.18.0", True),
        ("1.18", True),
        ("1.18.0.post1", True),
        ("1.18.1", True),
        ("1.100.0", True),
        ("2", True),
        ("1.17.9", False),
        ("1.9.0", False),
        ("1.17.3+cu12", False),
        ("unknown", True),
        ("", True),
    ],
)
def test_a_version_is_compared_by_its_numbers(version: str, able: bool, pretend: Callable[..., None]) -> None:
    pretend({"onnxruntime": version})
    for requires in (Requires("onnxruntime", "1.18.0"), Requires("onnxruntime", None, {"onnxruntime": "1.18.0"})):
        assert (wrong(requires) is None) is able


@pytest.mark.parametrize("minimum", [None, "", "any", "v2"])
def test_a_minimum_that_is_no_version_keeps_nothing_from_running(
    minimum: str | None, pretend: Callable[..., None]
) -> None:
    pretend({"onnxruntime": "1.15.0"})
    assert wrong(Requires("onnxruntime", minimum)) is None


def test_a_minimum_of_many_digits_is_no_trouble(pretend: Callable[..., None]) -> None:
    pretend({"onnxruntime": "1.15.0"})
    assert wrong(Requires("onnxruntime", "9" * 5000)) is not None


def test_one_sentence_has_both_versions_and_the_line_for_pip(pretend: Callable[..., None]) -> None:
    pretend({"onnxruntime": "1.15.0"})
    error = wrong(Requires("onnxruntime", "1.18.0", {"onnxruntime": "1.18.0"}))
    assert isinstance(error, EngineError)
    assert error.what == "variant some.int8 needs onnxruntime 1.18.0 or newer, 1.15.0 is installed"
    assert error.fix == 'pip install --upgrade "onnxruntime>=1.18.0"'


def test_every_library_of_an_engine_has_its_own_versions(pretend: Callable[..., None]) -> None:
    requires = Requires("litert", "1.1.0", {"ai_edge_litert": "1.1.0", "tflite_runtime": "2.14.0"})
    pretend({"tflite_runtime": "2.13.0"})
    error = wrong(requires)
    assert error is not None
    assert error.what == "variant some.int8 needs tflite-runtime 2.14.0 or newer, 2.13.0 is installed"
    pretend({"tflite_runtime": "2.14.0"})
    assert wrong(requires) is None
    pretend({"ai_edge_litert": "1.0.9", "tflite_runtime": "2.14.0"})
    assert "ai-edge-litert 1.1.0 or newer" in str(wrong(requires))
    pretend({"tensorflow": "1.0.0"})
    assert wrong(requires) is None


def test_the_minimum_speaks_of_the_first_library_alone(pretend: Callable[..., None]) -> None:
    pretend({"tflite_runtime": "2.14.0"})
    assert wrong(Requires("litert", "99")) is None
    pretend({"ai_edge_litert": "2.14.0"})
    assert wrong(Requires("litert", "99")) is not None


def test_the_package_that_brings_the_library_is_named(
    pretend: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def version(name: str) -> str:
        if name != "onnxruntime-gpu":
            raise importlib.metadata.PackageNotFoundError(name)
        return "1.15.0"

    pretend({"onnxruntime": "1.15.0"})
    monkeypatch.setattr(importlib.metadata, "version", version)
    assert 'pip install --upgrade "onnxruntime-gpu>=1.18.0"' in str(wrong(Requires("onnxruntime", "1.18.0")))


@pytest.mark.parametrize("module", BUILT_FOR_NUMPY_1)
def test_a_library_of_numpy_1_does_not_run_with_numpy_2(module: str, pretend: Callable[..., None]) -> None:
    engine = next(info.name for info in ENGINES.values() if module in [library.module for library in info.libraries])
    pretend({module: BUILT_FOR_NUMPY_1[module]}, numpy="2.0.0")
    error = wrong(Requires(engine))
    assert error is not None
    assert BUILT_FOR_NUMPY_1[module] in error.what
    assert "2.0.0" in error.what
    assert error.fix == 'pip install "numpy<2"'
    pretend({module: BUILT_FOR_NUMPY_1[module]}, numpy="1.26.4")
    assert wrong(Requires(engine)) is None
    for version in (f"{BUILT_FOR_NUMPY_1[module]}.1", "unknown"):
        pretend({module: version}, numpy="2.0.0")
        assert wrong(Requires(engine)) is None


def test_what_is_missing_or_unknown_is_told(pretend: Callable[..., None]) -> None:
    pretend({})
    assert isinstance(wrong(Requires("openvino", "2024.0.0")), MissingDependency)
    error = wrong(Requires("tensorrt"))
    assert error is not None
    assert "'tensorrt', which this edgetl does not know" in error.what


def test_a_bundle_says_what_it_needs(bundle_path: Path, edit_manifest: Callable[..., None]) -> None:
    libraries = {"onnxruntime": "99.0.0"}
    edit_manifest(bundle_path, lambda raw: raw["variants"][0]["requires"].update(libraries=libraries))
    manifest = open_bundle(bundle_path).manifest
    assert manifest.variant("onnx.fp32").requires == Requires("onnxruntime", None, libraries)
    assert manifest.variant("onnx.int8").requires.libraries == {}
    found = obstacle(manifest.variant("onnx.fp32"))
    assert found is not None
    assert "onnxruntime 99.0.0 or newer" in found.error.what
    assert obstacle(manifest.variant("onnx.int8")) is None


@pytest.mark.parametrize("libraries", [{"onnxruntime": 2}, {"onnxruntime": None}, ["onnxruntime"], "1.18"])
def test_requirements_that_are_no_versions_are_damage(
    libraries: object, bundle_path: Path, edit_manifest: Callable[..., None]
) -> None:
    edit_manifest(bundle_path, lambda raw: raw["variants"][0]["requires"].update(libraries=libraries))
    with pytest.raises(BundleError):
        open_bundle(bundle_path)


def test_no_engine_is_imported_to_find_out(monkeypatch: pytest.MonkeyPatch) -> None:
    modules = [library.module for info in ENGINES.values() for library in info.libraries]
    for module in modules:
        monkeypatch.delitem(sys.modules, module, raising=False)
    for info in ENGINES.values():
        obstacle(Variant("some.int8", info.target, "int8", (), Requires(info.name, "99")))
    assert not [module for module in modules if module in sys.modules]
