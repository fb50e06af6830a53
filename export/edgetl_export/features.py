"""What a network gives besides its logits: the pooled features, or what any of its layers gives.

Layers have the names that torchvision's feature extraction gives them (`get_graph_node_names`); a name that stands for
several of them (``layer4``) means the last. Maps of a convolutional network come as (N, H, W, C), like the image.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence

import torch
from torch import fx, nn
from torch.fx.passes.shape_prop import ShapeProp
from torch.fx.proxy import TraceError

from edgetl_runtime.errors import ExportError, UsageError

__all__ = ["POOLED", "RESERVED", "check_features", "with_features"]

POOLED = "pooled"
"""What the last linear layer is given."""

RESERVED = ("image", "tensors", "images", "labels")
"""Names of other tensors, in a model's file or among the golden samples and kept answers."""

_LOGITS = "logits"
_TO_CHANNELS_LAST = (0, 2, 3, 1)


def check_features(
    names: Sequence[str], *, decoded: Sequence[str] = (), io: str = "float", precisions: Sequence[str] = ()
) -> None:
    """`UsageError` for a name that is empty, given twice or taken, and where nothing can be given besides.

    That is beside int8 logits (`io`), and at w8a16 among `precisions`; of what is `decoded` in the files too.
    """
    for name in names:
        if not name or name in (*RESERVED, _LOGITS):
            raise UsageError(f"{name!r} cannot be the name of a feature", fix=f"{POOLED}, or the name of a layer")
    if len(set(names)) < len(names):
        raise UsageError(f"a feature is given twice: {', '.join(names)}", fix="name each once")
    what = ", ".join(decoded) or "features"
    if (names or decoded) and io != "float":
        raise UsageError(
            f"{what} are computed in float, and --io {io} leaves no float operator in the file",
            fix="leave --features out, or --io" if names else "leave out what asks for them, or --io",
        )
    if (names or decoded) and "w8a16" in precisions:
        # Seen with ai-edge-quantizer 0.10: the file gives int16 there, or does not load.
        raise UsageError(
            f"{what} cannot be had at w8a16: the converter leaves outputs of 16-bit operators as they are",
            fix="leave --features out, or w8a16" if names else "leave out what asks for them, or w8a16",
        )


def with_features(network: nn.Module, names: Sequence[str], example: torch.Tensor) -> fx.GraphModule:
    """`network`, in evaluation mode, as a graph that gives a tuple: logits, then the features of these names.

    `example` is a batch of two or more images, float32 (N, C, H, W). Raises `UsageError` for a name that is none of
    the network's, or whose values are no floats with an axis for the image in front, `ExportError` when the network
    cannot be traced.
    """
    check_features(names)
    graph_module, found = _traced(network, names)
    ShapeProp(graph_module).propagate(example)
    graph = graph_module.graph
    features = []
    for name in names:
        node = _pooled(graph_module, found[_LOGITS]) if name == POOLED else found[name]
        shape = _shape(node, name, len(example))
        _check_whole(graph_module, node)
        # A copy: what comes next may work in place, and no converter has to fuse over an output.
        with graph.inserting_after(node):
            taken = graph.call_function(torch.clone, (node,))
        if len(shape) == 4 and not _has_channels_last(shape, example.shape):
            with graph.inserting_after(taken):
                taken = graph.call_function(torch.permute, (taken, _TO_CHANNELS_LAST))
        features.append(taken)
    graph.output_node().args = ((found[_LOGITS], *features),)
    graph.lint()
    graph_module.recompile()
    return graph_module


def _traced(network: nn.Module, names: Sequence[str]) -> tuple[fx.GraphModule, dict[str, fx.Node]]:
    """The network as a graph that gives a dictionary, and what stands in it: logits, and every layer of `names`."""
    # Here, because it takes seconds to import, and most exports need none of it.
    from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

    try:
        in_training, known = get_graph_node_names(network)
        wanted = {_resolved(name, known): name for name in names if name != POOLED}
        if len(wanted) < sum(name != POOLED for name in names):
            raise UsageError(f"two of {', '.join(names)} are the same layer", fix="name each layer once")
        extractor = create_feature_extractor(
            network,
            train_return_nodes={in_training[-1]: _LOGITS},
            eval_return_nodes={**wanted, known[-1]: _LOGITS},
        ).eval()
    except (TraceError, TypeError, RuntimeError) as error:
        raise ExportError(
            f"{type(network).__name__} cannot be traced, so that no layer of it can be an output: {error}",
            fix="leave --features out",
        ) from error
    graph_module = fx.GraphModule(extractor, extractor.graph).eval()
    outputs = graph_module.graph.output_node().args[0]
    assert isinstance(outputs, dict)
    return graph_module, dict(outputs)


def _resolved(name: str, known: Sequence[str]) -> str:
    """The full name of a layer: the last of those that `name` stands for. Raises `UsageError`."""
    # The first is the image.
    found = [layer for layer in known[1:] if layer == name or layer.startswith(f"{name}.")]
    if not found:
        # Blocks can be named too, so they are among what may have been meant.
        layers = [layer.split(".") for layer in known[1:-1]]
        names = {".".join(parts[:depth]) for parts in layers for depth in range(1, len(parts) + 1)}
        close = difflib.get_close_matches(name, sorted({POOLED, *names}), n=3, cutoff=0.0)
        raise UsageError(
            f"the network has no layer {name!r}",
            fix=f"{', '.join(close)} are the nearest; torchvision's get_graph_node_names lists all",
        )
    if found[-1] == known[-1]:
        raise UsageError(f"{name!r} is the layer that gives the logits", fix=f"{POOLED}, or a layer before it")
    return found[-1]


def _pooled(graph_module: fx.GraphModule, logits: fx.Node) -> fx.Node:
    layer = graph_module.get_submodule(str(logits.target)) if logits.op == "call_module" else None
    before = logits.all_input_nodes[0]
    if not isinstance(layer, nn.Linear):
        raise UsageError(
            "the network does not end with a linear layer, so that it has no pooled features",
            fix=f"name a layer, for example {before.target if before.op == 'call_module' else before.name}",
        )
    return before


def _shape(node: fx.Node, name: str, images: int) -> tuple[int, ...]:
    """What `node` gives for so many images. Raises `UsageError` when that is not a float tensor with a row for each."""
    meta = node.meta.get("tensor_meta")
    shape = tuple(getattr(meta, "shape", ()))
    if meta is None or len(shape) < 2 or not meta.dtype.is_floating_point or shape[0] != images:
        about = f"{list(shape)}" if shape else "no tensor"
        raise UsageError(
            f"the layer {name!r} gives {about} for {images} images, not one row of floats for each",
            fix=f"{POOLED}, or another layer",
        )
    return shape


def _check_whole(graph_module: fx.GraphModule, node: fx.Node) -> None:
    """`UsageError` for a convolution with a batch norm behind it: exported they are one layer, here and in int8."""

    def is_a(kind: type[nn.Module], other: fx.Node) -> bool:
        return other.op == "call_module" and isinstance(graph_module.get_submodule(str(other.target)), kind)

    users = [user for user in node.users if user.op != "output"]
    if is_a(nn.Conv2d, node) and len(users) == 1 and is_a(nn.BatchNorm2d, users[0]):
        raise UsageError(
            f"the convolution {node.target} becomes one layer with the batch norm behind it",
            fix=f"name that: {users[0].target}",
        )


def _has_channels_last(shape: Sequence[int], image: Sequence[int]) -> bool:
    """Whether a map is (N, H, W, C) already, as in Swin transformers: it then has the image's sides in front."""

    def misfit(height: int, width: int) -> float:
        return abs(math.log(height / width * image[3] / image[2]))

    return misfit(shape[1], shape[2]) < misfit(shape[2], shape[3])
