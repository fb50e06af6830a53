"""Hypotheses about wrong answers that are tried on the original: treated how does it answer like the variant?"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from edgetl.verify.diagnose.hypotheses import FITTED_DB, GAINED_DB, SCREENED, Explanation, FewOutputs
from edgetl.verify.report import Finding
from edgetl_export import Source
from edgetl_runtime.comparison import sqnr_db
from edgetl_runtime.manifest import Normalize

__all__ = ["explain_by_fit", "explain_by_original"]

Logits = npt.NDArray[np.float32]

_FITTED_IMAGES, _FITTED_STEPS = 6, 20
"""A pass forward and back through MobileNetV2 takes a second for six images; six numbers need no more."""
_IMAGENET = Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_FIX = "export from the checkpoint with its own mean and std: edgetl puts them into the file, the app adds none"


def explain_by_original(answers: FewOutputs, source: Source) -> Explanation | None:
    """Missing, double or other normalisation, batch norms in training mode: done to the original, and compared."""
    network, pixels = _network(source), _pixels(answers)
    few, known = pixels[:SCREENED], answers.variant[:SCREENED]
    tried = [(_nearness(network, normal, known), name) for name, normal in _normalisations(few, source.normalize)]
    _, cause = max(tried)
    found = _nearness(network, dict(_normalisations(pixels, source.normalize))[cause], answers.variant)
    if answers.explains(found):
        return Explanation(found, Finding(cause, _said(found, answers.now_db), _FIX))
    training = _in_training_mode(network, source.normalize, few, known)
    if answers.explains(training):
        finding = Finding(
            "batch norms are in training mode: they use each image's own statistics, not the running ones",
            _said(training, answers.now_db),
            "call model.eval() before exporting; edgetl export does",
        )
        return Explanation(training, finding)
    return None


def explain_by_fit(answers: FewOutputs, source: Source) -> Explanation | None:
    """A mean and a std, of all there are, with which the original answers like the variant."""
    network, pixels = _network(source), _pixels(answers)
    found, normalize = _fitted(network, source.normalize, pixels, answers.variant)
    if found < max(FITTED_DB, answers.now_db + 2 * GAINED_DB):
        return None
    finding = Finding(
        "the normalisation has another mean or std",
        f"the original with mean {_numbers(normalize.mean)} and std {_numbers(normalize.std)} answers like the variant "
        f"({found:.0f} dB, before {answers.now_db:.0f} dB); the manifest says mean {_numbers(source.normalize.mean)}, "
        f"std {_numbers(source.normalize.std)}",
        _FIX,
    )
    return Explanation(found, finding)


def _network(source: Source) -> nn.Module:
    return copy.deepcopy(source.module).cpu().float().eval()


def _pixels(answers: FewOutputs) -> torch.Tensor:
    return torch.from_numpy(answers.images).float().permute(0, 3, 1, 2)


def _said(found: float, now: float) -> str:
    return f"the original, treated so, answers like the variant within {found:.0f} dB, before {now:.0f} dB"


def _numbers(values: tuple[float, ...]) -> str:
    return "(" + ", ".join(f"{value:.3f}" for value in values) + ")"


def _normal(pixels: torch.Tensor, normalize: Normalize) -> torch.Tensor:
    mean, std = (torch.tensor(values).reshape(1, -1, 1, 1) for values in (normalize.mean, normalize.std))
    return (pixels / 255 - mean) / std


def _normalisations(pixels: torch.Tensor, own: Normalize) -> Iterator[tuple[str, torch.Tensor]]:
    channels = len(own.mean)
    none, half, one = (0.0,) * channels, (0.5,) * channels, (1.0,) * channels
    others = {
        "the normalisation is missing: pixels go in as 0 to 1": Normalize(none, one),
        "the normalisation is another's: to -1 to 1": Normalize(half, half),
        "the normalisation lacks the division by std": Normalize(own.mean, one),
        "the normalisation lacks the mean": Normalize(none, own.std),
    }
    if channels == 3:
        others["the normalisation is another's: ImageNet's mean and std"] = _IMAGENET
        others["the normalisation has mean and std in BGR order"] = Normalize(own.mean[::-1], own.std[::-1])
    for name, normalize in others.items():
        if normalize != own:
            yield name, _normal(pixels, normalize)
    yield "the normalisation is missing: pixels go in as 0 to 255", pixels
    yield "the normalisation is applied twice", _normal(255 * _normal(pixels, own), own)
    yield "the normalisation lacks the division by 255", _normal(255 * pixels, own)


def _nearness(network: nn.Module, normal: torch.Tensor, variant: Logits) -> float:
    with torch.inference_mode():
        return sqnr_db(variant, network(normal).numpy())


def _in_training_mode(network: nn.Module, own: Normalize, pixels: torch.Tensor, variant: Logits) -> float:
    """How near the original with batch norms in training mode is, one image at a time; -infinity without any."""
    training = copy.deepcopy(network)
    norms = [module for module in training.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    for module in norms:
        module.train()
    if not norms:
        return -np.inf
    normal = _normal(pixels, own)
    try:
        with torch.inference_mode():
            rows = [training(normal[index : index + 1]).numpy() for index in range(len(normal))]
    except ValueError:  # one value per channel has no variance: such a network cannot run like this at all
        return -np.inf
    return sqnr_db(variant, np.concatenate(rows))


def _fitted(network: nn.Module, own: Normalize, pixels: torch.Tensor, variant: Logits) -> tuple[float, Normalize]:
    """The mean and std with which the original is nearest to the variant, by L-BFGS from its own, and how near."""
    few, wanted = pixels[:_FITTED_IMAGES], torch.from_numpy(variant[:_FITTED_IMAGES].copy())
    mean, spread = torch.tensor(own.mean), torch.tensor(own.std).log()
    mean.requires_grad_()
    spread.requires_grad_()
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    optimizer = torch.optim.LBFGS([mean, spread], max_iter=_FITTED_STEPS, line_search_fn="strong_wolfe")

    def distance() -> torch.Tensor:
        optimizer.zero_grad()
        normal = (few / 255 - mean.reshape(1, -1, 1, 1)) / spread.exp().reshape(1, -1, 1, 1)
        loss: torch.Tensor = (network(normal) - wanted).square().mean()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    with torch.enable_grad():
        optimizer.step(distance)  # type: ignore[no-untyped-call]
    found = Normalize(tuple(mean.tolist()), tuple(spread.exp().tolist()))
    if not np.isfinite([*found.mean, *found.std]).all():
        return -np.inf, own
    return _nearness(network, _normal(pixels, found), variant), found
