"""Networks of timm by name: presets, heads, weights, branches made one."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from edgetl.models.backbones import build, first_convolution, head_of, preset, size_of, stages, timm_backbones
from edgetl.models.checkpoint import Checkpoint
from edgetl.models.heads import head_named
from edgetl.models.sources.opening import SourceOptions, open_source
from edgetl.models.sources.timm_table import COUNTED
from edgetl.models.weights import check_weights_available, fit
from edgetl_export.lifting import folded
from edgetl_runtime.comparison import sqnr_db
from edgetl_runtime.errors import CheckpointError, UsageError
from edgetl_runtime.manifest import Normalize

SMALL = "timm:mobilenetv3_small_050"


def with_statistics(network: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 1.5)  # type: ignore[arg-type]
    return network.eval().requires_grad_(requires_grad=False)


def test_names_and_tags_that_timm_has_not() -> None:
    with pytest.raises(UsageError, match="no network 'mobilnetv3_smal_050'") as caught:
        preset("timm:mobilnetv3_smal_050")
    assert "mobilenetv3_small_050" in str(caught.value.fix)
    assert len(str(caught.value.fix)) < 200  # timm knows some 1,300
    with pytest.raises(UsageError, match="no weights 'nope' of mobilenetv3_small_050") as caught:
        preset(f"{SMALL}.nope")
    assert "lamb_in1k" in str(caught.value.fix)


def test_weights_of_another_width_are_not_said_to_have_another_head() -> None:
    network = build("timm:mobilenetv3_small_075", 3)
    state = dict(build(SMALL, 3).state_dict())
    with pytest.raises(CheckpointError, match="does not fit timm:mobilenetv3_small_075") as caught:
        fit(network, state, "timm:mobilenetv3_small_075", where="w.pth", keep_head=True)
    assert "--backbone" in str(caught.value.fix)


def test_its_configuration_says_how_photos_go_in() -> None:
    spec, normalize = preset("timm:tf_efficientnet_lite0")
    assert (spec.resize, spec.crop, spec.interpolation, spec.mode) == (256, (224, 224), "bicubic", "crop")
    assert normalize == Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert preset("timm:repvit_m0_9", 96)[0].resize == 101
    assert preset(SMALL, channels=1)[1].mean == pytest.approx(((0.485 + 0.456 + 0.406) / 3,))
    with pytest.raises(UsageError, match="timm has no network 'mobilnetv3_small_050'") as caught:
        preset("timm:mobilnetv3_small_050")
    assert "mobilenetv3_small_050" in str(caught.value.fix)


@pytest.mark.parametrize("name", ["mobilenetv3_small_050", "levit_128s", "repvit_m0_9", "convnext_atto"])
def test_heads_stages_and_channels(name: str) -> None:
    channels = 3 if name == "levit_128s" else 1
    network = build(f"timm:{name}", 4, channels=channels).eval()
    assert first_convolution(network)[1].in_channels == channels
    assert head_of(network)[1].weight.shape[0] == 4
    assert len(stages(network)) >= 3
    with torch.no_grad():
        assert network(torch.zeros(2, channels, 224, 224)).shape == (2, 4)


def test_the_list_has_what_was_counted() -> None:
    found = {info.name: info for info in timm_backbones()}
    assert set(found) == {f"timm:{name}" for name in COUNTED}
    assert found[SMALL].top1 is None
    params, macs = size_of(SMALL, 1000, 224)
    assert (params, round(macs / 1e9, 3)) == COUNTED["mobilenetv3_small_050"][:2]


@pytest.mark.parametrize("name", ["levit_128s", "repvit_m0_9"])
def test_two_heads_of_a_distilled_network_become_one(name: str) -> None:
    original = with_statistics(timm.create_model(name, num_classes=6))
    network = build(f"timm:{name}", 6).eval()
    assert fit(network, original.state_dict(), f"timm:{name}", where="file") == "loaded whole"
    image = torch.rand(1, 3, 224, 224)
    with torch.no_grad():
        assert sqnr_db(original(image).numpy(), network(image).numpy()) > 100
    assert "head of 6 outputs replaced by one of 3" in fit(
        build(f"timm:{name}", 3), original.state_dict(), f"timm:{name}", where="file"
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mobileone_s0", "fastvit_t8", "repvit_m0_9"])
def test_branches_are_one_before_an_export(name: str) -> None:
    network = with_statistics(build(f"timm:{name}", 5))
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        wanted = network(image).numpy()
        single = folded(network, torch.zeros(2, 3, 64, 64))
        assert sqnr_db(wanted, single(image).numpy()) > 100
    assert not any(isinstance(part, nn.BatchNorm2d) for part in single.modules())


@pytest.mark.parametrize("head", ["ssdlite", "lraspp"])
def test_heads_stand_on_its_maps_and_are_folded_with_them(head: str) -> None:
    crop = (64, 96)
    chosen = {"strides": [16, 32], "shapes": [[[0.2, 0.2], [0.3, 0.5]]] * 2} if head == "ssdlite" else {}
    trunk = build("timm:tf_efficientnet_lite0", 2)
    network = with_statistics(head_named(head).attach(trunk, 3, chosen, crop=crop, channels=3))
    image = torch.rand(1, 3, *crop)
    single = folded(network, torch.zeros(2, 3, *crop))
    with torch.no_grad():
        wanted, given = network(image), single(image)
    for name, values in wanted.items():
        assert sqnr_db(values.numpy(), given[name].numpy()) > 100
    assert not any(isinstance(part, nn.BatchNorm2d) for part in single.modules())


def test_a_file_of_weights_is_opened_by_name(tmp_path: Path) -> None:
    original = with_statistics(timm.create_model("mobilenetv3_small_050", num_classes=5))
    save_file(original.state_dict(), tmp_path / "w.safetensors")
    opened = open_source(SMALL, SourceOptions(weights=tmp_path / "w.safetensors", labels=list("abcde"), image_size=64))
    assert isinstance(opened, Checkpoint)
    assert opened.preprocess.crop == (64, 64)
    opened.write(tmp_path)
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(Checkpoint.load(tmp_path).build()(image), original(image))


def test_weights_out_of_reach_are_said_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgetl.models.reaching.can_reach", lambda url: False)
    monkeypatch.setattr("edgetl.models.sources.timm_networks._is_cached", lambda hub: False)
    with pytest.raises(CheckpointError, match="are not here, and the hub that timm keeps them on") as caught:
        check_weights_available(SMALL, "imagenet")
    assert "--weights FILE" in str(caught.value.fix)
