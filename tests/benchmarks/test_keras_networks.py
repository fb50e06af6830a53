from __future__ import annotations

import numpy as np
import pytest
import torch
from keras_networks import _as_keras, main
from torch import nn


def test_an_unknown_network_ends_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--networks", "mobilenet_v4"]) == 2
    assert "unknown network 'mobilenet_v4'" in capsys.readouterr().err


@pytest.mark.parametrize("groups", [1, 6])
def test_weights_are_transplanted_into_layers_of_keras(groups: int) -> None:
    torch.manual_seed(0)
    from edgetl.models.sources.keras_model.loading import keras_on_torch

    layers = keras_on_torch().layers
    convolution, norm = nn.Conv2d(6, 6, 3, groups=groups), nn.BatchNorm2d(6)
    norm.running_mean, norm.running_var = torch.randn(6), torch.rand(6)
    theirs = layers.DepthwiseConv2D(3) if groups > 1 else layers.Conv2D(6, 3)
    after = layers.BatchNormalization(epsilon=1e-3)
    image = torch.randn(2, 8, 8, 6)
    after(theirs(image))  # gives them their weights
    for module, layer in ((convolution, theirs), (norm, after)):
        layer.set_weights([values.detach().numpy() for values in _as_keras(module)])
    with torch.no_grad():
        wanted = nn.Sequential(convolution, norm).eval()(image.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    np.testing.assert_allclose(after(theirs(image), training=False).detach().numpy(), wanted.numpy(), atol=2e-5)
