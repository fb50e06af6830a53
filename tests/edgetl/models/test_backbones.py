from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from edgetl.models.backbones import TRIED, backbone_names, build, head_of, list_backbones, preset, size_of, stages
from edgetl.models.image_size import ImageSize
from edgetl_export.features import with_features
from edgetl_runtime.errors import UsageError
from edgetl_runtime.manifest import Preprocess

# One of each family whose head or stages lie elsewhere.
FAMILIES = {
    "mobilenet_v2": ("classifier.1", 19),
    "mobilenet_v3_small": ("classifier.3", 14),
    "efficientnet_b0": ("classifier.1", 9),
    "resnet18": ("fc", 5),
    "densenet121": ("classifier", 8),
    "squeezenet1_1": ("classifier.1", 9),
    "shufflenet_v2_x0_5": ("fc", 5),
    "regnet_y_400mf": ("fc", 5),
    "googlenet": ("fc", 12),
    "swin_t": ("head", 8),
    "vit_b_32": ("heads.head", 13),
    "convnext_tiny": ("classifier.2", 8),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_gets_a_head_for_our_labels(name: str) -> None:
    head, n_stages = FAMILIES[name]
    model = build(name, 3, image_size=64).eval()
    assert head_of(model)[0] == head
    with torch.inference_mode():
        logits = model(torch.zeros(1, 3, 64, 64))
    assert isinstance(logits, torch.Tensor)
    assert logits.shape == (1, 3)
    found = stages(model)
    assert len(found) == n_stages
    inside = [id(p) for stage in found for module in stage for p in module.parameters()]
    assert len(inside) == len(set(inside))
    outside = [key for key, p in model.named_parameters() if id(p) not in set(inside) and not key.startswith(head)]
    assert outside == (["class_token", "encoder.pos_embedding"] if name == "vit_b_32" else [])


def test_stages_are_in_the_order_of_the_data() -> None:
    model = build("resnet18", 2)
    assert stages(model)[0] == [model.conv1, model.bn1]
    assert stages(model)[-1] == [model.layer4]


def test_a_network_without_a_head_is_refused() -> None:
    with pytest.raises(UsageError, match="no head"):
        head_of(nn.Sequential(nn.Linear(2, 2)))


def test_detectors_of_two_stages_are_refused_with_what_there_is() -> None:
    with pytest.raises(UsageError, match="its box head runs on regions") as caught:
        build("fasterrcnn_mobilenet_v3_large_320_fpn", 2)
    assert "ssdlite" in str(caught.value.fix)


def test_an_unknown_backbone_names_the_nearest() -> None:
    for call in (lambda: build("mobilnet_v2", 5), lambda: preset("mobilnet_v2")):
        with pytest.raises(UsageError, match="did you mean 'mobilenet_v2'"):
            call()


def test_presets_keep_the_ratio_of_resize_to_crop() -> None:
    assert preset("mobilenet_v2")[0] == Preprocess(256, (224, 224), "bilinear")
    assert preset("mobilenet_v2", which="best")[0].resize == 232
    spec, normal = preset("efficientnet_b0", 160)
    assert spec == Preprocess(183, (160, 160), "bicubic")
    assert normal.mean == (0.485, 0.456, 0.406)
    assert normal.std == (0.229, 0.224, 0.225)


def test_a_rectangle_keeps_the_ratio_on_both_sides() -> None:
    assert preset("mobilenet_v2", (192, 320))[0] == Preprocess((219, 366), (192, 320), "bilinear")
    assert preset("mobilenet_v2", (320, 192), which="best")[0] == Preprocess((331, 199), (320, 192), "bilinear")
    assert preset("efficientnet_b0", (96, 160), channels=1)[0] == Preprocess((110, 183), (96, 160), "bicubic", 1)
    assert preset("mobilenet_v2", (224, 224)) == preset("mobilenet_v2", 224) == preset("mobilenet_v2")


def test_the_size_of_a_network_whose_widths_are_computed() -> None:
    parameters, macs = size_of("regnet_y_400mf", 1000, 224)
    assert parameters == 4_344_144
    assert macs == pytest.approx(0.4e9, rel=0.02)
    assert preset("regnet_y_400mf", (64, 96))[0].crop == (64, 96)


def test_the_size_of_a_network_of_other_channels() -> None:
    grey, colours = (size_of("mobilenet_v2", 2, (64, 96), channels=channels) for channels in (1, 3))
    assert colours[0] - grey[0] == 2 * 32 * 9  # of the first layer
    assert colours[1] - grey[1] == 2 * 32 * 9 * 32 * 48


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "resnet18", "efficientnet_b0", "swin_t", "swin_v2_t", "vgg11"])
def test_backbones_take_rectangles(name: str) -> None:
    square, wide = (size_of(name, 2, size) for size in (128, (64, 256)))
    assert wide[0] == square[0]  # not one parameter more
    assert wide[1] == pytest.approx(square[1], rel=0.35)
    assert size_of(name, 2, (256, 64)) == wide


@pytest.mark.parametrize(
    ("name", "size", "said"),
    [
        *(("mobilenet_v2", 16, "16"), ("vit_b_16", 100, "100"), ("maxvit_t", 160, "160")),
        *(("mobilenet_v2", (16, 320), "16x320 is too small"), ("mobilenet_v2", (320, 16), "320x16 is too small")),
        *(
            ("resnet18", (64, 2**15), "64x32768 is too large"),
            ("vit_b_16", (192, 320), "square images only, not 192x320"),
        ),
        *(("vit_b_32", (320, 192), "square images only"), ("maxvit_t", (224, 448), "square images only, not 224x448")),
        *(("alexnet", 48, "48x48 pixels"), ("alexnet", (33, 301), "alexnet cannot take 33x301 pixels")),
        *(("inception_v3", 64, "64x64 pixels"), ("inception_v3", (301, 60), "inception_v3 cannot take 301x60 pixels")),
    ],
)
def test_a_size_that_the_backbone_cannot_have_is_refused(name: str, size: ImageSize, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        preset(name, size)


def test_the_list_says_what_is_published_and_tried() -> None:
    found = {info.name: info for info in list_backbones()}
    assert list(found) == backbone_names()
    assert len(found) >= 80
    mobile = found["mobilenet_v2"]
    assert (mobile.params, mobile.image_size) == (3_504_872, 224)
    assert mobile.gmacs == pytest.approx(0.301)
    assert mobile.top1 == pytest.approx(72.154)
    assert mobile.tried == {"onnx": True, "tflite": True, "openvino": True}
    assert not any(found["vgg16"].tried.values())
    assert {name for names in TRIED.values() for name in names} <= set(found)


@pytest.mark.parametrize(
    ("name", "layer", "shape"),
    [
        ("resnet18", "layer4", (7, 7, 512)),
        ("swin_t", "features.3", (28, 28, 192)),
        ("googlenet", "conv1", (112, 112, 64)),
    ],
)
def test_pooled_features_are_what_the_head_is_given(name: str, layer: str, shape: tuple[int, ...]) -> None:
    with torch.device("meta"):
        network, images = build(name, 5).eval(), torch.zeros(2, 3, 224, 224)
        logits, pooled, map_ = with_features(network, ("pooled", layer), images)(images)
    assert logits.shape == (2, 5)
    assert pooled.shape == (2, head_of(network)[1].in_features)
    assert map_.shape == (2, *shape)


def test_a_backbone_without_a_linear_head_has_no_pooled_features() -> None:
    with torch.device("meta"):
        network, images = build("squeezenet1_1", 5).eval(), torch.zeros(2, 3, 64, 64)
        with pytest.raises(UsageError, match="does not end with a linear layer") as error:
            with_features(network, ("pooled",), images)
    assert str(error.value.fix) == "name a layer, for example classifier.3"


@pytest.mark.slow
def test_a_torchvision_that_does_not_fit_torch_is_said(tmp_path: Path) -> None:
    (tmp_path / "torchvision.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')\n")
    path = os.pathsep.join([str(tmp_path), *(entry for entry in sys.path if entry)])
    done = subprocess.run(
        [sys.executable, "-m", "edgetl", "backbones"],
        env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "torchvision does not fit torch" in done.stderr
    assert "from one index" in done.stderr
    assert "Traceback" not in done.stderr
