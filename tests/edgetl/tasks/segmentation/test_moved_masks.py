"""Masks go where the pixels go: into the tensor, through augmentation, and back to the photo."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from edgetl.data.augment import augmented, epoch_draws, moves
from edgetl.data.augmentation import PRESETS, Augmentation
from edgetl.tasks.segmentation.framed_masks import in_frame
from edgetl.tasks.segmentation.mask_files import IGNORED, fill_outline
from edgetl.tasks.segmentation.moved_masks import masks_in_frame, moved
from edgetl_runtime import Preprocess, preprocess
from edgetl_runtime.interpolation import centres, interpolated, labels_at
from edgetl_runtime.placing import place
from edgetl_runtime.tasks.segmentation import label_map


def blob(width: int, height: int) -> np.ndarray:
    mask = np.zeros((height, width), np.uint8)
    corners = np.array([[0.2, 0.15], [0.8, 0.3], [0.55, 0.9]]) * (width, height)
    fill_outline(mask, corners.tolist(), 1)
    return mask


@pytest.mark.parametrize("mode", ["crop", "stretch", "letterbox"])
@pytest.mark.parametrize("size", [(97, 61), (61, 97), (300, 200)])
def test_a_mask_lies_where_its_photo_lies(mode: str, size: tuple[int, int]) -> None:
    mask = blob(*size)
    photo = np.repeat(mask[:, :, None] * np.uint8(255), 3, axis=2)
    spec = Preprocess(72 if mode == "crop" else 0, (64, 64), mode=mode)
    levels = preprocess(photo, spec)[:, :, 0]
    found = in_frame(mask, place(size, spec))
    sure = ((levels < 40) | (levels > 215)) & (found != IGNORED)
    assert sure.mean() > 0.5
    assert np.array_equal(found[sure], levels[sure] > 127)
    assert (found == IGNORED).any() == (mode == "letterbox")


def test_masks_of_several_sizes_in_one_frame() -> None:
    spec = Preprocess(0, (32, 48), mode="stretch")
    masks = masks_in_frame([blob(96, 64), blob(48, 32)], spec)
    assert masks.shape == (2, 32, 48)
    assert masks.dtype == torch.uint8
    assert masks_in_frame([], spec).shape == (0, 32, 48)


@pytest.mark.parametrize("preset", ["similar", "different", "shift", "none"])
def test_masks_follow_the_pixels(preset: str) -> None:
    augmentation = PRESETS[preset]
    plain = Augmentation(**{**vars(augmentation), "brightness": 0.0, "contrast": 0.0, "saturation": 0.0})
    mask = torch.from_numpy(np.stack([blob(80, 72)] * 16))
    pixels = (mask[..., None] * 255).expand(-1, -1, -1, 3).contiguous()
    draws = epoch_draws(len(mask), 0, 1)
    crop, size = (64, 72), (72, 80)
    levels = augmented(pixels, draws, plain, crop)[:, 0]
    found = moved(mask, moves(draws, plain, size, crop), crop)
    assert found.shape == (16, *crop)
    sure = ((levels < 1) | (levels > 254)) & (found != IGNORED)
    assert sure.float().mean() > 0.6
    assert torch.equal(found[sure], (levels[sure] > 127).to(torch.uint8))


def test_half_a_pixel_is_seen() -> None:
    """Of a mask that was moved by one pixel the same check fails: it is as sharp as it says."""
    mask = blob(80, 72)
    levels = preprocess(np.repeat(mask[:, :, None] * np.uint8(255), 3, axis=2), Preprocess(0, (72, 80), mode="stretch"))
    shifted = np.roll(mask, 1, axis=1)
    assert np.count_nonzero(shifted != (levels[:, :, 0] > 127)) > 50


@pytest.mark.parametrize("size", [(256, 256), (480, 640), (77, 123), (20, 20)])
@pytest.mark.parametrize("labels", [1, 2, 3, 21])
def test_logits_are_interpolated_as_torch_does(size: tuple[int, int], labels: int) -> None:
    logits = np.random.default_rng(labels).normal(size=(32, 31, labels)).astype(np.float32)
    expected = F.interpolate(
        torch.from_numpy(logits).double().permute(2, 0, 1)[None], size=size, mode="bilinear", align_corners=False
    )[0].permute(1, 2, 0)
    rows, columns = centres(size[0], 32), centres(size[1], 31)
    np.testing.assert_allclose(interpolated(logits, rows, columns), expected.numpy(), atol=1e-5)
    best = expected.topk(min(2, labels), dim=2)
    tie = torch.zeros(size, dtype=torch.bool) if labels == 1 else best.values[..., 0] - best.values[..., 1] < 1e-5
    wrong = (label_map(logits, size) != best.indices[..., 0].numpy()) & ~tie.numpy()
    assert not wrong.any()
    assert np.array_equal(labels_at(logits, rows, columns), label_map(logits, size))


@pytest.mark.parametrize("smooth", [False, True])
def test_a_mask_of_an_odd_photo_is_that_of_torch(smooth: bool) -> None:
    from edgetl_runtime import fake_segmenter

    photo = Image.fromarray(np.random.default_rng(0).integers(0, 255, (77, 123), dtype=np.uint8), "L")
    logits = np.random.default_rng(1).normal(size=(8, 12, 3)).astype(np.float32)
    fake = fake_segmenter(["a", "b", "c"], lambda image: np.zeros((1, 1), np.int64), size=(64, 96))
    placed = place(photo.size, fake.manifest.preprocess)
    found = fake.interpret(logits, placed, smooth=smooth).mask
    whole = torch.from_numpy(logits).double().permute(2, 0, 1)[None]
    size = (photo.height, photo.width)
    if smooth:
        values = F.interpolate(whole, size=size, mode="bilinear", align_corners=False)[0]
    else:
        at_tensor = F.interpolate(whole, size=(64, 96), mode="bilinear", align_corners=False)
        values = F.interpolate(at_tensor, size=size, mode="nearest-exact")[0]
    top = values.topk(2, dim=0).values
    tie = (top[0] - top[1] < 1e-5).numpy()
    assert not ((found != values.argmax(0).numpy()) & ~tie).any()
    assert tie.mean() < 0.001
