"""What decides a result, as one SHA-256: what was computed for the same is not computed again."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

from edgetl.data.dataset import Dataset
from edgetl.models.weights import parse_weights
from edgetl.recipe import Recipe
from edgetl_runtime import __version__

__all__ = ["result_key"]


def result_key(recipe: Recipe, dataset: Dataset, *, without: tuple[str, ...] = (), **more: object) -> str:
    """SHA-256 (hex) of the sections of `recipe`, the photos, the weights it starts from, and whatever else decides.

    `without` names sections that do not matter. The photos count by their content, not by their path. A weights file
    counts by its content too: it may change and keep its name. Where training is watched does not count.
    """
    recipe = dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, tensorboard=None))
    weights = parse_weights(recipe.model.weights)
    about = {
        "edgetl": __version__,
        "data": dataset.fingerprint,
        "recipe": {
            name: values for name, values in dataclasses.asdict(recipe).items() if name not in ("data", *without)
        },
        "weights": hashlib.sha256(weights.read_bytes()).hexdigest() if isinstance(weights, Path) else weights,
        **more,
    }
    return hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode()).hexdigest()
