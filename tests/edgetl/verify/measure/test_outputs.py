from __future__ import annotations

import dataclasses
import tracemalloc
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import edgetl.tasks.classification.metric as metric_module
import edgetl.verify.measure.outputs as outputs_module
from edgetl.data.dataset import Sample
from edgetl.tasks.task import Quality
from edgetl.verify.measure.outputs import Outputs, collect_outputs
from edgetl_export.progress import silent
from edgetl_runtime.manifest import Manifest, TensorSpec
from edgetl_runtime.session import FakeSession, Session

Model = Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]]


def collect(bundle: Any, model: Model, samples: list[Sample]) -> Outputs:
    openers = {name: partial(bundle.session, name) for name in bundle.behaviour}
    return collect_outputs(openers, model, samples, bundle.manifest, threads=1, track=silent)


def test_answers_are_in_the_order_of_the_samples(fake_bundle: Any, linear: Model, samples: list[Sample]) -> None:
    bundle = fake_bundle({"onnx.fp32": linear, "onnx.int8": lambda images: -linear(images)})
    found = collect(bundle, linear, samples)
    images = np.stack([np.asarray(sample.source) for sample in samples])
    np.testing.assert_allclose(found.original.logits, linear(images), rtol=1e-5)
    np.testing.assert_allclose(found.variants["onnx.int8"].logits, -found.original.logits, rtol=1e-4, atol=1e-5)


def test_many_answers_lie_on_disk_and_are_the_same(
    fake_bundle: Any, linear: Model, samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = fake_bundle({"onnx.fp32": linear})
    in_memory = collect(bundle, linear, samples)
    assert type(in_memory.original.logits) is np.ndarray
    monkeypatch.setattr(metric_module, "_MOST_IN_MEMORY", 0)
    on_disk = collect(bundle, linear, samples)
    assert isinstance(on_disk.original.logits, np.memmap)
    np.testing.assert_array_equal(on_disk.original.logits, in_memory.original.logits)
    np.testing.assert_array_equal(on_disk.variants["onnx.fp32"].logits, in_memory.variants["onnx.fp32"].logits)


def test_memory_does_not_grow_with_the_number_of_images(
    fake_bundle: Any, linear: Model, samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metric_module, "_MOST_IN_MEMORY", 0)
    bundle = fake_bundle({"onnx.fp32": linear})
    collect(bundle, linear, samples)

    def peak(times: int) -> int:
        tracemalloc.start()
        try:
            collect(bundle, linear, samples * times)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak(8) < 1.5 * peak(2)


class MapMetric:
    """The mean of a map: it keeps a number of each image."""

    logits = None

    def __init__(self) -> None:
        self.means: list[float] = []

    def update(self, samples: Sequence[Sample], outputs: Mapping[str, npt.NDArray[Any]]) -> None:
        self.means += outputs["map"].mean(axis=(1, 2, 3)).tolist()

    def compute(self, original: object = None) -> Quality:
        return Quality("mean", len(self.means), float(np.mean(self.means)))


class Maps:
    """As much of a task as collecting needs; its device side too."""

    agreement, quality_quantity = "agreement", "mean"

    def metric(self, manifest: Manifest, n: int) -> MapMetric:
        return MapMetric()


class MapDevice:
    @staticmethod
    def agreement(
        original: Mapping[str, Any], outputs: Mapping[str, Any], decoder: Mapping[str, Any] | None
    ) -> npt.NDArray[np.float64]:
        same: npt.NDArray[np.float64] = (original["map"].argmax(-1) == outputs["map"].argmax(-1)).mean(axis=(1, 2))
        return same


@pytest.mark.slow
def test_dense_outputs_do_not_pile_up(
    fake_bundle: Any, linear: Model, samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Outputs of 256 x 256 x 12 floats, 3 MB an image: ten times as many images take no more memory."""
    monkeypatch.setattr(outputs_module, "task_of", lambda name: Maps())
    monkeypatch.setattr(outputs_module.device_tasks, "task_of", lambda name: MapDevice)
    shape = (256, 256, 12)
    pattern = np.random.default_rng(0).normal(size=shape).astype(np.float32)

    def dense(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        return np.stack([pattern * image.mean(dtype=np.float32) for image in images])

    spec = TensorSpec("map", "float32", (1, *shape), "NHWC")
    manifest = dataclasses.replace(fake_bundle({}).manifest, task="maps", output=spec, outputs=(spec,))

    def opened() -> Session:
        return FakeSession((manifest.input,), (spec,), lambda feeds: {"map": dense(feeds["image"])})

    def peak(n: int) -> int:
        tracemalloc.start()
        try:
            found = collect_outputs({"onnx.int8": opened}, dense, samples[:n], manifest, threads=1, track=silent)
            assert found.parity["onnx.int8"].agreement == 1.0
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak(100) < 1.1 * peak(10)
