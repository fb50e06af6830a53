"""Surgery: what is replaced is gone, what can be exact is exact, and the repair is judged on other images."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import fx, nn
from torch.nn import functional as F
from torchvision.models import efficientnet_b0, mobilenet_v3_small
from torchvision.ops import SqueezeExcitation

from edgetl_export.capture import capture
from edgetl_export.surgery import ACTIVATIONS, Operated, Surgery, _drawn, operate
from edgetl_runtime.comparison import sqnr_db
from edgetl_runtime.errors import DataError, UsageError
from edgetl_runtime.manifest import Normalize

if TYPE_CHECKING:
    from tests.zoo import Trained

NORMALIZE = Normalize((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def images(n: int = 12, size: int = 32) -> Iterator[npt.NDArray[np.uint8]]:
    """A stream that can be read once, of images of very different brightness and contrast."""
    rng = np.random.default_rng(0)
    for i in range(n):
        yield np.clip(rng.normal(220 - 60 * (i % 4), 10 + 5 * i, (1, size, size, 3)), 0, 255).astype(np.uint8)


def normal(n: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n, 3, 32, 32, generator=generator)


def operated(trained: Trained, activation: str) -> Operated:
    return operate(trained.source.module, Surgery(activation), iter(trained.samples), trained.source.normalize)


def logits(network: nn.Module, trained: Trained) -> npt.NDArray[np.float32]:
    normalize = trained.source.normalize
    pixels = torch.tensor(trained.tensors) / 255.0
    with torch.no_grad():
        output: npt.NDArray[np.float32] = network(
            ((pixels - torch.tensor(normalize.mean)) / torch.tensor(normalize.std)).permute(0, 3, 1, 2)
        ).numpy()
    return output


def gated(*, groups: int = 1, behind: bool = True) -> nn.Sequential:
    """Convolution, batch norm and a squeeze-excite block, with a convolution behind it or not."""
    torch.manual_seed(0)
    layers: list[nn.Module] = [
        nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), SqueezeExcitation(8, 4, activation=nn.ReLU)
    ]  # fmt: skip
    layers += [nn.Sequential(nn.Conv2d(8, 4, 3, groups=groups), nn.ReLU())] if behind else [nn.ReLU()]
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    network[1].running_mean.normal_()
    network[1].bias.data.normal_()
    return network


def with_constant_gates(network: nn.Module) -> nn.Module:
    """Gates that differ from channel to channel and do not depend on the image."""
    generator = torch.Generator().manual_seed(2)
    for module in network.modules():
        if isinstance(module, SqueezeExcitation):
            module.fc2.weight.data.zero_()
            module.fc2.bias.data = torch.randn(module.fc2.bias.shape, generator=generator)
    return network


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_silu_is_replaced_in_a_copy(trained: Trained, activation: str) -> None:
    found = operated(trained, activation)
    assert found.replaced == {"SiLU": 2}
    kinds = [type(module) for module in found.network.modules()]
    assert nn.SiLU not in kinds
    assert ACTIVATIONS[activation] in kinds
    assert any(isinstance(module, nn.SiLU) for module in trained.source.module.modules())
    names = [name for name, _ in trained.source.module.named_modules()]
    assert [name for name, _ in found.network.named_modules()] == names


def test_the_repair_helps_on_images_it_has_not_seen(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    reference = logits(trained.source.module, trained)
    repaired = operated(trained, "relu6")
    assert repaired.sqnr_db_after > repaired.sqnr_db_before
    monkeypatch.setattr("edgetl_export.surgery._with_moments_of", lambda _original, changed, _batches: changed)
    bare = operated(trained, "relu6")
    assert bare.sqnr_db_after == bare.sqnr_db_before == repaired.sqnr_db_before
    gain = sqnr_db(reference, logits(repaired.network, trained)) - sqnr_db(reference, logits(bare.network, trained))
    assert gain > 1.0


def test_a_repair_that_does_harm_is_left_out(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_original: nn.Module, changed: nn.Module, _batches: object) -> nn.Module:
        changed = copy.deepcopy(changed)
        for module in changed.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.bias.add_(3.0)
        return changed

    monkeypatch.setattr("edgetl_export.surgery._with_moments_of", broken)
    found = operated(trained, "hardswish")
    assert found.sqnr_db_after == found.sqnr_db_before
    assert sqnr_db(logits(trained.source.module, trained), logits(found.network, trained)) > 5.0


def test_the_repair_keeps_the_signs_of_the_channels() -> None:
    """Moments alone do not tell them: a repair that lost them would be far off, and left out."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.GELU(), nn.Conv2d(6, 6, 1), nn.BatchNorm2d(6))
    network[1].weight.data = torch.tensor([1.0, -1.0, 1.0, -1.0, 0.0, 1.0])
    network[4].weight.data = torch.tensor([4.0, -4.0, 4.0, -4.0, 4.0, -4.0])
    network.append(nn.Sequential(nn.AdaptiveAvgPool2d(8), nn.Flatten())).eval()
    found = operate(network, Surgery("relu6"), images(32), NORMALIZE)
    assert found.sqnr_db_after > found.sqnr_db_before + 2.0


def test_what_was_operated_can_be_trained(trained: Trained) -> None:
    network = operated(trained, "relu6").network
    network(normal()).square().sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


@pytest.mark.parametrize("build", [lambda: gated(), lambda: gated(groups=2), lambda: gated(behind=False)])
def test_a_constant_gate_is_folded_exactly(build: Callable[[], nn.Module]) -> None:
    network = with_constant_gates(build())
    found = operate(network, Surgery(squeeze_excite=False), images(), NORMALIZE)
    assert found.replaced == {"SqueezeExcitation": 1}
    assert not any(isinstance(module, SqueezeExcitation) for module in found.network.modules())
    with torch.no_grad():
        torch.testing.assert_close(found.network(normal()), network(normal()), rtol=1e-4, atol=1e-5)


def test_the_constant_is_the_best_one() -> None:
    """No other constant of a channel is nearer to what its gate lets through, every image counting alike."""
    network = gated(behind=False)[:3]
    network[2].fc2.weight.data *= 20.0
    network[1].running_mean.zero_()
    network[1].bias.data.zero_()
    found = operate(network, Surgery(squeeze_excite=False), images(), NORMALIZE)
    chosen = found.network[1].weight.detach() / network[1].weight.detach()
    fitted = torch.cat([torch.from_numpy(image) for i, image in enumerate(_drawn(images())) if i % 4])
    with torch.no_grad():
        x = network[:2]((fitted / 255.0 - 0.5).permute(0, 3, 1, 2) / 0.25)
        error = {step: _error(network[2], x, chosen + step) for step in (-0.001, 0.0, 0.001)}
    assert (error[0.0] <= error[0.001]).all()
    assert (error[0.0] <= error[-0.001]).all()


def _error(block: nn.Module, x: torch.Tensor, constant: torch.Tensor) -> torch.Tensor:
    energy = x.square().mean((1, 2, 3))
    squared = (block(x) - x * constant[:, None, None]).square().mean((2, 3))
    return (squared / energy[:, None]).sum(0)


def test_the_repair_leaves_a_folded_gate_where_it_is() -> None:
    """The batch norm that took in a gate is to give something else than before; the others are still repaired."""
    network = with_constant_gates(gated(behind=False))
    network[2].fc2.bias.data -= 4.0
    torch.manual_seed(0)
    front = [nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.GELU(), nn.Conv2d(6, 3, 1), nn.BatchNorm2d(3)]
    found = operate(nn.Sequential(*front, *network), Surgery("relu6", squeeze_excite=False), images(32), NORMALIZE)
    assert found.sqnr_db_after > found.sqnr_db_before + 2.0


@pytest.mark.parametrize("build", [efficientnet_b0, mobilenet_v3_small])
def test_a_backbone_without_squeeze_excite(build: Callable[..., nn.Module]) -> None:
    torch.manual_seed(0)
    network = with_constant_gates(build(num_classes=4)).eval()
    blocks = sum(isinstance(module, SqueezeExcitation) for module in network.modules())
    found = operate(network, Surgery("relu6", squeeze_excite=False), images(), NORMALIZE)
    assert found.replaced["SqueezeExcitation"] == blocks
    kinds = {type(module) for module in found.network.modules()}
    assert not kinds & {SqueezeExcitation, nn.SiLU, nn.Hardswish, nn.Sigmoid, nn.Hardsigmoid}
    with torch.no_grad():
        assert found.network(normal()).shape == (3, 4)
    graph = fx.symbolic_trace(found.network)
    assert not [node for node in graph.graph.nodes if "mul" in str(node.target)]


class Functional(nn.Module):
    """Calls its activations as functions."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.second = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.silu(self.norm(self.first(x)), inplace=True)
        return F.gelu(input=self.second(x), approximate="tanh").mean((2, 3))


def test_functions_are_replaced_too() -> None:
    network = Functional().train()
    found = operate(network, Surgery("hardswish"), images(), NORMALIZE)
    assert network.training
    assert not found.network.training
    assert found.replaced == {"SiLU": 1, "GELU": 1}
    exported = torch.export.export(found.network, (normal(),))
    called = [str(node.target) for node in exported.graph.nodes if node.op == "call_function"]
    assert sum("hardswish" in target for target in called) == 2
    assert not [target for target in called if "silu" in target or "gelu" in target]


def test_a_long_stream_is_not_kept() -> None:
    """Of any number of images only some are held, and they come from all of the stream."""
    stream = (np.full((1, 1, 1, 3), i // 4, np.uint8) for i in range(1000))
    drawn = [int(image[0, 0, 0, 0]) for image in _drawn(stream)]
    assert len(drawn) == 96
    assert 105 < np.mean(drawn) < 145


def test_an_unknown_activation_is_named_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"'relu8'(?s:.)*did you mean 'relu6'\? known: relu6, hardswish"):
        Surgery("relu8")


@pytest.mark.parametrize(
    ("surgery", "message"),
    [
        (Surgery(), "this surgery changes nothing"),
        (Surgery("relu6"), "no SiLU, Hardswish, GELU in this network"),
        (Surgery("hardswish"), "no SiLU, GELU in this network"),
        (Surgery(squeeze_excite=False), "no SqueezeExcitation in this network"),
    ],
)
def test_a_surgery_that_finds_nothing_says_what_it_looked_for(surgery: Surgery, message: str) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    with pytest.raises(UsageError, match=message):
        operate(network, surgery, images(), NORMALIZE)


def test_a_block_that_folds_nowhere_is_named() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU6(), SqueezeExcitation(8, 4), nn.AdaptiveAvgPool2d(1))
    with pytest.raises(UsageError, match="squeeze-excite 2 has no convolution beside it"):
        operate(network.append(nn.Flatten()), Surgery(squeeze_excite=False), images(), NORMALIZE)


def test_too_few_images() -> None:
    with pytest.raises(DataError, match="3 images are too few"):
        operate(gated(), Surgery(squeeze_excite=False), images(3), NORMALIZE)


def test_an_operated_network_is_captured_without_what_was_replaced(trained: Trained) -> None:
    from dataclasses import replace

    captured = capture(replace(trained.source, module=operated(trained, "relu6").network))
    assert not [node for node in captured.program.graph.nodes if "silu" in str(node.target)]
