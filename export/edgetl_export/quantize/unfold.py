"""What was learned in the captured graph, back in the original module: `capture` and `on_pixels` undone.

There batch norms are part of the convolutions before them, and the normalisation is part of the first one. A checkpoint
has the original's parameters, under the original's names.
"""

from __future__ import annotations

import copy

import torch
from torch import fx, nn

from edgetl_export.capture import Captured
from edgetl_export.lifting import graph_of_layers
from edgetl_export.quantize.layers import layers
from edgetl_runtime.errors import ExportError
from edgetl_runtime.manifest import Normalize

__all__ = ["unfolded"]


def unfolded(learned: Captured) -> nn.Module:
    """A copy of ``learned.source.module`` that computes what `learned` does, from the parameters of its layers.

    A convolution whose batch norm was folded gets the folded weight; the batch norm becomes the identity, plus the
    folded bias. Logits differ by float rounding, and by the border when `learned` takes pixels (see `on_pixels`).
    Raises `ExportError` when a bias has no place in the original.
    """
    network = copy.deepcopy(learned.source.module).cpu().float().eval()
    example = torch.zeros(2, len(learned.source.normalize.mean), *learned.source.preprocess.crop)
    is_folded = isinstance(learned.module.get_submodule("network"), fx.GraphModule)
    folded = _folded_norms(graph_of_layers(network, example)) if is_folded else {}
    parameters = dict(network.named_parameters(remove_duplicate=False))
    with torch.no_grad():
        for index, layer in enumerate(layers(learned.batched.graph)):
            weight: torch.Tensor = learned.module.get_parameter(layer.weight)
            bias: torch.Tensor | None = None
            if layer.bias is not None:
                bias = learned.module.get_parameter(layer.bias)
            if learned.takes_pixels and index == 0:
                weight, bias = _of_normalised(weight, bias, learned.source.normalize)
            name = layer.weight.removeprefix("network.")
            parameters[name].copy_(weight)
            owner = name.removesuffix(".weight")
            if bias is None:
                continue
            if owner in folded:
                _become_bias(network, owner, folded[owner], bias)
            elif (place := str(layer.bias).removeprefix("network.")) in parameters:
                parameters[place].copy_(bias)
            else:
                raise ExportError(
                    f"{owner}, the first convolution, has neither a bias nor a batch norm to keep what it learned",
                    fix="train without qat, and export with --quantize qat",
                )
    return network


def _of_normalised(
    weight: torch.Tensor, bias: torch.Tensor | None, normalize: Normalize
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight and bias for ``(pixel / 255 - mean) / std`` from those for grey levels (0..255)."""
    mean, std = (torch.tensor(values, dtype=torch.float64) for values in (normalize.mean, normalize.std))
    scaled = weight.double() * (255.0 * std)[None, :, None, None]
    shift = torch.einsum("oihw,i->o", scaled, mean / std)
    return scaled.float(), (shift if bias is None else bias.double() + shift).float()


def _folded_norms(network: fx.GraphModule) -> dict[str, str]:
    """Convolution -> the batch norm that `torch.fx`'s fuse folds into it: its only reader, with fixed statistics."""
    modules = dict(network.named_modules())
    found: dict[str, str] = {}
    for node in network.graph.nodes:
        if node.op != "call_module" or not isinstance(modules[str(node.target)], nn.BatchNorm2d):
            continue
        before = node.args[0]
        if before.op != "call_module" or len(before.users) > 1 or not modules[str(node.target)].track_running_stats:
            continue
        if isinstance(modules[str(before.target)], nn.Conv2d):
            found[str(before.target)] = str(node.target)
    return found


def _become_bias(network: nn.Module, convolution: str, norm: str, bias: torch.Tensor) -> None:
    """`norm` adds `bias` and does nothing else; the convolution before it adds nothing."""
    before, module = network.get_submodule(convolution), network.get_submodule(norm)
    assert isinstance(module, nn.BatchNorm2d)
    assert module.running_mean is not None
    assert module.running_var is not None
    if isinstance(before.bias, torch.Tensor):
        before.bias.zero_()
    module.running_var.fill_(1.0 - module.eps)
    if module.affine:
        module.running_mean.zero_()
        module.weight.fill_(1.0)
        module.bias.copy_(bias)
    else:
        module.running_mean.copy_(-bias)
