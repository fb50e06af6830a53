"""Forms that Keras models have in the wild: classes of their own, other precisions, endings, outputs in a dict."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgetl.models.sources.foreign import Foreign
from edgetl.models.sources.keras_model.loading import saved_bytes
from edgetl.models.sources.opening import SourceOptions, open_source
from edgetl_runtime.errors import CheckpointError, UsageError
from tests.edgetl.models.sources.keras_models import keras

L = keras.layers
IMAGE = (32, 32, 3)


def features(image: Any, **options: Any) -> Any:
    return L.GlobalAveragePooling2D()(L.Conv2D(8, 3, **options)(L.Rescaling(1 / 255)(image)))


def opened(model: Any, **said: Any) -> Foreign:
    found = open_source(model, SourceOptions(**said))
    assert isinstance(found, Foreign)
    return found


def notes(model: Any) -> str:
    return str(opened(model).training["loading"])


class TrainedAnotherWay(keras.Model):
    """A graph of layers, and a step of training of the user's own."""

    def train_step(self, data: Any) -> dict[str, Any]:
        return {}


class BuiltInside(keras.Model):
    """A graph of layers that the class makes itself."""

    def __init__(self) -> None:
        image = keras.Input(IMAGE)
        super().__init__(image, L.Dense(3, activation="softmax")(features(image)))


class Gate(L.Layer):
    """A layer of the user's, never registered."""

    def call(self, x: Any) -> Any:
        return x * 2


class WithCall(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.last = L.Dense(3)

    def call(self, x: Any) -> Any:
        return self.last(keras.ops.mean(x, (1, 2)))


def classifier(kind: Any = keras.Model, image: Any = None) -> Any:
    image = keras.Input(IMAGE) if image is None else image
    return kind(image, L.Dense(3, activation="softmax")(features(image)))


def test_a_class_with_a_graph_of_layers_is_that_graph() -> None:
    for model in (classifier(TrainedAnotherWay), BuiltInside()):
        found = opened(model)
        pixels = np.random.default_rng(0).integers(0, 256, (2, *IMAGE), np.uint8)
        wanted = model(pixels.astype(np.float32)).detach().numpy()
        assert found.original is not None
        powers = np.exp(found.original(pixels)["logits"])
        assert np.allclose(powers / powers.sum(1, keepdims=True), wanted, atol=1e-5)
        assert not found.opening["custom"]  # a bundle opens it again without the class


def test_layers_of_a_model_in_memory_are_those_of_memory() -> None:
    image = keras.Input(IMAGE)
    model = keras.Model(image, L.Dense(3)(Gate()(features(image))))
    with pytest.raises(UsageError, match=r"layer gate.* \(Gate\): edgetl has no translation of it"):
        opened(model)
    network = WithCall()
    network(np.zeros((1, *IMAGE), np.float32))
    with pytest.raises(UsageError, match="has no graph of layers"):
        opened(network)


def test_a_file_names_the_class_that_it_lacks(tmp_path: Path) -> None:
    image = keras.Input(IMAGE)
    (tmp_path / "own.keras").write_bytes(saved_bytes(keras.Model(image, L.Dense(3)(Gate()(features(image))))))
    with pytest.raises(UsageError, match=r"own\.keras has a layer, a model or a function of your own: Gate\n"):
        opened(tmp_path / "own.keras")


@pytest.mark.parametrize("ending", [".keras", ".h5"])
def test_a_file_that_is_cut_off_or_another_is_said_to_be_so(ending: str, tmp_path: Path) -> None:
    file = tmp_path / f"model{ending}"
    classifier().save(file)
    whole = file.read_bytes()
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("notes.txt", "nothing")
    for content in (whole[: len(whole) // 2], b"", b"hello", (tmp_path / "other.zip").read_bytes()):
        file.write_bytes(content)
        with pytest.raises(CheckpointError, match=rf"model{ending} is damaged, cut off, or no file of a Keras model"):
            opened(file)


def test_what_a_file_is_counts_not_what_it_is_called(tmp_path: Path) -> None:
    for real, called in ((".keras", ".h5"), (".h5", ".keras")):
        classifier().save(tmp_path / f"real{real}")
        (tmp_path / f"real{real}").rename(tmp_path / f"renamed{called}")
        assert list(opened(tmp_path / f"renamed{called}").files) == [f"model{real}"]


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float16", "bfloat16", "float64"])
def test_another_precision_is_computed_in_float32(policy: str) -> None:
    keras.config.set_dtype_policy(policy)
    try:
        model = classifier()
    finally:
        keras.config.set_dtype_policy("float32")
    assert f"its {policy} is computed in float32; translated, 1" in notes(model)
    assert model.layers[2].dtype_policy.name == policy  # the user's own stays


def test_a_model_that_keras_quantised_is_refused() -> None:
    model = classifier()
    model.quantize("int8")
    with pytest.raises(UsageError, match=r"is quantised by Keras: int8") as caught:
        opened(model)
    assert "before quantize()" in str(caught.value.fix)


@pytest.mark.parametrize(
    "behind",
    [L.Activation("linear"), L.Activation("linear", dtype="float32"), L.Reshape((3,)), L.Identity(), L.Dropout(0.1)],
)
def test_a_softmax_before_what_changes_nothing_is_the_last(behind: Any) -> None:
    image = keras.Input(IMAGE)
    inner = keras.Sequential([keras.Input((8,)), L.Dense(3), L.Softmax()])
    for end in (L.Dense(3, activation="softmax"), inner):
        assert "is taken off: files give logits" in notes(keras.Model(image, behind(end(features(image)))))


def test_a_softmax_before_what_changes_it_stays_and_is_refused_as_an_end() -> None:
    image = keras.Input(IMAGE)
    probabilities = L.Dense(3, activation="softmax")(features(image))
    with pytest.raises(UsageError, match="gives probabilities") as caught:
        opened(keras.Model(image, L.Average()([probabilities, probabilities])))
    assert "of several networks the mean of their logits" in str(caught.value.fix)


def test_a_softmax_of_every_place_stays_where_places_become_one_row() -> None:
    image = keras.Input(IMAGE)
    places = L.Softmax()(L.Conv2D(3, 31)(L.Rescaling(1 / 255)(image)))
    assert "is taken off" not in notes(keras.Model(image, L.Flatten()(places)))
    one = L.Softmax()(L.Conv2D(3, 32)(L.Rescaling(1 / 255)(image)))
    assert "is taken off" in notes(keras.Model(image, L.Flatten()(one)))


def test_an_output_in_a_dict_or_a_list_is_the_output() -> None:
    image = keras.Input(IMAGE)
    end = L.Dense(3, activation="softmax")(features(image))
    for outputs in ({"label": end}, [end]):
        assert len(opened(keras.Model(image, outputs)).labels) == 3


def test_channels_are_those_of_the_model() -> None:
    with pytest.raises(UsageError, match="takes 3 channels"):
        opened(classifier(), channels=1)


def test_what_is_no_row_of_logits_is_one_sentence() -> None:
    image = keras.Input(IMAGE)
    with pytest.raises(UsageError, match=r"gives \[2, 3, 32, 32\] for 2 images, no logits"):
        opened(keras.Model(image, L.Conv2D(3, 1)(L.Rescaling(1 / 255)(image))))
    with pytest.raises(UsageError, match="gives one number") as caught:
        opened(keras.Model(image, L.Dense(1)(features(image))))
    assert 'Activation("sigmoid")' in str(caught.value.fix)


@pytest.mark.parametrize("activation", [L.LeakyReLU(0.1), L.ReLU(2.0), L.ELU(0.5)])
def test_a_layer_may_stand_as_the_activation_of_another(activation: Any) -> None:
    image = keras.Input(IMAGE)
    assert "translated, 1" in notes(keras.Model(image, L.Dense(3)(features(image, activation=activation))))
