"""Keras models for tests, on the torch backend, and what a translation makes of them."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import fx

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras  # after its backend is chosen

from edgetl.models.sources.keras_model.graph import GraphBuilder
from edgetl.models.sources.keras_model.original import as_tensorflow, decibels
from edgetl.models.sources.keras_model.translation import translate

__all__ = ["functional", "keras", "nearness", "randomized", "translated"]


def randomized(model: Any) -> Any:
    """`model` with random statistics and weights in its normalisation layers: fresh ones do nothing."""
    generator = np.random.default_rng(0)
    for layer in model._flatten_layers():
        if type(layer).__name__ == "BatchNormalization":
            shape = layer.moving_mean.shape
            layer.moving_mean.assign(generator.normal(0, 0.3, shape))
            layer.moving_variance.assign(generator.uniform(0.5, 2, shape))
        for name in ("gamma", "beta", "bias", "alpha"):
            weight = getattr(layer, name, None)
            if hasattr(weight, "assign") and type(layer).__name__ != "LayerScale":
                weight.assign(generator.uniform(0.2, 0.9, weight.shape))
    return model


def functional(call: Callable[[Any], Any], size: tuple[int, int] = (13, 16), channels: int = 3) -> Any:
    """The model of one image that `call` makes of its input."""
    image = keras.Input((*size, channels))
    return randomized(keras.Model(image, call(image)))


def translated(model: Any, size: tuple[int, int] = (13, 16), channels: int = 3) -> tuple[fx.GraphModule, GraphBuilder]:
    return translate(model, {}, size, channels)


def nearness(model: Any, size: tuple[int, int] = (13, 16), channels: int = 3) -> float:
    """Decibels from Keras on random images of 0..1, softmax and sigmoid left as they are."""
    module, builder = translated(model, size, channels)
    as_tensorflow(builder)
    pixels = np.random.default_rng(1).random((3, *size, channels), np.float32)
    with torch.no_grad():
        wanted = model(torch.from_numpy(pixels), training=False).numpy()
        given = module(torch.from_numpy(pixels).permute(0, 3, 1, 2))
    given = given.permute(0, 2, 3, 1) if given.ndim == 4 else given
    assert given.shape == wanted.shape
    return decibels(wanted, given.numpy())
