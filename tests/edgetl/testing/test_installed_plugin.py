"""The plugin from a project of its own: a fresh environment with the wheel, one engine and pytest, without torch."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.network

ROOT = Path(__file__).parents[3]
SCRIPTS = "Scripts" if os.name == "nt" else "bin"
OWN_TEST = """\
def test_torch_is_not_here():
    import importlib.util

    assert importlib.util.find_spec("torch") is None


def test_the_same_twice(edgetl_bundle, edgetl_session, assert_parity):
    session = edgetl_session("onnx.fp32")
    golden = edgetl_bundle.golden()
    found = assert_parity(session, session, list(golden.images), top1_agreement=1.0, sqnr_db=100)
    assert found.n == len(golden.names)
"""


def run(folder: Path, environment: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """A program of the fresh environment, in `folder`, that sees nothing of this checkout."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PYTEST"))}
    command = [str(environment / SCRIPTS / words[0]), *words[1:]]
    return subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, timeout=600)


def install(top: Path, *what: str) -> subprocess.CompletedProcess[str]:
    """Into the fresh environment, by the pip of this one."""
    python = str(top / "venv" / SCRIPTS / "python")
    return run(top, Path(sys.prefix), "python", "-m", "pip", "--python", python, "install", "-q", "--no-compile", *what)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, pristine_bundle: Path) -> tuple[Path, Path]:
    """A folder with a bundle and a test, and the environment."""
    pytest.importorskip("build")
    top = tmp_path_factory.mktemp("scratch")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(top / "dist"), str(ROOT)]
    built = subprocess.run(build, capture_output=True, text=True, timeout=300)
    assert built.returncode == 0, built.stderr
    (wheel,) = (top / "dist").glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(top / "venv")], check=True, timeout=300)
    probe = install(top, "numpy", "pillow")
    if probe.returncode != 0:
        pytest.skip(f"no package index: {(probe.stderr.strip().splitlines() or ['pip failed'])[-1]}")
    installed = install(top, f"{wheel}[onnx,test-plugin]")
    assert installed.returncode == 0, installed.stderr
    folder = top / "project"
    folder.mkdir()
    shutil.copytree(pristine_bundle, folder / "colours.edgetl")
    (folder / "test_own.py").write_text(OWN_TEST)
    (folder / "gate.toml").write_text("[default]\nbytes = 1_000_000\nsqnr_db = 40\n")
    return folder, top / "venv"


@pytest.mark.slow
def test_the_gate_and_tests_of_ones_own(project: tuple[Path, Path]) -> None:
    """The bundle's int8 is fp32 by another name: that is what fails."""
    words = ("--edgetl-bundle", "colours.edgetl", "--edgetl-gate", "gate.toml")
    done = run(*project, "pytest", "-v", "-rs", *words)
    assert done.returncode == 1, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert any(line.startswith("plugins: edgetl-") for line in lines)
    outcomes = {line.split()[0]: line.split()[1] for line in lines if line.endswith("%]")}
    assert outcomes["test_own.py::test_the_same_twice"] == "PASSED"
    assert outcomes["test_own.py::test_torch_is_not_here"] == "PASSED"
    onnx = {name.rpartition("::")[2]: outcome for name, outcome in outcomes.items() if "::onnx.fp32::" in name}
    names = ("works", "top1_agreement", "sqnr_db", "bytes")
    assert onnx == {f"{name}[golden]": "PASSED" for name in names}
    assert {outcome for name, outcome in outcomes.items() if "tflite" in name or "openvino" in name} == {"SKIPPED"}
    assert [name for name, outcome in outcomes.items() if outcome == "FAILED"] == [
        "colours.edgetl::onnx.int8::works[golden]"
    ]
    assert 'pip install "edgetl[tflite]"' in done.stdout


def test_without_options_the_plugin_is_not_noticed(project: tuple[Path, Path]) -> None:
    done = run(*project, "pytest", "-q", "-rs")
    assert done.returncode == 0, done.stdout
    assert "1 passed, 1 skipped" in done.stdout
    assert "no bundle: pytest --edgetl-bundle BUNDLE" in done.stdout
