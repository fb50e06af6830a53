from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from judging import Row, interleaved_medians, judged, logits_of

from edgetl_runtime.manifest import TensorSpec
from edgetl_runtime.session import FakeSession, Tensors


def test_a_machine_that_slows_down_half_way_leaves_the_ratio_as_it_is() -> None:
    done: list[str] = []

    def one_round(call: Callable[[], object]) -> float:
        call()
        slower = 10.0 if len(done) > 20 else 1.0
        return slower * {"fp32": 2.0, "int8": 1.0}[done[-1]]

    calls = {name: (lambda name=name: done.append(name)) for name in ("fp32", "int8")}
    medians = interleaved_medians(calls, rounds=20, one_round=one_round)
    assert medians["fp32"] / medians["int8"] == pytest.approx(2.0)


def test_each_model_is_the_first_of_a_round_as_often_as_the_others() -> None:
    done: list[int] = []
    calls = {i: (lambda i=i: done.append(i)) for i in range(3)}

    def one_round(call: Callable[[], object]) -> float:
        call()
        return 1.0

    interleaved_medians(calls, rounds=6, one_round=one_round)
    assert done[::3] == [0, 1, 2, 0, 1, 2]
    assert sorted(done) == sorted([0, 1, 2] * 6)


def test_decisions_and_distance_are_held_against_the_original() -> None:
    reference = np.eye(4, dtype=np.float32)
    logits = reference.copy()
    logits[3] = [2, 0, 0, 1]
    row = judged(Row("m", "f", bytes=7), reference, logits, np.array([0, 1, 0, 3]))
    assert row.agreement == 0.75  # the first three rows
    assert row.top1 == 0.5  # the first two
    assert row.sqnr_db == pytest.approx(10 * np.log10(4 / 4))
    assert row.bytes == 7
    assert judged(row, reference, logits).top1 is None


def test_logits_are_copied_out_of_memory_that_the_engine_uses_again() -> None:
    shared = np.zeros((1, 2), np.float32)

    def compute(feeds: Mapping[str, npt.NDArray[Any]]) -> Tensors:
        shared[:] = feeds["image"].mean()
        return {"logits": shared}

    session = FakeSession(
        (TensorSpec("image", "uint8", (1, 2, 2, 3), "NHWC"),), (TensorSpec("logits", "float32", (1, 2)),), compute
    )
    images = np.stack([np.full((2, 2, 3), value, np.uint8) for value in (1, 5)])
    np.testing.assert_array_equal(logits_of(session, images), [[1, 1], [5, 5]])
