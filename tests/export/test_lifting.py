"""Networks that tracing cannot follow: their layers are found by way of `torch.export`, their branches made one."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from edgetl_export.lifting import folded, reparametrized

SIZE = (2, 3, 16, 16)


class NormAct(nn.BatchNorm2d):
    """A subclass, as timm has it: tracing goes into it, and a function is left."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(
            F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, self.training, 0.1, self.eps)
        )


class OnShapes(nn.Module):
    """Decides by a shape, and reads one layer twice."""

    def __init__(self, norm: type[nn.BatchNorm2d]) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 6, 3, padding="same", bias=False), norm(6)
        self.twice = nn.Conv2d(6, 6, 1)
        self.last = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2] % 2 == 0:
            x = self.norm(self.first(x))
        logits: Tensor = self.last(self.twice(self.twice(x)).mean((2, 3)))
        return logits


def trained(network: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -1, 1)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 2)  # type: ignore[arg-type]
            nn.init.uniform_(module.weight, 0.5, 2)
    return network.eval().requires_grad_(requires_grad=False)


def test_layers_are_modules_under_their_own_names_and_norms_are_folded() -> None:
    for norm in (nn.BatchNorm2d, NormAct):
        network = trained(OnShapes(norm))
        image = torch.rand(3, *SIZE[1:])
        wanted = network(image)
        found = folded(network, torch.zeros(SIZE))
        assert isinstance(found, fx.GraphModule)
        assert torch.allclose(found(image), wanted, atol=1e-5)
        layers = {name: type(part) for name, part in found.named_modules() if not list(part.children()) and name}
        assert layers == {"first": nn.Conv2d, "twice": nn.Conv2d, "last": nn.Linear} or layers == {
            "first": nn.Conv2d, "norm": nn.Identity, "twice": nn.Conv2d, "last": nn.Linear
        }  # fmt: skip


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.single = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), None

    def forward(self, x: Tensor) -> Tensor:
        total: Tensor = self.a(x) + self.b(x) if self.single is None else self.single(x)
        return total

    def reparameterize(self) -> None:
        self.single = nn.Conv2d(3, 3, 1)
        self.single.weight.data = self.a.weight + self.b.weight
        self.single.bias.data = self.a.bias + self.b.bias  # type: ignore[operator]


class Fusing(Branches):
    def fuse(self) -> nn.Module:
        self.reparameterize()
        assert self.single is not None
        return self.single


class NeedsArguments(Branches):
    def fuse(self, how: str) -> nn.Module:
        raise AssertionError(how)


def test_branches_are_made_one_by_the_blocks_own_methods() -> None:
    network = nn.Sequential(Branches(), nn.Sequential(Fusing(), NeedsArguments())).eval()
    image = torch.rand(1, 3, 4, 4)
    with torch.no_grad():
        wanted = network(image)
        found = reparametrized(network)(image)
    assert torch.allclose(found, wanted, atol=1e-6)
    assert isinstance(network[1][0], nn.Conv2d)
    assert network[0].single is not None
    assert network[1][1].single is not None
