"""The operators of a file in the words of no particular format, and which of their outputs stand for a layer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

__all__ = ["PRODUCT", "WEIGHTED", "Operator", "Point", "kind_of", "points"]

WEIGHTED = "weighted"
"""Kind of a convolution or a matrix product with constant weights."""
PRODUCT = "product"

_NAMES = {
    "convolved": "conv conv2d convolution groupconvolution depthwiseconv2d",
    "matrix product": "gemm matmul fullyconnected linear batchmatmul scaleddotproductattention",
    # SiLU, hard swish and GELU end in a multiplication where a format has no such operator.
    PRODUCT: "mul multiply silu swish hardswish hswish gelu",
    "sum": "add addv2",
    "mean": "mean reducemean globalaveragepool averagepool averagepool2d avgpool avgpool2d adaptiveavgpool2d",
    "maximum": "maxpool maxpool2d",
    "joined": "cat concat concatenation",
    "clipped": "relu relu6 clip clamp hardtanh",
    "sigmoid": "sigmoid logistic",
    "hard sigmoid": "hardsigmoid hsigmoid",
    "softmax": "softmax",
    "normalised": "layernorm nativelayernorm layernormalization mvn",
}
_KINDS = {name: kind for kind, names in _NAMES.items() for name in names.split()}
_ROUNDING = frozenset({"quantizelinear", "quantize", "fakequantize"})


@dataclass(frozen=True)
class Operator:
    """An operator as its format calls it, and the tensors it takes and gives; constants are tensors that none gives."""

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Point:
    """A tensor that stands for a layer, and the layer's ``kind``: words that mean the same in every format.

    ``maker`` is the output of the layer's first operator, which is the tensor itself unless others are fused to it.
    """

    tensor: str
    kind: str
    maker: str = field(default="", compare=False)


def kind_of(name: str, *, variable_inputs: int) -> str | None:
    """Kind of the operator `name`; None for one that moves values, or is not known."""
    kind = _KINDS.get(_plain(name))
    return WEIGHTED if kind in ("convolved", "matrix product") and variable_inputs == 1 else kind


def points(operators: Sequence[Operator], image: str) -> list[Point]:
    """The outputs to compare, in the order of `operators`, for those that depend on the tensor `image`.

    An engine runs a convolution, its bias, a clipping activation and the rounding behind as one, so only the last of
    these is listed: asking for one in between would change what is measured.
    """
    consumers: dict[str, list[Operator]] = defaultdict(list)
    for operator in operators:
        for name in dict.fromkeys(operator.inputs):
            consumers[name].append(operator)
    variable = _reached(image, consumers)

    def count(operator: Operator) -> int:
        return sum(name in variable for name in operator.inputs)

    found: list[Point] = []
    folded: set[str] = set()
    for operator in operators:
        kind = kind_of(operator.name, variable_inputs=count(operator)) if count(operator) else None
        tensor = operator.outputs[0] if operator.outputs else ""
        if kind is None or tensor in folded:
            continue
        while len(consumers[tensor]) == 1:
            (behind,) = consumers[tensor]
            behind_kind = kind_of(behind.name, variable_inputs=count(behind))
            # TFLite's last layer has the scales of its weights behind it, and no bias of its own.
            bare = _plain(operator.name) == "fullyconnected" and len(operator.inputs) == 2
            scales = behind_kind == PRODUCT and bare
            fused = kind == WEIGHTED and (scales or behind_kind in ("sum", "clipped")) and count(behind) == 1
            rounding = _plain(behind.name) in _ROUNDING
            if not fused and not rounding:
                break
            tensor = behind.outputs[0]
            folded.add(tensor)
            if rounding:
                break
        found.append(Point(tensor, kind, operator.outputs[0]))
    return found


def _reached(image: str, consumers: dict[str, list[Operator]]) -> set[str]:
    """The tensors that depend on the image; files need not list their operators in running order."""
    reached, waiting = {image}, [image]
    while waiting:
        for operator in consumers.get(waiting.pop(), ()):
            new = [name for name in operator.outputs if name not in reached]
            reached.update(new)
            waiting += new
    return reached


def _plain(name: str) -> str:
    return name.replace("_", "").lower()
