"""A trained network as the module that is exported: uint8 NHWC in, normalisation inside, logits out."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import fx, nn
from torch.export import ExportedProgram
from torch.fx.experimental.optimization import fuse
from torch.fx.proxy import TraceError

from edgetl_runtime.errors import ExportError
from edgetl_runtime.manifest import Label, Normalize, Preprocess, TensorSpec

__all__ = ["Captured", "ExportedModule", "Source", "by_image", "capture"]

INPUT_NAME = "image"
OUTPUT_NAME = "logits"


@dataclass(frozen=True)
class Source:
    """What is exported: a network that takes normalised float32 (N, C, H, W) and gives (N, classes) logits.

    `checkpoint_sha256` identifies the weights; it is recorded in the bundle.
    """

    name: str
    module: nn.Module
    labels: tuple[Label, ...]
    preprocess: Preprocess
    normalize: Normalize
    checkpoint_sha256: str
    task: str = "classification"

    def reference(self) -> Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]]:
        """The original as a function of uint8 (N, H, W, C) to float32 logits (N, classes).

        It is the network as it was trained, and the normalisation is computed here once more: what is exported is
        compared with the original, not with the exporter's own idea of it.
        """
        network = copy.deepcopy(self.module).cpu().float().eval().to(memory_format=torch.channels_last)
        mean, std = torch.tensor(self.normalize.mean), torch.tensor(self.normalize.std)

        def run(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
            with torch.inference_mode():
                normal = (torch.tensor(images).float() / 255.0 - mean) / std
                logits: npt.NDArray[np.float32] = network(normal.permute(0, 3, 1, 2)).numpy()
            return logits

        return run


class ExportedModule(nn.Module):
    """`network` behind the input contract: uint8 (N, H, W, C), ``(pixel / 255 - mean) / std`` inside."""

    scale: torch.Tensor
    shift: torch.Tensor

    def __init__(self, network: nn.Module, normalize: Normalize) -> None:
        super().__init__()
        self.network = network
        mean, std = torch.tensor(normalize.mean, dtype=torch.float64), torch.tensor(normalize.std, dtype=torch.float64)
        self.register_buffer("scale", (1.0 / (255.0 * std)).float())
        self.register_buffer("shift", (-mean / std).float())

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits (N, classes) float32 of uint8 `image` (N, H, W, C)."""
        # Normalising before the permute keeps the TFLite graph NHWC from end to end, without a leading transpose.
        normal = image.float() * self.scale + self.shift
        logits: torch.Tensor = self.network(normal.permute(0, 3, 1, 2))
        return logits


@dataclass(frozen=True)
class Captured:
    """The module that every target is converted from: uint8 (N, H, W, C) in, logits out.

    With ``takes_pixels`` its first layer reads grey levels and the normalisation is part of its weights.
    """

    source: Source
    module: nn.Module
    takes_pixels: bool = False

    @property
    def input(self) -> TensorSpec:
        """uint8 NHWC, batch 1."""
        spec = self.source.preprocess
        return TensorSpec(INPUT_NAME, "uint8", (1, *spec.crop, spec.channels), "NHWC")

    @property
    def output(self) -> TensorSpec:
        """float32 logits."""
        return TensorSpec(OUTPUT_NAME, "float32", (1, len(self.source.labels)))

    @property
    def example(self) -> torch.Tensor:
        """An input of the right shape and type for the converters' tracing. Nothing is measured on it."""
        return torch.zeros(self.input.shape, dtype=torch.uint8)

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
        """The module as a graph whose nodes know the original modules they came from."""
        return torch.export.export(self.module, (self.example,))

    @cached_property
    def batched(self) -> fx.GraphModule:
        """The same graph, nodes of the same names, for any number of images at once."""
        example = self.example.expand(2, -1, -1, -1).contiguous()
        program = torch.export.export(self.module, (example,), dynamic_shapes=({0: torch.export.Dim("n", max=4096)},))
        return program.module()


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


def capture(source: Source) -> Captured:
    """Fold what can be folded and put the input contract around the network.

    Works on a copy, on the CPU, in evaluation mode. Batch norms are folded into the convolutions before them, so
    that every target, and the calibration, sees the same weights.

    Raises `ExportError` when the network does not give one row of logits per image.
    """
    network = copy.deepcopy(source.module).cpu().float().eval().requires_grad_(requires_grad=False)
    captured = Captured(source, ExportedModule(_folded(network), source.normalize).eval())
    with torch.inference_mode():
        logits = captured.module(captured.example)
    if not isinstance(logits, torch.Tensor) or tuple(logits.shape) != captured.output.shape:
        shape = list(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise ExportError(
            f"{source.name} gives {shape} for one image; its labels need {list(captured.output.shape)}",
            fix="pass the labels that the checkpoint was trained with",
        )
    return captured


def _folded(network: nn.Module) -> nn.Module:
    try:
        return fuse(network)
    except TraceError:
        # Control flow that symbolic tracing cannot follow: the converters fold what they find instead.
        return network
