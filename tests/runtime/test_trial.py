"""Files that kill their engine: a child process dies of them, and nothing else does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import edgetl_runtime.trial as trial_module
from edgetl_runtime import EngineError, load, open_bundle, self_test
from edgetl_runtime.cache import CACHE_VARIABLE
from edgetl_runtime.cli import main
from edgetl_runtime.trial import Trials, death, refusing, try_variants

KILLER = "tflite.fp32"
OTHERS = ["onnx.fp32", "onnx.int8", "openvino.fp32"]


def places(bundle: Path) -> dict[str, Path]:
    return {variant.id: bundle for variant in open_bundle(bundle).manifest.variants}


def test_sound_files_live(pristine_bundle: Path, zip_bundle: object) -> None:
    assert try_variants(places(pristine_bundle)) == Trials()
    assert try_variants({"onnx.fp32": pristine_bundle / "onnx/model.fp32.onnx"}) == Trials()
    assert try_variants({}) == Trials()


@pytest.mark.slow
@pytest.mark.parametrize("first", [KILLER, "onnx.fp32", "openvino.fp32"])
def test_the_one_that_dies_is_named_wherever_it_stands(killing_bundle: Path, first: str) -> None:
    order = sorted(places(killing_bundle), key=lambda id_: id_ != first)
    found = try_variants(dict.fromkeys(order, killing_bundle))
    assert found == Trials(died={KILLER: "SIGABRT"})


def test_what_an_engine_declines_is_no_death(bundle_path: Path) -> None:
    (bundle_path / "onnx/model.fp32.onnx").write_bytes(b"no model")
    found = try_variants(places(bundle_path))
    assert found.died == {}
    assert list(found.refused) == ["onnx.fp32"]
    assert "is not the file that was exported" in found.refused["onnx.fp32"]


def test_a_death_behind_a_file_that_only_did_the_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    """What damages memory may live to say so: of three tried together the first is guilty, not the third."""

    def fake(places: dict[str, str], *_: object) -> tuple[trial_module._Child, str]:
        child = trial_module._Child()
        dies = "c" if len(places) > 1 else "a" if list(places) == ["a"] else None
        child.ready, child.begun, child.over = True, dies, dies is None
        return child, "SIGSEGV"

    monkeypatch.setattr(trial_module, "_try_in_one", fake)
    assert try_variants({"a": "x", "b": "x", "c": "x"}).died == {"a": "SIGSEGV"}


def test_one_that_never_answers_is_ended(monkeypatch: pytest.MonkeyPatch, pristine_bundle: Path) -> None:
    start = time.monotonic()
    found = try_variants(places(pristine_bundle), seconds=0.001)
    assert time.monotonic() - start < 60
    assert found.untried is not None or set(found.died.values()) == {"no answer in 0 s"}


@pytest.mark.parametrize(
    ("executable", "said"),
    [("", "no Python"), ("/usr/sbin/uwsgi", "no Python"), ("/nowhere/python3", "no process could be started")],
)
def test_no_child_can_be_started(
    monkeypatch: pytest.MonkeyPatch, pristine_bundle: Path, executable: str, said: str
) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, "")
    monkeypatch.setattr(sys, "executable", executable)
    untried = try_variants(places(pristine_bundle)).untried
    assert untried is not None
    assert said in untried
    with load(pristine_bundle) as classifier:
        assert classifier.choice is not None
        assert f"no child process tried them first: {untried}" in classifier.choice.reason


def test_a_frozen_program_starts_nothing(monkeypatch: pytest.MonkeyPatch, pristine_bundle: Path) -> None:
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    monkeypatch.setattr(subprocess, "Popen", None)
    assert try_variants(places(pristine_bundle)).untried is not None


def test_load_survives_it_and_remembers(
    killing_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, red_photo: bytes
) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    for cached in (False, True):
        with load(killing_bundle) as classifier:
            assert classifier.predict(red_photo).top.id == "red"
            assert classifier.choice is not None
            assert classifier.choice.cached is cached
            problems = {one.variant: one.problem for one in classifier.choice.candidates if one.problem}
        assert problems == {KILLER: death(KILLER, "SIGABRT").what}


def test_a_bundle_of_nothing_else_is_an_error(
    killing_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    for _ in range(2):
        with pytest.raises(EngineError, match="ends the process that runs it: SIGABRT") as caught:
            load(killing_bundle, engine="litert")
        assert "name one of them" not in str(caught.value)
        with pytest.raises(EngineError, match="ends the process that runs it: SIGABRT"):
            load(killing_bundle / "tflite/model.fp32.tflite")


@pytest.mark.parametrize("cache", ["off", "a file", "a file above", "writable by others", "sound"])
@pytest.mark.parametrize(
    "wish",
    [
        {"engine": "litert"},
        {"min_top1": 0.5},
        {"device": "builtin", "engine": "litert"},
        {"verify": False, "engine": "litert"},
    ],
    ids=str,
)
def test_the_only_one_that_fits_is_tried_whatever_the_cache(
    cache: str, wish: dict[str, Any], killing_bundle: Path, tmp_path: Path
) -> None:
    """In a process of its own, which the file would take down."""
    folder = tmp_path / "cache"
    if cache == "a file":
        folder.write_text("")
    elif cache == "a file above":
        (tmp_path / "file").write_text("")
        folder = tmp_path / "file" / "cache"
    elif cache == "writable by others":
        folder.mkdir()
        folder.chmod(0o777)
    if "engine" not in wish:  # of which only the killer was verified
        found = {"id": KILLER, "parity": {"n": 9, "top1_agreement": 1.0}, "accuracy": {"top1": 0.9, "delta": 0.0}}
        report = {"schema": 1, "variants": [found], "verdict": {"passed": True, "checks": []}}
        (killing_bundle / "report.json").write_text(json.dumps(report))
    code = "import json, sys\nfrom edgetl_runtime import EngineError, load\n"
    code += "for _ in range(2):\n"
    code += "    try:\n        load(sys.argv[1], **json.loads(sys.argv[2]))\n"
    code += "    except EngineError as error:\n        print(error.what)"
    environment = {**os.environ, CACHE_VARIABLE: "" if cache == "off" else str(folder)}
    words = [sys.executable, "-c", code, str(killing_bundle), json.dumps(wish)]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr[-500:]
    assert done.stdout.count("ends the process that runs it: SIG") == 2


def test_self_test_fails_it_and_measures_the_others(killing_bundle: Path) -> None:
    found = self_test(open_bundle(killing_bundle))
    problems = {test.id: test.problem for test in found.variants}
    assert problems == {KILLER: death(KILLER, "SIGABRT").what, **dict.fromkeys(OTHERS)}
    assert not found.passed


@pytest.mark.slow
def test_the_command_line_survives(killing_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["self-test", str(killing_bundle)]) == 1
    assert "SIGABRT" in capsys.readouterr().out
    assert main(["bench", str(killing_bundle), "--seconds", "0.1", "--json", str(tmp_path / "b.json")]) == 2
    assert "variant tflite.fp32 ends the process that runs it: SIGABRT" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("device", [[], ["--device", "builtin"]])
def test_placement_of_a_file_that_ends_its_process(device: list[str], killing_bundle: Path, tmp_path: Path) -> None:
    """In a process of its own, which the file would take down."""
    code = "import sys; from edgetl_runtime.cli import main; sys.exit(main(sys.argv[1:]))"
    words = ["info", str(killing_bundle), "--placement", *device, "--json", str(tmp_path / "info.json")]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-500:]
    (line,) = [line for line in done.stdout.splitlines() if line.startswith(KILLER)]
    assert "SIGABRT" in line
    found = {one["id"]: one["placement"] for one in json.loads((tmp_path / "info.json").read_text())["variants"]}
    assert found[KILLER] is None
    assert device or None not in [found[other] for other in OTHERS]


def test_refusing_stands_in_for_a_session() -> None:
    with pytest.raises(EngineError, match=r"variant x ends .*: SIGILL") as caught:
        refusing("x", "SIGILL")(1)
    assert caught.value.fix


def test_the_child_imports_no_more_than_it_needs() -> None:
    code = "import json, sys; import edgetl_runtime.trial; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert not {"torch", "onnxruntime", "openvino", "ai_edge_litert", "asyncio"} & set(json.loads(done.stdout))
