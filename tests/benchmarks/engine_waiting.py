"""How the engines' threads wait: what spinning (or pinning) costs beside other work, and what it gains without.

    python tests/benchmarks/engine_waiting.py BUNDLE [--precision int8] [--others 4] [--rounds 12] [--threads 2]

Each engine's file is open in several settings at once. In every round each setting has a short turn while nothing else
of ours runs ("quiet"), and one while OTHERS processes want the cores ("busy"); then the order is turned round. So the
settings see the same machine, and their ratios hold on one that is never wholly quiet. A turn is back to back, or with
a pause of 20 ms between runs, as frames of a camera come: there a thread that spins burns the core in between.

Ratios are medians over rounds against the setting that edgetl has ("edgetl"), of wall time and of CPU time for one run.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgetl_runtime.bundle import open_bundle
from edgetl_runtime.engines.binding import ModelBytes
from edgetl_runtime.engines.signal_stack import kept_signal_stack
from edgetl_runtime.machine import describe_machine

__all__ = ["MODES", "Turn", "main", "ratios", "table"]

MODES = ("quiet", "busy", "quiet, paced", "busy, paced")
_SECONDS = 0.4
_PAUSE = 0.02
_LEAST = 5
Runner = Callable[[], object]


@dataclass(frozen=True)
class Turn:
    """Median milliseconds of a run, and what it took of all cores together."""

    wall_ms: float
    cpu_ms: float


def onnxruntime_settings(model: ModelBytes, image: Any, threads: int) -> dict[str, Runner]:
    """Spinning off, which is edgetl's, and on, ONNX Runtime's own default."""
    import onnxruntime

    found: dict[str, Runner] = {}
    for name, spins in (("edgetl", "0"), ("spinning", "1")):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", spins)
        session = onnxruntime.InferenceSession(model.main, options, providers=["CPUExecutionProvider"])
        feeds = {session.get_inputs()[0].name: image}
        found[name] = lambda session=session, feeds=feeds: session.run(None, feeds)
    return found


def openvino_settings(model: ModelBytes, image: Any, threads: int) -> dict[str, Runner]:
    """Threads free, which is edgetl's, and pinned to cores, OpenVINO's own default; TBB has no switch for spinning."""
    import openvino

    found: dict[str, Runner] = {}
    for name, pinned in (("edgetl", False), ("pinned", True)):
        hints = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": "f32",
            "ENABLE_CPU_PINNING": pinned,
        }
        with kept_signal_stack():
            core = openvino.Core()
            read = core.read_model(model.main, openvino.Tensor(np.frombuffer(model.weights or b"", np.uint8)))
            request = core.compile_model(read, "CPU", hints).create_infer_request()
        found[name] = lambda request=request: request.infer([image], share_inputs=True)
    return found


def litert_settings(model: ModelBytes, image: Any, threads: int) -> dict[str, Runner]:
    """So many threads, which is edgetl's, and one: XNNPACK's pool spins before it sleeps, and has no switch for it."""
    from ai_edge_litert.interpreter import Interpreter

    found: dict[str, Runner] = {}
    for name, count in (("edgetl", threads), ("one thread", 1)):
        interpreter = Interpreter(model_content=model.main, num_threads=count)
        interpreter.allocate_tensors()
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image)
        found[name] = interpreter.invoke
    return found


SETTINGS = {"onnx": onnxruntime_settings, "openvino": openvino_settings, "tflite": litert_settings}


class Others:
    """Processes that want a core each, stopped until they are `awake`."""

    def __init__(self, count: int) -> None:
        self._processes = [subprocess.Popen([sys.executable, "-S", "-c", "while True: pass"]) for _ in range(count)]
        self._tell(signal.SIGSTOP)

    @contextlib.contextmanager
    def awake(self) -> Iterator[None]:
        """For the length of the block."""
        self._tell(signal.SIGCONT)
        time.sleep(0.05)
        try:
            yield
        finally:
            self._tell(signal.SIGSTOP)

    def end(self) -> None:
        """Let them go."""
        for process in self._processes:
            process.kill()
            process.wait()

    def _tell(self, what: signal.Signals) -> None:
        for process in self._processes:
            os.kill(process.pid, what)


def turn(run: Runner, *, paced: bool) -> Turn:
    """Some runs, of which the first does not count."""
    run()
    times: list[float] = []
    cpu = time.process_time_ns()
    end = time.perf_counter() + _SECONDS
    while time.perf_counter() < end or len(times) < _LEAST:
        start = time.perf_counter_ns()
        run()
        times.append((time.perf_counter_ns() - start) / 1e6)
        if paced:
            time.sleep(_PAUSE)
    return Turn(float(np.median(times)), (time.process_time_ns() - cpu) / 1e6 / len(times))


def in_turns(settings: dict[str, Runner], others: Others, rounds: int) -> dict[str, dict[str, list[Turn]]]:
    """By mode and setting a `Turn` for each round."""
    found: dict[str, dict[str, list[Turn]]] = {mode: {name: [] for name in settings} for mode in MODES}
    order = list(settings)
    for _ in range(rounds):
        for mode in MODES:
            for name in order:
                with others.awake() if mode.startswith("busy") else contextlib.nullcontext():
                    found[mode][name].append(turn(settings[name], paced=mode.endswith("paced")))
        order.reverse()
    return found


def ratios(turns: dict[str, list[Turn]], name: str, clock: str) -> tuple[float, float, float]:
    """Of the setting `name` to edgetl's, over rounds: the median, and where the middle half lies."""
    pairs = zip(turns[name], turns["edgetl"], strict=True)
    low, middle, high = np.percentile([getattr(a, clock) / getattr(b, clock) for a, b in pairs], (25, 50, 75))
    return float(middle), float(low), float(high)


def table(engine: str, found: dict[str, dict[str, list[Turn]]]) -> list[str]:
    """Lines of Markdown."""
    lines = []
    for mode, turns in found.items():
        own = turns["edgetl"]
        wall, cpu = (float(np.median([getattr(one, clock) for one in own])) for clock in ("wall_ms", "cpu_ms"))
        for name in [name for name in turns if name != "edgetl"]:
            cells = [
                f"{m:.2f} ({a:.2f} to {b:.2f})" for m, a, b in (ratios(turns, name, c) for c in ("wall_ms", "cpu_ms"))
            ]
            lines.append(f"| {engine} | {mode} | {wall:.2f} | {cpu:.2f} | {name} | {cells[0]} | {cells[1]} |")
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(allow_abbrev=False, description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--precision", default="int8")
    parser.add_argument("--others", type=int, default=4, help="processes that want a core when it is busy")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args(arguments)
    bundle = open_bundle(given.bundle)
    spec = bundle.manifest.input
    image = np.full([max(1, length) for length in spec.shape], 128, spec.dtype)
    machine = describe_machine()
    print(f"{given.bundle.name}, {given.precision}, {given.threads} threads, {given.others} others, load at the start")
    print(f"{os.getloadavg()[0]:.1f}; {machine.get('processor')}\n")
    print("| engine | machine | ms | CPU ms | setting | wall, to edgetl's | CPU, to edgetl's |")
    print("|---|---|---|---|---|---|---|")
    others = Others(given.others)
    try:
        for variant in bundle.manifest.variants:
            if variant.precision == given.precision:
                settings = SETTINGS[variant.target](bundle.model(variant.id), image, given.threads)
                print("\n".join(table(variant.target, in_turns(settings, others, given.rounds))), flush=True)
    finally:
        others.end()
    return 0


if __name__ == "__main__":
    sys.exit(main())
