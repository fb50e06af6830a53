"""Integer networks start from grey levels: the normalisation moves into the first convolution's weights and bias.

A uint8 image already lies on a grid of 256 levels. Normalised and rounded to 8 bits again it would lose a third of a
decibel of MobileNetV2's logits, and the float arithmetic in front costs time on every image. What the convolution pads
with must then be what the normalisation makes zero of - the mean colour, to the nearest grey level.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import fx, nn

from edgetl_export.capture import Captured, NamedOutputs

__all__ = ["PixelModule", "on_pixels", "with_borders_for"]

_PADS = (F.pad, torch.ops.aten.pad.default, torch.ops.aten.constant_pad_nd.default)


class PixelModule(NamedOutputs):
    """uint8 (N, H, W, C) to outputs, like `ExportedModule`; `network` takes grey levels with their border on."""

    top: torch.Tensor
    bottom: torch.Tensor
    left: torch.Tensor
    right: torch.Tensor

    def __init__(
        self,
        network: nn.Module,
        colour: torch.Tensor,
        size: tuple[int, int],
        pads: tuple[int, ...],
        names: tuple[str, ...],
        decodings: Iterable[nn.Module],
    ) -> None:
        super().__init__(network, names, decodings)
        left, right, top, bottom = pads
        height, width = size[0] + top + bottom, size[1]
        for name, shape in {
            "top": (1, top, width, len(colour)),
            "bottom": (1, bottom, width, len(colour)),
            "left": (1, height, left, len(colour)),
            "right": (1, height, right, len(colour)),
        }.items():
            self.register_buffer(name, colour.expand(shape).contiguous())

    def forward(self, image: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """The outputs for uint8 `image` (N, H, W, C)."""
        rows = _between(self.top, image.float(), self.bottom, dim=1)
        levels = _between(self.left, rows, self.right, dim=2)
        return self.in_order(self.network(levels.permute(0, 3, 1, 2)))


def with_borders_for(module: nn.Module, batch: int) -> nn.Module:
    """`module` with a border for each of `batch` images where it puts one around them: nothing is left to repeat."""
    if not isinstance(module, PixelModule) or batch < 2:
        return module
    repeated = copy.deepcopy(module)
    for name in ("top", "bottom", "left", "right"):
        setattr(repeated, name, getattr(repeated, name).repeat(batch, 1, 1, 1))
    return repeated


def _between(before: torch.Tensor, image: torch.Tensor, behind: torch.Tensor, *, dim: int) -> torch.Tensor:
    borders = [border.expand(image.shape[0], -1, -1, -1) if border.shape[dim] else None for border in (before, behind)]
    parts = [part for part in (borders[0], image, borders[1]) if part is not None]
    return image if len(parts) == 1 else torch.cat(parts, dim)


def on_pixels(captured: Captured) -> Captured:
    """The same function of grey levels when the network begins with a convolution, else `captured` itself.

    The border differs from the original's by at most half a grey level; everything else is exact.
    """
    before = captured.module
    assert isinstance(before, NamedOutputs)
    network = before.network
    first = _first_convolution(network, captured.source.preprocess.channels)
    if first is None:
        return captured
    network = copy.deepcopy(network)
    convolution = network.get_submodule(first)
    assert isinstance(convolution, nn.Conv2d)
    assert isinstance(network, fx.GraphModule)
    borders = _without_border(network)
    mean = torch.tensor(captured.source.normalize.mean, dtype=torch.float64)
    std = torch.tensor(captured.source.normalize.std, dtype=torch.float64)
    weight = convolution.weight.detach().double()
    bias = torch.zeros(len(weight)) if convolution.bias is None else convolution.bias.detach()
    height, width = captured.source.preprocess.crop
    left, right, top, bottom = borders
    pads = (*_padding(convolution, 1, width, (left, right)), *_padding(convolution, 0, height, (top, bottom)))
    folded = nn.Conv2d(
        convolution.in_channels,
        convolution.out_channels,
        convolution.kernel_size,  # type: ignore[arg-type]
        convolution.stride,  # type: ignore[arg-type]
        dilation=convolution.dilation,  # type: ignore[arg-type]
    )
    folded.weight.data = (weight / (255.0 * std)[None, :, None, None]).float()
    folded.bias = nn.Parameter((bias.double() - torch.einsum("oihw,i->o", weight, mean / std)).float())
    network.set_submodule(first, folded)
    _keep_shape(network, (convolution.in_channels, height, width))
    colour = (mean * 255.0).round().clamp(0, 255).float()
    module = (
        PixelModule(network, colour, (height, width), pads, captured.source.names, before.decodings)
        .eval()
        .requires_grad_(requires_grad=False)
    )
    return replace(captured, module=module, takes_pixels=True)


def _first_convolution(network: nn.Module, channels: int) -> str | None:
    """Name of the convolution that alone reads the image of so many channels, if there is one."""
    if not isinstance(network, fx.GraphModule):
        return None
    image = next(node for node in network.graph.nodes if node.op == "placeholder")
    users = _readers(image)
    if _border(network, users) is not None:
        users = _readers(users[0])
    if len(users) != 1 or users[0].op != "call_module":
        return None
    name = str(users[0].target)
    module = network.get_submodule(name)
    plain = (
        isinstance(module, nn.Conv2d)
        and module.groups == 1
        and module.in_channels == channels
        and module.padding_mode == "zeros"
        and not isinstance(module.padding, str)
    )
    shared = sum(node.op == "call_module" and node.target == name for node in network.graph.nodes) > 1
    return name if plain and not shared else None


def _readers(node: fx.Node) -> list[fx.Node]:
    return [user for user in node.users if not _reads_shape(user)]


def _border(network: fx.GraphModule, users: list[fx.Node]) -> tuple[int, int, int, int] | None:
    """The zeros that what alone reads the image puts around it: left, right, top, bottom. None for anything else.

    Keras' stems and those of TensorFlow's networks in timm begin with it. A pad that cuts off (a negative one) is none.
    """
    if len(users) != 1 or any(map(_reads_shape, users[0].users)):
        return None
    node = users[0]
    if node.op == "call_module":
        module = network.get_submodule(str(node.target))
        amounts = module.padding if isinstance(module, nn.ConstantPad2d) and module.value == 0 else ()
    elif node.op == "call_function" and node.target in _PADS:
        names = dict(zip(("input", "pad", "mode", "value"), node.args, strict=False)) | dict(node.kwargs)
        zeros = names.get("mode", "constant") == "constant" and not names.get("value")
        given = names.get("pad")
        amounts = tuple(given) if zeros and isinstance(given, list | tuple) else ()
    else:
        return None
    if len(amounts) != 4 or any(not isinstance(amount, int) or amount < 0 for amount in amounts):
        return None
    left, right, top, bottom = amounts
    return left, right, top, bottom


def _without_border(network: fx.GraphModule) -> tuple[int, int, int, int]:
    """Take what puts zeros around the image out of `network`: left, right, top, bottom of them."""
    image = next(node for node in network.graph.nodes if node.op == "placeholder")
    users = _readers(image)
    border = _border(network, users)
    if border is None:
        return 0, 0, 0, 0
    users[0].replace_all_uses_with(image)
    network.graph.erase_node(users[0])
    network.recompile()
    return border


def _reads_shape(node: fx.Node) -> bool:
    """Whether a reader of the image asks for its shape alone, or for one of its sides."""
    if node.op == "call_method":
        return node.target == "size"
    return node.op == "call_function" and node.target is getattr and bool(node.args[1] == "shape")


def _keep_shape(network: fx.GraphModule, sides: tuple[int, int, int]) -> None:
    """Readers of the image's shape see that of the image, not what it has with its border on."""
    image = next(node for node in network.graph.nodes if node.op == "placeholder")
    for node in [user for user in image.users if _reads_shape(user)]:
        asked = node.args[1:] if node.op == "call_method" else ()
        side = (*asked, *node.kwargs.values())
        with network.graph.inserting_before(node):
            shape = network.graph.call_function(_shape, (image, sides, *side))
        node.replace_all_uses_with(shape)
        network.graph.erase_node(node)
    network.recompile()


def _shape(image: torch.Tensor, sides: tuple[int, int, int], side: int | None = None) -> tuple[int, ...] | int:
    """The batch of `image` and these sides (channels, height, width), or one of the four."""
    shape = (image.shape[0], *sides)
    return shape if side is None else shape[side]


def _padding(convolution: nn.Conv2d, axis: int, size: int, border: tuple[int, int]) -> tuple[int, int]:
    """Rows (axis 0) or columns (axis 1) in front of and behind the image that the convolution looks at.

    `border` are those that something before it puts there.
    """
    padding = int(convolution.padding[axis])
    before, behind = border[0] + padding, border[1] + padding
    reach = convolution.dilation[axis] * (convolution.kernel_size[axis] - 1) + 1
    outputs = (size + before + behind - reach) // convolution.stride[axis] + 1
    return before, max(0, (outputs - 1) * convolution.stride[axis] + reach - before - size)
