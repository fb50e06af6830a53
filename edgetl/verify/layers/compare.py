"""SQNR of every layer of a variant against the original, in the names of the original's modules."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import fx

from edgetl.verify.layers.alignment import Fingerprint, align, similarity_db
from edgetl.verify.layers.layer_error import fall_db
from edgetl.verify.layers.operators import PRODUCT, WEIGHTED, Point, kind_of
from edgetl.verify.layers.probe import Probe, open_probe
from edgetl.verify.layers.tensor_stats import TensorStats
from edgetl.verify.report import LayerError
from edgetl_export import Captured, Source, capture
from edgetl_export.quantize.layers import layers, module_of
from edgetl_runtime.bundle import Bundle
from edgetl_runtime.comparison import sqnr_db
from edgetl_runtime.errors import EdgetlError

__all__ = ["layer_errors"]

Floats = npt.NDArray[np.float32]
_NETWORK = "network"
"""The attribute of `edgetl_export.capture.ExportedModule` that holds the original."""


def layer_errors(
    bundle: Bundle,
    variants: Sequence[str],
    original: Source | Captured,
    images: npt.NDArray[np.uint8],
    *,
    threads: int = 1,
) -> dict[str, tuple[LayerError, ...] | EdgetlError]:
    """By variant id its layers in running order, or the error that stopped it.

    `images` is (n, H, W, C) uint8, n at least 1. They go through one at a time, so that the memory needed is that of
    one image's activations. A layer is left out when the file has nothing of its size to compare it with.
    """
    captured = original if isinstance(original, Captured) else capture(original)
    reference = _FloatGraph(captured.outputs_alone)
    measured: dict[str, _Measured] = {}
    errors: dict[str, EdgetlError] = {}
    prints: dict[str, Fingerprint] = {}
    for variant_id in variants:
        variant = bundle.manifest.variant(variant_id)
        try:
            model, spec = bundle.model(variant_id, verify=False), bundle.manifest.input
            taken = replace(spec, shape=(bundle.manifest.batch_of(variant), *spec.shape[1:]))
            measured[variant_id] = _Measured(open_probe(variant.requires.engine, model, taken, threads=threads))
        except EdgetlError as error:
            errors[variant_id] = error
    for index in range(len(images)):
        image = images[index : index + 1]
        expected = reference.run(image)
        if index == 0:
            prints = dict(zip(expected, _fingerprints(reference.points, expected.values()), strict=True))
        for variant_id in [name for name in measured if name not in errors]:
            try:
                measured[variant_id].add(image, expected, prints, reference.scaled)
            except EdgetlError as error:
                errors[variant_id] = error
    return {name: errors[name] if name in errors else measured[name].layers(reference) for name in variants}


class _FloatGraph(fx.Interpreter):
    """The original as a graph, run node by node. ``points`` are its layers: ``tensor`` is the node's name.

    ``scaled`` are layers with weights by the constant product behind them, which a converter may fold into them.
    """

    def __init__(self, captured: Captured) -> None:
        super().__init__(captured.single.program.module())
        self.modules = _modules(self.graph)
        inside = {layer.node: layer for layer in layers(self.graph)}
        fused = {layer.output for layer in inside.values() if layer.output != layer.node}
        # The normalisation in front is left out: an int8 file may have folded it into its first layer.
        behind = self.sources(inside)
        self.points: list[Point] = []
        self.scaled: dict[str, str] = {}
        for node in self.graph.nodes:
            kind = _kind(node)
            if node.name in inside:
                self.modules[inside[node.name].output] = inside[node.name].name
                self.points.append(Point(inside[node.name].output, str(kind)))
            elif kind is not None and node.name not in fused and behind[node.name]:
                self.points.append(Point(node.name, kind))
                front = _scaled(node) if kind == PRODUCT else None
                if front is not None and front.name in inside:
                    self.scaled[node.name] = front.name
                    self.modules[node.name] = self.modules[front.name]
        self._tensors = {point.tensor for point in self.points}
        self._kept: dict[str, Floats] = {}

    def run(self, image: npt.NDArray[np.uint8]) -> dict[str, Floats]:  # type: ignore[override]
        """Values of all points, in their order, for one image (1, H, W, C)."""
        self._kept = {}
        with torch.inference_mode():
            super().run(torch.from_numpy(image))
        kept, self._kept = self._kept, {}
        return {point.tensor: kept[point.tensor] for point in self.points}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if n.name in self._tensors:
            # numpy() is a view, and an in-place activation may overwrite it.
            self._kept[n.name] = result.numpy().copy()
        return result

    def sources(self, measured: Iterable[str]) -> dict[str, set[str]]:
        """For every node, the nearest of the `measured` nodes that it depends on."""
        known = set(measured)
        nearest: dict[str, set[str]] = {}
        found: dict[str, set[str]] = {}
        for node in self.graph.nodes:
            found[node.name] = set().union(*(nearest[source.name] for source in node.all_input_nodes))
            nearest[node.name] = {node.name} if node.name in known else found[node.name]
        return found


class _Measured:
    """A variant, which of its tensors belongs to which layer, and their SQNR by image."""

    def __init__(self, probe: Probe) -> None:
        self._probe = probe
        self._tensors: dict[str, int] = {}
        self._layouts: dict[str, int] = {}
        self._statistics: dict[str, TensorStats] = {}

    def add(
        self,
        image: npt.NDArray[np.uint8],
        expected: Mapping[str, Floats],
        prints: Mapping[str, Fingerprint],
        scaled: Mapping[str, str],
    ) -> None:
        """Run `image` and compare; `prints`, of all that is expected, are needed for the first one."""
        values = self._probe.run(image)
        if not self._tensors:
            self._match(values, prints, scaled)
        for node, index in self._tensors.items():
            reference = expected[node]
            if node not in self._layouts:
                fits = [sqnr_db(reference, laid) for laid in _layouts(values[index], reference.shape)]
                self._layouts[node] = int(np.argmax(fits))
            laid = list(_layouts(values[index], reference.shape))[self._layouts[node]]
            self._statistics.setdefault(node, TensorStats()).add(reference, laid)

    def layers(self, reference: _FloatGraph) -> tuple[LayerError, ...]:
        """What was measured, in running order."""
        means = {node: statistics.sqnr_db for node, statistics in self._statistics.items()}
        sources = reference.sources(means)
        found = []
        for node in [point.tensor for point in reference.points if point.tensor in means]:
            own, statistics = self._probe.points[self._tensors[node]], self._statistics[node]
            weights = self._probe.file_weights.get(own.maker)
            found.append(
                LayerError(
                    module=reference.modules[node],
                    node=node,
                    tensor=own.tensor,
                    sqnr_db=means[node],
                    drop_db=fall_db([means[source] for source in sources[node]], means[node]),
                    range=statistics.range,
                    original_range=statistics.original_range,
                    clipped=statistics.clipped,
                    non_finite=statistics.non_finite,
                    dead_channels=statistics.dead_channels,
                    weights=None if weights is None else str(weights),
                )
            )
        return tuple(found)

    def _match(self, values: Sequence[Floats], prints: Mapping[str, Fingerprint], scaled: Mapping[str, str]) -> None:
        """With constant products apart from the layers before them, or folded into them: what is more alike."""
        own = _fingerprints(self._probe.points, values)
        folded = {
            name: replace(found, kind=WEIGHTED) if name in scaled else found
            for name, found in prints.items()
            if name not in scaled.values()
        }
        best = -1.0
        for originals in (prints, folded) if scaled else (prints,):
            names, fingerprints = list(originals), list(originals.values())
            found = align(fingerprints, own)
            alike = similarity_db(fingerprints, own, found)
            if alike > best:
                best, self._tensors = alike, {names[original]: index for index, original in found.items()}


def _fingerprints(points: Sequence[Point], values: Iterable[Floats]) -> list[Fingerprint]:
    return [Fingerprint.of(point.kind, array) for point, array in zip(points, values, strict=True)]


def _layouts(values: Floats, shape: tuple[int, ...]) -> Iterator[Floats]:
    """`values` in `shape`: as they lie, or with the channels moved from the last place to the second, or back."""
    yield values.reshape(shape)
    if len(shape) > 2:
        batch, channels, *inner = shape
        yield np.moveaxis(values.reshape(batch, *inner, channels), -1, 1)
        batch, *inner, channels = shape
        yield np.moveaxis(values.reshape(batch, channels, *inner), 1, -1)


def _kind(node: fx.Node) -> str | None:
    """Kind of what the node computes; None for one that gives no tensor of floats, or moves values."""
    value = node.meta.get("val")
    if node.op != "call_function" or not isinstance(value, torch.Tensor) or not value.is_floating_point():
        return None
    name = str(node.target).removeprefix("aten.").partition(".")[0]
    return kind_of(name, variable_inputs=sum(source.op != "get_attr" for source in node.all_input_nodes))


def _scaled(product: fx.Node) -> fx.Node | None:
    """The operator whose output a product multiplies by a constant, moved or not, when nothing else reads it."""
    node = product
    if not any(source.op == "get_attr" for source in node.all_input_nodes):
        return None
    while True:
        (*sources,) = (source for source in node.all_input_nodes if source.op != "get_attr")
        if len(sources) != 1 or len(sources[0].users) != 1:
            return None
        (node,) = sources
        if _kind(node) is not None or node.op != "call_function":
            return node


def _modules(graph: fx.Graph) -> dict[str, str]:
    """Path of the original module by node name; for what a module's own code computes, the last module before it.

    Tracing a network to fold its batch norms keeps the paths of its leaves only: a residual sum goes by its summand.
    """
    found: dict[str, str] = {}
    for node in graph.nodes:
        stack = node.meta.get("nn_module_stack") or {}
        path = str([path for path, _ in stack.values()][-1]) if stack else ""
        before = [found[source.name] for source in node.all_input_nodes if found[source.name]]
        found[node.name] = module_of(node) if path not in ("", _NETWORK) else before[-1] if before else ""
    return {name: path or name for name, path in found.items()}
