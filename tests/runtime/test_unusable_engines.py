"""An engine whose library cannot be imported is told as that, and takes none of the others with it; engines by name."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgetl_runtime import UsageError, Wish, load, open_bundle
from edgetl_runtime.engines import engine_info

BROKEN = """
import importlib.abc, importlib.machinery, sys

class Broken(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    '''The library is installed, and importing it ends in `failure`.'''

    def __init__(self, name, failure):
        self.name, self.failure = name, failure

    def find_spec(self, name, path, target=None):
        if name == self.name:
            return importlib.machinery.ModuleSpec(name, self, origin="broken", is_package=True)

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        raise self.failure
"""


def run(program: str, **environment: str) -> list[str]:
    keep = {name: value for name, value in os.environ.items() if name not in ("EDGETL_CACHE", "XDG_CACHE_HOME")}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        capture_output=True,
        text=True,
        timeout=240,
        env={**keep, **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.slow
@pytest.mark.parametrize(
    "failure",
    ["KeyError('HOME')", "RuntimeError('no home')", "OSError('lib.so')", "SystemExit('bye')", "ImportError()"],
)
def test_a_library_that_cannot_be_imported_takes_only_its_engine(failure: str, pristine_bundle: Path) -> None:
    program = f"""{BROKEN}
sys.meta_path.insert(0, Broken("openvino", {failure}))
import edgetl_runtime
from edgetl_runtime.cli import main
bundle = {str(pristine_bundle)!r}
classifier = edgetl_runtime.load(bundle)
print(classifier.variant.requires.engine)
classifier.explain()
try:
    edgetl_runtime.load(bundle, variant="openvino.fp32")
except edgetl_runtime.EngineError as error:
    print("told:", error.what)
print(main(["bench", bundle, "--seconds", "0.05"]), main(["self-test", bundle]))
"""
    engine, *lines = run(program, EDGETL_CACHE="")
    assert engine in ("onnxruntime", "litert")
    reason = "engine openvino is not usable here, because openvino "
    assert sum(reason in line for line in lines if "openvino.fp32" in line) == 3  # explained, benched, tested
    assert any(line.startswith(f"told: {reason}") and failure.partition("(")[0] in line for line in lines)
    assert lines[-1] == "0 0"


@pytest.mark.parametrize("library", ["onnxruntime", "ai_edge_litert"])
def test_the_other_libraries_alike(library: str, pristine_bundle: Path) -> None:
    program = f"""{BROKEN}
sys.meta_path.insert(0, Broken({library!r}, LookupError("no such thing")))
import edgetl_runtime
print(edgetl_runtime.load({str(pristine_bundle)!r}).session.engine)
"""
    (engine,) = run(program, EDGETL_CACHE="")
    assert engine != {"onnxruntime": "onnxruntime", "ai_edge_litert": "litert"}[library]


def test_without_a_home_and_a_name_the_others_are_used(pristine_bundle: Path) -> None:
    program = f"""
import os, pwd
del os.environ["HOME"]
def unknown(*_):
    raise KeyError("getpwuid(): uid not found: 12345")
pwd.getpwuid = unknown
import edgetl_runtime
from edgetl_runtime.cache import cache_folder
print(edgetl_runtime.load({str(pristine_bundle)!r}).predict({str(pristine_bundle / "golden" / "00.png")!r}).top.id)
print(cache_folder())
"""
    assert run(program) == ["red", "None"]


@pytest.mark.parametrize(("name", "engine"), [("onnx", "onnxruntime"), ("tflite", "litert"), ("openvino", "openvino")])
def test_an_engine_is_found_by_the_format_it_runs(name: str, engine: str, pristine_bundle: Path) -> None:
    assert engine_info(name) is engine_info(engine)
    with load(pristine_bundle, engine=name) as classifier:
        assert classifier.session.engine == engine
    with load(pristine_bundle, variant=f"{name}.fp32", engine=name) as classifier:
        assert classifier.session.engine == engine
    assert Wish(engine=name) == Wish(engine=engine)
    unknown: Any
    for unknown in ("ort", None, 3):
        with pytest.raises(UsageError, match="unknown engine"):
            load(pristine_bundle, engine=unknown)


@pytest.mark.parametrize("threads", ["2", 1.5, True, 0, -1])
def test_threads_are_a_number(threads: Any, pristine_bundle: Path) -> None:
    with pytest.raises(UsageError, match="threads must be"):
        load(pristine_bundle, variant="onnx.fp32", threads=threads)


def test_sessions_say_what_they_are_and_stay_where_they_are(pristine_bundle: Path) -> None:
    bundle = open_bundle(pristine_bundle)
    assert repr(bundle).startswith(f"<Bundle 'colours' at {pristine_bundle}: onnx.fp32, ")
    with bundle.session("onnx.fp32") as session:
        assert repr(session).startswith("<OnnxRuntimeSession onnxruntime ")
        assert "on cpu: image uint8 [1, 24, 32, 3] -> logits float32 [1, 4]>" in repr(session)
        for way in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(UsageError, match="cannot be pickled or copied"):
                way(session)
    assert "closed" in repr(session)
    assert pickle.loads(pickle.dumps(bundle)).manifest == bundle.manifest
