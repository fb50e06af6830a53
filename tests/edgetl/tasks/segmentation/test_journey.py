"""From a folder with masks to verified files and masks on a device: the whole way, with a network of seconds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.models._api import BUILTIN_MODELS, Weights, WeightsEnum
from torchvision.transforms._presets import ImageClassification

from edgetl.cli.main import main
from edgetl.models.checkpoint import Checkpoint
from edgetl.tasks.segmentation.shapes import SHAPES, demo_shapes
from edgetl.verify.report import Report
from edgetl_runtime import Segmentation, Segmenter, cli, load, load_image, open_bundle, self_test

pytestmark = pytest.mark.slow

_TRAIN, _VAL = 80, 16


class StridedNet(nn.Module):
    """A classifier with a map at every stride from 2 to 32."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()

        def conv(i: int, o: int, stride: int, groups: int = 1) -> nn.Sequential:
            return nn.Sequential(
                nn.Conv2d(i, o, 3, stride, 1, groups=groups, bias=False), nn.BatchNorm2d(o), nn.ReLU6()
            )

        self.features = nn.Sequential(
            conv(3, 16, 2), conv(16, 32, 2), conv(32, 48, 2), conv(48, 64, 2), nn.Sequential(conv(64, 64, 1, 64)),
            conv(64, 96, 2),
        )  # fmt: skip
        self.classifier = nn.Sequential(nn.Dropout(0.0), nn.Linear(96, num_classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.classifier(self.features(x).mean((2, 3)))
        return logits


class StridedWeights(WeightsEnum):  # type: ignore[misc] # torchvision is untyped
    IMAGENET1K_V1 = Weights(
        url="",
        transforms=partial(ImageClassification, crop_size=64, resize_size=72),
        meta={"num_params": 1, "_ops": 0.0, "_metrics": {"ImageNet-1K": {"acc@1": 0.0}}},
    )
    DEFAULT = IMAGENET1K_V1


def stridednet(*, weights: StridedWeights | None = None, num_classes: int = 1000, **_: Any) -> StridedNet:
    return StridedNet(num_classes)


@pytest.fixture(scope="module", autouse=True)
def registered() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stridednet, "__module__", "torchvision.models.stridednet")
        patch.setitem(stridednet.__annotations__, "weights", StridedWeights | None)
        patch.setitem(BUILTIN_MODELS, "stridednet", stridednet)
        yield


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's shapes as a user has them, in folders, and all of them one label."""
    root, data = tmp_path_factory.mktemp("shapes"), demo_shapes(0)
    for split, samples in (("train", data.train[:_TRAIN]), ("val", data.val[:_VAL])):
        for kind in ("images", "masks"):
            (root / split / kind).mkdir(parents=True)
        for sample in samples:
            Image.fromarray(np.asarray(sample.source)).save(root / split / "images" / f"{sample.name}.png")
            Image.fromarray(np.minimum(sample.target, 1)).save(root / split / "masks" / f"{sample.name}.png")
    (root / "labels.txt").write_text("background\nshape\n", encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def bundle(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("segmentation") / "shapes.edgetl"
    words = ["run", "--task", "segmentation", "--data", str(photos), "--out", str(out), "--weights", "none"]
    words += ["--backbone", "stridednet", "--image-size", "64", "--epochs", "16", "--lr", "0.01"]
    words += ["--targets", "onnx", "--precisions", "fp32,int8"]
    assert main(words) == 0
    return out


def test_it_learns_and_every_file_is_verified(bundle: Path) -> None:
    manifest = open_bundle(bundle).manifest
    assert (manifest.task, manifest.decoder) == ("segmentation", {"size": [64, 64]})
    assert (manifest.output.name, manifest.output.shape) == ("logits", (1, 8, 8, 2))
    assert manifest.preprocess.mode == "stretch"
    report = Report.from_json((bundle / "report.json").read_bytes(), where="report.json")
    assert report.verdict.passed
    assert report.quality is not None
    assert (report.quality.name, report.quality.n) == ("mIoU", _VAL)
    assert report.quality.value > 0.5
    for variant in report.variants:
        assert variant.error is None
        assert variant.quality is not None
        assert abs(variant.quality.delta or 0.0) < 0.02
        assert variant.parity is not None
        assert variant.parity.decided_alike > (0.9999 if variant.precision == "fp32" else 0.98)
    titles = [table.title for table in report.tables]
    assert titles[:2] == ["IoU by label", "Where masks differ from the original's"]
    assert report.pictures
    page = (bundle / "report.html").read_text(encoding="utf-8")
    assert "IoU by label" in page
    assert "top-1" not in page


def test_the_checkpoint_knows_its_head(photos: Path, tmp_path: Path) -> None:
    words = ["train", "--task", "segmentation", "--data", str(photos), "--out", str(tmp_path / "net")]
    words += ["--weights", "none", "--backbone", "stridednet", "--image-size", "64", "--epochs", "1"]
    assert main([*words, "--head", "unet"]) == 0
    checkpoint = Checkpoint.load(tmp_path / "net")
    assert checkpoint.head is not None
    assert checkpoint.head.name == "unet"
    with torch.inference_mode():
        outputs = checkpoint.build().eval()(torch.zeros(1, 3, 64, 64))
    assert outputs["logits"].shape == (1, 32, 32, 2)


def test_masks_on_the_device(bundle: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo = sorted((photos / "val" / "images").iterdir())[0]
    truth = np.asarray(Image.open(photos / "val" / "masks" / photo.name))
    with load(bundle, variant="onnx.int8", kind=Segmenter) as segmenter:
        found = segmenter.predict(photo)
        smooth = segmenter.predict(photo, smooth=True)
        assert list(segmenter.stream([photo, photo])) == [found, found]
    assert isinstance(found, Segmentation)
    assert found.mask.shape == truth.shape
    assert np.mean(found.mask == truth) > 0.7
    assert np.mean(found.mask == smooth.mask) > 0.9
    assert found.drawn(load_image(photo)).size == truth.shape[::-1]
    assert all(test.passed for test in self_test(open_bundle(bundle)).variants)
    told, drawn = tmp_path / "told.json", tmp_path / "drawn.png"
    words = ["predict", str(bundle), str(photo), "--variant", "onnx.int8", "--smooth", "yes"]
    assert cli.main([*words, "--json", str(told), "--draw", str(drawn)]) == 0
    assert "background" in capsys.readouterr().out
    runs = json.loads(told.read_text())["predictions"][0]["mask"]
    assert np.array_equal(np.repeat(runs["values"], runs["counts"]).reshape(runs["size"]), smooth.mask)
    assert Image.open(drawn).size == truth.shape[::-1]


def test_verifying_again_finds_the_same_photos(bundle: Path, photos: Path) -> None:
    assert main(["verify", str(bundle), "--data", str(photos), "--variants", "onnx.int8"]) == 0


def test_names_of_shapes_are_those_of_the_demo() -> None:
    assert SHAPES[0] == "background"
