"""What a translation is built into: an fx graph of torch modules, in NCHW, and one call of a Keras layer."""

from __future__ import annotations

import keyword
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from edgetl_runtime.errors import UsageError

__all__ = ["Call", "Ending", "GraphBuilder", "Padding", "cannot", "same_padding", "tensor_of"]

Padding = tuple[int, int, int, int]
"""Left, right, top, bottom, as `torch.nn.ZeroPad2d` has it."""


@dataclass(frozen=True)
class Ending:
    """The activation that was taken off at the end: ``kind`` is softmax or sigmoid, ``layer`` is Keras' own."""

    layer: Any
    kind: str


@dataclass
class GraphBuilder:
    """The graph so far. ``places`` are the Keras layers whose output a node has, in order; ``notes`` are for people."""

    root: nn.Module = field(default_factory=nn.Module)
    graph: fx.Graph = field(default_factory=fx.Graph)
    notes: list[str] = field(default_factory=list)
    places: list[tuple[Any, str, fx.Node]] = field(default_factory=list)
    ending: Ending | None = None
    corrected: list[tuple[Any, nn.Module]] = field(default_factory=list)
    """Layers that Keras computes otherwise on torch than on TensorFlow, with what TensorFlow computes (NCHW)."""
    values: dict[fx.Node, Tensor] = field(default_factory=dict)
    """What each node gives for one image of zeros: shapes are read from it, which Keras may leave open."""
    _by_layer: dict[tuple[int, str], str] = field(default_factory=dict)

    def add(self, name: str, module: nn.Module, *inputs: fx.Node, layer: Any = None) -> fx.Node:
        """A call of `module`, which stands under `name` or one like it. A `layer` that is used twice has one module."""
        key = (id(layer), name + repr(module))
        if layer is not None and key in self._by_layer:
            return self.graph.call_module(self._by_layer[key], inputs)
        base = name.replace(".", "_").replace("/", "_") or "layer"
        base = (
            f"layer_{base}" if not base.isidentifier() or keyword.iskeyword(base) or hasattr(nn.Module, base) else base
        )
        path, number = base, 1
        while hasattr(self.root, path):
            path, number = f"{base}_{number}", number + 1
        self.root.add_module(path, module)
        self._by_layer[key] = path
        return self.graph.call_module(path, inputs)

    def shape_of(self, node: fx.Node) -> tuple[int, ...]:
        """The shape of what `node` gives, channels last as Keras has it."""
        with torch.no_grad():
            for one in self.graph.nodes:
                if one not in self.values:
                    self.values[one] = self._value_of(one)
        shape = tuple(self.values[node].shape)
        return (shape[0], shape[2], shape[3], shape[1]) if len(shape) == 4 else shape

    def _value_of(self, node: fx.Node) -> Tensor:
        given: Any = fx.map_arg(node.args, lambda one: self.values[one])
        if node.op == "call_module":
            value = self.root.get_submodule(str(node.target)).eval()(*given)
        elif node.op == "call_method":
            value = getattr(given[0], str(node.target))(*given[1:])
        else:
            assert callable(node.target)
            value = node.target(*given)
        assert isinstance(value, Tensor)
        return value

    def padded(self, name: str, given: fx.Node, padding: Padding, value: float = 0.0) -> fx.Node:
        """`given` with a border, where there is one."""
        if not any(padding):
            return given
        module = nn.ZeroPad2d(padding) if value == 0 else nn.ConstantPad2d(padding, value)
        return self.add(f"{name}_pad", module, given)


@dataclass(frozen=True)
class Call:
    """One call of a Keras layer or operation.

    ``inputs`` are nodes, ``shapes`` what Keras has for them (batch first, channels last). ``final``: it gives the
    outputs. ``arguments`` are all of an operation, with a node for every tensor of the graph.
    """

    layer: Any
    name: str
    inputs: Sequence[fx.Node]
    shapes: Sequence[tuple[int, ...]]
    final: bool
    arguments: Sequence[Any] = ()
    output_shape: tuple[int | None, ...] = ()

    @property
    def input(self) -> fx.Node:
        """The first input."""
        return self.inputs[0]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the first input."""
        return self.shapes[0]

    @property
    def channels(self) -> int:
        """Of the first input."""
        return self.shape[-1]

    @property
    def sides(self) -> tuple[int, int]:
        """Height and width of the first input."""
        return self.shape[1], self.shape[2]


def cannot(call: Call, what: str) -> UsageError:
    """An error about a layer that cannot be translated, with the way out."""
    return UsageError(
        f"layer {call.name} ({type(call.layer).__name__}): {what}",
        fix=f'--custom module.py, with TRANSLATIONS = {{"{call.name}": function}}: it is given the Keras layer '
        "and returns a torch module for NCHW",
    )


def tensor_of(variable: Any) -> Tensor:
    """A Keras variable, tensor or array as float32 on the CPU, a copy."""
    if isinstance(variable, Tensor):
        return variable.detach().cpu().float().clone()
    if hasattr(variable, "numpy") and not isinstance(variable, np.ndarray):
        value = getattr(variable, "value", variable)
        value = value.detach().cpu() if isinstance(value, Tensor) else variable
        variable = value.numpy() if hasattr(value, "numpy") else value
    return torch.tensor(np.asarray(variable, dtype=np.float32))


def same_padding(size: int, kernel: int, stride: int, dilation: int = 1) -> tuple[int, int]:
    """How many rows ``padding="same"`` puts in front and behind: the odd one behind."""
    reach = dilation * (kernel - 1) + 1
    total = max((-(-size // stride) - 1) * stride + reach - size, 0)
    return total // 2, total - total // 2
