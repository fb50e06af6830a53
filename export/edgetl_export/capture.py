"""A trained network as the module that is exported: uint8 NHWC in, normalisation inside, outputs by name."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import fx, nn
from torch.export import Dim, ExportedProgram

from edgetl_export.features import RESERVED, check_features, with_features
from edgetl_export.labels_file import check_label_names
from edgetl_export.lifting import folded
from edgetl_runtime.batch_sizes import FREE
from edgetl_runtime.errors import ExportError, UsageError
from edgetl_runtime.manifest import Label, Manifest, Normalize, Preprocess, TensorSpec

__all__ = [
    "BATCH_NAME",
    "Captured",
    "Decoding",
    "ExportedModule",
    "NamedOutputs",
    "Original",
    "Source",
    "by_image",
    "by_name",
    "capture",
]

INPUT_NAME = "image"
OUTPUT_NAME = "logits"
BATCH_NAME = "batch"
"""What a free number of images is called in files that have names for lengths."""

_LEAVE_BATCH_OUT = "leave --batch out: the network is for one image at a time"
_FIXED_BATCH = "--batch N, a fixed number of images for each run, or leave --batch out"


@dataclass(frozen=True)
class Decoding:
    """Outputs that files give besides: computed of the raw ones, which stay as they are, in float.

    ``module`` takes the raw outputs as a dict by name, and gives a tensor for each of ``names``, the batch first; its
    constants have one dimension (converters take matrices for weights, and round them).
    """

    names: tuple[str, ...]
    module: nn.Module


@dataclass(frozen=True)
class Source:
    """What is exported.

    Args:
        name: Of the bundle.
        module: The network: normalised float32 (N, C, H, W) to `outputs`, batch first: one as a tensor, several as a
            tuple in the order of these names, or either as a dict by name, of which the others are left out.
        labels: Of a classifier one for each logit, in their order.
        preprocess: How a photo becomes uint8 (N, H, W, C).
        normalize: Mean and deviation of each channel, of pixels as 0 to 1; the file normalises, the device does not.
        checkpoint_sha256: Identifies the weights, hex; it is recorded in the bundle.
        task: One of `edgetl_runtime.tasks.TASKS`.
        features: Names of what is given besides (see `edgetl_export.features`), beside a single output.
        decodings: What is computed of the outputs in the files, and given behind all else.
        outputs: Names of the outputs; of a classifier it is one, ``logits`` (N, classes).
        decoder: What the task decodes the outputs by, plain JSON; it is recorded, too.
        original: Where `module` is a translation of another make's model, that model: uint8 (N, H, W, C) to `outputs`
            by name, by its own code. It is what every file is held against.

    Raises:
        UsageError: Names of outputs that cannot be, or labels that no file can hold.
    """

    name: str
    module: nn.Module
    labels: tuple[Label, ...]
    preprocess: Preprocess
    normalize: Normalize
    checkpoint_sha256: str
    task: str = "classification"
    features: tuple[str, ...] = ()
    decodings: tuple[Decoding, ...] = ()
    outputs: tuple[str, ...] = (OUTPUT_NAME,)
    decoder: Mapping[str, Any] | None = field(default=None, hash=False)
    original: Callable[[npt.NDArray[np.uint8]], Mapping[str, npt.NDArray[np.float32]]] | None = None

    def __post_init__(self) -> None:
        _check_outputs((*self.outputs, *self.decoded))
        check_label_names((text for label in self.labels for text in (label.id, label.name)), f"model {self.name}")

    def network(self) -> nn.Module:
        """A copy of the network on the CPU, in float32 and evaluation mode; with features it gives a tuple.

        Raises `UsageError` for features that it does not have, `ExportError` when it cannot be traced to find them.
        """
        network = copy.deepcopy(self.module).cpu().float().eval().requires_grad_(requires_grad=False)
        if not self.features:
            return network
        check_features(self.features)
        if len(self.outputs) > 1 or self.outputs[0] in self.features:
            raise UsageError(
                f"features can be had beside one output of another name, and {self.name} has {', '.join(self.outputs)}",
                fix="leave --features out, or give them as outputs",
            )
        example = torch.zeros(2, len(self.normalize.mean), *self.preprocess.crop)
        return with_features(network, self.features, example)

    @property
    def names(self) -> tuple[str, ...]:
        """All that `network` gives, in this order: the outputs, the features."""
        return (*self.outputs, *self.features)

    @property
    def decoded(self) -> tuple[str, ...]:
        """Names of what `decodings` give, in this order behind `names`."""
        return tuple(name for decoding in self.decodings for name in decoding.names)

    def reference(self) -> Original:
        """The original: uint8 (N, H, W, C) to its outputs, for a classifier float32 logits (N, classes)."""
        return Original(self)


def _check_outputs(names: tuple[str, ...]) -> None:
    if not names or len(set(names)) < len(names) or any(not name or name in RESERVED for name in names):
        raise UsageError(
            f"{', '.join(map(repr, names)) or 'nothing'} cannot be the names of a network's outputs",
            fix=f"name each once, and none {', '.join(RESERVED)}",
        )


class Original:
    """A source's network as it was trained, as a function of uint8 (N, H, W, C) to its outputs.

    The normalisation is computed here once more: what is exported is compared with the original, not with the
    exporter's own idea of it. Where the source has an `original` of its own, that gives the outputs, the network only
    features. ``features`` are the names of what `outputs` gives besides.
    """

    def __init__(self, source: Source) -> None:
        self.features, self._names, self._own = source.features, source.names, source.original
        self._network = source.network().to(memory_format=torch.channels_last)
        self._mean, self._std = torch.tensor(source.normalize.mean), torch.tensor(source.normalize.std)

    def __call__(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """The first output: of a classifier the logits."""
        return self.outputs(images)[self._names[0]]

    def outputs(self, images: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[Any]]:
        """Outputs and features by name, each with a row for every image."""
        if self._own is None:
            return self._of_network(images)
        own = {name: np.ascontiguousarray(value, np.float32) for name, value in self._own(images).items()}
        return {**self._of_network(images), **own} if self.features else own

    def _of_network(self, images: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[Any]]:
        with torch.inference_mode():
            normal = (torch.tensor(images).float() / 255.0 - self._mean) / self._std
            tensors = by_name(self._network(normal.permute(0, 3, 1, 2)), self._names)
        return {name: np.ascontiguousarray(value) for name, value in tensors.items()}


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

        Raises `ExportError` where the batch is free and the network computes with the number of its images.
        """
        if self.batch != FREE:
            return torch.export.export(self.module, (self.example,))
        try:
            free = torch.export.export(self.module, (self.example,), dynamic_shapes=({0: Dim(BATCH_NAME, min=1)},))
            return _with_plain_means(free)
        except (RuntimeError, ValueError) as error:  # what tracing raises of its own is one of these
            reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise ExportError(
                f"{self.source.name} cannot take any number of images: {reason:.300}", fix=_FIXED_BATCH
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


def by_name(given: Any, names: Sequence[str]) -> dict[str, torch.Tensor]:
    """What a network gives - a tensor, a tuple or a list in the order of `names`, or a dict - as a dict of these names.

    Raises `ExportError` when something of it is not there, or no tensor.
    """
    if isinstance(given, Mapping):
        parts = tuple(given.get(name) for name in names)
    else:
        parts = tuple(given) if isinstance(given, tuple | list) else (given,)
    tensors = {name: part for name, part in zip(names, parts, strict=False) if isinstance(part, torch.Tensor)}
    if not len(tensors) == len(parts) == len(names):
        raise ExportError(
            f"the network gives {_described(given)}, not {', '.join(names)} as "
            f"{'a tensor' if len(names) == 1 else 'a tuple of tensors'} or a dict by name",
            fix="let its forward return these tensors, or name its outputs in the source",
        )
    return tensors


def _described(given: Any) -> str:
    if isinstance(given, Mapping):
        return f"a dict of {', '.join(map(str, given)) or 'nothing'}"
    if isinstance(given, tuple | list):
        return f"a {type(given).__name__} of {len(given)} ({', '.join(type(part).__name__ for part in given)})"
    return "a tensor" if isinstance(given, torch.Tensor) else f"a {type(given).__name__}"


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
