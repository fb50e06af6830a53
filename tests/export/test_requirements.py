"""What every variant needs of its engine: in the table, in what is exported, and in what pip is asked for."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from edgetl_export.targets import TARGETS
from edgetl_export.targets.requirements import LEAST, requires
from edgetl_runtime.bundle import open_bundle
from edgetl_runtime.engines import ENGINES
from edgetl_runtime.manifest import Requires
from edgetl_runtime.preflight import obstacle

pytestmark = pytest.mark.slow

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"
EXTRAS = {"onnx": "onnxruntime", "tflite": "ai_edge_litert", "tflite-legacy": "tflite_runtime", "openvino": "openvino"}


def numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def test_the_table_covers_what_can_be_written() -> None:
    assert set(LEAST) == {(name, precision) for name, info in TARGETS.items() for precision in info.precisions}


@pytest.mark.parametrize(("target", "precision"), LEAST)
def test_a_line_has_versions_of_the_engine_s_libraries(target: str, precision: str) -> None:
    engine = ENGINES[TARGETS[target].engine]
    modules = [library.module for library in engine.libraries]
    least = LEAST[target, precision]
    assert modules[0] in least
    assert set(least) <= set(modules)
    assert all(re.fullmatch(r"\d+(\.\d+){1,2}", version) for version in least.values())
    found = requires(target, precision)
    assert found == Requires(engine.name, least[modules[0]], dict(least))


def test_what_was_never_tried_needs_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(LEAST, ("tflite", "w8a16"))  # type: ignore[arg-type] # a dict, shown as a Mapping
    assert requires("tflite", "w8a16") == Requires("litert", None, {})


def test_every_exported_variant_says_what_it_needs(bundle) -> None:
    folder, exported = bundle
    for variant in exported.manifest.variants:
        assert variant.requires == requires(variant.target, variant.precision)
        assert variant.requires.min_version is not None
        assert obstacle(variant) is None
        (alone,) = open_bundle(folder / variant.files[0].path).manifest.variants
        assert alone.requires == variant.requires
    assert open_bundle(folder).manifest == exported.manifest


@pytest.mark.parametrize("extra", EXTRAS)
def test_pip_installs_nothing_older_than_was_found_to_run(extra: str) -> None:
    lines = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]["optional-dependencies"][extra]
    bound = re.search(r">=([\d.]+)", lines[0])
    assert bound is not None
    assert EXTRAS[extra].replace("_", "-") == lines[0][: bound.start()]
    least = max(numbers(line[EXTRAS[extra]]) for line in LEAST.values() if EXTRAS[extra] in line)
    assert numbers(bound.group(1)) == least
