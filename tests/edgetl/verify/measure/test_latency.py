from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import edgetl.verify.measure.latency as latency_module
from edgetl.verify.gate.decision import Decision, decide_interval
from edgetl.verify.gate.regression import LATENCY_MARGIN, latency_limit
from edgetl.verify.measure.latency import (
    ROUNDS,
    Latencies,
    LatencyOptions,
    default_latency_baseline,
    measure_latency,
    median_preprocess_ms,
)
from edgetl.verify.measure.system_load import Moment
from edgetl.verify.report import Latency
from edgetl_runtime.errors import EngineError
from edgetl_runtime.manifest import Preprocess, TensorSpec
from edgetl_runtime.session import FakeSession, Session, Tensors

SPEC = TensorSpec("image", "uint8", (1, 2, 2, 3))
FEEDS: Tensors = {"image": np.zeros((1, 2, 2, 3), np.uint8)}
OPTIONS = LatencyOptions(threads=1, seconds=1.2, preprocess_ms=0.5)


class FakeClock:
    """Time that only passes when a fake session runs; `slowdown` is what the machine makes of a run.

    `moment` is what a look at the machine shows: others keep one core of two busy, and `waited_ns` is how long this
    process waited for one.
    """

    def __init__(self) -> None:
        self.ns = 0
        self.waited_ns = 0
        self.runs: list[str] = []
        self.slowdown: Callable[[str, int], float] = lambda variant, run: 1.0

    def moment(self) -> Moment:
        seconds = self.ns / 1e9
        own = seconds - self.waited_ns / 1e9
        return Moment(3000.0, 2 * seconds, seconds + own, 0.0, own, 1.0, 2, seconds, self.waited_ns / 1e9)

    def opener(self, variant: str, milliseconds: float, *, load_ms: float = 0.0) -> Callable[[], Session]:
        def run(feeds: Mapping[str, npt.NDArray[Any]]) -> Tensors:
            self.ns += round(1e6 * milliseconds * self.slowdown(variant, len(self.runs)))
            self.runs.append(variant)
            return {"logits": np.zeros((1, 2), np.float32)}

        def load() -> Session:
            self.ns += round(1e6 * load_ms)
            return FakeSession((SPEC,), (TensorSpec("logits", "float32", (1, 2)),), run)

        return load


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    found = FakeClock()
    monkeypatch.setattr(time, "perf_counter_ns", lambda: found.ns)
    monkeypatch.setattr(latency_module, "read_moment", found.moment)
    return found


def measured(found: Latencies, variant: str) -> Latency:
    latency = found.variants[variant]
    assert isinstance(latency, Latency)
    return latency


def test_each_clock_measures_its_own_part(clock: FakeClock) -> None:
    clock.slowdown = lambda variant, run: 15.0 if run == 0 else 1.0
    result = measured(measure_latency({"a": clock.opener("a", 2.0, load_ms=20.0)}, FEEDS, OPTIONS), "a")
    assert (result.load_ms, result.first_ms, result.p50_ms, result.p95_ms) == (20.0, 30.0, 2.0, 2.0)
    assert (result.threads, result.preprocess_ms) == (1, 0.5)
    assert len(result.rounds_ms) == ROUNDS
    assert result.n == 20 * 30
    assert (result.ratio, result.speedup, result.reference) == (None, None, None)


def test_variants_take_turns_there_and_back(clock: FakeClock) -> None:
    measure_latency({"a": clock.opener("a", 1.0), "b": clock.opener("b", 1.0)}, FEEDS, OPTIONS)
    turns = "".join(name for name, _ in itertools.groupby(clock.runs))
    # Loading, settling, then abba abba ...: where two turns of one meet they are one here.
    assert turns == "abab" + "ab" * (ROUNDS // 2) + "a"


def test_warm_up_lasts_until_times_are_stable(clock: FakeClock) -> None:
    clock.slowdown = lambda variant, run: max(1.0, 3.0 - run / 20)
    result = measured(measure_latency({"a": clock.opener("a", 2.0)}, FEEDS, OPTIONS), "a")
    assert result.p95_ms < 4.5, "it started at 6 ms"
    settling = clock.runs.__len__()
    clock.runs.clear()
    clock.slowdown = lambda variant, run: 1.0
    measure_latency({"a": clock.opener("a", 2.0)}, FEEDS, OPTIONS)
    assert len(clock.runs) < settling + ROUNDS * 60


def test_a_machine_that_slows_down_leaves_the_ratios(clock: FakeClock) -> None:
    """Twice as slow at the end as at the beginning."""
    clock.slowdown = lambda variant, run: 1 + run / 1500
    openers = {
        name: clock.opener(name, cost) for name, cost in (("onnx.fp32", 8.0), ("onnx.int8", 4.0), ("x.int8", 10))
    }
    found = measure_latency(openers, FEEDS, OPTIONS)
    int8, other, single = (measured(found, name) for name in ("onnx.int8", "x.int8", "onnx.fp32"))
    assert int8.reference == "onnx.fp32"
    assert int8.ratio == pytest.approx(0.5, rel=0.05)
    assert int8.speedup == pytest.approx(2.0, rel=0.05)
    assert other.ratio == pytest.approx(1.25, rel=0.05)
    assert (other.speedup, single.ratio, single.ratio_ci95) == (None, 1.0, (1.0, 1.0))
    assert int8.p50_ci95 is not None
    assert int8.p50_ci95[1] - int8.p50_ci95[0] > 0.1 * int8.p50_ms, "milliseconds vary"
    assert int8.ratio_ci95 is not None
    assert int8.ratio_ci95[1] - int8.ratio_ci95[0] < 0.1 * int8.ratio, "their ratio does not"


def test_the_reference_can_be_chosen(clock: FakeClock) -> None:
    openers = {name: clock.opener(name, cost) for name, cost in (("onnx.fp32", 8.0), ("tflite.fp32", 4.0))}
    options = LatencyOptions(1, 0.2, 0.5, reference="tflite.fp32")
    result = measured(measure_latency(openers, FEEDS, options), "onnx.fp32")
    assert (result.reference, result.ratio, result.p95_ratio) == ("tflite.fp32", 2.0, 2.0)
    assert default_latency_baseline(["tflite.fp32", "onnx.int8"]) == "tflite.fp32"
    assert default_latency_baseline(["tflite.fp32", "onnx.fp32"]) == "onnx.fp32"
    assert default_latency_baseline(["onnx.int8"]) is None


@pytest.mark.parametrize(("most", "rounds"), [(1, ROUNDS), (2, 2 * ROUNDS), (4, 4 * ROUNDS), (5, 4 * ROUNDS)])
def test_what_is_undecided_is_measured_longer_up_to_a_limit(clock: FakeClock, most: int, rounds: int) -> None:
    names = ["onnx.fp32", "onnx.int8", "tflite.fp32", "tflite.int8", "openvino.int8"]
    asked: list[int] = []

    def undecided(latencies: Mapping[str, Latency]) -> list[str]:
        asked.append(len(latencies["tflite.int8"].rounds_ms))
        return ["tflite.int8"]

    openers = {name: clock.opener(name, 5.0) for name in names}
    options = LatencyOptions(1, 0.2, 0.5, most_times=most)
    found = measure_latency(openers, FEEDS, options, undecided=undecided)
    lengths = {name: len(measured(found, name).rounds_ms) for name in names}
    assert lengths == {
        "tflite.int8": rounds,
        "tflite.fp32": rounds,
        "onnx.fp32": rounds,
        "onnx.int8": ROUNDS,
        "openvino.int8": ROUNDS,
    }
    assert asked == [ROUNDS, 2 * ROUNDS, 4 * ROUNDS][: len(asked)]
    assert measured(found, "tflite.int8").ratio == 1.0


def test_measuring_ends_when_it_is_decided(clock: FakeClock) -> None:
    def undecided(latencies: Mapping[str, Latency]) -> list[str]:
        return [] if len(latencies["a"].rounds_ms) > ROUNDS else ["a"]

    found = measure_latency({"a": clock.opener("a", 5.0)}, FEEDS, OPTIONS, undecided=undecided)
    assert len(measured(found, "a").rounds_ms) == 2 * ROUNDS


def test_one_that_fails_leaves_the_others_their_numbers(clock: FakeClock) -> None:
    def failing_after(runs: int) -> Callable[[], Session]:
        left = iter(range(runs))

        def run(feeds: Mapping[str, npt.NDArray[Any]]) -> Tensors:
            clock.ns += 1_000_000
            if next(left, None) is None:
                raise EngineError("gone")
            return {"logits": np.zeros((1, 2), np.float32)}

        return lambda: FakeSession((SPEC,), (TensorSpec("logits", "float32", (1, 2)),), run)

    def fails_to_load() -> Session:
        raise EngineError("no file")

    openers = {
        "onnx.fp32": failing_after(300),
        "tflite.fp32": failing_after(3),
        "b": clock.opener("b", 2.0),
        "c": fails_to_load,
    }
    found = measure_latency(openers, FEEDS, OPTIONS)
    assert {name: isinstance(result, EngineError) for name, result in found.variants.items()} == {
        "onnx.fp32": True, "tflite.fp32": True, "b": False, "c": True,
    }  # fmt: skip
    assert list(found.measured) == ["b"]
    assert measured(found, "b").ratio is None, "its reference dropped out"


def test_nothing_can_be_loaded() -> None:
    def fails() -> Session:
        raise EngineError("no file")

    assert measure_latency({"a": fails}, FEEDS, OPTIONS).measured == {}


def test_disturbances_are_reported(clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    before_the_rounds = 3
    clocks = itertools.chain([3000.0] * before_the_rounds, itertools.repeat(1800.0))

    def read() -> Moment:
        return Moment(next(clocks), None, None, None, 0.0, None, 2)

    monkeypatch.setattr(latency_module, "read_moment", read)
    (told,) = measure_latency({"a": clock.opener("a", 5.0)}, FEEDS, OPTIONS).disturbances
    assert told == "the CPU's clock was between 1.80 and 3.00 GHz"


def test_preprocess_time_is_the_median_of_single_images(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0]

    def preprocess(ms: int, spec: Preprocess) -> None:
        now[0] += ms * 1_000_000

    monkeypatch.setattr(latency_module, "preprocess", preprocess)
    monkeypatch.setattr(time, "perf_counter_ns", lambda: now[0])
    sources: Any = [2, 50, 3]
    assert median_preprocess_ms(sources, Preprocess(resize=64, crop=(64, 64))) == 3.0


@pytest.mark.parametrize(("slower", "wanted"), [(1.0, {"pass"}), (1.25, {"fail"}), (1.05, {"pass", "undecided"})])
def test_the_verdict_on_a_ratio_holds_still(clock: FakeClock, slower: float, wanted: set[str]) -> None:
    """Twenty measurements on a machine that jitters, drifts and is interrupted, with a limit 15 % above the truth."""
    verdicts = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        busy = rng.random(400) < 0.15  # tenths of a second in which something else has half of the core
        drift = rng.uniform(-0.3, 0.3)

        def slowdown(
            variant: str, run: int, rng: np.random.Generator = rng, busy: Any = busy, drift: float = drift
        ) -> float:
            tenth = clock.ns // 100_000_000 % len(busy)
            return float(rng.lognormal(0, 0.08) * (2 if busy[tenth] else 1) * (1 + drift * tenth / len(busy)))

        clock.slowdown = slowdown
        openers = {"onnx.fp32": clock.opener("f", 9.0), "onnx.int8": clock.opener("i", 4.0 * slower)}
        limit = 4 / 9 * LATENCY_MARGIN

        def undecided(latencies: Mapping[str, Latency], limit: float = limit) -> list[str]:
            return ["onnx.int8"] if decided(latencies["onnx.int8"], limit).undecided else []

        found = measure_latency(openers, FEEDS, LatencyOptions(1, 1.0, 0.5), undecided=undecided)
        decision = decided(measured(found, "onnx.int8"), limit)
        verdicts.append("fail" if not decision.passed else "undecided" if decision.undecided else "pass")
    assert set(verdicts) <= wanted, verdicts


def decided(latency: Latency, limit: float) -> Decision:
    assert latency.ratio is not None
    rounds, waited = len(latency.rounds_ms), latency.waited or 0.0
    return decide_interval(lambda ratio: ratio <= limit, latency.ratio, latency.ratio_ci95, rounds, waited)


class BusyMachine(FakeClock):
    """As `FakeClock`, and others take the core away after every few milliseconds of work, for `wait` times as long.

    `until_ns`: then they are done. A short run often fits between two waits and a long one never does, so that ratios
    are wrong, and wrong again in the next measurement.
    """

    def __init__(self, seed: int, wait: float, until_ns: float = math.inf) -> None:
        super().__init__()
        self.rng, self.wait, self.until_ns = np.random.default_rng(seed), wait, until_ns
        self.left_ns = 0.0
        self.bias = {name: float(self.rng.lognormal(0, 0.1)) for name in ("onnx.fp32", "onnx.int8")}

    def opener(self, variant: str, milliseconds: float, *, load_ms: float = 0.0) -> Callable[[], Session]:
        def run(feeds: Mapping[str, npt.NDArray[Any]]) -> Tensors:
            busy = self.wait > 0 and self.ns < self.until_ns
            work = 1e6 * milliseconds * float(self.rng.lognormal(0, 0.03)) * (self.bias[variant] if busy else 1.0)
            while busy and work > self.left_ns:
                waited = round(self.rng.uniform(0.5, 1.5) * self.wait * 4e6)
                work -= self.left_ns
                self.ns += round(self.left_ns) + waited
                self.waited_ns += waited
                self.left_ns = float(self.rng.uniform(2e6, 6e6))
            self.left_ns -= work
            self.ns += round(work)
            return {"logits": np.zeros((1, 2), np.float32)}

        return lambda: FakeSession((SPEC,), (TensorSpec("logits", "float32", (1, 2)),), run)


def raced(machine: FakeClock, monkeypatch: pytest.MonkeyPatch, slower: float, limit: float | None = None) -> Latency:
    """The int8 variant, `slower` times as slow, against `limit` on its ratio, measured longer when undecided."""
    monkeypatch.setattr(time, "perf_counter_ns", lambda: machine.ns)
    monkeypatch.setattr(latency_module, "read_moment", machine.moment)
    openers = {"onnx.fp32": machine.opener("onnx.fp32", 9.0), "onnx.int8": machine.opener("onnx.int8", 3.0 * slower)}

    def undecided(latencies: Mapping[str, Latency]) -> list[str]:
        open_still = limit is not None and decided(latencies["onnx.int8"], limit).undecided
        return ["onnx.int8"] if open_still else []

    return measured(measure_latency(openers, FEEDS, LatencyOptions(1, 0.3, 0.5), undecided=undecided), "onnx.int8")


def verdict(latency: Latency, limit: float) -> str:
    decision = decided(latency, limit)
    return "fail" if not decision.passed else "undecided" if decision.undecided else "pass"


def limit_from(latency: Latency) -> float:
    assert latency.ratio is not None
    return latency_limit(latency, latency.ratio)


@pytest.mark.slow
@pytest.mark.parametrize("written", ["quiet", "busy"])
@pytest.mark.parametrize("checked", ["quiet", "busy"])
@pytest.mark.parametrize("slower", [1.0, 1.25])
def test_a_busy_machine_neither_fails_what_is_the_same_nor_passes_what_is_slower(
    monkeypatch: pytest.MonkeyPatch, written: str, checked: str, slower: float
) -> None:
    """Twenty gates and measurements. A gate that was written on a busy machine cannot tell 25 % from nothing."""
    verdicts = []
    for seed in range(20):
        limit = limit_from(raced(BusyMachine(seed, 1.5 if written == "busy" else 0.0), monkeypatch, 1.0))
        machine = BusyMachine(100 + seed, 1.5 if checked == "busy" else 0.0)
        latency = raced(machine, monkeypatch, slower, limit)
        verdicts.append(verdict(latency, limit))
    wanted = {
        ("busy", 1.0): {"pass", "undecided"},
        ("busy", 1.25): {"undecided", "fail"},
        ("quiet", 1.0): {"pass"},
        ("quiet", 1.25): {"fail"} if written == "quiet" else {"pass", "undecided", "fail"},
    }[checked, slower]
    assert set(verdicts) <= wanted, verdicts


def test_what_is_measured_again_on_a_machine_that_came_to_rest_is_decided(monkeypatch: pytest.MonkeyPatch) -> None:
    limit = limit_from(raced(BusyMachine(0, 0.0), monkeypatch, 1.0))
    for slower, wanted in ((1.0, "pass"), (1.25, "fail")):
        latency = raced(BusyMachine(1, 1.5, until_ns=1e9), monkeypatch, slower, limit)
        assert verdict(latency, limit) == wanted
        assert latency.waited == 0.0, "the first rounds do not count"


def test_a_busy_machine_is_told_in_the_note(monkeypatch: pytest.MonkeyPatch) -> None:
    latency = raced(BusyMachine(0, 1.5), monkeypatch, 1.0, 1 / 3 * LATENCY_MARGIN)
    assert latency.waited is not None
    assert 0.5 < latency.waited < 0.7
    assert len(latency.rounds_ms) == 4 * ROUNDS, "it was measured again"
    note = str(decided(latency, 1 / 3 * LATENCY_MARGIN).note)
    assert note.startswith("undecided after 80 rounds: other programs kept this one waiting for ")
    assert "quiet machine" in note
