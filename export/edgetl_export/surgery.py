"""Opt-in surgery for integer engines: cheaper activations, and squeeze-excite blocks made constant.

SiLU is two operators to most engines, and a squeeze-excite block needs the whole feature map before the first pixel of
its output. ReLU6 is free, Hardswish cheap, and a constant gate costs nothing at all: it is folded into weights.
The network is another one afterwards. What closed forms can repair is repaired here; training on the original's
outputs has to do the rest, and verification says what is left.
"""

from __future__ import annotations

import copy
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import fx, nn
from torch.fx.proxy import TraceError
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves
from torch.utils.hooks import RemovableHandle
from torchvision.ops import SqueezeExcitation

from edgetl_runtime.comparison import least_sqnr_db
from edgetl_runtime.errors import DataError, UsageError, nearest
from edgetl_runtime.manifest import Normalize

__all__ = ["ACTIVATIONS", "Operated", "Surgery", "operate"]

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu6": nn.ReLU6, "hardswish": nn.Hardswish}
"""What activations may be replaced by."""

_FUNCTIONS: dict[str, Callable[..., torch.Tensor]] = {"relu6": F.relu6, "hardswish": F.hardswish}
_COSTLY = {nn.SiLU: F.silu, nn.Hardswish: F.hardswish, nn.GELU: F.gelu}
_IMAGES = 96
_HELD_OUT = 4
"""Every so many images are kept to judge the repair on."""

_BATCH = 16
_TINY = 1e-12


@dataclass(frozen=True)
class Surgery:
    """What to change: ``activation`` replaces SiLU, Hardswish and GELU; ``squeeze_excite=False`` removes the blocks.

    Raises `UsageError` for an unknown activation.
    """

    activation: str | None = None
    squeeze_excite: bool = True

    def __post_init__(self) -> None:
        if self.activation is not None and self.activation not in ACTIVATIONS:
            raise UsageError(f"no activation {self.activation!r}", fix=nearest(self.activation, [*ACTIVATIONS]))


@dataclass(frozen=True)
class Operated:
    """The changed network in evaluation mode, and how many modules of which class were replaced in it.

    Both SQNRs are of its outputs (the worst, where it has several) against the original's, in dB, on images that
    nothing was fitted to: just after the surgery, and as it is returned. They are equal when the repair did not help
    and was left out.
    """

    network: nn.Module
    replaced: dict[str, int]
    sqnr_db_before: float
    sqnr_db_after: float


def operate(
    network: nn.Module, surgery: Surgery, images: Iterable[npt.NDArray[np.uint8]], normalize: Normalize
) -> Operated:
    """Perform `surgery` on a copy of `network`, a function of normalised float32 (N, C, H, W), on the CPU.

    `images` are uint8 (1, H, W, C). At most 96 of them, drawn with a fixed seed, are held in memory; three quarters
    measure the gates and repair the batch norms, the others judge.

    Raises `UsageError` when the network has nothing of what is to be replaced, or when a squeeze-excite block has no
    convolution beside it that its constant folds into, and `DataError` when there are too few images.
    """
    if surgery.activation is None and surgery.squeeze_excite:
        raise UsageError(
            "this surgery changes nothing", fix=f"name an activation ({', '.join(ACTIVATIONS)}) or --no-se"
        )
    original = copy.deepcopy(network).cpu().float().eval()
    operated = copy.deepcopy(original)
    sample = _drawn(images)
    judged = list(_batches(sample[::_HELD_OUT], normalize))
    fitted = [image for i, image in enumerate(sample) if i % _HELD_OUT]
    replaced: dict[str, int] = {}
    # Not inference mode: its tensors could not be trained afterwards.
    with torch.no_grad():
        if not surgery.squeeze_excite:
            constants = _gate_constants(original, _batches(fitted, normalize))
            for name, constant in constants.items():
                _fold(operated, name, constant)
            replaced[SqueezeExcitation.__name__] = len(constants)
        if surgery.activation is not None:
            operated, swapped = _swap(operated, surgery.activation)
            replaced |= swapped
        reference = _outputs(original, judged)
        before = least_sqnr_db(reference, _outputs(operated, judged))
        repaired = _with_moments_of(original, operated, _batches(fitted, normalize))
        after = least_sqnr_db(reference, _outputs(repaired, judged))
    if after > before:
        return Operated(repaired, replaced, before, after)
    return Operated(operated, replaced, before, before)


def _swap(network: nn.Module, activation: str) -> tuple[nn.Module, dict[str, int]]:
    """Replace modules in place, and calls of functions in a graph of the network; how many of each class."""
    costly = {kind: function for kind, function in _COSTLY.items() if kind is not ACTIVATIONS[activation]}
    replaced = Counter[str]()
    for name, module in list(network.named_modules(remove_duplicate=False)):
        if type(module) in costly:
            network.set_submodule(name, ACTIVATIONS[activation]())
            replaced[type(module).__name__] += 1
    graph = _graph(network)
    names = {function: kind.__name__ for kind, function in costly.items()}
    calls = [node for node in graph.graph.nodes if node.op == "call_function" and node.target in names] if graph else []
    for node in calls:
        replaced[names[node.target]] += 1
        node.args, node.kwargs = (node.args or tuple(node.kwargs.values()))[:1], {}
        node.target = _FUNCTIONS[activation]
    if not replaced:
        looked_for = ", ".join(names.values())
        raise UsageError(f"no {looked_for} in this network to replace", fix="leave --activation out")
    if graph is not None and calls:
        graph.recompile()
        network = graph.eval()
    return network, dict(replaced)


def _graph(network: nn.Module) -> fx.GraphModule | None:
    try:
        return fx.symbolic_trace(network)
    except (TraceError, TypeError):
        # Control flow that symbolic tracing cannot follow: only its modules are replaced.
        return None


def _gate_constants(network: nn.Module, batches: Iterable[torch.Tensor]) -> dict[str, torch.Tensor]:
    """For every squeeze-excite block the constant (C,) that comes nearest to its gate.

    Of all constants, ``c = E[g x^2] / E[x^2]`` leaves the least ``E[(g x - c x)^2]`` in its channel: the derivative
    ``-2 E[x (g x - c x)]`` is zero there. Every image counts alike: x is divided by the root mean square of its own
    whole feature map. On EfficientNet-B0 that keeps more decisions than the plain mean of the gate, or than letting
    the images with the largest activations decide.
    """
    sums: dict[str, torch.Tensor] = {}

    def add(name: str) -> Callable[..., None]:
        def hook(_block: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            energy = inputs[0].square().mean((2, 3)).double()
            gated = (inputs[0] * output).mean((2, 3)).double()
            weights = 1.0 / energy.mean(1).clamp_min(_TINY)
            sums[name] = sums.get(name, 0.0) + torch.stack([weights @ gated, weights @ energy])

        return hook

    blocks = {name: module for name, module in network.named_modules() if isinstance(module, SqueezeExcitation)}
    if not blocks:
        raise UsageError("no SqueezeExcitation in this network to remove", fix="leave --no-se out")
    _run_hooked([block.register_forward_hook(add(name)) for name, block in blocks.items()], [network], batches)
    # A channel that is always zero tells nothing: it gets what suits all the others together.
    return {
        name: torch.where(energy > 0.0, gated / energy, gated.sum() / energy.sum().clamp_min(_TINY)).float()
        for name, (gated, energy) in sums.items()
    }


def _fold(network: nn.Module, name: str, constant: torch.Tensor) -> None:
    """Put a block's gate (C,) into the weights beside it. An `nn.Identity` keeps the other modules' names."""
    neighbours = _chain(network, name)
    at = neighbours.index(network.get_submodule(name))
    behind = neighbours[at + 1] if at + 1 < len(neighbours) else None
    in_front = neighbours[at - 1] if at > 0 else None
    if isinstance(behind, nn.Conv2d):
        weight = behind.weight
        outputs, inputs, *kernel = weight.shape
        grouped = weight.view(behind.groups, outputs // behind.groups, inputs, *kernel)
        grouped *= constant.view(behind.groups, 1, inputs, 1, 1)
    elif isinstance(in_front, nn.Conv2d | nn.BatchNorm2d) and in_front.weight is not None:
        in_front.weight *= constant.view(-1, *[1] * (in_front.weight.dim() - 1))
        if in_front.bias is not None:
            in_front.bias *= constant
    else:
        raise UsageError(
            f"squeeze-excite {name} has no convolution beside it that its constant folds into",
            fix="leave --no-se out",
        )
    network.set_submodule(name, nn.Identity())


def _chain(network: nn.Module, name: str) -> list[nn.Module]:
    """The modules that run one after the other around the module called `name`: nested `nn.Sequential`, flat."""
    outermost = network.get_submodule(name)
    while name:
        name = name.rpartition(".")[0]
        parent = network.get_submodule(name)
        if not _is_plain(parent):
            break
        outermost = parent
    return list(_flat(outermost))


def _flat(module: nn.Module) -> Iterator[nn.Module]:
    if _is_plain(module):
        for child in module.children():
            yield from _flat(child)
    elif not isinstance(module, nn.Identity):
        yield module


def _is_plain(module: nn.Module) -> bool:
    return isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward


def _with_moments_of(original: nn.Module, operated: nn.Module, batches: Iterable[torch.Tensor]) -> nn.Module:
    """A copy of `operated` whose batch norms give every channel the mean and variance it has in `original`.

    Moment matching after Jordan et al. 2022 (REPAIR, arXiv:2211.08403), front to back in one pass: what a batch norm
    gives is corrected before the next one is measured. Re-estimating the statistics alone assumes that every channel
    has mean beta and deviation gamma on these images; where a few images have very large activations, that does harm
    even without any surgery. Every image counts alike: weighted by one over its energy in the original.
    """
    operated = copy.deepcopy(operated)
    # One that a gate was folded into gives something else than it did: its moments are to change.
    norms = {
        name: norm
        for name, norm in operated.named_modules()
        if isinstance(norm, nn.BatchNorm2d)
        and norm.affine
        and norm.track_running_stats
        and torch.equal(norm.weight, original.get_parameter(f"{name}.weight"))
    }
    wanted: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    sums: dict[str, torch.Tensor] = {}

    def want(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            weights = 1.0 / output.square().mean((1, 2, 3)).double().clamp_min(_TINY)
            wanted[name] = weights, _moments(output, weights)

        return hook

    def correct(name: str) -> Callable[..., torch.Tensor]:
        def hook(module: nn.BatchNorm2d, inputs: tuple[torch.Tensor, ...], _output: torch.Tensor) -> torch.Tensor:
            weights, target = wanted[name]
            seen = torch.cat([weights.sum().expand(1, target.shape[1]), _moments(inputs[0], weights), target])
            sums[name] = sums.get(name, torch.zeros_like(seen)) + seen
            _match(module, original.get_submodule(name), seen)
            return module.forward(inputs[0])

        return hook

    hooks = [original.get_submodule(name).register_forward_hook(want(name)) for name in norms]
    hooks += [module.register_forward_hook(correct(name)) for name, module in norms.items()]
    _run_hooked(hooks, [original, operated], batches)
    for name, seen in sums.items():
        _match(norms[name], original.get_submodule(name), seen)
    return operated


def _moments(values: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Weighted sums over the images of each channel's mean and mean square: (2, C) float64 of (n, C, H, W)."""
    return torch.stack([weights @ values.mean((2, 3)).double(), weights @ values.square().mean((2, 3)).double()])


def _match(norm: nn.BatchNorm2d, original: nn.Module, sums: torch.Tensor) -> None:
    """Set statistics and affine so that the input's moments become the target's; the slope keeps its sign."""
    weight, *moments = sums
    mean, square, target_mean, target_square = (moment / weight for moment in moments)
    variance = (square - mean**2).clamp_min(0.0)
    deviation = (target_square - target_mean**2).clamp_min(0.0).sqrt()
    # What batch norm adds to the variance is made up for, but a dead channel is not amplified.
    slope = deviation * ((variance + norm.eps) / variance.clamp_min(1e-3 * norm.eps)).sqrt()
    norm.weight.copy_(torch.where(original.get_parameter("weight") < 0, -slope, slope))
    norm.bias.copy_(target_mean)
    norm.get_buffer("running_mean").copy_(mean)
    norm.get_buffer("running_var").copy_(variance)


def _run_hooked(hooks: list[RemovableHandle], networks: list[nn.Module], batches: Iterable[torch.Tensor]) -> None:
    try:
        for batch in batches:
            for network in networks:
                network(batch)
    finally:
        for hook in hooks:
            hook.remove()


def _drawn(images: Iterable[npt.NDArray[np.uint8]]) -> list[npt.NDArray[np.uint8]]:
    """Up to 96 images of a stream of any length, each as likely (Vitter 1985, algorithm R; seed 0)."""
    rng = random.Random(0)
    sample: list[npt.NDArray[np.uint8]] = []
    for i, image in enumerate(images):
        if i < _IMAGES:
            sample.append(image)
        elif (slot := rng.randrange(i + 1)) < _IMAGES:
            sample[slot] = image
    if len(sample) < _HELD_OUT:
        raise DataError(f"{len(sample)} images are too few for surgery", fix=f"give {_HELD_OUT} or more; 100 are usual")
    rng.shuffle(sample)
    return sample


def _batches(images: list[npt.NDArray[np.uint8]], normalize: Normalize) -> Iterator[torch.Tensor]:
    """Float32 (n, C, H, W): ``(pixel / 255 - mean) / std``."""
    mean, std = torch.tensor(normalize.mean), torch.tensor(normalize.std)
    for start in range(0, len(images), _BATCH):
        pixels = torch.from_numpy(np.concatenate(images[start : start + _BATCH]))
        yield ((pixels.float() / 255.0 - mean) / std).permute(0, 3, 1, 2)


def _outputs(network: nn.Module, batches: Iterable[torch.Tensor]) -> dict[str, npt.NDArray[np.float32]]:
    """What the network gives, a tensor or several in a tuple or a dict, by the place where it stands there."""
    runs = [tree_leaves(network(batch)) for batch in batches]
    return {str(place): torch.cat(parts).numpy() for place, parts in enumerate(zip(*runs, strict=True))}
