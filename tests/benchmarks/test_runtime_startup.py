from __future__ import annotations

import dataclasses
import sys
import time
from pathlib import Path

import pytest
from runtime_processes import Start, in_turns, started
from runtime_startup import EDGETL, OWN_MODEL, SAME_FILE, foreign_modules, lines_of, main

from edgetl_runtime.errors import EngineError, ExportError

BASE = Start("tench", 100.0, 90.0, 50_000_000, frozenset({"numpy", "PIL", "onnxruntime", "google"}), {})


def starts(**changes: object) -> dict[str, list[Start]]:
    """Three programs that do alike, but for `changes` in edgetl's."""
    edgetl = dataclasses.replace(BASE, modules=BASE.modules | {"edgetl_runtime"})
    return {OWN_MODEL: [BASE] * 3, SAME_FILE: [BASE] * 3, EDGETL: [dataclasses.replace(edgetl, **changes)] * 3}  # type: ignore[arg-type] # fields of Start


def test_equal_programs_meet_every_target() -> None:
    assert [line.met for line in lines_of("onnxruntime", starts(), clock="wall")] == [True] * 5


@pytest.mark.parametrize(
    ("changes", "missed"),
    [
        ({"ms": 115.1}, "first label"),
        ({"peak": 55_100_000}, "peak"),
        ({"modules": BASE.modules | {"edgetl_runtime", "yaml"}}, "packages imported beyond its own (yaml)"),
    ],
)
def test_what_is_too_slow_too_large_or_foreign_is_missed(changes: dict[str, object], missed: str) -> None:
    lines = [line for line in lines_of("onnxruntime", starts(**changes), clock="wall") if line.met is False]
    assert lines
    assert all(missed in line.what for line in lines)


def test_the_clock_can_be_that_of_the_cpu() -> None:
    assert all(line.met for line in lines_of("litert", starts(ms=900.0), clock="cpu"))
    assert not all(line.met for line in lines_of("litert", starts(cpu_ms=900.0), clock="cpu"))


def test_programs_that_disagree_on_the_label_are_not_compared() -> None:
    with pytest.raises(ExportError, match="different labels"):
        lines_of("litert", starts(label="shark"), clock="wall")


def test_what_the_engine_itself_imports_is_not_foreign() -> None:
    assert foreign_modules(starts()) == frozenset()
    assert foreign_modules(starts(modules=BASE.modules | {"torch"})) == {"torch"}


def test_a_process_says_when_it_was_done_and_what_it_held() -> None:
    code = (
        "import mmap, time, numpy; a = b'x' * 80_000_000; untouched = mmap.mmap(-1, 900_000_000); "
        "time.sleep(0.2); e = time.monotonic_ns(); "
        "from runtime_child import report; time.sleep(0.5); report('tench', e, extra=1.5)"
    )
    begun = time.monotonic()
    start = started([sys.executable, "-c", code])
    assert 200 < start.ms < (time.monotonic() - begun) * 1e3 - 500
    assert 80_000_000 < start.peak < 500_000_000
    assert start.modules >= {"numpy"}
    assert not start.modules & {"json", "sys", "__main__"}
    assert (start.label, start.more) == ("tench", {"extra": 1.5})


def test_the_peak_of_a_large_parent_is_not_its_child_s() -> None:
    held = bytearray(300_000_000)
    held[::4096] = b"x" * len(held[::4096])
    code = "import time; from runtime_child import report; report('', time.monotonic_ns())"
    assert started([sys.executable, "-c", code]).peak < 100_000_000


def test_a_process_that_fails_says_why() -> None:
    with pytest.raises(EngineError, match=r"code 3: no model here"):
        started([sys.executable, "-c", "import sys; print('no model here', file=sys.stderr); sys.exit(3)"])


def test_processes_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    def fake(command: list[str]) -> Start:
        done.append(command[0])
        return dataclasses.replace(BASE, ms=float(len(done)))

    monkeypatch.setattr("runtime_processes.started", fake)
    found = in_turns({"a": ["a"], "b": ["b"]}, rounds=2)
    assert done[2:] == ["a", "b", "b", "a"]
    assert {name: [start.ms for start in values] for name, values in found.items()} == {"a": [3, 6], "b": [4, 5]}


@pytest.mark.parametrize("options", [["--engines", "onnx"], ["--rounds", "1"], []])
def test_options_that_make_no_sense_are_exit_code_2(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo = str(tmp_path / "missing.jpg")
    assert main(["bundle", "--photo", photo, "--work", str(tmp_path), "--data", str(tmp_path), *options]) == 2
    assert "fix: " in capsys.readouterr().err
