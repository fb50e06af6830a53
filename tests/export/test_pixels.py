"""The normalisation inside the first convolution: the same function, for every geometry; left alone where it is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from edgetl_export import Captured, Source, capture
from edgetl_export.quantize.pixels import PixelModule, on_pixels
from edgetl_runtime.comparison import sqnr_db
from edgetl_runtime.manifest import Label, Normalize, Preprocess

HEIGHT, WIDTH = 24, 33
NORMALIZE = Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

EXACT = Normalize((124 / 255, 116 / 255, 104 / 255), (0.229, 0.224, 0.225))
"""Its mean colour is a grey level: the border that stands for it is exact."""

FIRST: dict[str, dict[str, Any]] = {
    "padded": {"kernel_size": 3, "padding": 1},
    "without bias": {"kernel_size": 3, "padding": 1, "bias": False},
    "strided": {"kernel_size": 3, "stride": 2, "padding": 1},
    "padded by more than is read": {"kernel_size": 5, "stride": 4, "padding": 3},
    "dilated": {"kernel_size": 3, "padding": 2, "dilation": 2},
    "dilated and strided": {"kernel_size": 3, "stride": 2, "padding": 3, "dilation": 3},
    "unpadded": {"kernel_size": 3, "stride": 2},
    "patches": {"kernel_size": 8, "stride": 8},
    "not square": {"kernel_size": (3, 5), "stride": (1, 2), "padding": (0, 2)},
    "not square the other way": {"kernel_size": (5, 1), "stride": (3, 1), "padding": (2, 0), "dilation": (2, 1)},
}


def first(kind: str) -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(3, 8, **FIRST[kind])


class Everything(nn.Module):
    """Every pixel of the first convolution's output counts in the logits, those at the border as well."""

    def __init__(self, first: nn.Module) -> None:
        super().__init__()
        self.first = first

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.flatten(torch.relu(self.first(x)), 1)


class Twice(nn.Module):
    """The image has two readers."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 3, 3, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.flatten(self.first(x) + x, 1)


class Shared(Twice):
    """The first convolution is used once more behind itself."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.flatten(self.first(torch.relu(self.first(x))), 1)


class Branching(Everything):
    """Symbolic tracing cannot follow it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x if x.sum() > -np.inf else -x)


class Padding(nn.Module):
    """Zeros around the image by a function, as TensorFlow's networks have them in timm."""

    def __init__(self, border: tuple[int, int, int, int], first: nn.Module, **how: Any) -> None:
        super().__init__()
        self.border, self.first, self.how = list(border), first, how

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.first(F.pad(x, self.border, **self.how))  # type: ignore[no-any-return]


class BySize(Padding):
    """The same, with a question that only `torch.export` can follow."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) if x.shape[-1] > 1 else x


def captured(network: nn.Module, normalize: Normalize = NORMALIZE) -> Captured:
    with torch.no_grad():
        outputs = network.eval()(torch.zeros(1, 3, HEIGHT, WIDTH)).shape[1]
    labels = tuple(Label(str(i), str(i)) for i in range(outputs))
    return capture(Source("first", network, labels, Preprocess(36, (HEIGHT, WIDTH)), normalize, "0" * 64))


def images(n: int = 4) -> torch.Tensor:
    return torch.tensor(np.random.default_rng(0).integers(0, 256, (n, HEIGHT, WIDTH, 3), dtype=np.uint8))


@pytest.mark.parametrize(("normalize", "least"), [(EXACT, 110), (NORMALIZE, 50)], ids=["exact", "imagenet"])
@pytest.mark.parametrize("kind", FIRST)
def test_grey_levels_give_what_normalised_pixels_give(kind: str, normalize: Normalize, least: float) -> None:
    original = captured(Everything(first(kind)), normalize)
    folded = on_pixels(original)
    assert folded.takes_pixels
    assert not original.takes_pixels
    with torch.inference_mode():
        expected, found = original.module(images()).numpy(), folded.module(images()).numpy()
    assert found.shape == expected.shape
    assert sqnr_db(expected, found) > least


def test_a_trained_network_loses_next_to_nothing_at_the_border(trained) -> None:
    original = capture(trained.source)
    folded = on_pixels(original)
    with torch.inference_mode():
        logits = folded.module(torch.tensor(trained.tensors)).numpy()
    # 32 pixels wide: the border is an eighth of what the first convolution sees.
    assert sqnr_db(trained.source.reference()(trained.tensors), logits) > 52


@pytest.mark.parametrize("border", [(0, 1, 0, 1), (1, 1, 1, 1), (2, 3, 0, 1), (0, 0, 5, 0)])
@pytest.mark.parametrize("kind", ["strided", "unpadded", "not square"])
@pytest.mark.parametrize(
    "put",
    [lambda border, layer: nn.Sequential(nn.ZeroPad2d(border), layer), Padding, BySize],
    ids=["module", "function", "exported"],
)
def test_zeros_that_something_else_puts_around_the_image_are_seen_through(
    put: Callable[[tuple[int, int, int, int], nn.Module], nn.Module], kind: str, border: tuple[int, int, int, int]
) -> None:
    original = captured(Everything(put(border, first(kind))), EXACT)
    folded = on_pixels(original)
    assert folded.takes_pixels
    with torch.inference_mode():
        expected, found = original.module(images()).numpy(), folded.module(images()).numpy()
    assert found.shape == expected.shape
    assert sqnr_db(expected, found) > 110


@pytest.mark.parametrize("how", [{"mode": "reflect"}, {"value": 1.0}], ids=str)
def test_other_borders_are_left_as_they_are(how: dict[str, Any]) -> None:
    original = captured(Everything(Padding((1, 1, 1, 1), first("strided"), **how)))
    assert on_pixels(original) is original


def test_the_border_is_the_mean_colour_and_what_is_never_read_is_not_padded() -> None:
    module = on_pixels(captured(Everything(nn.Conv2d(3, 8, 3, 2, 1)))).module
    assert isinstance(module, PixelModule)
    # 24 rows are read up to row 23 by the twelfth output; 33 columns up to column 33, one behind the image.
    assert [tuple(border.shape) for border in (module.top, module.bottom, module.left, module.right)] == [
        (1, 1, WIDTH, 3), (1, 0, WIDTH, 3), (1, HEIGHT + 1, 1, 3), (1, HEIGHT + 1, 1, 3)
    ]  # fmt: skip
    for border in (module.top, module.left, module.right):
        assert border.reshape(-1, 3).unique(dim=0).tolist() == [[124, 116, 104]]


def test_a_border_of_black_would_be_seen() -> None:
    original = captured(Everything(first("padded")))
    folded = on_pixels(original)
    for name in ("top", "bottom", "left", "right"):
        getattr(folded.module, name).zero_()
    with torch.inference_mode():
        expected, found = original.module(images()).numpy(), folded.module(images()).numpy()
    assert sqnr_db(expected, found) < 30


@pytest.mark.parametrize(
    "network",
    [
        Everything(nn.Conv2d(3, 6, 3, 1, 1, groups=3)),
        Everything(nn.Conv2d(3, 8, 3, 1, "same")),
        Everything(nn.Conv2d(3, 8, 3, 1, 1, padding_mode="reflect")),
        Everything(nn.Sequential(nn.ReLU(), nn.Conv2d(3, 8, 3))),
        Everything(nn.Sequential(nn.ConstantPad2d(1, 0.5), nn.Conv2d(3, 8, 3))),
        Everything(nn.Flatten()),
        Twice(),
        Shared(),
        Branching(nn.Conv2d(3, 8, 3)),
    ],
    ids=["grouped", "same", "reflecting", "relu", "padding", "no-convolution", "two-readers", "shared", "untraceable"],
)
def test_a_network_that_begins_otherwise_is_left_as_it_is(network: nn.Module) -> None:
    original = captured(network)
    assert on_pixels(original) is original


def test_the_original_is_not_touched() -> None:
    original = captured(Everything(first("padded")))
    before = {name: value.clone() for name, value in original.module.state_dict().items()}
    on_pixels(original)
    after = original.module.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
