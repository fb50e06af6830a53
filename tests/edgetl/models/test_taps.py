"""Maps of a backbone by their strides."""

from __future__ import annotations

import copy

import pytest
import torch

from edgetl.models.backbones import build, head_block, stages
from edgetl.models.headed import HeadedNetwork
from edgetl.models.taps import Taps
from edgetl_runtime.errors import UsageError

CROP = (64, 96)
IMAGES = torch.rand(2, 3, *CROP)


@pytest.mark.parametrize(
    ("name", "narrow", "wide"),
    [
        ("mobilenet_v2", (32, 96, 1280), (192, 576, 1280)),
        ("efficientnet_b0", (40, 112, 1280), (240, 672, 1280)),
        ("mobilenet_v3_small", (24, 48, 576), (96, 288, 576)),
        ("resnet18", (128, 256, 512), (128, 256, 512)),
        ("shufflenet_v2_x0_5", (48, 96, 1024), (48, 96, 1024)),
        ("timm:tf_efficientnet_lite0", (40, 112, 1280), (240, 672, 1280)),
        ("timm:mobilenetv4_conv_small", (64, 96, 960), (192, 576, 960)),
    ],
)
def test_maps_have_their_strides_and_channels(name: str, narrow: tuple[int, ...], wide: tuple[int, ...]) -> None:
    for expanded, channels in ((False, narrow), (True, wide)):
        taps = Taps(build(name, 2), (8, 16, 32), crop=CROP, channels=3, expanded=expanded)
        assert taps.channels == channels
        maps = taps(IMAGES)
        sides = [tuple(side // stride for side in CROP) for stride in (8, 16, 32)]
        assert [tuple(one.shape) for one in maps] == [
            (2, width, *side) for width, side in zip(channels, sides, strict=True)
        ]


def test_maps_are_those_of_the_classifier() -> None:
    trunk = build("mobilenet_v2", 2).eval()
    taps = Taps(copy.deepcopy(trunk), (16, 32), crop=CROP, channels=3).eval()
    features = trunk.get_submodule("features")
    blocks = list(features.children())
    with torch.no_grad():
        middle = torch.nn.Sequential(*blocks[:14])(IMAGES)
        last = features(IMAGES)
        maps = taps(IMAGES)
    torch.testing.assert_close(maps[0], middle)
    torch.testing.assert_close(maps[1], last)
    assert set(taps.network.state_dict()) < set(trunk.state_dict()), "weights keep their names"


def test_a_dilated_backbone_keeps_its_second_last_stride() -> None:
    for name in ("mobilenet_v2", "resnet18"):
        plain, dilated = build(name, 2).eval(), build(name, 2).eval()
        dilated.load_state_dict(plain.state_dict())
        taps = Taps(dilated, (8, 16), crop=CROP, channels=3, dilate=True).eval()
        assert tuple(taps(IMAGES)[1].shape[2:]) == (CROP[0] // 16, CROP[1] // 16)
        assert any(getattr(layer, "dilation", 1) == (2, 2) for layer in taps.modules())


def test_batch_norms_of_timm_still_learn_their_statistics() -> None:
    taps = Taps(build("timm:tf_efficientnet_lite0", 2), (8, 16), crop=CROP, channels=3).train()
    before = {key: value.clone() for key, value in taps.state_dict().items() if key.endswith("running_var")}
    taps(IMAGES)
    after = taps.state_dict()
    assert len(before) > 20
    assert not any(torch.equal(value, after[key]) for key, value in before.items())


def test_a_stride_that_is_not_there_is_named() -> None:
    with pytest.raises(UsageError, match="no map of stride 2") as caught:
        Taps(build("convnext_tiny", 2), (2, 8), crop=CROP, channels=3)
    assert "4, 8, 16, 32" in caught.value.fix


def test_stages_and_head_of_a_network_with_a_head() -> None:
    taps = Taps(build("mobilenet_v2", 2), (8, 16), crop=CROP, channels=3)
    head = torch.nn.Conv2d(taps.channels[1], 3, 1)
    model = HeadedNetwork(taps, head)
    assert head_block(model) == ("head", head)
    units = stages(model)
    assert len(units) > 10
    inside = {id(parameter) for unit in units for module in unit for parameter in module.parameters()}
    assert inside == {id(parameter) for parameter in taps.parameters()}
