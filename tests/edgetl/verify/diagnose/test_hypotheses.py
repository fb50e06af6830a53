"""Wrong answers of known causes: each hypothesis is recognised, and none where nothing is wrong."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from edgetl.verify.diagnose.hypotheses import FewOutputs, explain_by_images, explain_by_logits
from edgetl.verify.diagnose.preprocessing_probes import explain_by_fit, explain_by_original
from edgetl_export import Source
from edgetl_runtime.manifest import Label, Normalize, Preprocess

SIZE = 12
OWN = Normalize((0.48, 0.45, 0.40), (0.23, 0.22, 0.25))
Images = npt.NDArray[np.uint8]
Logits = npt.NDArray[np.float32]
Model = Callable[[Images], Logits]


@pytest.fixture(scope="module")
def source() -> Source:
    """An untrained network that minds colours, places and grey levels, with a batch norm."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, 2),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(128, 6),
    )
    norm = network[1]
    assert isinstance(norm, nn.BatchNorm2d)
    norm.running_mean, norm.running_var = torch.randn(8) * 0.3, torch.rand(8) + 0.5
    labels = tuple(Label(name, name) for name in "abcdef")
    return Source("small", network.eval(), labels, Preprocess(SIZE, (SIZE, SIZE)), OWN, checkpoint_sha256="0" * 64)


@pytest.fixture(scope="module")
def images() -> Images:
    """(12, 12, 12, 3) smooth pictures."""
    coarse = np.random.default_rng(0).integers(20, 236, (12, 4, 4, 3))
    return coarse.repeat(3, axis=1).repeat(3, axis=2).astype(np.uint8)


def answers(images: Images, source: Source, variant: Model) -> FewOutputs:
    return FewOutputs(images, source.reference()(images), variant(images))


@pytest.mark.parametrize("sides", [(12, 12), (12, 18), (18, 12), (6, 24)])
@pytest.mark.parametrize("back", [False, True])
def test_rows_taken_for_columns_are_recognised(sides: tuple[int, int], *, back: bool) -> None:
    rng = np.random.default_rng(0)
    coarse = rng.integers(20, 236, (12, sides[0] // 3, sides[1] // 3, 3))
    pictures = coarse.repeat(3, axis=1).repeat(3, axis=2).astype(np.uint8)
    weights = rng.normal(0, 1, (pictures[0].size, 5)).astype(np.float32)

    def original(images: Images) -> Logits:
        logits: Logits = images.reshape(len(images), -1).astype(np.float32) @ weights
        return logits

    def variant(images: Images) -> Logits:
        if back:
            return original(images.transpose(0, 2, 1, 3))
        return original(images.reshape(len(images), sides[1], sides[0], 3).transpose(0, 2, 1, 3))

    few = FewOutputs(pictures, original(pictures), variant(pictures))
    found = explain_by_images(few, variant)
    assert found is not None
    assert found.finding.cause == "height and width are swapped"
    assert explain_by_images(FewOutputs(pictures, few.reference, few.reference), original) is None


def with_normalisation(source: Source, change: Callable[[torch.Tensor], torch.Tensor]) -> Model:
    def run(images: Images) -> Logits:
        with torch.inference_mode():
            logits: Logits = source.module(change(torch.tensor(images).float().permute(0, 3, 1, 2))).numpy()
        return logits

    return run


def rounded(logits: Logits) -> Logits:
    """As an int8 variant would give them: 20 dB of noise."""
    noise = np.random.default_rng(5).normal(0, 0.1 * logits.std(), logits.shape)
    return (logits + noise).astype(np.float32)


CHANGES: dict[str, Callable[[Images], Images]] = {
    "BGR": lambda x: x[..., ::-1],
    "NHWC bytes are read as NCHW": lambda x: np.ascontiguousarray(x).reshape(-1, 3, SIZE, SIZE).transpose(0, 2, 3, 1),
    "NCHW bytes are read as NHWC": lambda x: np.ascontiguousarray(x.transpose(0, 3, 1, 2)).reshape(x.shape),
    "height and width": lambda x: x.transpose(0, 2, 1, 3),
    "mirrored": lambda x: x[:, :, ::-1],
    "upside down": lambda x: x[:, ::-1],
    "inverted": lambda x: 255 - x,
}


@pytest.mark.parametrize("precision", ["float", "int8"])
@pytest.mark.parametrize("cause", CHANGES)
def test_what_is_done_to_the_image_is_recognised(source: Source, images: Images, cause: str, precision: str) -> None:
    reference = source.reference()

    def variant(images: Images) -> Logits:
        logits = reference(np.ascontiguousarray(CHANGES[cause](images)))
        return rounded(logits) if precision == "int8" else logits

    found = explain_by_images(answers(images, source, variant), variant)
    assert found is not None
    assert cause in found.finding.cause


def test_a_shift_by_one_pixel_is_recognised(source: Source) -> None:
    reference = source.reference()
    photos = np.random.default_rng(1).integers(20, 236, (12, SIZE, SIZE, 3)).astype(np.uint8)
    # Of a border that is the same everywhere nothing is lost at the edge.
    photos[:, [0, 1, -2, -1]] = photos[:, :, [0, 1, -2, -1]] = 128

    def variant(images: Images) -> Logits:
        return reference(np.roll(images, 1, axis=2))

    found = explain_by_images(answers(photos, source, variant), variant)
    assert found is not None
    assert "off by one pixel" in found.finding.cause
    assert "0 rows and" in found.finding.evidence


def _normal(x: torch.Tensor, mean: tuple[float, ...] = OWN.mean, std: tuple[float, ...] = OWN.std) -> torch.Tensor:
    return (x / 255 - torch.tensor(mean).reshape(3, 1, 1)) / torch.tensor(std).reshape(3, 1, 1)


NORMALISATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "pixels go in as 0 to 1": lambda x: x / 255,
    "pixels go in as 0 to 255": lambda x: x,
    "applied twice": lambda x: _normal(255 * _normal(x)),
    "to -1 to 1": lambda x: x / 127.5 - 1,
    "BGR order": lambda x: _normal(x, OWN.mean[::-1], OWN.std[::-1]),
    "lacks the division by std": lambda x: _normal(x, OWN.mean, (1.0,) * 3),
    "lacks the mean": lambda x: _normal(x, (0.0,) * 3),
}


@pytest.mark.parametrize("cause", NORMALISATIONS)
def test_another_normalisation_is_recognised(source: Source, images: Images, cause: str) -> None:
    found = explain_by_original(answers(images, source, with_normalisation(source, NORMALISATIONS[cause])), source)
    assert found is not None
    assert cause in found.finding.cause


def test_batch_norms_in_training_mode_are_recognised(source: Source, images: Images) -> None:
    def variant(images: Images) -> Logits:
        source.module[1].train()  # type: ignore[index] # it is a sequence
        try:
            one = with_normalisation(source, _normal)
            return np.concatenate([one(images[index : index + 1]) for index in range(len(images))])
        finally:
            source.module.eval()

    kept = source.module[1].state_dict()  # type: ignore[index]
    kept = {key: value.clone() for key, value in kept.items()}
    few = FewOutputs(images, source.reference()(images), variant(images))
    source.module[1].load_state_dict(kept)  # type: ignore[index]
    found = explain_by_original(few, source)
    assert found is not None
    assert "training mode" in found.finding.cause


def test_a_mean_that_nobody_would_guess_is_fitted(source: Source, images: Images) -> None:
    few = answers(images, source, with_normalisation(source, lambda x: _normal(x, (0.60, 0.40, 0.30))))
    found = explain_by_fit(few, source)
    assert found is not None
    assert "another mean or std" in found.finding.cause
    assert "(0.60" in found.finding.evidence


MAPS: dict[str, Callable[[Logits], Logits]] = {
    "softmax in the model": lambda x: (np.exp(x) / np.exp(x).sum(1, keepdims=True)).astype(np.float32),
    "log-probabilities": lambda x: (x - np.log(np.exp(x).sum(1, keepdims=True))).astype(np.float32),
    "permuted": lambda x: x[:, [1, 2, 0, 3, 5, 4]],
    "scaled": lambda x: 3 * x + 1,
    "does not depend on the image": lambda x: np.zeros_like(x),
}


@pytest.mark.parametrize("cause", MAPS)
def test_what_is_done_to_the_logits_is_recognised(cause: str) -> None:
    logits = np.random.default_rng(2).normal(0, 3, (40, 6)).astype(np.float32)
    found = explain_by_logits(logits, MAPS[cause](logits))
    assert found is not None
    assert cause in found.finding.cause


def test_nothing_is_recognised_where_nothing_is_wrong_or_nothing_is_known(source: Source, images: Images) -> None:
    reference = source.reference()

    def sound(images: Images) -> Logits:
        return rounded(reference(images))

    def noise(images: Images) -> Logits:
        return np.random.default_rng(len(images)).normal(0, 1, (len(images), 6)).astype(np.float32)

    for variant in (sound, noise):
        few = answers(images, source, variant)
        assert explain_by_images(few, variant) is None
        assert explain_by_original(few, source) is None
        assert explain_by_logits(few.reference, few.variant) is None
    assert explain_by_fit(answers(images, source, noise), source) is None
