"""Augmentation of whole batches, on the device that trains: a pure function of pixels and random numbers.

Each image is varied by its own row of numbers, so that neither the batch that it comes in, nor the process that it
goes to, nor the step at which a run was resumed changes what is seen. Written on torch operations because
torchvision's transforms (v2 too) draw once for a batch, so that all of its images would be moved alike
(pytorch/vision issue 8484), and draw from the generator of the process, which a resumed run cannot set back to one
image. All moves of an image are one matrix, sampled once; all changes of its colour are one linear function.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from edgetl.data.augmentation import Augmentation, Span

__all__ = ["DRAWS", "augmented", "epoch_draws", "evaluation_crop", "moves"]

DRAWS = (
    *("area", "ratio", "left", "top", "mirror", "flip", "rotate", "scale", "shift_x", "shift_y", "shear_x", "shear_y"),
    *("brightness", "contrast", "saturation"),
)
"""What each column of the draws decides."""

_PADDING = {"reflect": "reflection", "edge": "border", "black": "zeros"}
_GREY = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in a grey level (ITU-R BT.601, as Pillow's and torchvision's)."""


def epoch_draws(n: int, seed: int, epoch: int) -> Tensor:
    """Uniform random numbers in [0, 1), float32 (n, columns of `DRAWS`): a row for each place of an epoch's order.

    By place, not by image, because a sampler may show a rare image twice in an epoch. The same for the same arguments.
    """
    # 1, so that they are not the numbers that an order drawn from (seed, epoch) is made of.
    rng = np.random.default_rng((seed, epoch, 1))
    return torch.from_numpy(rng.random((n, len(DRAWS)), dtype=np.float32))


def augmented(pixels: Tensor, draws: Tensor, augmentation: Augmentation, crop: tuple[int, int]) -> Tensor:
    """Images as training sees them.

    `pixels` is uint8 (B, H, W, C), at least `crop` = (height, width) large, with its evaluation crop in the centre;
    `draws` is (B, columns of `DRAWS`) in [0, 1), on the same device (see `epoch_draws`). Gives float32
    (B, C, height, width), 0..255, channels last in memory. Saturation is left alone where C is not 3.
    """
    drawn = dict(zip(DRAWS, draws.double().unbind(1), strict=True))
    values = _moved(pixels, drawn, augmentation, crop) if augmentation.moves else evaluation_crop(pixels, crop)
    if augmentation.colours:
        _colour(values, pixels, drawn, augmentation)
    return values.contiguous(memory_format=torch.channels_last)


def evaluation_crop(pixels: Tensor, crop: tuple[int, int]) -> Tensor:
    """The centre of uint8 (B, H, W, C) as float32 (B, C, height, width), 0..255, channels last in memory."""
    (height, width), (rows, columns) = crop, pixels.shape[1:3]
    top, left = round((rows - height) / 2), round((columns - width) / 2)
    centre = pixels[:, top : top + height, left : left + width]
    return centre.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.channels_last)


def _moved(pixels: Tensor, drawn: dict[str, Tensor], augmentation: Augmentation, crop: tuple[int, int]) -> Tensor:
    grid = _sampling_grid(drawn, augmentation, (pixels.shape[1], pixels.shape[2]), crop)
    return F.grid_sample(
        pixels.permute(0, 3, 1, 2).float(),
        grid,
        mode="bilinear",
        padding_mode=_PADDING[augmentation.outside],
        align_corners=False,
    )


def moves(draws: Tensor, augmentation: Augmentation, size: tuple[int, int], crop: tuple[int, int]) -> Tensor:
    """Where each point of what `augmented` gives comes from: what boxes and masks are moved by.

    Args:
        draws: (B, columns of `DRAWS`), those that the images were augmented with.
        augmentation: The same, too.
        size: (height, width) of the images before.
        crop: (height, width) of what `augmented` gives.

    Returns:
        float64 (B, 2, 3): ``m @ (x, y, 1)`` is the place in the image before of the point x, y of the result, both in
        pixels from the upper left corner; the centre of the first pixel is 0.5, 0.5.
    """
    (height, width), (rows, columns) = crop, size
    if augmentation.moves:
        matrix = _way_back(dict(zip(DRAWS, draws.double().unbind(1), strict=True)), augmentation, size, crop)
        to = torch.tensor([columns / 2, rows / 2], dtype=torch.float64, device=draws.device)
        from_centre = torch.tensor([width / 2, height / 2], dtype=torch.float64, device=draws.device)
        offset = matrix[:, :, 2] + to - (matrix[:, :, :2] * from_centre).sum(2)
        return torch.cat((matrix[:, :, :2], offset[:, :, None]), dim=2)
    left, top = float(round((columns - width) / 2)), float(round((rows - height) / 2))
    still = torch.tensor([[1.0, 0.0, left], [0.0, 1.0, top]], dtype=torch.float64, device=draws.device)
    return still.expand(len(draws), 2, 3)


def _sampling_grid(
    drawn: dict[str, Tensor], augmentation: Augmentation, size: tuple[int, int], crop: tuple[int, int]
) -> Tensor:
    """Where each pixel of the result comes from: float32 (B, height, width, 2) in grid_sample's coordinates.

    `_way_back` is applied by products and sums of elements instead of `torch.nn.functional.affine_grid`'s matrix
    product, whose last bit may depend on the size of the batch.
    """
    (height, width), (rows, columns) = crop, size
    matrix = _way_back(drawn, augmentation, size, crop)
    x, y = (torch.arange(n, device=matrix.device) + (0.5 - n / 2) for n in (width, height))

    def coordinate(row: Tensor, half: float) -> Tensor:
        by_x, by_y, offset = ((part / half).float()[:, None] for part in row.unbind(1))
        return (by_y * y + offset)[:, :, None] + (by_x * x)[:, None, :]

    return torch.stack((coordinate(matrix[:, 0], columns / 2), coordinate(matrix[:, 1], rows / 2)), dim=-1)


def _way_back(
    drawn: dict[str, Tensor], augmentation: Augmentation, size: tuple[int, int], crop: tuple[int, int]
) -> Tensor:
    """From a point of the crop to one of the image, both in pixels from the centre: float64 (B, 2, 3).

    Turned, sheared, scaled and mirrored, then stretched from the crop's size to that of the window which is seen.
    """
    height, width = crop
    seen_x, seen_y, centre_x, centre_y = _window(drawn, augmentation, size, crop)
    angle = _either_side(drawn["rotate"], math.radians(augmentation.rotate))
    shear_x, shear_y = (
        _either_side(drawn[name], math.radians(augmentation.shear)).tan() for name in ("shear_x", "shear_y")
    )
    zoom = _between(drawn["scale"], augmentation.scale)
    mirror = torch.where(drawn["mirror"] < augmentation.mirror, -1.0, 1.0) / zoom
    flip = torch.where(drawn["flip"] < augmentation.flip, -1.0, 1.0) / zoom
    cos, sin = angle.cos(), angle.sin()
    centre_x = centre_x + _either_side(drawn["shift_x"], augmentation.shift) * seen_x
    centre_y = centre_y + _either_side(drawn["shift_y"], augmentation.shift) * seen_y
    stretch_x, stretch_y = seen_x / width, seen_y / height
    by_x = (cos - sin * shear_y) * mirror, (sin + cos * shear_y) * mirror
    by_y = (cos * shear_x - sin) * flip, (sin * shear_x + cos) * flip
    return torch.stack(
        (
            torch.stack((by_x[0] * stretch_x, by_y[0] * stretch_x, centre_x), dim=1),
            torch.stack((by_x[1] * stretch_y, by_y[1] * stretch_y, centre_y), dim=1),
        ),
        dim=1,
    )


def _window(
    drawn: dict[str, Tensor], augmentation: Augmentation, size: tuple[int, int], crop: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Width and height of what is seen, and its centre from the image's, in pixels: (B,) each.

    Inception's random resized crop, but that a side which is too long for the image is cut to it, not drawn again, and
    that a ratio is relative to the crop's: else a wide crop would mostly show images stretched, as no photo is later.
    """
    (height, width), (rows, columns) = crop, size
    if augmentation.area is None:
        still = torch.zeros_like(drawn["area"])
        return still + width, still + height, still, still
    area = _between(drawn["area"], augmentation.area) * (rows * columns)
    low, high = augmentation.ratio
    ratio = _between(drawn["ratio"], (math.log(low), math.log(high))).exp() * (width / height)
    seen_x, seen_y = (area * ratio).sqrt().clamp(max=columns), (area / ratio).sqrt().clamp(max=rows)
    return seen_x, seen_y, (drawn["left"] - 0.5) * (columns - seen_x), (drawn["top"] - 0.5) * (rows - seen_y)


def _colour(values: Tensor, pixels: Tensor, drawn: dict[str, Tensor], augmentation: Augmentation) -> None:
    """Brightness, contrast and saturation of `values`, in place, as Pillow's and torchvision's, clipped at the end.

    Contrast is about the mean grey of all of `pixels`: a sum of whole numbers, the same in whatever order it is added.
    """
    n_channels = pixels.shape[3]
    brightness, contrast, saturation = (
        1.0 + _either_side(drawn[name], getattr(augmentation, name))
        for name in ("brightness", "contrast", "saturation")
    )
    weights = _GREY if n_channels == 3 else (1.0 / n_channels,) * n_channels
    # Rows of the image first, side by side: ten times as fast on a CPU.
    columns = pixels.flatten(2).sum(1, dtype=torch.int32).view(len(pixels), *pixels.shape[2:])
    means = columns.sum(1, dtype=torch.int64).double() / (pixels.shape[1] * pixels.shape[2])
    mean_grey = sum(weight * means[:, channel] for channel, weight in enumerate(weights))
    offset = (1.0 - contrast) * brightness * mean_grey
    factor = contrast * brightness
    grey = None
    if n_channels == 3 and augmentation.saturation > 0.0:
        red, green, blue = values.unbind(1)
        grey = (red * _GREY[0] + green * _GREY[1] + blue * _GREY[2]) * _per_image((1.0 - saturation) * factor)[:, 0]
        factor = factor * saturation
    values.mul_(_per_image(factor)).add_(_per_image(offset))
    if grey is not None:
        values.add_(grey[:, None])
    values.clamp_(0.0, 255.0)


def _per_image(values: Tensor) -> Tensor:
    return values.float()[:, None, None, None]


def _between(drawn: Tensor, span: Span) -> Tensor:
    return span[0] + drawn * (span[1] - span[0])


def _either_side(drawn: Tensor, most: float) -> Tensor:
    return (2.0 * drawn - 1.0) * most
