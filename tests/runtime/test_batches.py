"""Variants that take several images in one run, or any number: filled up, divided, streamed, and told."""

from __future__ import annotations

import dataclasses
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edgetl_runtime import Classifier
from edgetl_runtime.batch_sizes import FREE, LARGEST_BATCH, batch_of, batch_text
from edgetl_runtime.batches import filled, images_at_once, run_images
from edgetl_runtime.comparison import decided_otherwise
from edgetl_runtime.engines.binding import as_found
from edgetl_runtime.errors import BundleError, ImageError, UsageError
from edgetl_runtime.manifest import Label, Manifest, Normalize, Preprocess, Requires, TensorSpec, Variant
from edgetl_runtime.racing import Race, Turns
from edgetl_runtime.session import FakeSession, IntegerSession, Tensors
from edgetl_runtime.streaming import map_together

SIZE = 4
LABELS = ("dark", "light")
Images = npt.NDArray[np.uint8]


def manifest(batch: int, own: int | None = None, **changes: Any) -> Manifest:
    image = TensorSpec("image", "uint8", (batch, SIZE, SIZE, 3), "NHWC")
    logits = TensorSpec("logits", "float32", (batch, 2))
    variant = Variant("fake.fp32", "fake", "fp32", (), Requires("fake"))
    if own is not None:
        variant = dataclasses.replace(
            variant,
            input=dataclasses.replace(image, shape=(own, *image.shape[1:])),
            output=dataclasses.replace(logits, shape=(own, 2)),
        )
    made = Manifest(
        name="m",
        task="classification",
        labels=tuple(Label(name, name) for name in LABELS),
        input=image,
        preprocess=Preprocess(resize=SIZE, crop=(SIZE, SIZE)),
        normalize=Normalize((0.0,) * 3, (1.0,) * 3),
        output=logits,
        variants=(variant,),
    )
    return dataclasses.replace(made, **changes)


class Engine:
    """A session's arithmetic that notes how many images each run had."""

    def __init__(self) -> None:
        self.runs: list[int] = []
        self.began = threading.Event()
        self.go_on = threading.Event()
        self.go_on.set()

    def __call__(self, feeds: Mapping[str, npt.NDArray[Any]]) -> Tensors:
        images = feeds["image"].astype(np.float32)
        self.runs.append(len(images))
        self.began.set()
        assert self.go_on.wait(10)
        light = images.mean(axis=(1, 2, 3)) / 255.0
        return {"logits": np.stack([1.0 - light, light], axis=1)}


def classifier(batch: int, own: int | None = None) -> tuple[Classifier, Engine]:
    described, engine = manifest(batch, own), Engine()
    variant = described.variants[0]
    session = FakeSession((variant.input or described.input,), described.outputs_of(variant), engine)
    return Classifier(described, variant, session), engine


def images(n: int) -> Images:
    """(n, H, W, C): light and dark in turns, no two alike."""
    levels = [200 + i % 50 if i % 2 else i % 50 for i in range(n)]
    return np.stack([np.full((SIZE, SIZE, 3), level, np.uint8) for level in levels])


def light_of(predictions: Sequence[Any]) -> list[float]:
    return [next(score.probability for score in one.scores if score.name == "light") for one in predictions]


@pytest.mark.parametrize(
    ("value", "batch"), [(1, 1), (8, 8), ("8", 8), (" 16 ", 16), ("free", FREE), ("FREE", FREE), (LARGEST_BATCH, 1024)]
)
def test_a_batch_as_people_write_it(value: object, batch: int) -> None:
    assert batch_of(value) == batch


@pytest.mark.parametrize(
    "value", [0, -1, -8, "-1", "", "any", "8.0", 2.0, True, None, [8], LARGEST_BATCH + 1, "9" * 40]
)
def test_what_is_no_batch_is_refused(value: object) -> None:
    with pytest.raises(UsageError, match=r"batch = .* makes no sense") as raised:
        batch_of(value)
    assert "or free" in str(raised.value)


def test_a_batch_in_words() -> None:
    assert batch_text(1) == "one image in one run"
    assert batch_text(8) == "8 images in one run, no more and no fewer"
    assert batch_text(FREE) == "any number of images in one run"


@pytest.mark.parametrize("batch", [1, 4, FREE])
def test_one_image_is_filled_up_and_its_row_taken(batch: int) -> None:
    loaded, engine = classifier(batch)
    for image in images(5):
        alone, _ = classifier(1)
        assert loaded.predict(image) == alone.predict(image)
    assert engine.runs == [max(1, batch)] * 5


@pytest.mark.parametrize(
    ("batch", "n", "runs"),
    [(1, 3, [1, 1, 1]), (4, 4, [4]), (4, 7, [4, 4]), (4, 1, [4]), (FREE, 7, [7]), (FREE, 40, [32, 8]), (4, 0, [])],
)
def test_many_images_are_run_in_batches(batch: int, n: int, runs: list[int]) -> None:
    loaded, engine = classifier(batch)
    found = loaded.predict_batch(list(images(n)) if n else [])
    assert engine.runs == runs
    assert light_of(found) == light_of([loaded.predict(image) for image in images(n)] if n else [])


@pytest.mark.parametrize(("own", "runs"), [(1, [1] * 5), (2, [2, 2, 2]), (8, [8])])
def test_a_variant_that_takes_another_number_than_the_manifest_says(own: int, runs: list[int]) -> None:
    loaded, engine = classifier(FREE, own)
    assert light_of(loaded.predict_batch(list(images(5)))) == light_of([loaded.predict(one) for one in images(5)])
    assert engine.runs[: len(runs)] == runs


def test_run_images_takes_any_number_by_name_and_order() -> None:
    for batch in (1, 3, FREE):
        loaded, engine = classifier(batch)
        given = run_images(loaded.session, images(8))["logits"]
        alone = np.concatenate([run_images(loaded.session, image[None])["logits"] for image in images(8)])
        np.testing.assert_array_equal(given, alone)
        assert given.shape == (8, 2)
    few, engine = classifier(FREE)
    run_images(few.session, images(10), most=7)
    assert engine.runs == [7, 3]
    assert images_at_once(few.session) == 32


def test_what_fills_a_batch_up_is_nobodys_answer() -> None:
    loaded, _ = classifier(4)
    whole = filled(loaded.session, images(3))
    assert whole.shape == (4, SIZE, SIZE, 3)
    assert not whole[3:].any()
    assert filled(loaded.session, whole) is whole


@pytest.mark.parametrize(("batch", "latest"), [(4, False), (4, True), (FREE, False), (1, False)])
@pytest.mark.parametrize("workers", [1, 3])
def test_a_stream_gives_what_predict_gives_in_order(batch: int, latest: bool, workers: int) -> None:
    loaded, engine = classifier(batch)
    frames = list(images(30))

    def source() -> Iterator[Images]:
        for frame in frames:
            yield frame
            if latest:
                time.sleep(0.01)

    found = list(loaded.stream(source(), workers=workers, latest=latest))
    expected = light_of([loaded.predict(frame) for frame in frames])
    if latest:  # some may be dropped, none is mixed up
        assert set(light_of(found)) <= set(expected)
    else:
        assert light_of(found) == expected
    assert engine.runs[0] <= max(batch, 32)


def test_a_stream_fills_a_fixed_batch_from_what_was_read_meanwhile() -> None:
    loaded, engine = classifier(4)
    engine.go_on.clear()  # the first run waits, and the others are read
    stream = loaded.stream(images(40), workers=2)
    first: list[Any] = []
    taking = threading.Thread(target=lambda: first.append(next(stream)))
    taking.start()
    assert engine.began.wait(10)
    time.sleep(0.2)
    engine.go_on.set()
    taking.join()
    rest = list(stream)
    assert len(first + rest) == 40
    assert len(engine.runs) <= 14  # ten would do; one after the other it would be 40


def test_a_slow_source_is_answered_at_once() -> None:
    loaded, _ = classifier(8)
    asked = threading.Event()

    def slow() -> Iterator[Images]:
        yield images(1)[0]
        yield images(2)[1]
        assert asked.wait(10)  # the first answer is out before the third image comes
        yield images(1)[0]

    stream = loaded.stream(slow(), workers=2)
    next(stream)
    asked.set()
    assert len(list(stream)) == 2


def test_an_image_that_cannot_be_read_costs_its_batch_nothing() -> None:
    loaded, _ = classifier(4)
    mixed: list[Any] = [*images(3), b"no image", *images(3), b"neither"]
    found = list(loaded.stream(mixed, errors="return", pairs=True))
    assert [isinstance(one, ImageError) for _, one in found] == [False] * 3 + [True] + [False] * 3 + [True]
    assert [image is given for (image, _), given in zip(found, mixed, strict=True)] == [True] * 8
    with pytest.raises(ImageError):
        list(loaded.stream(mixed))


def test_what_a_run_raises_is_raised_for_each_of_its_images() -> None:
    def run(items: Sequence[int]) -> list[int]:
        if 3 in items:
            raise ValueError("three")
        return [-item for item in items]

    ready = map_together(lambda item: item, run, range(3), workers=2, most=2)
    assert [future.result() for future in ready] == [0, -1, -2]
    ready = map_together(lambda item: item, run, [3], workers=2, most=2)
    with pytest.raises(ValueError, match="three"):
        [future.result() for future in ready]


def test_a_race_fills_a_fixed_batch_up() -> None:
    loaded, engine = classifier(4)
    with Race() as race:
        race.enter("fixed", lambda: loaded.session, {"image": images(1)})
        race.go(Turns(0.0, rounds=2))
    assert set(engine.runs) == {4}


@pytest.mark.parametrize("free", [(FREE, 8), (8, 8)])
def test_the_file_says_what_the_manifest_leaves_free(free: tuple[int, int]) -> None:
    wanted = TensorSpec("image", "uint8", (free[0], 2, 2, 3))
    found = [TensorSpec("other", "float32", (1,)), TensorSpec("image", "uint8", (free[1], 2, 2, 3))]
    assert as_found((wanted,), found, (1,))[0].shape == (8, 2, 2, 3)
    assert as_found((wanted,), [dataclasses.replace(wanted, shape=(FREE, 2, 2, 3))], (0,))[0].shape == wanted.shape


def test_int8_images_are_taken_as_many_as_the_file_takes() -> None:
    image = TensorSpec("image", "int8", (4, SIZE, SIZE, 3), scale=1.0, zero_point=-128)
    inner = FakeSession((image,), (TensorSpec("logits", "float32", (4, 2)),), Engine())
    hidden = IntegerSession(inner, manifest(FREE).input, manifest(FREE).all_outputs)
    assert hidden.inputs[0].shape == (4, SIZE, SIZE, 3)
    assert hidden.inputs[0].dtype == "uint8"


@pytest.mark.parametrize("batch", [8, FREE])
def test_a_manifest_says_its_batch_and_its_variants_own(batch: int) -> None:
    written = manifest(batch, own=2)
    again = Manifest.from_json(written.to_json(), where="here")
    assert again == written
    variant = again.variants[0]
    assert again.batch_of(variant) == 2
    assert [spec.shape for spec in again.outputs_of(variant)] == [(2, 2)]
    assert not variant.in_integers
    assert manifest(batch).outputs_of(manifest(batch).variants[0]) == manifest(batch).all_outputs


@pytest.mark.parametrize(
    "change",
    [
        lambda raw: raw["input"].update(shape=[LARGEST_BATCH + 1, SIZE, SIZE, 3]),
        lambda raw: raw["input"].update(shape=[0, SIZE, SIZE, 3]),
        lambda raw: raw["input"].update(shape=[-2, SIZE, SIZE, 3]),
        lambda raw: raw["variants"][0]["input"].update(shape=[2**30, SIZE, SIZE, 3]),
        lambda raw: raw["variants"][0]["input"].update(shape=[2, SIZE, SIZE + 1, 3]),
        lambda raw: raw["variants"][0]["output"].update(shape=[2, 3]),
        lambda raw: raw["variants"][0]["output"].update(name="other"),
    ],
)
def test_a_batch_that_cannot_be_is_damage(change: Callable[[Any], None]) -> None:
    raw = json.loads(manifest(8, own=2).to_json())
    change(raw)
    with pytest.raises(BundleError, match="damaged"):
        Manifest.from_json(json.dumps(raw), where="here")


def test_decisions_alone_and_together() -> None:
    alone = np.array([[1.0, 2.0, 0.0], [3.0, 0.0, 1.0], [5.0, 4.9999, 0.0], [1.0, 2.0, 0.0]], np.float32)
    assert not decided_otherwise(alone, alone).any()
    together = alone.copy()
    together[0] = [2.0, 1.0, 0.0]  # another label
    together[2] = [4.9999, 5.0, 0.0]  # a tie that a sum in another order decides
    together[3] = np.nan
    assert decided_otherwise(alone, together).tolist() == [True, False, False, True]
    maps = np.stack([alone[:2], alone[2:]])
    assert decided_otherwise(maps, np.stack([together[:2], together[2:]])).tolist() == [True, True]


def test_only_the_first_row_right_is_seen_whatever_the_others_are() -> None:
    alone = np.array([[1.0, 2.0], [2.0, 1.0], [1.0, 3.0]], np.float32)
    for others in (np.zeros((2, 2)), np.repeat(alone[:1], 2, axis=0)):
        together = np.concatenate([alone[:1], others]).astype(np.float32)
        assert decided_otherwise(alone, together).any()
