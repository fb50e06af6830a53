from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import edgetl.tasks.classification.metric as metric_module
from edgetl.data.dataset import Sample
from edgetl.verify.measure.outputs import Outputs, collect_outputs
from edgetl_export.progress import silent

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
