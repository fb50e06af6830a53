"""One grid for what is joined: integer engines then copy levels instead of rounding them once more.

Two places of a network with dense outputs join tensors: a decoder joins what it upsampled with a skip, and a detector
joins the boxes, or the logits, of all its maps. TFLite has one grid for what goes into a CONCATENATION and what comes
out, and would round each part again; ONNX Runtime looks every level of a part up that has another grid.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import fx

from edgetl_export.quantize.layers import ACTIVATIONS, CLIPPING, SUMS, UPSAMPLING, joining, layers, tails, tensors
from edgetl_export.quantize.quantization import Grid
from edgetl_export.quantize.ranges import Range

__all__ = ["shared_grids"]

_COMPUTED = UPSAMPLING - {torch.ops.aten.upsample_nearest2d.vec}
_POOLS = frozenset({torch.ops.aten.adaptive_avg_pool2d.default, torch.ops.aten.mean.dim})


def shared_grids(graph: fx.Graph, grids: Mapping[str, Grid]) -> dict[str, Grid]:
    """New grids, by node, of what is joined and of what an output is put together of; nothing for a classifier."""
    found = dict(grids)
    makers = {layer.node for layer in layers(graph)}
    for node in joining(graph):
        found |= _joined(node, found, makers)
    for sources, moving in tails(graph):
        found |= _tail(sources, moving, found, makers)
    return {name: grid for name, grid in found.items() if grids[name] != grid}


def _joined(node: fx.Node, grids: Mapping[str, Grid], makers: set[str]) -> dict[str, Grid]:
    """The grid of a decoder's join: that of the skip where all fits into it, for a skip has other readers too."""
    sources = tensors(node)
    if node.name not in grids or any(source.name not in grids for source in sources):
        return {}
    whole = _over(grids[source.name] for source in sources)
    free = [source for source in sources if len(source.users) == 1 and _is_free(source, makers)]
    bound = [grids[source.name] for source in sources if source not in free]
    widest = max(bound, key=lambda grid: grid.scale, default=whole)
    shared = widest if _covers(widest, whole) else whole
    given = {source.name: shared for source in free if _rounds_to(source, shared)}
    return {**given, node.name: shared}


def _tail(
    sources: list[fx.Node], moving: list[fx.Node], grids: Mapping[str, Grid], makers: set[str]
) -> dict[str, Grid]:
    """One grid from the layers that make an output to the output itself."""
    names = [node.name for node in (*sources, *moving)]
    if any(name not in grids for name in names):
        return {}
    if len(sources) == 1:
        return dict.fromkeys(names[1:], grids[names[0]])
    behind = set(moving)
    alone = all(behind.issuperset(source.users) and _is_free(source, makers) for source in sources)
    shared = _over(grids[source.name] for source in sources)
    if not alone or not all(_rounds_to(source, shared) for source in sources):
        return {}
    return dict.fromkeys(names, shared)


def _is_free(node: fx.Node, makers: set[str]) -> bool:
    """Whether nothing dictates the grid of what `node` gives: nearest neighbours are levels of what is upsampled."""
    return node.name in makers or node.target in ACTIVATIONS | SUMS | _COMPUTED | _POOLS


def _rounds_to(node: fx.Node, grid: Grid) -> bool:
    """Whether an activation can still be left to rounding on `grid`, which clips where it does."""
    if node.target not in ACTIVATIONS:
        return True
    limits = [float(value) for value in node.args[1:] if isinstance(value, int | float)]
    low, high = (limits or (0.0, 6.0)) if node.target in CLIPPING else (0.0, math.inf)
    return grid.clips_like(low, high)


def _over(grids: Iterable[Grid]) -> Grid:
    each = list(grids)
    return Grid.over(Range(min(grid.low for grid in each), max(grid.high for grid in each)))


def _covers(grid: Grid, other: Grid) -> bool:
    return grid.low <= other.low + grid.scale / 2 and grid.high >= other.high - grid.scale / 2
