from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from edgetl.verify.layers.alignment import Fingerprint, align
from edgetl.verify.layers.operators import WEIGHTED, Operator, Point, kind_of, points


def layer(seed: int, kind: str = WEIGHTED, size: int = 1000) -> Fingerprint:
    return Fingerprint.of(kind, values(seed, size))


def values(seed: int, size: int = 1000) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).normal(seed, 1 + seed, size).astype(np.float32)


def test_the_order_of_the_values_does_not_matter() -> None:
    shuffled = np.random.default_rng(0).permutation(values(1))
    assert np.array_equal(Fingerprint.of(WEIGHTED, shuffled).quantiles, layer(1).quantiles)


def test_damaged_layers_are_placed_between_their_neighbours() -> None:
    originals = [layer(seed) for seed in range(1, 6)]
    damaged = [layer(1), layer(70), layer(80), layer(90), layer(5)]
    assert align(originals, damaged) == {index: index for index in range(5)}


def test_layers_that_only_one_side_has_are_left_out() -> None:
    originals = [layer(1), layer(2, "sum"), layer(3), layer(4, "mean")]
    converted = [layer(1), layer(9, "sigmoid"), layer(3), layer(9, "mean", size=7)]
    assert align(originals, converted) == {0: 0, 2: 2}


def test_swapped_branches_find_their_layers() -> None:
    originals = [layer(1), layer(2), layer(3), layer(4)]
    assert align(originals, [originals[index] for index in (0, 3, 1, 2)]) == {0: 0, 1: 3, 2: 1, 3: 2}


def test_a_kind_may_differ_when_the_values_agree() -> None:
    assert align([layer(1, "clipped")], [layer(1, "sum")]) == {0: 0}
    assert align([layer(1, "clipped")], [layer(30, "sum")]) == {}
    assert align([layer(1, "clipped")], [layer(1, WEIGHTED)]) == {}


def test_nothing_to_align() -> None:
    assert align([], [layer(1)]) == {}
    assert align([layer(1)], []) == {}


@pytest.mark.parametrize("name", ["Conv", "CONV_2D", "GroupConvolution", "conv2d", "Gemm", "FULLY_CONNECTED", "linear"])
def test_formats_call_a_layer_with_weights_differently(name: str) -> None:
    assert kind_of(name, variable_inputs=1) == WEIGHTED
    assert kind_of(name, variable_inputs=2) != WEIGHTED


def test_bias_activation_and_rounding_belong_to_their_layer() -> None:
    operators = [
        Operator("Transpose", ("image",), ("turned",)),
        Operator("Convolution", ("turned", "weights"), ("raw",)),
        Operator("Add", ("raw", "bias"), ("biased",)),
        Operator("Clamp", ("biased",), ("clamped",)),
        Operator("FakeQuantize", ("clamped", "low", "high"), ("rounded",)),
        Operator("Convolution", ("rounded", "weights2"), ("second",)),
        Operator("Add", ("second", "rounded"), ("sum",)),
        Operator("Multiply", ("weights3", "scale"), ("constant",)),
    ]
    expected = [Point("rounded", WEIGHTED), Point("second", WEIGHTED), Point("sum", "sum")]
    assert points(operators, "image") == expected


def test_what_two_read_is_not_folded() -> None:
    operators = [
        Operator("Conv", ("image", "weights"), ("raw",)),
        Operator("Relu", ("raw",), ("clipped",)),
        Operator("Sigmoid", ("raw",), ("gate",)),
    ]
    assert [point.tensor for point in points(operators, "image")] == ["raw", "clipped", "gate"]
