"""Every layer of the table of translations, on odd and even sides, strides, dilations and both paddings."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch

from edgetl.models.sources.keras_model.translation import LAYERS, OPERATIONS
from edgetl_runtime.errors import UsageError
from tests.edgetl.models.sources.keras_models import functional, keras, nearness, translated

L = keras.layers
EXACT = 100.0

CONVOLUTIONS = [
    (kernel, stride, dilation, padding)
    for kernel, stride, dilation, padding in itertools.product((1, 2, 3, (5, 3)), (1, 2, 3), (1, 2), ("same", "valid"))
    if stride == 1 or dilation == 1
]

SIMPLE: dict[str, Any] = {
    "Conv2D": L.Conv2D(4, 3, activation="relu"),
    "Conv2D groups": L.Conv2D(6, 3, groups=3),
    "DepthwiseConv2D": L.DepthwiseConv2D(3, depth_multiplier=2, activation="relu"),
    "SeparableConv2D": L.SeparableConv2D(5, 3, padding="same", activation="tanh"),
    "Conv2DTranspose": L.Conv2DTranspose(4, 3, strides=2, padding="same"),
    "Conv2DTranspose valid": L.Conv2DTranspose(4, 3, strides=2, padding="valid", use_bias=False),
    "Dense of a map": L.Dense(4, activation="gelu"),
    "BatchNormalization": L.BatchNormalization(),
    "BatchNormalization bare": L.BatchNormalization(center=False, scale=False),
    "LayerNormalization": L.LayerNormalization(),
    "GroupNormalization": L.GroupNormalization(3),
    "Rescaling": L.Rescaling(1 / 127.5, offset=-1),
    "Rescaling by channel": L.Rescaling((1.0, 2.0, 3.0), offset=(0.0, 1.0, 2.0)),
    "Normalization": L.Normalization(mean=(0.1, 0.2, 0.3), variance=(0.5, 1.0, 2.0)),
    "Normalization inverted": L.Normalization(mean=(0.1, 0.2, 0.3), variance=(0.5, 1.0, 2.0), invert=True),
    "ReLU": L.ReLU(),
    "ReLU 6": L.ReLU(6.0),
    "ReLU 0.5": L.ReLU(0.5),
    "ReLU sloped": L.ReLU(negative_slope=0.1),
    "LeakyReLU": L.LeakyReLU(0.3),
    "ELU": L.ELU(0.7),
    "PReLU": L.PReLU(shared_axes=[1, 2]),
    "MaxPooling2D": L.MaxPooling2D(2),
    "GlobalAveragePooling2D": L.GlobalAveragePooling2D(),
    "GlobalAveragePooling2D kept": L.GlobalAveragePooling2D(keepdims=True),
    "GlobalMaxPooling2D": L.GlobalMaxPooling2D(),
    "ZeroPadding2D": L.ZeroPadding2D(((0, 1), (2, 3))),
    "Cropping2D": L.Cropping2D(((1, 2), (0, 3))),
    "UpSampling2D": L.UpSampling2D(2),
    "UpSampling2D bilinear": L.UpSampling2D((2, 3), interpolation="bilinear"),
    "Flatten": L.Flatten(),
    "Permute": L.Permute((2, 1, 3)),
    "Reshape to a row": L.Reshape((-1,)),
    "Reshape of a map": L.Reshape((16, 13, 3)),
    "Dropout": L.Dropout(0.5),
    "SpatialDropout2D": L.SpatialDropout2D(0.5),
    "GaussianNoise": L.GaussianNoise(0.5),
    "RandomFlip": L.RandomFlip(),
    "RandomRotation": L.RandomRotation(0.2),
    "RandomZoom": L.RandomZoom(0.2),
    "RandomContrast": L.RandomContrast(0.2),
}


@pytest.mark.parametrize("name", SIMPLE)
def test_a_layer_gives_what_keras_gives(name: str) -> None:
    assert nearness(functional(SIMPLE[name])) > EXACT


@pytest.mark.parametrize(("kernel", "stride", "dilation", "padding"), CONVOLUTIONS)
def test_convolutions_look_at_the_same_pixels(kernel: Any, stride: int, dilation: int, padding: str) -> None:
    words = {"strides": stride, "dilation_rate": dilation, "padding": padding}
    for layer in (L.Conv2D(4, kernel, **words), L.SeparableConv2D(4, kernel, **words)):
        assert nearness(functional(layer)) > EXACT
    if not isinstance(kernel, tuple):
        assert nearness(functional(L.DepthwiseConv2D(kernel, **words), (12, 15)), (12, 15)) > EXACT


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize(("pool", "stride"), [(2, 2), (3, 1), (3, 2), ((2, 3), (3, 2))])
def test_pools_count_no_border(pool: Any, stride: Any, padding: str) -> None:
    for kind in (L.MaxPooling2D, L.AveragePooling2D):
        assert nearness(functional(kind(pool, stride, padding))) > EXACT


def test_an_uneven_border_of_an_average_is_left_out_as_tensorflow_has_it() -> None:
    module, builder = translated(functional(L.AveragePooling2D(3, 2, "same"), (4, 4), 1), (4, 4), 1)
    assert len(builder.corrected) == 1  # on torch Keras computes something else
    given = module(torch.arange(16.0).reshape(1, 1, 4, 4))
    # What tf.nn.avg_pool2d of TensorFlow 2.21 gives: the last row and column have fewer pixels, and are divided by
    # them.
    assert torch.allclose(given, torch.tensor([[[[5.0, 6.5], [11.0, 12.5]]]]))


@pytest.mark.parametrize("name", sorted({"relu", "relu6", "silu", "sigmoid", "gelu", "tanh", "hard_sigmoid", "elu"}))
@pytest.mark.parametrize("as_layer", [False, True])
def test_activations_as_arguments_and_as_layers(name: str, as_layer: bool) -> None:
    layer = keras.Sequential([L.Conv2D(4, 3), L.Activation(name)]) if as_layer else L.Conv2D(4, 3, activation=name)
    assert nearness(functional(lambda x: L.GlobalMaxPooling2D()(layer(x)))) > EXACT


@pytest.mark.parametrize("name", ["Add", "Subtract", "Multiply", "Maximum", "Minimum", "Average", "Concatenate"])
def test_layers_of_two_inputs(name: str) -> None:
    def call(x: Any) -> Any:
        return getattr(L, name)()([L.Conv2D(4, 3, padding="same")(x), L.Conv2D(4, 1)(x)])

    assert nearness(functional(call)) > EXACT
    assert nearness(functional(lambda x: L.Concatenate(axis=1)([x, x]))) > EXACT


def test_rows_behind_maps() -> None:
    def call(x: Any) -> Any:
        flat = L.Flatten()(L.MaxPooling2D()(x))
        row = L.Dropout(0.3)(L.BatchNormalization()(L.Dense(12, activation="relu")(flat)))
        squeezed = L.Conv2D(3, 1, activation="sigmoid")(L.Reshape((1, 1, 12))(row))
        return L.Multiply()([x, squeezed])

    assert nearness(functional(call)) > EXACT


def test_operations_between_layers() -> None:
    ops = keras.ops

    def call(x: Any) -> Any:
        y = (x * 2.0 - 0.5) / 3.0 + np.array([1.0, 2.0, 3.0], "float32")
        return ops.subtract(ops.multiply(0.5, y), x[..., ::-1])

    assert nearness(functional(call)) > EXACT
    assert {"Add", "Subtract", "Multiply", "TrueDivide", "GetItem"} <= set(OPERATIONS)


def test_a_layer_that_is_used_twice_has_one_module() -> None:
    shared = L.Conv2D(3, 3, padding="same", activation="relu")
    model = functional(lambda x: shared(shared(x)))
    assert nearness(model) > EXACT
    module, _ = translated(model)
    assert sum(type(part).__name__ == "Conv2d" for part in module.modules()) == 1


def test_models_in_models_and_sequences_are_walked_through() -> None:
    inner = keras.Sequential([keras.Input((None, None, 4)), L.Conv2D(5, 3, strides=2, padding="same"), L.ReLU()])
    model = functional(lambda x: L.GlobalAveragePooling2D()(inner(L.Conv2D(4, 3)(x))))
    assert nearness(model) > EXACT
    assert nearness(keras.Sequential([keras.Input((13, 16, 3)), L.Conv2D(4, 3), L.Flatten(), L.Dense(3)])) > EXACT


def test_hard_swish_written_out_is_one_activation() -> None:
    from edgetl.models.sources.keras_model.simplify import simplify

    def call(x: Any) -> Any:
        return L.Multiply()([x, L.ReLU(6.0)(x + 3.0) * (1.0 / 6.0)])

    module, _ = translated(functional(call))
    simplify(module)
    assert [type(part).__name__ for part in module.children()] == ["Hardswish"]


class Own(L.Layer):  # type: ignore[misc] # keras is untyped
    def call(self, x: Any) -> Any:
        return x * 2


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        (Own(name="mine"), r"layer mine \(Own\): edgetl has no translation of it"),
        (L.Lambda(lambda x: x * 2, name="twice"), r"layer twice \(Lambda\)"),
        (L.BatchNormalization(axis=1, name="rows"), r"layer rows \(BatchNormalization\): along another axis"),
        (L.Resizing(8, 8, crop_to_aspect_ratio=True, name="cut"), r"layer cut \(Resizing\)"),
    ],
)
def test_what_is_not_translated_is_named_with_the_way_out(layer: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        translated(functional(layer))
    assert "--custom module.py" in str(caught.value.fix)
    assert layer.name in str(caught.value.fix)


def test_every_layer_of_the_table_is_tried_or_does_nothing() -> None:
    tried = {type(layer).__name__ for layer in SIMPLE.values()} | {"AveragePooling2D", "Activation", "Softmax", "Dense"}
    tried |= {"Add", "Subtract", "Multiply", "Maximum", "Minimum", "Average", "Concatenate", "Reshape", "Resizing"}
    left = {name for name, translate in LAYERS.items() if translate.__name__ != "nothing"} - tried
    assert left == {"LayerScale", "CustomScaleLayer"}  # ConvNeXt's and InceptionResNetV2's: test_keras_models.py
