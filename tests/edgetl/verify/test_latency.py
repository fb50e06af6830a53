from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from edgetl.verify.latency import ROUNDS, Latency, LatencyOptions, measure_latency, median_preprocess_ms
from edgetl_runtime.errors import EngineError
from edgetl_runtime.manifest import Preprocess, TensorSpec
from edgetl_runtime.session import FakeSession, Session, Tensors

SPEC = TensorSpec("image", "uint8", (1, 2, 2, 3))
FEEDS: Tensors = {"image": np.zeros((1, 2, 2, 3), np.uint8)}
OPTIONS = LatencyOptions(threads=1, seconds=0.05, preprocess_ms=0.5)


def opener(compute: Callable[[], None], *, load_seconds: float = 0.0) -> Callable[[], Session]:
    def run(feeds: Mapping[str, npt.NDArray[Any]]) -> Tensors:
        compute()
        return {"logits": np.zeros((1, 2), np.float32)}

    def load() -> Session:
        time.sleep(load_seconds)
        return FakeSession((SPEC,), (TensorSpec("logits", "float32", (1, 2)),), run)

    return load


def test_each_clock_measures_its_own_part() -> None:
    first = iter([0.03])
    result = measure_latency({"a": opener(lambda: time.sleep(next(first, 0.002)), load_seconds=0.02)}, FEEDS, OPTIONS)[
        "a"
    ]
    assert isinstance(result, Latency)
    assert result.load_ms >= 20
    assert result.first_ms >= 30
    assert 2 <= result.p50_ms < 20
    assert result.p50_ms <= result.p95_ms
    assert (result.threads, result.preprocess_ms) == (1, 0.5)
    assert result.n >= 3 * ROUNDS


def test_variants_take_turns() -> None:
    order: list[str] = []
    measure_latency({"a": opener(lambda: order.append("a")), "b": opener(lambda: order.append("b"))}, FEEDS, OPTIONS)
    changes = sum(before != after for before, after in itertools.pairwise(order))
    assert changes == 2 * ROUNDS + 1  # a and b once when they are loaded, then once in every round


def test_one_that_fails_leaves_the_others_their_numbers() -> None:
    runs = iter(range(1000))

    def fails_later() -> None:
        if next(runs) > 4:
            raise EngineError("gone")

    def fails_to_load() -> Session:
        raise EngineError("no file")

    results = measure_latency({"a": opener(fails_later), "b": opener(lambda: None), "c": fails_to_load}, FEEDS, OPTIONS)
    assert isinstance(results["a"], EngineError)
    assert isinstance(results["b"], Latency)
    assert isinstance(results["c"], EngineError)


def test_preprocess_time() -> None:
    image = np.zeros((300, 300, 3), np.uint8)
    assert median_preprocess_ms([image] * 3, Preprocess(resize=64, crop=(64, 64))) > 0
