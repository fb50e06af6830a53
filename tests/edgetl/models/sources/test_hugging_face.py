"""Image classifiers of transformers: their logits, labels and image processor. A stand-in where it is not installed."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgetl.models.sources.foreign import Foreign
from edgetl.models.sources.hugging_face import LogitsOf, _preset, opened
from edgetl.models.sources.opening import SourceOptions, kind_of, open_source
from edgetl_export.lifting import folded
from edgetl_runtime.errors import CheckpointError, UsageError
from edgetl_runtime.manifest import Normalize

PROCESSOR: dict[str, Any] = {
    "do_center_crop": True,
    "crop_size": {"height": 48, "width": 48},
    "size": {"shortest_edge": 56},
    "resample": 3,
    "rescale_factor": 1 / 255,
    "image_mean": [0.5, 0.4, 0.3],
    "image_std": [0.2, 0.2, 0.2],
}


class StandIn(nn.Module):
    """A network that gives an object with logits."""

    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace(id2label={0: "cat", 1: "dog"}, image_size=40, num_channels=3)
        self.first, self.last = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)

    def forward(self, pixel_values: Tensor | None = None, **_: Any) -> SimpleNamespace:
        assert pixel_values is not None
        return SimpleNamespace(logits=self.last(self.first(pixel_values).mean((2, 3))))


def test_logits_and_labels_of_a_model_in_memory() -> None:
    model = StandIn()
    found = opened(model, SourceOptions(normalize=Normalize((0.5,), (0.5,))))
    assert [label.id for label in found.labels] == ["cat", "dog"]
    assert found.preprocess.crop == (40, 40)
    image = torch.rand(2, 3, 40, 40)
    assert torch.equal(found.build()(image), model(image).logits)
    with pytest.raises(UsageError, match="without its image processor"):
        opened(StandIn(), SourceOptions())


def test_a_model_in_memory_stays_as_it_is() -> None:
    model = StandIn().half().train()
    opened(model, SourceOptions(normalize=Normalize((0.5,), (0.5,))))
    assert model.training
    assert all(value.dtype == torch.float16 and value.requires_grad for value in model.parameters())


def test_a_model_without_a_classifier_is_told_so() -> None:
    class Features(StandIn):
        def forward(self, pixel_values: Tensor | None = None, **_: Any) -> SimpleNamespace:
            return SimpleNamespace(last_hidden_state=pixel_values)

    with pytest.raises(UsageError, match="Features gives no logits"):
        opened(Features(), SourceOptions(normalize=Normalize((0.5,), (0.5,))))


def test_names_that_nobody_gave_are_numbers() -> None:
    model = StandIn()
    model.config.id2label = {0: "LABEL_0", 1: "LABEL_1"}
    found = opened(model, SourceOptions(normalize=Normalize((0.5,), (0.5,))))
    assert [label.name for label in found.labels] == ["0", "1"]


@pytest.mark.parametrize(("shortest", "resize", "mode"), [(224, 256, "crop"), (384, 0, "stretch")])
def test_a_share_to_crop_is_that_of_the_resized_image(shortest: int, resize: int, mode: str) -> None:
    settings = {"size": {"shortest_edge": shortest}, "crop_pct": 0.875, "image_mean": [0.5], "image_std": [0.5]}
    spec, _ = _preset(settings, SourceOptions(), None)
    assert (spec.resize, spec.crop, spec.mode) == (resize, (shortest, shortest), mode)


@pytest.mark.slow
def test_a_folder_without_a_classifier_is_no_classifier_of_random_numbers(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.MobileNetV2Config(num_labels=3, image_size=48, depth_multiplier=0.35)
    transformers.MobileNetV2Model(config).save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    with pytest.raises(CheckpointError, match=r"has no weights for classifier\.bias, classifier\.weight"):
        open_source(tmp_path, SourceOptions())


@pytest.mark.slow
def test_a_folder_brings_labels_and_the_settings_of_its_image_processor(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.MobileNetV2Config(num_labels=3, image_size=48, depth_multiplier=0.35)
    config.id2label = {0: "a", 1: "b", 2: "c"}
    model = transformers.MobileNetV2ForImageClassification(config).eval()
    model.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    assert kind_of(tmp_path) == kind_of(model) == "hugging-face"
    found = open_source(tmp_path, SourceOptions())
    assert isinstance(found, Foreign)
    assert [label.id for label in found.labels] == ["a", "b", "c"]
    spec = found.preprocess
    assert (spec.resize, spec.crop, spec.interpolation, spec.mode) == (56, (48, 48), "bicubic", "crop")
    assert found.normalize == Normalize((0.5, 0.4, 0.3), (0.2, 0.2, 0.2))
    image = torch.rand(2, 3, 48, 48)
    with torch.no_grad():
        wanted = model(image).logits
        assert torch.allclose(found.build()(image), wanted, atol=1e-6)
        whole = folded(LogitsOf(model), torch.zeros(2, 3, 48, 48))  # tracing raises TypeError
        assert torch.allclose(whole(image), wanted, atol=1e-5)
    assert sum(isinstance(part, nn.Conv2d) for part in whole.modules()) > 50
    assert not any(isinstance(part, nn.BatchNorm2d) for part in whole.modules())
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="cannot be loaded by transformers"):
        open_source(tmp_path, SourceOptions())
