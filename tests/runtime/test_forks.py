"""Workers forked after a model was loaded, as by gunicorn --preload: they predict, and end in the ordinary way."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")

VARIANTS = ("onnx.fp32", "tflite.fp32", "openvino.fp32")

START = """
import os, shutil, signal, sys, threading, time
import numpy as np
import edgetl_runtime
from edgetl_runtime import load

bundle, variant = sys.argv[1:]
photos = list(np.random.default_rng(0).integers(0, 256, (8, 40, 50, 3), np.uint8))

def forked(work, code=0):
    '''Run `work` in a fork that ends as a program does; it has to end within 30 s, with `code`.'''
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        work()
        sys.exit(code)
    end = time.monotonic() + 30
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            print("ended" if status == code << 8 else f"ended with status {status}")
            return
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    print("hangs")
"""


def run(code: str, bundle: Path, variant: str) -> list[str]:
    environment = {name: value for name, value in os.environ.items() if name not in ("ORT_DISABLE_TELEMETRY", "CI")}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", START + code, str(bundle), variant],
        capture_output=True,
        text=True,
        timeout=240,
        env={**environment, "EDGETL_CACHE": ""},
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout.splitlines()


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_fork_predicts_and_ends(variant: str, pristine_bundle: Path) -> None:
    """Used, not used, closed, used by threads, forked again; by workers that come later, too."""
    code = """
classifier = load(bundle, variant=variant, threads=2)
expected = classifier.predict(photos)
list(classifier.stream(photos * 4, workers=2))

def use():
    assert classifier.predict(photos) == expected
    assert list(classifier.stream(photos * 2, workers=2)) == expected * 2
    assert classifier.placement().operators

def use_by_threads():
    found = [None] * len(photos)
    def one(i):
        found[i] = classifier.predict(photos[i])
    threads = [threading.Thread(target=one, args=(i,)) for i in range(len(photos))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == expected

def use_and_fork():
    use()
    forked(use, code=7)
    classifier.close()

for work in (use, lambda: None, classifier.close, use_by_threads, use_and_fork):
    forked(work)
use()
forked(lambda: use())
classifier.close()
forked(lambda: None)
"""
    assert run(code, pristine_bundle, variant) == ["ended"] * 8


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_fork_opens_what_its_parent_had_closed(variant: str, pristine_bundle: Path) -> None:
    code = """
for other in ("openvino.fp32", "onnx.fp32", "tflite.fp32"):
    with load(bundle, variant=other, threads=2) as classifier:
        classifier.predict(photos[0])

def own():
    load(bundle, variant=variant, threads=2).predict(photos[0])

for _ in range(3):
    forked(own)
"""
    assert run(code, pristine_bundle, variant) == ["ended"] * 3


def test_a_fork_of_a_process_that_chose_by_itself(pristine_bundle: Path) -> None:
    """All engines were open then."""
    code = """
classifier = load(bundle, threads=2)
other = load(bundle, variant="openvino.fp32", threads=2)
load(bundle, variant="openvino.fp32", threads=2).close()
forked(lambda: classifier.predict(photos))
forked(lambda: other.predict(photos))
"""
    assert run(code, pristine_bundle, "") == ["ended"] * 2


@pytest.mark.parametrize("variant", VARIANTS)
def test_files_that_are_replaced_after_the_first_fork_are_not_missed(
    variant: str, pristine_bundle: Path, tmp_path: Path
) -> None:
    bundle = Path(shutil.copytree(pristine_bundle, tmp_path / "b.edgetl"))
    code = """
classifier = load(bundle, variant=variant, threads=2)
expected = classifier.predict(photos)

def use():
    assert classifier.predict(photos) == expected

forked(use)
shutil.rmtree(bundle)
forked(use)
"""
    assert run(code, bundle, variant) == ["ended"] * 2


def test_files_that_went_before_the_first_fork_are_told(pristine_bundle: Path, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(pristine_bundle, tmp_path / "b.edgetl"))
    code = """
classifier = load(bundle, variant=variant, threads=2)
expected = classifier.predict(photos)
shutil.rmtree(bundle)

def use():
    try:
        classifier.predict(photos)
    except edgetl_runtime.BundleError as error:
        print(error.what)

forked(use)
assert classifier.predict(photos) == expected
"""
    said, ended = run(code, bundle, "onnx.fp32")
    assert "onnx/model.fp32.onnx is missing" in said
    assert ended == "ended"


def test_a_pool_of_processes(pristine_bundle: Path) -> None:
    code = """
import multiprocessing

classifier = load(bundle, variant=variant, threads=2)

def label(index):
    return classifier.predict(photos[index]).top.id

expected = [label(i) for i in range(len(photos))]
with multiprocessing.get_context("fork").Pool(2) as pool:
    print(pool.map(label, range(len(photos))) == expected)
"""
    assert run(code, pristine_bundle, "openvino.fp32") == ["True"]


def test_onnxruntime_starts_no_thread_of_its_own(pristine_bundle: Path) -> None:
    """A fork would wait for it, and it reports to its maker. The environment stays as it was."""
    code = """
def threads():
    return len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else 1

before, own = dict(os.environ), threads()  # numpy has started those of its linear algebra
load(bundle, variant=variant, threads=1).predict(photos)
print(threads() - own, dict(os.environ) == before)
"""
    assert run(code, pristine_bundle, "onnx.fp32") == ["0 True"]


def test_openvino_starts_no_process_of_its_own(pristine_bundle: Path) -> None:
    code = """
import multiprocessing.process

really, started = multiprocessing.process.BaseProcess.start, []
multiprocessing.process.BaseProcess.start = lambda self: (started.append(self), really(self))[1]
before = dict(os.environ)
load(bundle, variant=variant, threads=1).predict(photos)
print(len(started), dict(os.environ) == before)
"""
    assert run(code, pristine_bundle, "openvino.fp32") == ["0 True"]
