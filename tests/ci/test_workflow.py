"""The shell commands of workflow.yml and of its README, run on a small bundle as the CI runs them."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from edgetl.verify.measure.original_outputs import RecordingOriginal
from edgetl_runtime import __version__
from edgetl_runtime.bundle import open_bundle
from edgetl_runtime.preprocess import preprocess

pytestmark = pytest.mark.slow

yaml = pytest.importorskip("yaml")

HERE = Path(__file__).parent
WORKFLOW = yaml.safe_load((HERE / "workflow.yml").read_text(encoding="utf-8"))
README = (HERE / "README.md").read_text(encoding="utf-8")
NAMES: dict[str, str] = WORKFLOW["env"]
COLOURS = {"red": (200, 60, 60), "green": (60, 180, 60), "blue": (60, 60, 200)}
TIMES = re.compile(r"(p50|p95|speedup|load|first|cold|peak)\w* *=")
"""Limits that take fresh processes or quiet machines."""
OURS = re.compile(r"^\s*(edgetl|pytest) ", re.MULTILINE)


def steps(job: str) -> dict[str, dict[str, Any]]:
    return {step["name"]: step for step in WORKFLOW["jobs"][job]["steps"] if "run" in step}


def shell(command: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """As a step runs it: bash, with the workflow's variables; ``gh`` writes down how it was called."""
    gh = folder / "bin" / "gh"
    gh.parent.mkdir(exist_ok=True)
    gh.write_text('#!/bin/sh\necho "$@" > called.txt\n')
    gh.chmod(0o755)
    path = os.pathsep.join([str(gh.parent), str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, **NAMES, "PATH": path, "GITHUB_STEP_SUMMARY": str(folder / "step.md"), **variables}
    words = ["bash", "-e", "-o", "pipefail", "-c", command]
    return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=280)


@pytest.fixture(scope="module")
def accepted(tmp_path_factory: pytest.TempPathFactory, pristine_bundle: Path) -> Path:
    """A repository with all that the workflow names, the gate and the baseline made with the README's command."""
    for engine in ("onnxruntime", "ai_edge_litert", "openvino", "matplotlib", "jinja2"):
        pytest.importorskip(engine)
    folder = tmp_path_factory.mktemp("project")
    bundle = Path(shutil.copytree(pristine_bundle, folder / NAMES["BUNDLE"]))
    manifest = open_bundle(bundle).manifest
    # Its onnx.int8 is fp32 by another name, and is found out.
    sound = tuple(variant for variant in manifest.variants if variant.precision == "fp32")
    manifest = dataclasses.replace(manifest, variants=sound)
    (bundle / "manifest.json").write_text(manifest.to_json(), encoding="utf-8")
    rng = np.random.default_rng(1)
    images = []
    for label, colour in COLOURS.items():
        (folder / NAMES["DATA"] / label).mkdir(parents=True)
        for number in range(8):
            path = folder / NAMES["DATA"] / label / f"{number}.png"
            Image.fromarray(np.clip(rng.normal(colour, 30, (48, 60, 3)), 0, 255).astype(np.uint8)).save(path)
            images.append(preprocess(path, manifest.preprocess))
    keep_answers(bundle, np.stack(images))
    (command,) = [
        block
        for block in re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL)
        if "--write-gate" in block and "--variants" not in block
    ]
    done = shell(command, folder)
    assert done.returncode == 0, done.stderr
    # A network of microseconds: how two engines compare is noise on a busy machine, and no part of this test.
    report = json.loads((folder / NAMES["BASELINE"]).read_text(encoding="utf-8"))
    for variant in report["variants"]:
        variant["latency"] = None
    (folder / NAMES["BASELINE"]).write_text(json.dumps(report), encoding="utf-8")
    gate = (folder / NAMES["GATE"]).read_text(encoding="utf-8")
    (folder / NAMES["GATE"]).write_text("".join(line for line in gate.splitlines(True) if not TIMES.match(line)))
    return folder


def keep_answers(bundle: Path, images: npt.NDArray[np.uint8]) -> None:
    """The answers of its own onnx.fp32 stand for the original's."""
    opened = open_bundle(bundle)
    with opened.session("onnx.fp32") as session:
        recording = RecordingOriginal(
            lambda batch: np.concatenate([session.run({"image": image[None]})["logits"] for image in batch])
        )
        recording(images)
    recording.keep(bundle, opened.manifest, [0] * len(images))


@pytest.fixture
def project(accepted: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(accepted, tmp_path / "project"))


def test_every_command_of_ours_is_run_here() -> None:
    found = {(job, name) for job in WORKFLOW["jobs"] for name, step in steps(job).items() if OURS.search(step["run"])}
    assert found == {("gate", "Verify"), ("device", "Test")}


def test_a_pull_request_that_passes(project: Path) -> None:
    run = steps("gate")
    done = shell(run["Verify"]["run"], project)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {"report.json", "junit.xml", "summary.md", "report.html"} <= {path.name for path in project.iterdir()}
    suites = ElementTree.fromstring((project / "junit.xml").read_text(encoding="utf-8"))
    assert [suite.attrib["name"] for suite in suites] == ["onnx.fp32", "tflite.fp32", "openvino.fp32"]
    assert not list(suites.iter("failure"))
    assert shell(run["Summary"]["run"], project).returncode == 0
    summary = (project / "step.md").read_text(encoding="utf-8")
    assert "**PASSED: all 3 variants" in summary
    assert f"### Since {NAMES['BASELINE']}" in summary
    assert shell(run["Comment"]["run"], project, PULL_REQUEST="7").returncode == 0
    assert (project / "called.txt").read_text().startswith("pr comment 7 --body-file summary.md")


def test_a_pull_request_that_fails_is_told_all_the_same(project: Path) -> None:
    (project / NAMES["GATE"]).write_text('[variant."tflite.fp32"]\nsqnr_db = 199\n')
    run = steps("gate")
    assert shell(run["Verify"]["run"], project).returncode == 1
    for name in ("Summary", "Comment"):
        assert "always()" in run[name]["if"]
        assert shell(run[name]["run"], project, PULL_REQUEST="7").returncode == 0
    summary = (project / "step.md").read_text(encoding="utf-8")
    assert "**FAILED: 1 of 3 variants: tflite.fp32**" in summary
    assert (
        summary.index("❌ FAIL") < summary.index("<summary>2 variants that pass</summary>") < summary.index("✅ pass")
    )
    (failure,) = ElementTree.fromstring((project / "junit.xml").read_text(encoding="utf-8")).iter("failure")
    assert failure.attrib["message"].startswith("tflite.fp32: SQNR in dB is ")


def test_a_mistake_leaves_no_summary_and_the_other_steps_do_not_fail(project: Path) -> None:
    shutil.rmtree(project / NAMES["DATA"])
    run = steps("gate")
    done = shell(run["Verify"]["run"], project)
    assert done.returncode == 2
    assert f"{NAMES['DATA']} does not exist" in done.stderr
    for name in ("Summary", "Comment"):
        assert shell(run[name]["run"], project, PULL_REQUEST="7").returncode == 0
    assert not (project / "called.txt").exists()


def test_the_device_job(project: Path) -> None:
    done = shell(steps("device")["Test"]["run"], project)
    assert done.returncode == 0, done.stdout
    assert "flowers.edgetl" in done.stdout
    cases = ElementTree.fromstring((project / "device.xml").read_text(encoding="utf-8")).iter("testcase")
    assert any("sqnr_db[golden]" in case.attrib["name"] for case in cases)


def test_the_version_is_pinned_to_this_one_and_torch_is_for_cpus() -> None:
    assert NAMES["EDGETL"] == __version__
    for job in WORKFLOW["jobs"]:
        (edgetl,) = re.findall(r"pip install \"(edgetl\[.*)\"", steps(job)["Install"]["run"])
        assert edgetl.endswith("]==$EDGETL")
    lines = steps("gate")["Install"]["run"].splitlines()
    assert lines[0].startswith("pip install torch ")
    assert lines[0].endswith("/whl/cpu")
    assert set(re.findall(r"edgetl\[[^\]]*\]==([\d.]+)", README)) == {__version__}


def test_a_gate_for_one_target_is_written_and_held(project: Path) -> None:
    (block,) = [text for text in re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL) if "--variants" in text]
    write, hold = block.replace("tflite.fp32,tflite.int8", "tflite.fp32").strip().splitlines()
    done = shell(write, project)
    assert done.returncode == 0, done.stderr
    gate = (project / "pi.toml").read_text(encoding="utf-8")
    assert re.findall(r'^\[variant\."(.*)"\]', gate, re.MULTILINE) == ["tflite.fp32"]
    done = shell(hold, project)
    assert done.returncode == 0, done.stdout + done.stderr
    done = shell(hold.replace("--variants tflite.fp32", "--variants onnx.fp32"), project)
    assert done.returncode == 2
    assert "tflite.fp32', which is not verified here" in done.stderr


def test_steps_after_a_failure_run_and_artifacts_are_what_is_written() -> None:
    verify = steps("gate")["Verify"]["run"]
    (upload,) = [step for step in WORKFLOW["jobs"]["gate"]["steps"] if "upload-artifact" in str(step.get("uses"))]
    assert upload["if"] == "always()"
    assert all(path in verify for path in upload["with"]["path"].split())


def test_pictures_of_the_page_are_there_and_small() -> None:
    named = re.findall(r'<img src="([^"]+)" [^>]*alt="[^"]+"', README)
    assert sorted(named) == sorted(path.name for path in HERE.glob("*.png"))
    for name in named:
        with Image.open(HERE / name) as image:
            assert str(image.width) in name
        assert (HERE / name).stat().st_size < 150_000
