"""A device with one engine and no torch, without an environment of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

RUNTIME = Path(__file__).parents[3] / "runtime"
_HIDDEN = ("torch", "torchvision", "onnx", "openvino", "ai_edge_litert", "tflite_runtime", "tensorflow", "edgetl",
           "edgetl_export")  # fmt: skip
_PROGRAM = f"""
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {_HIDDEN}:
            raise ModuleNotFoundError(name, name=name)
sys.meta_path.insert(0, Hidden())
from edgetl_runtime.cli import main
sys.exit(main())
"""


class OnnxAlone:
    """Runs ``edgetl-run`` where ONNX Runtime, numpy and Pillow are all that can be imported."""

    def run(self, *words: str) -> str:
        """What the command prints; it must succeed."""
        command = [sys.executable, "-c", _PROGRAM, *words]
        variables = {**os.environ, "PYTHONPATH": str(RUNTIME)}
        done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def check(self, bundle: Path, photo: Path, folder: Path) -> dict[str, Any]:
        """All commands of a device with `bundle`; what ``predict`` says of `photo`."""
        drawn, told = folder / "drawn.png", folder / "told.json"
        self.run("predict", str(bundle), str(photo), "--draw", str(drawn), "--json", str(told))
        assert Image.open(drawn).size == Image.open(photo).size
        assert json.loads(self.run("self-test", str(bundle), "--json", "-"))["passed"] is True
        timed = self.run("bench", str(bundle), "--seconds", "0.05", "--threads", "1", "--json", "-")
        assert {item["id"].partition(".")[0] for item in json.loads(timed)["variants"]} == {"onnx"}
        found: dict[str, Any] = json.loads(told.read_text())["predictions"][0]
        return found


@pytest.fixture
def onnx_alone() -> OnnxAlone:
    """See the class."""
    return OnnxAlone()
