"""Keras models as people have them: pixels, endings, augmentation, files, and what stops with a sentence."""

from __future__ import annotations

import copy
import gzip
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgetl.models.sources.foreign import Foreign
from edgetl.models.sources.keras_model import layers_weighted, translation
from edgetl.models.sources.keras_model.original import LEAST_DB, KerasOriginal, compare
from edgetl.models.sources.keras_model.pixels import CONVENTIONS
from edgetl.models.sources.opening import SourceOptions, open_source, reopened
from edgetl_runtime.errors import CheckpointError, UsageError
from edgetl_runtime.manifest import Normalize, Preprocess
from tests.edgetl.models.sources.keras_models import keras, randomized

L, A = keras.layers, keras.applications
SIZE = (32, 32, 3)


def images(n: int = 4, size: tuple[int, int] = (32, 32)) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(0).integers(0, 256, (n, *size, 3), np.uint8)


def classifier(*front: Any, end: Any = None, name: str | None = None, size: Any = SIZE) -> Any:
    last = [L.Dense(3, activation="softmax")] if end is None else list(end)
    body = [L.Conv2D(8, 3, strides=2, padding="same"), L.BatchNormalization(), L.ReLU(6.0), L.GlobalAveragePooling2D()]
    return randomized(keras.Sequential([keras.Input(size), *front, *body, *last], name=name))


def opened(model: Any, **said: Any) -> Foreign:
    found = open_source(model, SourceOptions(**said))
    assert isinstance(found, Foreign)
    return found


def decibels(found: Foreign) -> float:
    """The network behind its normalisation against the user's own model."""
    pixels = images(4, found.preprocess.crop)
    assert found.original is not None
    wanted = found.original(pixels)["logits"]
    mean, std = torch.tensor(found.normalize.mean), torch.tensor(found.normalize.std)
    with torch.no_grad():
        given = found.build()(((torch.tensor(pixels) / 255 - mean) / std).permute(0, 3, 1, 2)).numpy()
    return float(10 * np.log10(np.square(wanted).mean() / np.square(wanted - given).mean()))


def probabilities(logits: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(powers / powers.sum(1, keepdims=True))


@pytest.mark.parametrize("pixels", CONVENTIONS)
def test_each_convention_of_pixels_is_the_users_own(pixels: str) -> None:
    model = classifier()
    found = opened(model, pixels=pixels)
    assert decibels(found) > 95
    raw = images().astype(np.float32)
    own = {
        "tf": raw / 127.5 - 1,
        "torch": (raw / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225],
        "caffe": raw[..., ::-1] - [103.939, 116.779, 123.68],
        "0..1": raw / 255,
        "0..255": raw,
    }[pixels]
    wanted = model.predict(own.astype(np.float32), verbose=0)
    assert found.original is not None
    assert np.allclose(probabilities(found.original(images())["logits"]), wanted, atol=1e-5)


@pytest.mark.parametrize(
    ("front", "normalize"),
    [
        ([L.Rescaling(1 / 127.5, offset=-1)], Normalize((0.5,) * 3, (0.5,) * 3)),
        ([L.Rescaling(1 / 255)], Normalize((0.0,) * 3, (1.0,) * 3)),
        (
            [L.Normalization(mean=(100.0, 110.0, 120.0), variance=(400.0, 900.0, 1600.0))],
            Normalize((100 / 255, 110 / 255, 120 / 255), (20 / 255, 30 / 255, 40 / 255)),
        ),
        ([L.RandomFlip(), L.RandomRotation(0.1), L.Rescaling(1 / 255)], Normalize((0.0,) * 3, (1.0,) * 3)),
    ],
)
def test_what_the_graph_does_to_pixels_is_read_from_it(front: list[Any], normalize: Normalize) -> None:
    found = opened(classifier(*front))
    assert "the model itself scales them" in found.training["loading"]
    assert np.allclose(found.normalize.mean, normalize.mean, atol=1e-5)
    assert np.allclose(found.normalize.std, normalize.std, atol=1e-5)
    assert decibels(found) > 95


@pytest.mark.parametrize(("family", "mode"), [("resnet50", "caffe"), ("mobilenet_v2", "tf"), ("densenet", "torch")])
def test_preprocess_input_inside_a_model_is_read_from_it(family: str, mode: str) -> None:
    image = keras.Input(SIZE)
    x = getattr(A, family).preprocess_input(image)
    x = L.GlobalAveragePooling2D()(L.Conv2D(6, 3, padding="same")(x))
    model = keras.Model(image, L.Dense(3, activation="softmax")(x))
    found = opened(model)
    apart = CONVENTIONS[mode]
    std = 1 / (255 * np.array(apart.scale) * np.ones(3))
    assert np.allclose(found.normalize.std, std, rtol=1e-4)
    assert np.allclose(found.normalize.mean, -np.array(apart.shift) * std, atol=1e-4)
    assert decibels(found) > 95


def test_the_familys_name_says_it_and_where_nothing_does_it_is_asked_for() -> None:
    inner = keras.Sequential([keras.Input((32, 32, 3)), L.Conv2D(4, 3)], name="mobilenetv2_100_32")
    model = keras.Sequential([keras.Input(SIZE), inner, L.GlobalAveragePooling2D(), L.Dense(3, activation="softmax")])
    found = opened(model)
    assert "pixels tf (-1..1), as the family of mobilenetv2_100_32 takes them" in found.training["loading"]
    with pytest.raises(UsageError, match="how does it take pixels") as caught:
        opened(classifier())
    assert all(name in str(caught.value.fix) for name in CONVENTIONS)
    with pytest.raises(UsageError, match="unknown --pixels 'caffee'"):
        opened(classifier(), pixels="caffee")
    with pytest.raises(UsageError, match="how does it take pixels"):  # of 0..1 or of bytes?
        opened(classifier(L.Normalization(mean=(0.4, 0.4, 0.4), variance=(0.04, 0.04, 0.04))))


@pytest.mark.parametrize(
    "end",
    [
        [L.Dense(3, activation="softmax")],
        [L.Dense(3), L.Activation("softmax")],
        [L.Dense(3), L.Softmax()],
        [L.Dense(3), L.Dropout(0.1), L.Softmax()],
        [keras.Sequential([L.Dense(8, activation="relu"), L.Dense(3, activation="softmax")])],
    ],
)
def test_a_softmax_in_any_form_is_taken_off_and_said(end: list[Any]) -> None:
    model = classifier(end=end)
    found = opened(model, pixels="0..1")
    assert "softmax of" in found.training["loading"]
    assert decibels(found) > 100
    wanted = model.predict(images() / np.float32(255), verbose=0)  # the user's own is as it was
    assert found.original is not None
    assert np.allclose(wanted.sum(1), 1, atol=1e-5)
    assert np.allclose(probabilities(found.original(images())["logits"]), wanted, atol=1e-5)


def test_logits_stay_and_one_sigmoid_becomes_two_logits() -> None:
    assert "taken off" not in opened(classifier(end=[L.Dense(4)]), pixels="tf").training["loading"]
    model = classifier(end=[L.Dense(1, activation="sigmoid")])
    found = opened(model, pixels="0..1", labels=["no", "yes"])
    assert decibels(found) > 100
    assert found.original is not None
    wanted = model.predict(images() / np.float32(255), verbose=0)[:, 0]
    assert np.allclose(probabilities(found.original(images())["logits"])[:, 1], wanted, atol=1e-6)
    with pytest.raises(UsageError, match="has 4 sigmoids, a yes or no for each label"):
        opened(classifier(end=[L.Dense(4, activation="sigmoid")]), pixels="tf")
    with pytest.raises(UsageError, match="gives 3 logits, but there are 2 labels"):
        opened(classifier(), pixels="tf", labels=["a", "b"])


def test_photos_fit_as_keras_users_resize_them() -> None:
    assert opened(classifier(), pixels="tf").preprocess == Preprocess(
        0, (32, 32), "bilinear_no_antialias", mode="stretch"
    )
    cropped = opened(classifier(), pixels="tf", resize="crop", interpolation="nearest").preprocess
    assert cropped == Preprocess(32, (32, 32), "nearest")
    with pytest.raises(UsageError, match="interpolation 'lanczos'"):
        opened(classifier(), pixels="tf", interpolation="lanczos")


def test_a_layer_that_resizes_at_the_front_becomes_preprocessing() -> None:
    for layer, mode, interpolation in [
        (L.Resizing(24, 40), "stretch", "bilinear_no_antialias"),
        (L.Resizing(24, 40, interpolation="nearest"), "stretch", "nearest"),
        (L.Resizing(24, 40, antialias=True), "stretch", "bilinear"),
        (L.Resizing(24, 40, crop_to_aspect_ratio=True), "crop", "bilinear_no_antialias"),
    ]:
        found = opened(classifier(layer, L.Rescaling(1 / 255), size=(None, None, 3)))
        spec = found.preprocess
        assert (spec.crop, spec.mode, spec.interpolation) == ((24, 40), mode, interpolation)
        assert decibels(found) > 95
    assert opened(classifier(L.Resizing(16, 16)), pixels="tf").preprocess.crop == (32, 32)
    with pytest.raises(UsageError, match="takes images of any size"):
        opened(classifier(size=(None, None, 3)), pixels="tf")
    assert opened(classifier(size=(None, None, 3)), pixels="tf", image_size=40).preprocess.crop == (40, 40)
    with pytest.raises(UsageError, match="takes 32 x 32 pixels"):
        opened(classifier(), pixels="tf", image_size=40)


def test_a_file_is_opened_again_from_a_bundle(tmp_path: Path) -> None:
    model = classifier(L.Rescaling(1 / 255))
    for suffix in ("keras", "h5"):
        model.save(tmp_path / f"own.{suffix}")
        found = open_source(tmp_path / f"own.{suffix}", SourceOptions(labels=["a", "b", "c"]))
        folder = tmp_path / suffix
        folder.mkdir()
        found.write(folder)
        again = reopened(folder)
        assert isinstance(again, Foreign)
        assert (again.labels, again.preprocess, again.sha256) == (found.labels, found.preprocess, found.sha256)
        assert again.original is not None
        assert found.original is not None
        assert np.array_equal(again.original(images())["logits"], found.original(images())["logits"])
    (tmp_path / "h5/model.h5").write_bytes(b"another")
    with pytest.raises(CheckpointError, match="is not the file that was written"):
        reopened(tmp_path / "h5")


def test_files_that_are_no_models_are_one_sentence(tmp_path: Path) -> None:
    classifier().save_weights(tmp_path / "own.weights.h5")
    (tmp_path / "own.keras").write_bytes(b"nothing")
    for name, said in [
        ("own.weights.h5", "has weights alone"),
        ("own.keras", "is damaged, cut off, or no file of a Keras model"),
        ("gone.keras", "there is no file"),
    ]:
        with pytest.raises(CheckpointError, match=said):
            open_source(tmp_path / name, SourceOptions())


def test_hdf5_files_of_keras_2_are_read(tmp_path: Path) -> None:
    """tf-keras 2.21 saved it: Rescaling, Conv2D, BatchNormalization, ReLU 6, DepthwiseConv2D, LeakyReLU, Dense."""
    packed = (Path(__file__).parent / "keras_2.h5.gz").read_bytes()
    (tmp_path / "own.h5").write_bytes(gzip.decompress(packed))
    found = open_source(tmp_path / "own.h5", SourceOptions())
    assert isinstance(found, Foreign)
    assert decibels(found) > 100
    predicted = [[0.328328, 0.377091, 0.294582], [0.330218, 0.368619, 0.301163]]
    photos = np.random.default_rng(0).integers(0, 256, (2, *SIZE)).astype(np.uint8)
    assert found.original is not None
    assert np.allclose(probabilities(found.original(photos)["logits"]), predicted, atol=1e-5)


def test_the_other_format_of_keras_2_is_one_sentence(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "own.keras", "w") as archive:
        archive.writestr("metadata.json", '{"keras_version": "2.15.0"}')
        archive.writestr("config.json", '{"module": "keras.src.engine.functional", "class_name": "Functional"}')
    with pytest.raises(
        CheckpointError, match=r"was saved by Keras 2\.15\.0, in a form that Keras 3 does not"
    ) as caught:
        open_source(tmp_path / "own.keras", SourceOptions())
    assert "model.save('model.h5')" in str(caught.value.fix)


CUSTOM = """
import keras
import torch

class Swoosh(keras.layers.Layer):
    def call(self, x):
        return x * keras.ops.sigmoid(1.7 * x)

class Wave(torch.nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(1.7 * x)

TRANSLATIONS = {"Swoosh": lambda layer: Wave(), "halved": lambda layer: torch.nn.Upsample(scale_factor=0.5)}
"""


def test_a_layer_of_ones_own_is_translated_by_code_that_is_named(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(CUSTOM)
    scope: dict[str, Any] = {}
    exec(CUSTOM, scope)
    scope["Swoosh"].__module__ = "mine"
    classifier(L.Rescaling(1 / 255), scope["Swoosh"]()).save(tmp_path / "own.keras")
    with pytest.raises(UsageError, match="has a layer, a model or a function of your own") as caught:
        open_source(tmp_path / "own.keras", SourceOptions())
    assert "--custom module.py" in str(caught.value.fix)
    found = open_source(tmp_path / "own.keras", SourceOptions(custom=tmp_path / "mine.py"))
    assert isinstance(found, Foreign)
    assert decibels(found) > 95
    (tmp_path / "kept").mkdir()
    found.write(tmp_path / "kept")
    assert reopened(tmp_path / "kept") is None  # the code is the user's to name


def test_a_lambda_is_not_run_without_the_users_word(tmp_path: Path) -> None:
    classifier(L.Lambda(lambda x: x / 255.0, output_shape=SIZE)).save(tmp_path / "own.keras")
    with pytest.raises(UsageError, match="has a Lambda layer: to load it is to run code") as caught:
        open_source(tmp_path / "own.keras", SourceOptions())
    assert "--custom module.py" in str(caught.value.fix)
    (tmp_path / "mine.py").write_text(
        "import torch\nclass Half(torch.nn.Module):\n    def forward(self, x):\n        return x / 255.0\n"
        'TRANSLATIONS = {"Lambda": lambda layer: Half()}\n'
    )
    found = open_source(tmp_path / "own.keras", SourceOptions(custom=tmp_path / "mine.py", pixels="0..255"))
    assert isinstance(found, Foreign)
    assert decibels(found) > 95


def test_a_class_with_a_call_of_its_own_has_no_graph() -> None:
    class Sub(keras.Model):  # type: ignore[misc] # keras is untyped
        def __init__(self) -> None:
            super().__init__()
            self.dense = L.Dense(3)

        def call(self, x: Any) -> Any:
            return self.dense(x)

    with pytest.raises(UsageError, match="has no graph of layers"):
        translation.functional_of(Sub())


def test_a_translation_that_is_wrong_stops_at_the_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(builder: Any, call: Any) -> Any:
        call.layer.beta.assign(call.layer.beta + 0.0)
        node = layers_weighted.batch_norm(builder, call)
        builder.root.get_submodule(str(node.target)).bias.data.add_(0.01)
        return node

    monkeypatch.setitem(translation.LAYERS, "BatchNormalization", wrong)
    with pytest.raises(UsageError, match=r"not what Keras computes \(\d+ dB\): layer .*\(BatchNormalization\)"):
        opened(classifier(), pixels="0..1")


def test_a_network_in_which_rounding_grows_is_not_said_to_be_wrong() -> None:
    class Doubling(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = x.mean((2, 3)) / 3
            for _ in range(15):
                x = 4 * x * (1 - x)
            return x

    module = torch.fx.symbolic_trace(Doubling())
    exact = copy.deepcopy(module).double()

    class Exact(KerasOriginal):
        def __init__(self) -> None:
            self.convention = CONVENTIONS["0..1"]

        def __call__(self, images: Any) -> dict[str, Any]:
            given = torch.from_numpy(self.convention.apply(images)).permute(0, 3, 1, 2)
            return {"logits": exact(given.double()).detach().float().numpy()}

    assert compare(Exact(), module, translation.GraphBuilder(), images()) < LEAST_DB


def snippet(name: str) -> Any:
    """The five models of the texts, with random weights."""
    kinds = {"ResNet50": 64, "VGG16": 48, "MobileNetV2": 64, "InceptionV3": 96, "EfficientNetB0": 64}
    size = (kinds[name], kinds[name], 3)
    base = getattr(A, name)(include_top=False, weights=None, input_shape=size)
    image = base.input
    if name == "VGG16":
        maps = [base.get_layer(f"block{number}_pool").output for number in (2, 3, 4)]
        x = L.Concatenate()([L.GlobalAveragePooling2D()(one) for one in maps])
        return keras.Model(image, L.Dense(4, activation="softmax")(x), name="vgg16_features")
    x = L.GlobalAveragePooling2D()(base.output)
    hidden = {"ResNet50": 1024, "MobileNetV2": 128}.get(name)
    x = x if hidden is None else L.Dense(hidden, activation="relu")(x)
    return keras.Model(image, L.Dense(7, activation="softmax")(L.Dropout(0.2)(x)), name=base.name)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ResNet50", "VGG16", "MobileNetV2", "InceptionV3", "EfficientNetB0"])
def test_the_models_of_the_texts_are_translated(name: str) -> None:
    model = snippet(name)
    generator = np.random.default_rng(0)
    for layer in model._flatten_layers():
        if type(layer).__name__ == "BatchNormalization":
            shape = layer.moving_mean.shape
            layer.moving_mean.assign(generator.normal(0, 0.2, shape))
            layer.moving_variance.assign(generator.uniform(0.5, 2, shape))
    assert decibels(opened(model)) > (95 if name in ("ResNet50", "VGG16") else 100)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["MobileNetV3Small", "ConvNeXtTiny", "InceptionResNetV2"])
def test_families_with_layers_of_their_own_are_translated(name: str) -> None:
    size = 80 if name == "InceptionResNetV2" else 32
    model = getattr(A, name)(weights=None, input_shape=(size, size, 3), classes=4)
    assert decibels(opened(model)) > 100


def test_tensorflow_is_never_imported() -> None:
    assert "tensorflow" not in sys.modules


def test_photos_refute_a_convention_that_is_beaten_beyond_chance() -> None:
    from edgetl.models.sources.keras_model.pixels_check import check_convention

    # It decides whether a pixel of -1..1 is above 0: of 0..1 and of bytes it takes all for bright.
    model = keras.Sequential([keras.Input((4, 4, 3)), L.GlobalAveragePooling2D(), L.Dense(2, activation="softmax")])
    model.layers[-1].set_weights([np.array([[-1.0, 1.0]] * 3, "float32"), np.zeros(2, "float32")])
    levels = np.random.default_rng(0).integers(0, 256, 60)
    photos = np.broadcast_to(levels[:, None, None, None], (60, 4, 4, 3)).astype(np.uint8)
    truth = (levels > 127).astype(np.int64)
    network, _ = translation.translate(model, {}, (4, 4), 3)
    asked: list[float] = []
    network.register_forward_hook(lambda _, given, __: asked.append(float(given[0].max())))
    check_convention(network, CONVENTIONS["tf"], photos, truth)
    assert len(asked) == 4  # nothing can be better than right on all: no other convention is tried
    with pytest.raises(UsageError, match=r"pixels as 0\.\.1 .* are not what the model was trained on: \d+ of 60"):
        check_convention(network, CONVENTIONS["0..1"], photos, truth)
    # Too few to tell.
    check_convention(network, CONVENTIONS["0..1"], photos[:6], truth[:6])
    # Wrong often, but no other convention is right there: it is tried on these photos alone.
    asked.clear()
    check_convention(network, CONVENTIONS["0..1"], photos, 1 - truth)
    assert len(asked) == 4 + 4 * 3  # 34 of them
