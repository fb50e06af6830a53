"""A trained network as the module that is exported: uint8 NHWC in, normalisation inside, outputs by name."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import fx, nn
from torch.export import Dim, ExportedProgram

from edgetl_export.lifting import folded
from edgetl_export.source import OUTPUT_NAME, Source, by_name
from edgetl_runtime.batch_sizes import FREE
from edgetl_runtime.errors import ExportError
from edgetl_runtime.manifest import Manifest, Normalize, TensorSpec

__all__ = ["BATCH_NAME", "Captured", "ExportedModule", "NamedOutputs", "by_image", "capture"]

INPUT_NAME = "image"
BATCH_NAME = "batch"
"""What a free number of images is called in files that have names for lengths."""

_LEAVE_BATCH_OUT = "leave --batch out: the network is for one image at a time"
_FIXED_BATCH = "--batch N, a fixed number of images for each run, or leave --batch out"
_BY_SHAPES = "let its forward decide by shapes alone: an if, an assert or .item() on values of the image stops it"
_CALL = "The following call raised this error:"
"""What tracing says before it names a line of the network's code."""


class NamedOutputs(nn.Module):
    """``network`` behind an input: gives its outputs called ``names`` in this order, and what ``decodings`` make of
    them; one tensor as it is, more as a tuple."""

    def __init__(self, network: nn.Module, names: tuple[str, ...], decodings: Iterable[nn.Module] = ()) -> None:
        super().__init__()
        self.network, self.names, self.decodings = network, names, nn.ModuleList(decodings)

    def in_order(self, given: Any) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """What the network gives, in whatever form `by_name` takes it, as this module does."""
        outputs = by_name(given, self.names)
        tensors = (*outputs.values(), *(tensor for decode in self.decodings for tensor in decode(outputs)))
        return tensors[0] if len(tensors) == 1 else tensors


class ExportedModule(NamedOutputs):
    """`network` behind the input contract: uint8 (N, H, W, C), ``(pixel / 255 - mean) / std`` inside."""

    scale: torch.Tensor
    shift: torch.Tensor

    def __init__(
        self,
        network: nn.Module,
        normalize: Normalize,
        names: tuple[str, ...] = (OUTPUT_NAME,),
        decodings: Iterable[nn.Module] = (),
    ) -> None:
        super().__init__(network, names, decodings)
        mean, std = torch.tensor(normalize.mean, dtype=torch.float64), torch.tensor(normalize.std, dtype=torch.float64)
        self.register_buffer("scale", (1.0 / (255.0 * std)).float())
        self.register_buffer("shift", (-mean / std).float())

    def forward(self, image: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """The outputs for uint8 `image` (N, H, W, C)."""
        # Normalising before the permute keeps the TFLite graph NHWC from end to end, without a leading transpose.
        normal = image.float() * self.scale + self.shift
        return self.in_order(self.network(normal.permute(0, 3, 1, 2)))


@dataclass(frozen=True)
class Captured:
    """The module that every target is converted from: uint8 (N, H, W, C) in; outputs, features and decoded out.

    With ``takes_pixels`` its first layer reads grey levels and the normalisation is part of its weights. ``batch`` is
    how many images a file takes in one run, `FREE` for any number.
    """

    source: Source
    module: nn.Module
    takes_pixels: bool = False
    batch: int = 1

    @property
    def input(self) -> TensorSpec:
        """uint8 NHWC, the batch first."""
        spec = self.source.preprocess
        return TensorSpec(INPUT_NAME, "uint8", (self.batch, *spec.crop, spec.channels), "NHWC")

    @cached_property
    def all_outputs(self) -> tuple[TensorSpec, ...]:
        """All that a file gives, in this order: the outputs, the features, what is decoded."""
        return tuple(replace(spec, shape=(self.batch, *spec.shape[1:])) for spec in self.given)

    @cached_property
    def given(self) -> tuple[TensorSpec, ...]:
        """What the module gives for `example`, in the order of the source's names."""
        with torch.inference_mode():
            tensors = by_name(self.module(self.example), (*self.source.names, *self.source.decoded))
        return tuple(
            TensorSpec(
                name, str(value.dtype).removeprefix("torch."), tuple(value.shape), "NHWC" if value.ndim == 4 else None
            )
            for name, value in tensors.items()
        )

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What the task is decoded from, in the order of the source's names; of a classifier float32 logits."""
        return self.all_outputs[: len(self.source.outputs)]

    @property
    def output(self) -> TensorSpec:
        """The first of the outputs."""
        return self.all_outputs[0]

    @property
    def features(self) -> tuple[TensorSpec, ...]:
        """float32, what is given behind the outputs, in the order of the source's names."""
        return self.all_outputs[len(self.source.outputs) : len(self.source.names)]

    @property
    def decoded(self) -> tuple[TensorSpec, ...]:
        """What is computed of the outputs, in the order of the source's decodings."""
        return self.all_outputs[len(self.source.names) :]

    @property
    def manifest(self) -> Manifest:
        """What is known of it before any variant is there."""
        source = self.source
        return Manifest(
            name=source.name,
            task=source.task,
            labels=source.labels,
            input=self.input,
            preprocess=source.preprocess,
            normalize=source.normalize,
            output=self.output,
            features=self.features,
            decoded=self.decoded,
            outputs=self.outputs,
            decoder=None if source.decoder is None else dict(source.decoder),
            variants=(),
        )

    @property
    def example(self) -> torch.Tensor:
        """An input of the right shape and type for the converters' tracing. Nothing is measured on it.

        Where the batch is free it is two images: of one, tracing would make a constant.
        """
        return torch.zeros((2 if self.batch == FREE else self.batch, *self.input.shape[1:]), dtype=torch.uint8)

    @cached_property
    def single(self) -> Captured:
        """The same for one image at a time, from the same module; itself where that is what it is."""
        return self if self.batch == 1 else replace(self, batch=1)

    def with_parameters(self, values: Mapping[str, torch.Tensor]) -> Captured:
        """A copy whose parameters of these names (as in `batched`) have these values; itself when there are none."""
        if not values:
            return self
        module = copy.deepcopy(self.module)
        for name, value in values.items():
            module.get_parameter(name).data = value.detach().clone()
        return replace(self, module=module)

    @cached_property
    def program(self) -> ExportedProgram:
        """The module as a graph whose nodes know the original modules they came from.

        Raises `ExportError` for a network that cannot be traced, and where the batch is free and it computes with the
        number of its images.
        """
        if self.batch != FREE:
            try:
                return torch.export.export(self.module, (self.example,))
            except Exception as error:  # what tracing raises for a network is up to the network
                raise ExportError(f"{self.source.name} cannot be traced: {_reason(error)}", fix=_BY_SHAPES) from error
        try:
            free = torch.export.export(self.module, (self.example,), dynamic_shapes=({0: Dim(BATCH_NAME, min=1)},))
            return _with_plain_means(free)
        except (RuntimeError, ValueError) as error:  # what tracing raises of its own is one of these
            raise ExportError(
                f"{self.source.name} cannot take any number of images: {_reason(error)}", fix=_FIXED_BATCH
            ) from error

    @cached_property
    def batched(self) -> fx.GraphModule:
        """The same graph, nodes of the same names, for any number of images at once. It gives the outputs alone."""
        example, alone = torch.zeros((2, *self.input.shape[1:]), dtype=torch.uint8), self.outputs_alone
        program = torch.export.export(alone.module, (example,), dynamic_shapes=({0: Dim("n", max=4096)},))
        return _named_like(alone.single.program.module(), program.module())

    @cached_property
    def outputs_alone(self) -> Captured:
        """What gives the outputs alone, from parameters of the same names; itself where nothing is given besides.

        Quantisation looks at this, so that nothing changes on the outputs' way.
        """
        if not self.source.features and not self.source.decodings:
            return self
        module = copy.deepcopy(self.module)
        assert isinstance(module, NamedOutputs)
        module.names, module.decodings = self.source.outputs, nn.ModuleList()
        if self.source.features:
            network = module.network
            assert isinstance(network, fx.GraphModule)
            output = network.graph.output_node()
            output.args = (output.all_input_nodes[0],)
            network.graph.eliminate_dead_code()
            network.recompile()
        return replace(self, source=replace(self.source, features=(), decodings=()), module=module)


def by_image(node: fx.Node, value: torch.Tensor, images: int) -> torch.Tensor:
    """What a node of `Captured.batched` gave for some images as (images, -1), one row for each.

    The batch is the axis that was traced with a free length; in attention it need not be the first. Where it is folded
    together with another axis (heads, tokens), rows are taken in the order of memory, and may mix images. What does not
    depend on the image counts for each.
    """
    lengths = node.meta["val"].shape
    axis = next((axis for axis, length in enumerate(lengths) if not isinstance(length, int)), None)
    if axis is None:
        return value.reshape(1, -1).expand(images, -1)
    if axis == 0 and value.ndim == 4:
        # The order in memory, whatever the axes mean: NHWC tensors are not copied.
        return value.permute(0, 2, 3, 1).reshape(images, -1)
    return value.movedim(axis, 0).reshape(images, -1)


def capture(source: Source, *, batch: int = 1) -> Captured:
    """Fold what can be folded and put the input contract around the network.

    Works on a copy, on the CPU, in evaluation mode. Batch norms are folded into the convolutions before them, so
    that every target, and the calibration, sees the same weights.

    Args:
        source: What is exported.
        batch: A file will take so many images in one run; `FREE`: any number.

    Returns:
        The network that every target writes: uint8 (N, H, W, C) to the outputs by name.

    Raises:
        ExportError: The network does not give what the source names, each with a row for every image, or a classifier
            not one row of logits; or it cannot be traced.
        UsageError: It has no such features.
    """
    example = torch.zeros(2, len(source.normalize.mean), *source.preprocess.crop)
    network = folded(source.network(), example, single=batch == 1)
    decodings = [copy.deepcopy(decoding.module) for decoding in source.decodings]
    module = ExportedModule(network, source.normalize, source.names, decodings).eval()
    captured = Captured(source, module, batch=batch)
    _check_rows(captured.single)
    _check_rows(captured)
    return captured


def _reason(error: Exception) -> str:
    """The first line of what tracing says, and the line of the network's code, where it names that."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    place = lines.index(_CALL) + 1 if _CALL in lines else len(lines)
    return f"{lines[0]:.300}" + "".join(f"; {line:.200}" for line in lines[place : place + 2])


def _check_rows(captured: Captured) -> None:
    """`ExportError` when the network does not give a row for each image, of a classifier one of logits."""
    source, images = captured.source, len(captured.example)
    of = "one image" if images == 1 else f"{images} images"
    given = captured.given
    if source.task == "classification" and given[0].shape != (images, len(source.labels)):
        raise ExportError(
            f"{source.name} gives {list(given[0].shape)} for {of}; its labels need {[images, len(source.labels)]}",
            fix="pass the labels that the checkpoint was trained with" if images == 1 else _LEAVE_BATCH_OUT,
        )
    for spec in given:
        if spec.shape[:1] != (images,):
            raise ExportError(
                f"{source.name} gives {spec.name} {list(spec.shape)} for {of}, not a row for each image",
                fix="let the network give its outputs with the batch first",
            )


def _with_plain_means(program: ExportedProgram) -> ExportedProgram:
    """Pooling to a single place as the mean that it is, in place.

    PyTorch takes it apart into a mean and an `as_strided`, which converters write as a gather of places that are
    computed for as many images as there are.
    """
    for node in program.graph.nodes:
        if node.target is torch.ops.aten.adaptive_avg_pool2d.default and list(node.args[1]) == [1, 1]:
            node.target, node.args = torch.ops.aten.mean.dim, (node.args[0], [-1, -2], True)
    program.graph_module.recompile()
    return program


def _named_like(model: fx.GraphModule, other: fx.GraphModule) -> fx.GraphModule:
    """`other` with the node names of `model`, the same graph but for lengths that are computed: these count too when
    nodes are numbered, as where Swin's windows are cut."""
    names = [node.name for node in model.graph.nodes if _gives_tensor(node)]
    nodes = [node for node in other.graph.nodes if _gives_tensor(node)]
    if len(names) != len(nodes):
        return other
    for node in other.graph.nodes:
        if node.name in names and not _gives_tensor(node):
            node.name = f"length_{node.name}"
    for node, name in zip(nodes, names, strict=True):
        node.name = name
    other.recompile()
    return other


def _gives_tensor(node: fx.Node) -> bool:
    return node.op == "call_function" and isinstance(node.meta.get("val"), torch.Tensor)
