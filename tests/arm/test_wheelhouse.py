from __future__ import annotations

from pathlib import Path

import pytest
import wheelhouse
from wheelhouse import Engine, engine_folder, install_edgetl, installed_versions, parse_engines

from edgetl_runtime.errors import EngineError, UsageError


def test_engines_are_named_with_their_versions() -> None:
    engines = parse_engines("onnxruntime==1.23.2, ai-edge-litert==2.1.0")
    assert engines == (Engine("onnxruntime", "1.23.2"), Engine("ai-edge-litert", "2.1.0"))
    assert [engine.variant for engine in engines] == ["onnx.int8", "tflite.int8"]
    assert str(engines[0]) == "onnxruntime 1.23.2"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("onnxruntime", "onnxruntime==VERSION"),
        ("onnxruntime==", "no version"),
        ("onnxrutime==1", "did you mean"),
        ("", "known"),
    ],
)
def test_an_engine_that_cannot_be_meant_is_an_error(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        parse_engines(text)


def dist(folder: Path, name: str, version: str) -> None:
    info = folder / f"{name.lower()}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def fake_pip(monkeypatch: pytest.MonkeyPatch, *, resolved: str = "2.4") -> list[list[str]]:
    """pip that finds numpy and Pillow `resolved` where no version is asked for; returns what it was asked for."""
    calls: list[list[str]] = []

    def pip(arguments: list[str], *, target: Path, what: str) -> None:
        calls.append(arguments)
        for word in arguments:
            if word.partition("==")[0] in ("numpy", "pillow"):
                dist(target, word.partition("==")[0], word.partition("==")[2] or resolved)

    monkeypatch.setattr(wheelhouse, "_pip", pip)
    return calls


def test_x86_gets_the_versions_that_aarch64_got(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine("onnxruntime", "1.23.2")
    calls = fake_pip(monkeypatch, resolved="2.4")
    there = engine_folder(tmp_path, engine, aarch64=True)
    fake_pip(monkeypatch, resolved="9.9")
    here = engine_folder(tmp_path, engine, aarch64=False)
    assert installed_versions(here) == installed_versions(there) == {"numpy": "2.4", "pillow": "2.4"}
    (asked,) = calls
    assert asked[-3:] == ["numpy", "pillow", "onnxruntime==1.23.2"]
    assert "--only-binary=:all:" in asked
    assert "manylinux_2_28_aarch64" in asked


def test_a_folder_is_filled_once_and_edgetl_anew_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = fake_pip(monkeypatch)
    for _ in range(2):
        engine_folder(tmp_path, Engine("onnxruntime", "1.23.2"), aarch64=True)
    assert len(calls) == 1
    for _ in range(2):
        install_edgetl(tmp_path, tmp_path)
    assert len(calls) == 3


def test_what_pip_could_not_install_is_not_taken_for_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def pip(arguments: list[str], *, target: Path, what: str) -> None:
        raise EngineError("no such version")

    monkeypatch.setattr(wheelhouse, "_pip", pip)
    for _ in range(2):
        with pytest.raises(EngineError):
            engine_folder(tmp_path, Engine("onnxruntime", "0.0"), aarch64=True)
