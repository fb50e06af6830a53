"""Two OpenVINO sessions, closed in the order that they were opened, and then a signal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

CHILD = """
import gc, os, signal, sys
from edgetl_runtime import load
if sys.argv[2] == "unkept":
    import contextlib
    import edgetl_runtime.engines.ov as ov
    ov.kept_signal_stack = contextlib.nullcontext
signal.signal(signal.SIGTERM, lambda *_: print("heard"))
one, two = (load(sys.argv[1], engine="openvino") for _ in range(2))
one.close(); del one; gc.collect()
two.close(); del two; gc.collect()
os.kill(os.getpid(), signal.SIGTERM)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="signal stacks are asked for on Linux only")
@pytest.mark.parametrize("way", ["kept", "unkept"])
def test_a_signal_is_heard_after_models_were_closed(pristine_bundle: Path, way: str) -> None:
    pytest.importorskip("openvino")
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root / "runtime"), *sys.path[1:]])}
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(pristine_bundle), way], capture_output=True, text=True, env=environment
    )
    if way == "kept":
        assert (done.returncode, done.stdout.strip()) == (0, "heard"), done.stderr
    elif done.returncode == 0:
        pytest.skip("this OpenVINO leaves no stack behind that is gone")
    else:
        assert done.returncode == -signal.SIGSEGV


LOOKING = """
import contextlib, ctypes, faulthandler, sys
from edgetl_runtime import EdgetlError, open_bundle
from edgetl_runtime.engines import signal_stack
faulthandler.enable()  # it has a signal stack
def now():
    stack = signal_stack._Stack()
    ctypes.CDLL(None).sigaltstack(None, ctypes.byref(stack))
    return stack.sp, stack.size
before = now()
if sys.argv[2] == "unkept":
    import edgetl_runtime.engines.ov as ov
    ov.kept_signal_stack = contextlib.nullcontext
errors = []  # they keep what was opened: the first goes first
for _ in range(2):
    try:
        open_bundle(sys.argv[1]).session("openvino.fp32", device="cuda")
    except EdgetlError as error:
        errors.append(error)
while errors:
    del errors[0]
print("kept" if now() == before else "changed")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="signal stacks are asked for on Linux only")
@pytest.mark.parametrize("way", ["kept", "unkept"])
def test_looking_for_a_device_leaves_the_signal_stack(pristine_bundle: Path, way: str) -> None:
    pytest.importorskip("openvino")
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root / "runtime"), *sys.path[1:]])}
    done = subprocess.run(
        [sys.executable, "-c", LOOKING, str(pristine_bundle), way], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    if way == "kept":
        assert done.stdout.strip() == "kept"
    elif done.stdout.strip() == "kept":
        pytest.skip("this OpenVINO changes no stack while it looks")
