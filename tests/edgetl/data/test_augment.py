from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageEnhance
from torch import Tensor

from edgetl.data.augment import DRAWS, augmented, epoch_draws, evaluation_crop, moves
from edgetl.data.augmentation import PRESETS, Augmentation, AugmentOptions, was_mirrored
from edgetl.data.loader import margin
from edgetl_runtime.errors import UsageError
from edgetl_runtime.manifest import Preprocess
from edgetl_runtime.preprocess import preprocess

CROP = (32, 32)


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    """Nine smooth pictures of 40 x 40, none like another, none symmetric, none near black or white."""
    coarse = torch.rand(9, 3, 5, 5, generator=torch.Generator().manual_seed(0)) * 120 + 60
    smooth = F.interpolate(coarse, (40, 40), mode="bicubic", align_corners=True).clamp(40, 215)
    return smooth.permute(0, 2, 3, 1).round().to(torch.uint8).contiguous()


def drawn(n: int, **values: float) -> Tensor:
    """Draws of 0.5, which changes nothing but by a probability, with others where a name is given."""
    draws = torch.full((n, len(DRAWS)), 0.5)
    for name, value in values.items():
        draws[:, DRAWS.index(name)] = value
    return draws


def ramp(size: int = 40) -> Tensor:
    """An image that tells where its pixels come from: red is the column, green the row."""
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    return torch.stack((columns, rows, rows * 0), dim=-1).to(torch.uint8)[None]


@pytest.mark.parametrize("size", [(90, 31), (53, 48), (48, 53), (41, 40), (200, 201)])
@pytest.mark.parametrize(
    "spec",
    [
        Preprocess(resize=48, crop=(42, 42)),
        Preprocess(resize=37, crop=(32, 32), interpolation="bicubic"),
        Preprocess(resize=41, crop=(30, 38)),
        Preprocess(resize=20, crop=(24, 24)),
        Preprocess(resize=(37, 62), crop=(32, 54)),
        Preprocess(resize=(63, 37), crop=(55, 32), interpolation="bicubic"),
    ],
    ids=str,
)
def test_none_is_what_evaluation_sees(size: tuple[int, int], spec: Preprocess) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    wide = torch.from_numpy(preprocess(image, margin(spec)).copy())[None]
    seen = augmented(wide, epoch_draws(1, 0, 0), PRESETS["none"], spec.crop)
    assert torch.equal(seen[0].permute(1, 2, 0), torch.from_numpy(preprocess(image, spec).copy()).float())


@pytest.mark.parametrize("name", PRESETS)
def test_an_image_is_seen_the_same_in_any_batch(pixels: Tensor, name: str) -> None:
    draws = epoch_draws(9, 3, 1)
    together = augmented(pixels, draws, PRESETS[name], CROP)
    assert together.shape == (9, 3, *CROP)
    assert together.dtype == torch.float32
    assert together.is_contiguous(memory_format=torch.channels_last)
    assert 0.0 <= float(together.min()) < float(together.max()) <= 255.0
    for rows in ([0], [8], [7, 2], [5, 4, 3, 2, 1]):
        assert torch.equal(augmented(pixels[rows], draws[rows], PRESETS[name], CROP), together[rows])


@pytest.mark.parametrize("name", [name for name in PRESETS if name != "none"])
def test_images_are_varied_each_in_its_own_way(pixels: Tensor, name: str) -> None:
    same = pixels[:1].expand(9, -1, -1, -1)
    seen = augmented(same, epoch_draws(9, 0, 1), PRESETS[name], CROP)
    assert len({image.numpy().tobytes() for image in seen}) == 9
    assert torch.equal(seen, augmented(same, epoch_draws(9, 0, 1), PRESETS[name], CROP))


def test_draws_are_of_the_seed_and_the_epoch() -> None:
    one = epoch_draws(500, 4, 2)
    assert one.shape == (500, len(DRAWS))
    assert one.dtype == torch.float32
    assert torch.equal(one, epoch_draws(500, 4, 2))
    assert torch.equal(one[:100], epoch_draws(100, 4, 2))
    for other in (epoch_draws(500, 4, 3), epoch_draws(500, 5, 2), epoch_draws(500, 2, 4)):
        assert not torch.isin(one, other).all()
    assert 0.0 <= float(one.min()) < 0.01
    assert 0.99 < float(one.max()) < 1.0
    assert one.mean(0).tolist() == pytest.approx([0.5] * len(DRAWS), abs=0.05)


@pytest.mark.parametrize(
    ("augmentation", "turned"),
    [
        (Augmentation(mirror=1.0), lambda seen: seen.flip(3)),
        (Augmentation(flip=1.0), lambda seen: seen.flip(2)),
        (Augmentation(mirror=1.0, flip=1.0), lambda seen: seen.flip((2, 3))),
        (Augmentation(rotate=180.0), lambda seen: seen.rot90(1, (2, 3))),
    ],
)
def test_turns_and_mirrors_are_exact(pixels: Tensor, augmentation: Augmentation, turned: Any) -> None:
    seen = augmented(pixels, drawn(9, rotate=0.75), augmentation, CROP)
    torch.testing.assert_close(seen, turned(evaluation_crop(pixels, CROP)), atol=0.01, rtol=0)


def test_probabilities_are_kept() -> None:
    seen = augmented(ramp().expand(1000, -1, -1, -1), epoch_draws(1000, 0, 0), Augmentation(mirror=0.3), CROP)
    assert float((seen[:, 0, 0, 0] > seen[:, 0, 0, -1]).float().mean()) == pytest.approx(0.3, abs=0.04)


def test_a_shift_a_scale_and_a_shear_are_what_they_say() -> None:
    still = evaluation_crop(ramp(), CROP)
    shifted = augmented(ramp(), drawn(1, shift_x=1.0), Augmentation(shift=0.125), CROP)
    torch.testing.assert_close(shifted[:, :2], still[:, :2] + torch.tensor([4.0, 0.0])[:, None, None])
    zoomed = augmented(ramp(), drawn(1, scale=1.0), Augmentation(scale=(0.5, 2.0)), CROP)
    torch.testing.assert_close(zoomed[:, :2] - 19.5, (still[:, :2] - 19.5) / 2)
    sheared = augmented(ramp(), drawn(1, shear_x=1.0), Augmentation(shear=10.0), (20, 20))
    slope = sheared[0, 0, 1:] - sheared[0, 0, :-1]
    torch.testing.assert_close(slope, torch.full_like(slope, np.tan(np.deg2rad(10.0))), atol=1e-4, rtol=0)


def test_all_of_the_image_is_a_plain_resize(pixels: Tensor) -> None:
    seen = augmented(pixels, epoch_draws(9, 0, 0), Augmentation(area=(1.0, 1.0)), CROP)
    expected = F.interpolate(pixels.permute(0, 3, 1, 2).float(), CROP, mode="bilinear", align_corners=False)
    torch.testing.assert_close(seen, expected, atol=0.01, rtol=0)


def test_a_random_crop_has_the_area_and_the_ratio_that_were_asked_for() -> None:
    augmentation = Augmentation(area=(0.2, 0.4), ratio=(0.5, 2.0))
    seen = augmented(ramp(100).expand(400, -1, -1, -1), epoch_draws(400, 0, 0), augmentation, CROP)
    width = (seen[:, 0, 0, -2] - seen[:, 0, 0, 1]) * 32 / 29
    height = (seen[:, 1, -2, 0] - seen[:, 1, 1, 0]) * 32 / 29
    area, ratio = width * height / 1e4, width / height
    assert (float(area.min()), float(area.max())) == pytest.approx((0.2, 0.4), abs=0.01)
    assert (float(ratio.min()), float(ratio.max())) == pytest.approx((0.5, 2.0), abs=0.05)
    assert float(ratio.median()) == pytest.approx(1.0, abs=0.1)  # as often too wide as too high
    left, top = seen[:, 0, 0, 0], seen[:, 1, 0, 0]
    assert float(left.min()) < 5
    assert float(top.min()) < 5
    assert float(seen[:, :2].max()) > 95  # and no window leaves the image: all of it is the ramp
    steps = seen[:, 0, :, 2:-1] - seen[:, 0, :, 1:-2]
    assert float((steps - width[:, None, None] / 32).abs().max()) < 0.01


@pytest.mark.parametrize(("size", "crop"), [((48, 84), (40, 72)), ((84, 48), (72, 40)), ((36, 132), (32, 128))])
def test_a_random_crop_of_a_rectangle_is_stretched_no_more_than_that_of_a_square(
    size: tuple[int, int], crop: tuple[int, int]
) -> None:
    """The ratio that was asked for is how much wider a thing in the photo may become than it is."""
    augmentation = Augmentation(area=(0.2, 0.4), ratio=(3 / 4, 4 / 3))
    rows, columns = (torch.arange(n, dtype=torch.float32) for n in size)
    image = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1)
    image = torch.cat((image, image[..., :1]), dim=-1).to(torch.uint8)[None].expand(2000, -1, -1, -1)
    seen = augmented(image, epoch_draws(2000, 0, 0), augmentation, crop)
    per_row = (seen[:, 0, -2, 5] - seen[:, 0, 1, 5]) / (crop[0] - 3)
    per_column = (seen[:, 1, 5, -2] - seen[:, 1, 5, 1]) / (crop[1] - 3)
    stretched = (per_column / per_row).double()
    assert (float(stretched.min()), float(stretched.max())) == pytest.approx((3 / 4, 4 / 3), abs=0.02)
    assert float(stretched.median()) == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("crop", [(40, 72), (72, 40)])
def test_a_rectangle_is_turned_without_being_stretched(crop: tuple[int, int]) -> None:
    rows, columns = (torch.arange(100, dtype=torch.float32) for _ in range(2))
    image = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1)
    image = torch.cat((image, image[..., :1]), dim=-1).to(torch.uint8)[None]
    seen = augmented(image, drawn(1, rotate=1.0), Augmentation(rotate=90.0), crop)[0]
    across = seen[:2, :, 1:] - seen[:2, :, :-1]
    inner = across[:, 5:-5, 5:-5].abs()
    assert sorted(inner.mean((1, 2)).tolist()) == pytest.approx([0.0, 1.0], abs=1e-3)


def test_a_window_that_is_too_wide_is_cut_to_the_image() -> None:
    seen = augmented(ramp(100), drawn(1), Augmentation(area=(1.0, 1.0), ratio=(2.0, 2.0)), CROP)
    width = (seen[0, 0, 0, -2] - seen[0, 0, 0, 1]) * 32 / 29
    height = (seen[0, 1, -2, 0] - seen[0, 1, 1, 0]) * 32 / 29
    assert (float(width), float(height)) == pytest.approx((100.0, 50.0**0.5 * 10), abs=0.1)


def test_shift_moves_little_and_never_mirrors() -> None:
    left = torch.zeros(60, 40, 40, 3, dtype=torch.uint8)
    left[:, :, 8:14] = 255
    seen = augmented(left, epoch_draws(60, 0, 0), PRESETS["shift"], CROP)[:, 0].mean(1)
    centre = (seen * torch.arange(32)).sum(1) / seen.sum(1)
    assert float(centre.max()) < 16
    assert float(centre.std()) > 1


@pytest.mark.parametrize(("outside", "corner"), [("black", 0.0), ("edge", 200.0), ("reflect", 200.0)])
def test_what_lies_beyond_the_image(outside: str, corner: float) -> None:
    white = torch.full((1, 40, 40, 3), 200, dtype=torch.uint8)
    seen = augmented(white, drawn(1, scale=0.0), Augmentation(scale=(0.5, 1.0), outside=outside), CROP)
    assert float(seen[0, 0, 0, 0]) == pytest.approx(corner)
    assert float(seen[0, 0, 16, 16]) == pytest.approx(200.0)


@pytest.mark.parametrize(
    ("name", "enhance"),
    [
        ("brightness", ImageEnhance.Brightness),
        ("contrast", ImageEnhance.Contrast),
        ("saturation", ImageEnhance.Color),
    ],
)
@pytest.mark.parametrize("draw", [0.0, 0.9])
def test_colours_change_as_in_pillow(pixels: Tensor, name: str, enhance: Any, draw: float) -> None:
    factor = 1 + 0.2 * (2 * draw - 1)
    seen = augmented(pixels, drawn(9, **{name: draw}), Augmentation(**{name: 0.2}), (40, 40))
    expected = [np.asarray(enhance(Image.fromarray(image.numpy())).enhance(factor)) for image in pixels]
    off = seen.permute(0, 2, 3, 1) - torch.from_numpy(np.stack(expected)).float()
    assert float(off.abs().max()) < 1.5  # Pillow rounds the mean, and again the result
    assert float((seen - evaluation_crop(pixels, (40, 40))).abs().max()) > 3


def test_colours_one_after_the_other_are_one_function(pixels: Tensor) -> None:
    at_once = Augmentation(brightness=0.2, contrast=0.2, saturation=0.2)
    seen = augmented(pixels, drawn(9, brightness=0.9, contrast=0.2, saturation=0.1), at_once, (40, 40))
    expected = []
    for pixel in pixels:
        image = Image.fromarray(pixel.numpy())
        for enhance, factor in zip(
            (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color), (1.16, 0.88, 0.84), strict=True
        ):
            image = enhance(image).enhance(factor)
        expected.append(np.asarray(image))
    off = seen.permute(0, 2, 3, 1) - torch.from_numpy(np.stack(expected)).float()
    assert float(off.abs().max()) < 3


def test_no_colour_leaves_the_range_of_grey_levels() -> None:
    noise = torch.randint(0, 2, (20, 40, 40, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8) * 255
    every = Augmentation(brightness=0.5, contrast=0.5, saturation=0.5)
    seen = augmented(noise, epoch_draws(20, 0, 0), every, CROP)
    assert (float(seen.min()), float(seen.max())) == (0.0, 255.0)


@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize("name", PRESETS)
def test_any_number_of_channels(pixels: Tensor, name: str, channels: int) -> None:
    stack = pixels[..., :1].expand(-1, -1, -1, channels)
    seen = augmented(stack, epoch_draws(9, 0, 0), PRESETS[name], CROP)
    assert seen.shape == (9, channels, *CROP)
    torch.testing.assert_close(seen, seen[:, :1].expand_as(seen), atol=1e-3, rtol=0)
    grey = pixels[..., :1].expand(-1, -1, -1, 3)  # without colour, saturation changes nothing
    torch.testing.assert_close(seen[:, :1], augmented(grey, epoch_draws(9, 0, 0), PRESETS[name], CROP)[:, :1])


@pytest.mark.parametrize(
    "values",
    [
        {"area": (0.0, 1.0)},
        {"area": (0.5, 1.5)},
        {"area": (0.8, 0.5)},
        {"area": (0.5, 0.6, 0.7)},
        {"ratio": (0.0, 1.0)},
        {"scale": (1.0, float("inf"))},
        {"mirror": 1.5},
        {"flip": -0.1},
        {"rotate": 200.0},
        {"shear": 45.0},
        {"shift": float("nan")},
        {"brightness": 2.0},
        {"outside": "reflekt"},
    ],
)
def test_augmentations_without_sense_are_refused(values: dict[str, Any]) -> None:
    for made in (Augmentation, AugmentOptions):
        with pytest.raises(UsageError, match=f"{next(iter(values))} = .* makes no sense") as caught:
            made(**values)
        assert caught.value.fix


def test_options_change_single_fields_of_a_preset() -> None:
    assert AugmentOptions().on("similar") is not PRESETS["different"]
    assert AugmentOptions().on("similar") == PRESETS["similar"]
    assert AugmentOptions(mirror=0.0).on("similar") == dataclasses.replace(PRESETS["similar"], mirror=0.0)
    with pytest.raises(UsageError, match="unknown augmentation 'photo'"):
        AugmentOptions().on("photo")


@pytest.mark.parametrize(
    ("training", "mirrored"),
    [
        ({}, True),
        ({"options": {"augment": "photo"}}, True),
        ({"options": {"augment": "similar"}}, True),
        ({"options": {"augment": "shift"}}, False),
        ({"options": {"augment": "none"}}, False),
        ({"options": {"augment": "similar"}, "augmentation": {"mirror": 0.0}}, False),
        ({"options": {"augment": "shift"}, "augmentation": {"mirror": 0.5}}, True),
    ],
)
def test_a_checkpoint_tells_whether_it_saw_mirrored_images(training: dict[str, Any], *, mirrored: bool) -> None:
    assert was_mirrored(training) is mirrored


@pytest.mark.gpu
@pytest.mark.parametrize("preset", ["similar", "different", "none"])
def test_a_gpu_sees_the_same(pixels: Tensor, preset: str) -> None:
    draws = epoch_draws(len(pixels), 0, 1)
    here = augmented(pixels, draws, PRESETS[preset], CROP)
    there = augmented(pixels.cuda(), draws.cuda(), PRESETS[preset], CROP)
    torch.testing.assert_close(there.cpu(), here, atol=0.02, rtol=0.0)


@pytest.mark.parametrize("preset", PRESETS)
def test_moves_say_where_a_pixel_went(preset: str) -> None:
    """A bright square of 5 pixels: its centre in the result, mapped back, lies on its centre before."""
    augmentation, size, crop = AugmentOptions().on(preset), (80, 96), (64, 72)
    centre = (40.5, 30.5)
    pixels = torch.zeros(24, *size, 3, dtype=torch.uint8)
    pixels[:, 28:33, 38:43] = 255
    draws = epoch_draws(24, seed=5, epoch=2)
    levels = augmented(pixels, draws, dataclasses.replace(augmentation, brightness=0.0, contrast=0.0), crop)
    matrices = moves(draws, augmentation, size, crop)
    seen = 0
    for image, matrix in zip(levels[:, 0].double(), matrices, strict=True):
        weight = image.sum()
        y, x = (torch.arange(n, dtype=torch.float64) + 0.5 for n in crop)
        at = torch.stack(((image.sum(0) * x).sum() / weight, (image.sum(1) * y).sum() / weight, torch.ones(())))
        inside = bool(image[0].max() == image[-1].max() == image[:, 0].max() == image[:, -1].max() == 0)
        if weight > 0 and inside:  # all of it is in the picture
            seen += 1
            assert torch.allclose(matrix @ at, torch.tensor(centre, dtype=torch.float64), atol=0.35)
    assert seen >= 12
