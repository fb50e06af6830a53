"""What Keras' applications write out in sums and products, as the activation that it is: engines know these by name."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx, nn

from edgetl.models.sources.keras_model.modules import Scale

__all__ = ["simplify"]

_CLOSE = 1e-6


def simplify(module: fx.GraphModule) -> None:
    """``relu6(x + 3) / 6`` becomes Hardsigmoid, and ``x`` times that Hardswish, in place (MobileNetV3)."""
    for node in list(module.graph.nodes):
        if not _scales(module, node, 1 / 6, 0.0):
            continue
        relu = node.args[0]
        plus = relu.args[0] if _is(module, relu, nn.ReLU6) else None
        if plus is None or not _scales(module, plus, 1.0, 3.0) or len(relu.users) > 1 or len(plus.users) > 1:
            continue
        _replace(module, node, plus.args[0], nn.Hardsigmoid())
    for node in list(module.graph.nodes):
        if node.target is not operator.mul or len(node.args) != 2:
            continue
        for x, gate in (node.args, node.args[::-1]):
            if _is(module, gate, nn.Hardsigmoid) and gate.args[0] is x and len(gate.users) == 1:
                _replace(module, node, x, nn.Hardswish())
                break
    module.graph.eliminate_dead_code()
    module.delete_all_unused_submodules()
    module.recompile()


def _is(module: fx.GraphModule, node: Any, kind: type[nn.Module]) -> bool:
    return (
        isinstance(node, fx.Node)
        and node.op == "call_module"
        and isinstance(module.get_submodule(str(node.target)), kind)
    )


def _scales(module: fx.GraphModule, node: Any, scale: float, shift: float) -> bool:
    """Whether `node` multiplies by one number and adds another, and which."""
    if not _is(module, node, Scale):
        return False
    part = module.get_submodule(str(node.target))
    assert isinstance(part, Scale)
    wanted = torch.tensor([scale, shift])
    return part.scale.numel() == 1 and bool(
        torch.allclose(torch.stack((part.scale.reshape(()), part.shift.reshape(()))), wanted, atol=_CLOSE)
    )


def _replace(module: fx.GraphModule, node: fx.Node, given: Any, made: nn.Module) -> None:
    name = f"{node.name}_{type(made).__name__.lower()}"
    module.add_submodule(name, made)
    with module.graph.inserting_before(node):
        call = module.graph.call_module(name, (given,))
    node.replace_all_uses_with(call)
    module.graph.erase_node(node)
