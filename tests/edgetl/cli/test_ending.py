"""What stands at the end of a run and an export: files, sizes, what to copy, the next command."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path

import pytest

from edgetl.cli.ending import best_variant, file_lines, next_after_export, next_after_run
from edgetl.cli.main import _parser, main
from edgetl.pack import pack_bundle
from edgetl.reports.phrases import why_no_speed
from edgetl.reports.terminal import render_terminal
from edgetl.verify.report import Check, Report, Verdict
from edgetl_runtime.bundle import open_bundle

Capture = pytest.CaptureFixture[str]


def failing(report: Report, *ids: str) -> Report:
    checks = tuple(Check(id_, "top1_agreement", 0.9, 0.1, passed=False, relation=">=") for id_ in ids)
    return dataclasses.replace(report, verdict=Verdict(not checks, checks))


def test_every_file_has_its_path_and_size(pristine_bundle: Path) -> None:
    lines = file_lines(pristine_bundle, open_bundle(pristine_bundle).manifest)
    text = "\n".join(lines)
    for path in ("onnx/model.fp32.onnx", "openvino/model.fp32.xml", "openvino/model.fp32.bin"):
        assert f"{pristine_bundle / path}" in text
    assert lines[-1].startswith(f"{pristine_bundle}: ")
    assert lines[-1].endswith("with checkpoint, photos and report")


def test_the_fastest_that_passed_is_proposed(full_report: Report) -> None:
    timed = {entry.id: entry.latency.p50_ms for entry in full_report.variants if entry.latency}
    first, second = sorted(timed, key=lambda id_: timed[id_])[:2]
    assert best_variant(failing(full_report)) == first
    assert best_variant(failing(full_report, first)) == second
    assert best_variant(failing(full_report, *timed)) is None


def test_for_a_device_it_is_what_that_device_is_fast_at(full_report: Report) -> None:
    passed = failing(full_report)
    lines = next_after_run(Path("a.edgetl"), passed, made_for="raspberry-pi")
    first = next(entry.id for entry in passed.variants if entry.precision == "int8" and entry.error is None)
    assert lines[0] == f"{first} is the first choice for raspberry-pi of those that passed"
    assert any(f"--variants {first} " in line for line in lines)
    left = next_after_run(Path("a.edgetl"), failing(full_report, first), made_for="raspberry-pi")
    assert not left[0].startswith(first)


def test_the_next_commands_parse(full_report: Report, pristine_bundle: Path) -> None:
    strange = Path("my bundles/it's.edgetl")
    lines = [
        *next_after_run(strange, failing(full_report)),
        *next_after_export(strange, open_bundle(pristine_bundle).manifest),
        *next_after_run(strange, failing(full_report, *(entry.id for entry in full_report.variants))),
    ]
    commands = [line[line.index("edgetl ") :] for line in lines if "edgetl pack" in line or "edgetl verify" in line]
    commands += [line[line.index("edgetl inspect") :] for line in lines if "edgetl inspect" in line]
    assert len(commands) == 4
    for command in commands:
        parsed = _parser().parse_args(shlex.split(command)[1:])
        assert Path(parsed.bundle) == strange


def test_what_is_proposed_works(full_report: Report, pristine_bundle: Path, tmp_path: Path) -> None:
    lines = next_after_export(pristine_bundle, open_bundle(pristine_bundle).manifest)
    command = next(line for line in lines if "edgetl pack" in line)
    words = shlex.split(command)[1:]
    assert main([*words[:-1], str(tmp_path / "packed.edgetl")]) == 0
    assert [item.id for item in open_bundle(tmp_path / "packed.edgetl").manifest.variants] == ["onnx.int8"]


def test_a_dash_for_speed_is_explained(full_report: Report) -> None:
    assert why_no_speed(full_report) == []
    target = next(entry for entry in full_report.variants if entry.latency and entry.precision != "fp32").target
    rest = tuple(entry for entry in full_report.variants if (entry.target, entry.precision) != (target, "fp32"))
    without = dataclasses.replace(full_report, variants=rest)
    (line,) = why_no_speed(without)
    assert f"there is none of {target}" in line
    assert "SPEED" in render_terminal(without)


def test_a_packed_bundle_lists_its_files_too(pristine_bundle: Path, tmp_path: Path) -> None:
    pack_bundle(pristine_bundle, tmp_path / "folder", variants=["onnx.int8"])
    lines = file_lines(tmp_path / "folder", open_bundle(tmp_path / "folder").manifest)
    assert len(lines) == 3
