"""The fake session keeps the border's rules, so that an application's tests mean something."""

from __future__ import annotations

import numpy as np
import pytest

from edgetl_runtime import EngineError, FakeSession, TensorSpec


def fake() -> FakeSession:
    spec = TensorSpec("image", "uint8", (-1, 2, 2, 3))
    return FakeSession(
        (spec,),
        (TensorSpec("logits", "float32", (-1, 3)),),
        lambda feeds: {"logits": feeds["image"].mean(axis=(1, 2), dtype=np.float32)},
    )


def test_runs_and_closes_like_a_real_one() -> None:
    with fake() as session:
        result = session.run({"image": np.full((5, 2, 2, 3), 7, np.uint8)})
        np.testing.assert_array_equal(result["logits"], np.full((5, 3), 7, np.float32))
    session.close()
    with pytest.raises(EngineError, match="closed"):
        session.run({"image": np.zeros((1, 2, 2, 3), np.uint8)})


@pytest.mark.parametrize("shape", [(2, 2, 3), (1, 2, 3, 3), (1, 3, 2, 2)])
def test_free_length_is_only_free_where_it_says(shape: tuple[int, ...]) -> None:
    with pytest.raises(EngineError, match=r"must be uint8 \[-1, 2, 2, 3\]"):
        fake().run({"image": np.zeros(shape, np.uint8)})


def test_unknown_tensor_is_refused() -> None:
    with pytest.raises(EngineError, match="the model takes image; given: image, mask"):
        fake().run({"image": np.zeros((1, 2, 2, 3), np.uint8), "mask": np.zeros(1)})


@pytest.mark.parametrize(
    "feeds", [None, [np.zeros((1, 2, 2, 3), np.uint8)], {"image": [1, 2]}, {"image": None}, {1: 2}]
)
def test_what_is_no_tensor_is_an_error_of_ours(feeds: object) -> None:
    with pytest.raises(EngineError):
        fake().run(feeds)  # type: ignore[arg-type]


def test_subclasses_and_free_lengths_go_the_long_way() -> None:
    image = np.zeros((2, 2, 2, 3), np.uint8)
    assert fake().run({"image": np.ma.asarray(image)})["logits"].shape == (2, 3)
