"""Processes that try inputs, and the one that watches them: what they say, how long they take, how they end."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import queue
import select
import signal
import subprocess
import sys
import threading
import time
import traceback
import warnings
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, TextIO

import arrays
import bundles
import images
import numpy as np
import resealed
from canary import PLACES as CANARY
from canary import Canary, beside_canary
from cases import Case, Corpus, Kind
from PIL import Image

from edgetl_runtime import EdgetlError

__all__ = ["BAD", "OUTCOMES", "Limits", "Result", "case_files", "kinds", "run_all", "serve", "write_corpus"]

KINDS: dict[str, Kind] = {**images.KINDS, **arrays.KINDS, **bundles.KINDS, **resealed.KINDS}
OUTCOMES = ("right", "error", "wrong", "accepted", "refused", "escaped", "vague", "touched", "crash", "hang", "memory")
BAD = OUTCOMES[2:]
"""wrong: another answer; accepted, refused: an answer or an error where it had to be the other; escaped: an exception
that is no EdgetlError; vague: one that does not say how to fix it; touched: something outside was opened or changed."""


@dataclass(frozen=True)
class Limits:
    """What one input may take, and how much a worker may have grown when an input is done since it was warm."""

    seconds: float = 20.0
    peak_bytes: int = 2**30


@dataclass(frozen=True)
class Result:
    """What came of an input. ``peak`` and ``settled`` are the worker's growth in bytes, during it and since warm-up."""

    kind: str
    index: int
    outcome: str
    detail: str
    ms: float = 0.0
    peak: int = 0
    settled: int = 0


def kinds() -> list[str]:
    """All kinds of inputs."""
    return list(KINDS)


def write_corpus(folder: Path) -> None:
    """The sound bundle that inputs are made of."""
    Corpus.write(folder)


def case_files(folder: Path, seed: int, kind: str, index: int) -> dict[str, bytes]:
    """What reproduces an input."""
    return make(Corpus(folder), seed, kind, index).files


def make(corpus: Corpus, seed: int, kind: str, index: int) -> Case:
    if kind.startswith("plant/"):
        return Case(PLANTS[kind.removeprefix("plant/")], lambda _: None)
    return KINDS[kind](corpus, np.random.default_rng([seed, zlib.crc32(kind.encode()), index]))


def outcome(case: Case) -> tuple[str, str]:
    """Try `case`: what came of it, and the details."""
    try:
        answer = case.act()
    except EdgetlError as error:
        if not error.what or not error.fix:
            return "vague", f"{type(error).__name__} says no fix: {error.what}"
        return ("refused" if case.must == "answer" else "error"), f"{type(error).__name__}: {error.what}"
    except Exception:  # noqa: BLE001 - finding those is what this is for
        return "escaped", traceback.format_exc(limit=-4)
    if case.must == "error":
        return "accepted", f"{answer!r:.300}"
    problem = case.judge(answer)
    return ("right", "") if problem is None else ("wrong", problem)


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _peak() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def serve(folder: Path, *, seed: int) -> int:
    """A worker: lines ``KIND INDEX`` on standard input, a line of JSON for each on standard output."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # libraries print as they like
    warnings.simplefilter("ignore")
    with beside_canary(folder) as (work, canary):
        return _answer(Corpus(folder, work), canary, answers, seed)


def _answer(corpus: Corpus, canary: Canary, answers: TextIO, seed: int) -> int:
    for classifier in corpus.classifiers.values():
        classifier.predict(corpus.photo)
    if outcome(images.sound(corpus, np.random.default_rng(0))) != ("right", ""):
        raise RuntimeError("the sound bundle does not predict what it should")
    warm = _resident()
    print(json.dumps("ready"), file=answers)
    for line in sys.stdin:
        kind, _, index = line.rpartition(" ")
        case = make(corpus, seed, kind, int(index))
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
        before, start = _resident(), time.perf_counter()
        found, detail = outcome(case)
        ms = (time.perf_counter() - start) * 1e3
        touched = canary.touched()
        if touched is not None:
            found, detail = "touched", touched
        result = Result(kind, int(index), found, detail[:1500], ms, _peak() - before, _resident() - warm)
        print(json.dumps(asdict(result)), file=answers)
    return 0


class Worker:
    """One process, started again when it is gone."""

    def __init__(self, folder: Path, seed: int, limits: Limits) -> None:
        script = Path(__file__).with_name("fuzz_runtime.py")
        self._command = [sys.executable, str(script), "--serve", str(folder), "--seed", str(seed)]
        self._environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self._limits = limits
        self._process: subprocess.Popen[str] | None = None

    def try_input(self, kind: str, index: int) -> Result:
        """What comes of it, whatever becomes of the process."""
        process = self._process or self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{kind} {index}\n")
        process.stdin.flush()
        line = _line(process.stdout, self._limits.seconds)
        if line is None:
            self.close()
            return Result(kind, index, "hang", f"no answer within {self._limits.seconds:.0f} s")
        if not line:
            code = process.wait()
            self._process = None
            name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            return Result(kind, index, "crash", f"the process ended: {name}")
        result = Result(**json.loads(line))
        if result.peak > self._limits.peak_bytes:
            return Result(kind, index, "memory", f"took {result.peak / 2**20:.0f} MB", result.ms, result.peak)
        return result

    def _start(self) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=self._environment
        )
        assert process.stdout is not None
        if _line(process.stdout, 120) != '"ready"\n':
            process.kill()
            raise RuntimeError("a worker did not start")
        self._process = process
        return process

    def close(self) -> None:
        """End the process, however busy it is."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def _line(stream: IO[str], seconds: float) -> str | None:
    """The next line, empty at the end, None when there is none in time. One line is asked for at a time."""
    ready, _, _ = select.select([stream], [], [], seconds)
    return stream.readline() if ready else None


def run_all(work: list[tuple[str, int]], folder: Path, *, seed: int, workers: int, limits: Limits) -> list[Result]:
    """Every input of `work`, by `workers` processes."""
    waiting: queue.SimpleQueue[tuple[str, int]] = queue.SimpleQueue()
    for item in work:
        waiting.put(item)
    results: list[Result] = []
    problems: list[BaseException] = []

    def drive() -> None:
        worker = Worker(folder, seed, limits)
        try:
            while not problems:
                results.append(worker.try_input(*waiting.get_nowait()))
        except queue.Empty:
            pass
        except BaseException as error:  # noqa: BLE001 - raised again where it can be seen
            problems.append(error)
        finally:
            worker.close()

    threads = [threading.Thread(target=drive) for _ in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if problems:
        raise problems[0]
    return results


def _patched(module: str, name: str, replacement: Any) -> Callable[[], None]:
    def patch() -> None:
        import importlib

        setattr(importlib.import_module(f"edgetl_runtime.{module}"), name, replacement)

    return patch


def _crash(*_: object, **__: object) -> Any:
    ctypes.string_at(0)


def _hang(*_: object, **__: object) -> Any:
    time.sleep(10_000)


def _escape(*_: object, **__: object) -> Any:
    raise KeyError("planted")


def _gorge(*_: object, **__: object) -> Any:
    return Image.fromarray(np.full((24 * 32, 2**20 + 2**19, 1), 1, np.uint8)[:24, :32, 0]).convert("RGB")


def _touch(*_: object, **__: object) -> Any:
    Path(CANARY[0]).read_bytes()
    return Image.new("RGB", (32, 24))


def _unsealed() -> None:
    from edgetl_runtime.seal import Sealed

    Sealed.check = lambda _: None  # type: ignore[method-assign]


PLANTS: dict[str, Callable[[], None]] = {
    "wrong": _patched("preprocess", "_UPRIGHT", {}),
    "crash": _patched("preprocess", "resize_and_crop", _crash),
    "hang": _patched("preprocess", "resize_and_crop", _hang),
    "escape": _patched("preprocess", "resize_and_crop", _escape),
    "memory": _patched("preprocess", "resize_and_crop", _gorge),
    "unsealed": _unsealed,
    "touch": _patched("preprocess", "resize_and_crop", _touch),
}
"""Ways to break the runtime that the fuzzer must notice: inputs of kind ``plant/NAME`` do it to their worker."""
