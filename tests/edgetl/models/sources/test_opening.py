"""What a network may come as, and what is refused with the way to something that it may come as."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from edgetl.models.sources import kind_of_name
from edgetl.models.sources.opening import SourceOptions, kind_of, open_source
from edgetl_runtime.errors import CheckpointError, UsageError
from edgetl_runtime.manifest import Normalize
from tests.edgetl.models.sources.own_networks import fixed

SAID = SourceOptions(normalize=Normalize((0.5,), (0.5,)))


def test_names_and_endings_say_what_it_is(tmp_path: Path) -> None:
    assert kind_of_name("mobilenet_v2") == "torchvision"
    assert kind_of("timm:levit_128s") == kind_of_name("timm:levit_128s") == "timm"
    assert kind_of("nets.py:build") == kind_of_name("nets.py:build") == "own"
    assert kind_of(nn.Linear(1, 1)) == "own"
    assert [kind_of(f"m{ending}") for ending in (".keras", ".h5", ".pt2", ".safetensors", ".pth")] == [
        "keras", "keras", "program", "weights", "weights"
    ]  # fmt: skip
    assert kind_of(tmp_path) == "checkpoint"
    (tmp_path / "config.json").write_text("{}")
    assert kind_of(tmp_path) == "hugging-face"


@pytest.mark.parametrize(
    ("name", "said", "fix"),
    [
        ("m.onnx", "An ONNX file is what edgetl writes, not what it starts from", "name what it was made from"),
        ("m.tflite", "A TFLite file is what edgetl writes", "name what it was made from"),
        ("saved_model.pb", "A SavedModel holds a graph, no layers", "model.save('model.keras')"),
    ],
)
def test_what_edgetl_does_not_start_from(name: str, said: str, fix: str, tmp_path: Path) -> None:
    (tmp_path / name).touch()
    with pytest.raises(UsageError, match=said) as caught:
        open_source(tmp_path / name, SAID)
    assert fix in str(caught.value.fix)


def test_a_saved_model_is_known_by_its_folder(tmp_path: Path) -> None:
    (tmp_path / "saved_model.pb").touch()
    with pytest.raises(UsageError, match="SavedModel"):
        open_source(tmp_path, SAID)


def test_what_is_no_network_at_all() -> None:
    with pytest.raises(UsageError, match="dict is no network"):
        open_source({}, SAID)


def test_a_program_with_a_free_batch_is_opened_and_one_without_says_the_line(tmp_path: Path) -> None:
    network, example = fixed().eval(), torch.zeros(2, 3, 32, 32)
    free = torch.export.export(network, (example,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))
    torch.export.save(free, tmp_path / "free.pt2")
    torch.export.save(torch.export.export(network, (example[:1],)), tmp_path / "one.pt2")
    opened = open_source(tmp_path / "free.pt2", SAID)
    assert opened.preprocess.crop == (32, 32)
    assert len(opened.labels) == 3
    image = torch.rand(3, 3, 32, 32)
    assert torch.allclose(opened.build()(image), network(image), atol=1e-6)
    assert sum(isinstance(part, nn.Conv2d) for part in opened.build().modules()) == 2
    with pytest.raises(UsageError, match="is for 1 image at a time") as caught:
        open_source(tmp_path / "one.pt2", SAID)
    assert "dynamic_shapes=({0: torch.export.Dim" in str(caught.value.fix)
    (tmp_path / "broken.pt2").write_bytes(b"PK nothing")
    with pytest.raises(CheckpointError, match=r"is no program of torch\.export"):
        open_source(tmp_path / "broken.pt2", SAID)


@pytest.mark.parametrize(
    ("spec", "said", "idle"),
    [
        ("m.keras", SAID, "--mean and --std"),
        ("m.keras", SourceOptions(weights=Path("w.pth")), "--weights"),
        ("timm:levit_128s", SourceOptions(pixels="tf", resize="stretch"), "--pixels and --resize"),
        ("mobilenet_v2.pth", SourceOptions(custom=Path("c.py")), "--custom"),
        ("nets.py:build", SourceOptions(pixels="tf"), "--pixels"),
        ("m.pt2", SourceOptions(backbone="mobilenet_v2"), "--backbone"),
    ],
)
def test_what_would_be_said_for_nothing_is_refused(spec: str, said: SourceOptions, idle: str) -> None:
    with pytest.raises(UsageError, match=f"nothing is done with {idle}"):
        open_source(spec, said)


def test_a_file_of_code_alone_asks_for_the_function() -> None:
    with pytest.raises(UsageError, match="which of its functions") as caught:
        open_source("nets.py", SAID)
    assert "nets.py:NAME" in str(caught.value.fix)


def test_a_program_has_its_own_size_and_channels(tmp_path: Path) -> None:
    example = torch.zeros(2, 3, 32, 32)
    free = torch.export.export(fixed(), (example,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))
    torch.export.save(free, tmp_path / "free.pt2")
    for other in ({"image_size": 64}, {"channels": 1}):
        with pytest.raises(UsageError, match=r"free\.pt2 takes (32 x 32 pixels|3 channels)"):
            open_source(tmp_path / "free.pt2", replace(SAID, **other))
    assert open_source(tmp_path / "free.pt2", replace(SAID, image_size=32, channels=3)).preprocess.crop == (32, 32)
