"""Feature maps of a backbone at the strides that a head stands on.

A classifier is traced, the maps are found by their sizes, and everything behind the last of them is cut off. The
weights keep the names that they have in the classifier.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp
from torchvision.ops import StochasticDepth

from edgetl.models.backbones import stages
from edgetl_runtime.errors import UsageError

__all__ = ["Taps"]


class Taps(nn.Module):
    """A backbone that gives its map at each of ``strides``, in this order; ``channels`` has how many each has."""

    def __init__(
        self,
        trunk: nn.Module,
        strides: Sequence[int],
        *,
        crop: tuple[int, int],
        channels: int,
        expanded: bool = False,
        dilate: bool = False,
    ) -> None:
        """Cut `trunk`, whose modules become part of this one.

        Args:
            trunk: A classifier, normalised float32 (N, channels, height, width) to logits.
            strides: Pixels of the image for each of a map, rising, such as 8, 16, 32.
            crop: (height, width) of the images.
            channels: Of the images.
            expanded: Where the block behind a map begins by widening it, tap the wide map, as SSDLite does
                (Sandler et al. 2018, arXiv:1801.04381, section 6.2); else the narrow one between two blocks.
            dilate: Keep the second last stride of the network to its end: its last layers look at every second pixel
                instead (Chen et al. 2017, arXiv:1706.05587). The largest stride is then half of what it was.

        Raises:
            UsageError: The backbone cannot be traced, or has no map of a stride.
        """
        super().__init__()
        trunk = trunk.eval()
        graph = _traced(trunk)
        _propagate(graph, crop, channels)
        if dilate:
            _dilate(graph, crop)
            _propagate(graph, crop, channels)
        found = _maps(graph, trunk, crop, expanded=expanded)
        missing = [stride for stride in strides if stride not in found]
        if missing:
            raise UsageError(
                f"{type(trunk).__name__} has no map of stride {', '.join(map(str, missing))}",
                fix=f"it has {', '.join(map(str, sorted(found)))}; choose another backbone, such as mobilenet_v2",
            )
        nodes = [found[stride] for stride in strides]
        self.channels = tuple(int(node.meta["tensor_meta"].shape[1]) for node in nodes)
        self.strides = tuple(strides)
        self.network = _cut(graph, nodes)

    def forward(self, images: Tensor) -> list[Tensor]:
        """The maps (N, channels, height / stride, width / stride) of normalised `images`."""
        maps: list[Tensor] = list(self.network(images))
        return maps


_WHOLE = (
    StochasticDepth,
    nn.modules.batchnorm._BatchNorm,
    nn.modules.conv._ConvNd,
    nn.modules.pooling._AvgPoolNd,
    nn.modules.pooling._MaxPoolNd,
)


class _Tracer(fx.Tracer):
    """Keeps layers whole that do something else in training, or compute their border from sizes (timm has layers of its
    own of these kinds): what is traced serves for both."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, _WHOLE) or super().is_leaf_module(m, module_qualified_name)


def _traced(trunk: nn.Module) -> fx.GraphModule:
    try:
        return fx.GraphModule(trunk, _Tracer().trace(trunk))
    except (fx.proxy.TraceError, TypeError) as error:
        raise UsageError(
            f"the maps of {type(trunk).__name__} cannot be found: {error}",
            fix="choose another backbone, such as mobilenet_v2",
        ) from error


def _propagate(graph: fx.GraphModule, crop: tuple[int, int], channels: int) -> None:
    with torch.no_grad():
        ShapeProp(graph).propagate(torch.zeros(1, channels, *crop))


def _stride(node: fx.Node, crop: tuple[int, int]) -> int | None:
    """Pixels of the image for each of the map that `node` gives; None for what is no map."""
    meta = node.meta.get("tensor_meta")
    shape = getattr(meta, "shape", ())
    if len(shape) != 4 or (1 in shape[2:] and 1 not in crop):
        return None
    factors = {1 << power for power in range(12) if _sides(crop, 1 << power) == tuple(shape[2:])}
    return min(factors, default=None)


def _sides(crop: tuple[int, int], stride: int) -> tuple[int, int]:
    """Of a map, when every halving rounds up."""
    return -(-crop[0] // stride), -(-crop[1] // stride)


def _maps(graph: fx.GraphModule, trunk: nn.Module, crop: tuple[int, int], *, expanded: bool) -> dict[int, fx.Node]:
    """Stride -> the last map that all later layers follow from; unless `expanded`, one that a stage ends with."""
    ends = _ends_of_stages(graph, trunk)
    found: dict[int, fx.Node] = {}
    for node in _passed_by_all(graph.graph.nodes):
        stride = _stride(node, crop)
        if stride is None:
            continue
        if expanded or node in ends or found.get(stride) not in ends:
            found[stride] = node
    return found


def _ends_of_stages(graph: fx.GraphModule, trunk: nn.Module) -> set[fx.Node]:
    """What the last module of each stage gives."""
    last = {id(module) for stage in stages(trunk) for module in stage}
    paths = {path for path, module in trunk.named_modules() if id(module) in last}
    ends: dict[str, fx.Node] = {}
    for node in graph.graph.nodes:
        for path in {str(path) for path, _ in node.meta.get("nn_module_stack", {}).values()} & paths:
            ends[path] = node
    return set(ends.values())


def _passed_by_all(nodes: Iterable[fx.Node]) -> list[fx.Node]:
    """Nodes between which and the end nothing from before them is used."""
    order = [node for node in nodes if node.op not in ("get_attr", "output")]
    place = {node: index for index, node in enumerate(order)}
    passed, latest = [], 0
    for index, node in enumerate(order):
        if latest <= index:
            passed.append(node)
        latest = max([latest, *(place.get(user, len(order)) for user in node.users)])
    return passed


def _dilate(graph: fx.GraphModule, crop: tuple[int, int]) -> None:
    """Take the stride from the layers that halve the map for the last time, and dilate those behind them."""
    strides = {node: _stride(node, crop) for node in graph.graph.nodes}
    largest = max((stride for stride in strides.values() if stride is not None), default=1)
    for node in graph.graph.nodes:
        if node.op != "call_module" or strides[node] != largest:
            continue
        layer = graph.get_submodule(str(node.target))
        if not isinstance(layer, nn.Conv2d):
            continue
        if layer.stride == (2, 2):
            layer.stride = (1, 1)
        elif layer.kernel_size != (1, 1):
            layer.dilation = (2, 2)
            assert not isinstance(layer.padding, str)
            layer.padding = tuple(2 * side for side in layer.padding)


def _cut(graph: fx.GraphModule, nodes: Sequence[fx.Node]) -> fx.GraphModule:
    graph.graph.output_node().args = (tuple(nodes),)
    graph.graph.eliminate_dead_code()
    graph.delete_all_unused_submodules()
    graph.recompile()
    return graph
