from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from arm_report import Result, row_of
from comparing import Outputs, compare
from machines import Run, ending, run_on, this_machine
from run import choose_photos, main, parse

from edgetl_runtime.errors import DataError, EdgetlError, UsageError

ROOT = Path(__file__).parents[2]
ENGINE = "onnxruntime 1.23.2"


def photos(folder: Path, n: int) -> None:
    for i in range(n):
        (folder / f"{i % 3}").mkdir(parents=True, exist_ok=True)
        (folder / f"{i % 3}" / f"{i:03}.JPG").touch()
    (folder / "notes.txt").touch()


def test_photos_are_evenly_chosen_and_the_same_each_time(tmp_path: Path) -> None:
    photos(tmp_path, 100)
    chosen = choose_photos(tmp_path, 40)
    assert len(set(chosen)) == 40
    assert list(chosen) == sorted(chosen)
    everything = choose_photos(tmp_path, 100)
    steps = np.diff([everything.index(path) for path in chosen])
    assert set(steps.tolist()) == {2, 3}


def test_too_few_photos_are_an_error(tmp_path: Path) -> None:
    photos(tmp_path, 3)
    with pytest.raises(DataError, match="has 3 photos, fewer than 4\n  fix: --n 3"):
        choose_photos(tmp_path, 4)
    with pytest.raises(UsageError):
        choose_photos(tmp_path, 0)


def run(machine: str, logits: list[list[float]], *, problem: str | None = None) -> Run:
    about = {"cpu_features": {"flags": ["asimd"]}, "seconds_per_photo": 0.5, "engine_version": "1.31.1"}
    outputs = Outputs(np.zeros((len(logits), 2, 2, 3), np.uint8), np.array(logits, np.float32), about)
    return Run(machine, "onnx.int8", problem is None, None if problem else outputs, problem)


X86 = run("x86", [[1, 0], [0, 1]])


def test_all_the_same_passes() -> None:
    result = Result({"date": "today"}, (row_of(ENGINE, run("cortex-a72", [[2, 0], [0, 1]]), X86, X86),))
    assert result.passed
    assert result.to_json()["passed"]
    (line,) = [line for line in result.to_markdown().splitlines() if "cortex-a72" in line]
    assert "| passed | 2 of 2 | 1 of 2 | 1 of sigma 0.5 | 0 | 2 of 2 (1.31.1) | 0.50 | ok |" in line
    assert "- date: today" in result.to_markdown()


def test_one_decision_that_differs_fails() -> None:
    good = row_of(ENGINE, run("cortex-a72", [[1, 0], [0, 1]]), X86, None)
    bad = row_of(ENGINE, run("neoverse-n1", [[1, 0], [1, 0]]), X86, None)
    result = Result({}, (good, bad))
    assert good.passed
    assert not bad.passed
    assert not result.passed
    assert "1 of 2" in result.to_markdown()
    assert "FAILED: decides otherwise" in result.to_markdown()


@pytest.mark.parametrize(
    ("there", "here", "said"),
    [
        (run("neoverse-n1", [], problem="self-test was killed by SIGSEGV: a | b"), X86, "killed by SIGSEGV: a / b"),
        (run("neoverse-n1", [[1, 0], [0, 1]]), run("x86", [], problem="photos: no"), "x86: photos: no"),
    ],
)
def test_a_run_that_ended_badly_fails_and_says_how(there: Run, here: Run, said: str) -> None:
    row = row_of(ENGINE, there, here, X86)
    assert not row.passed
    assert said in Result({}, (row,)).to_markdown()


def test_the_decisions_alone_are_not_enough() -> None:
    good = row_of(ENGINE, run("cortex-a72", [[1, 0], [0, 1]]), X86, None)
    assert not dataclasses.replace(good, self_test=False).passed
    assert not dataclasses.replace(good, problem="x").passed
    assert not dataclasses.replace(good, same=None).passed


def test_nothing_tried_is_nothing_passed() -> None:
    assert not Result({}, ()).passed


def test_json_has_no_infinity() -> None:
    broken = [[1.0, 0.0], [0.0, float("nan")]]
    for there, here in ((run("cortex-a72", broken), X86), (X86, run("x86", broken))):
        row = row_of(ENGINE, there, here, None)
        (found,) = json.loads(json.dumps(Result({}, (row,)).to_json(), allow_nan=False))["rows"]
        assert found["same"]["max_abs"] is None
        assert found["same"]["flips"] == [1]


def test_how_a_process_ended() -> None:
    assert ending(-11, "", "chatter\nqemu: uncaught signal") == "was killed by SIGSEGV: qemu: uncaught signal"
    assert ending(1, "a\nself-test FAILED\n", "INFO: chatter") == "ended with exit code 1: a / self-test FAILED"
    assert ending(2, "", "edgetl-run: error: no bundle") == "ended with exit code 2: edgetl-run: error: no bundle"


@pytest.fixture
def edgetl(tmp_path: Path) -> Path:
    """As pip leaves it: a script in bin."""
    script = tmp_path / "edgetl/bin/edgetl-run"
    script.parent.mkdir(parents=True)
    script.write_text("import sys\nfrom edgetl_runtime.cli import main\nsys.exit(main())\n")
    return tmp_path / "edgetl"


@pytest.fixture
def listed(tmp_path: Path, pristine_bundle: Path) -> Path:
    paths = [str(path) for path in sorted((pristine_bundle / "golden").glob("*.png"))[:3]]
    (tmp_path / "photos.json").write_text(json.dumps(paths))
    return tmp_path / "photos.json"


def test_self_test_and_photos_run_in_another_process(
    pristine_bundle: Path, edgetl: Path, listed: Path, tmp_path: Path
) -> None:
    machine = this_machine("here", (ROOT / "runtime",), own_packages=True)
    found = run_on(machine, edgetl, pristine_bundle, "onnx.fp32", listed, tmp_path / "kept")
    assert found.problem is None
    assert found.self_test
    assert found.outputs is not None
    assert found.outputs.tensors.shape == (3, 24, 32, 3)
    with np.load(pristine_bundle / "golden/expected.npz") as expected:
        golden = Outputs(expected["tensors"][:3], expected["logits"][:3], {})
    compared = compare(golden, found.outputs)
    assert (compared.same_decisions, compared.pixels) == (3, 0)
    assert found.outputs.about["engine"] == "onnxruntime"


def test_a_bundle_whose_self_test_fails_runs_no_photos(
    pristine_bundle: Path, edgetl: Path, listed: Path, tmp_path: Path
) -> None:
    damaged = Path(shutil.copytree(pristine_bundle, tmp_path / "damaged"))
    (damaged / "onnx/model.fp32.onnx").write_bytes(b"x")
    machine = this_machine("here", (ROOT / "runtime",), own_packages=True)
    found = run_on(machine, edgetl, damaged, "onnx.fp32", listed, tmp_path / "kept")
    assert not found.self_test
    assert found.outputs is None
    assert found.problem is not None
    assert "self-test ended with exit code 2" in found.problem
    assert "model.fp32.onnx" in found.problem


def test_what_the_user_can_fix_is_exit_code_2(
    pristine_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos(tmp_path, 3)
    both = ["--bundle", str(pristine_bundle), "--photos", str(tmp_path)]
    one = [*both, "--engines", "onnxruntime==1.23.2"]
    few = [*one, "--n", "3", "--workdir", str(tmp_path / "work")]
    for words, said in (
        (["--bundle", str(tmp_path / "no.edgetl"), "--photos", str(tmp_path)], "no bundle at"),
        (both, "has no variant"),
        (one, "fewer than 40"),
        ([*few, "--json", str(tmp_path / "no/f")], "no such folder"),
        ([*few, "--qemu", str(tmp_path / "q")], "cannot run"),
    ):
        assert main(words) == 2, said
        assert said in capsys.readouterr().err


def test_the_default_engines_are_understood(pristine_bundle: Path, tmp_path: Path) -> None:
    photos(tmp_path, 1)
    with pytest.raises(
        EdgetlError, match=r"tflite\.int8"
    ):  # the hand-made bundle has no such variant, onnx.int8 it has
        parse(["--bundle", str(pristine_bundle), "--photos", str(tmp_path), "--n", "1"])
