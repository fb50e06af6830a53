"""Features on the device: vectors and maps beside the logits, and a device that gives others is found out."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from edgetl_runtime import (
    BundleError,
    Classifier,
    EngineError,
    FakeSession,
    Manifest,
    TensorSpec,
    UsageError,
    fake_classifier,
    load,
    open_bundle,
    preprocess,
    self_test,
)
from edgetl_runtime.cli import main

MakeBundle = Callable[..., Path]


def colour(photo: bytes, manifest: Manifest) -> npt.NDArray[np.float64]:
    return preprocess(photo, manifest.preprocess).mean(axis=(0, 1), dtype=np.float64)


def test_one_image_gives_a_vector_and_several_give_rows(colours_bundle: MakeBundle, red_photo: bytes) -> None:
    array = np.asarray(Image.open(io.BytesIO(red_photo)))
    with load(colours_bundle()) as classifier:
        expected = colour(red_photo, classifier.manifest)
        found = classifier.embed(red_photo)
        assert (found.shape, found.dtype) == ((3,), np.float32)
        np.testing.assert_allclose(found, expected, rtol=1e-5)
        for several in ([red_photo, array], np.stack([array, array]), (item for item in (array, red_photo))):
            np.testing.assert_array_equal(classifier.embed(several), np.stack([found, found]))
        assert classifier.embed([]).shape == (0, 3)
        np.testing.assert_allclose(classifier.embed(array, color="BGR"), expected[::-1], rtol=1e-5)
        np.testing.assert_allclose(classifier.embed(array, normalize="l2"), expected / np.linalg.norm(expected), 1e-5)
        np.testing.assert_array_equal(classifier.embed(array, layer="pooled"), found)
        assert classifier.embed(np.zeros((30, 40, 3), np.uint8), normalize="l2").tolist() == [0, 0, 0]
        assert classifier.predict(red_photo).top.id == "red"
        tensor = preprocess(red_photo, classifier.manifest.preprocess)[None]
        assert list(classifier.run({"image": tensor})) == ["logits", "pooled"]


def test_a_file_alone_gives_features_too(colours_bundle: MakeBundle, red_photo: bytes) -> None:
    with load(colours_bundle() / "onnx/model.fp32.onnx") as classifier:
        np.testing.assert_allclose(classifier.embed(red_photo), colour(red_photo, classifier.manifest), rtol=1e-5)


def test_what_is_not_there_is_said(pristine_bundle: Path, colours_bundle: MakeBundle, red_photo: bytes) -> None:
    with load(pristine_bundle) as classifier, pytest.raises(BundleError, match="no features") as error:
        classifier.embed(red_photo)
    assert "--features pooled" in str(error.value)
    with load(colours_bundle()) as classifier:
        with pytest.raises(UsageError, match="no feature 'pool'") as unknown:
            classifier.embed(red_photo, layer="pool")
        assert "'pooled'" in str(unknown.value)
        with pytest.raises(UsageError, match="normalize"):
            classifier.embed(red_photo, normalize="max")  # type: ignore[arg-type]
        with pytest.raises(UsageError, match="cannot read an image"):
            classifier.embed(3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "problem"), [(np.zeros((1, 2, 2, 4)), r"\[1, 2, 2, 4\]"), (np.full((1, 2, 2, 5), np.nan), "not finite")]
)
def test_a_file_that_gives_something_else_is_an_error(
    given: npt.NDArray[np.float64], problem: str, pristine_bundle: Path, red_photo: bytes
) -> None:
    manifest = dataclasses.replace(
        open_bundle(pristine_bundle).manifest, features=(TensorSpec("layer", "float32", (1, 2, 2, 5), "NHWC"),)
    )
    outputs = {"logits": np.zeros((1, 4), np.float32), "layer": given.astype(np.float32)}
    session = FakeSession((manifest.input,), (manifest.output, *manifest.features), lambda feeds: outputs)
    with pytest.raises(EngineError, match=problem):
        Classifier(manifest, manifest.variants[0], session).embed(red_photo)


def test_maps_are_brought_to_length_one_at_every_place(pristine_bundle: Path, red_photo: bytes) -> None:
    manifest = dataclasses.replace(
        open_bundle(pristine_bundle).manifest, features=(TensorSpec("layer", "float32", (1, 2, 3, 5), "NHWC"),)
    )
    values = np.random.default_rng(0).normal(size=(1, 2, 3, 5)).astype(np.float32)
    outputs = {"logits": np.zeros((1, 4), np.float32), "layer": values}
    session = FakeSession((manifest.input,), (manifest.output, *manifest.features), lambda feeds: outputs)
    found = Classifier(manifest, manifest.variants[0], session).embed(red_photo, normalize="l2")
    assert found.shape == (2, 3, 5)
    np.testing.assert_allclose(np.linalg.norm(found, axis=-1), 1, rtol=1e-6)


def test_the_manifest_keeps_features_and_files_without_stay_as_they_were(colours_bundle: MakeBundle) -> None:
    manifest = open_bundle(colours_bundle()).manifest
    assert Manifest.from_json(manifest.to_json(), where="here") == manifest
    assert '"features"' not in dataclasses.replace(manifest, features=()).to_json()


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"name": "logits"}, "same name"),
        ({"dtype": "int8"}, "not float32"),
        ({"shape": (1, 0)}, "shape"),
    ],
)
def test_a_damaged_feature_is_found(change: dict[str, object], problem: str, colours_bundle: MakeBundle) -> None:
    manifest = open_bundle(colours_bundle()).manifest
    feature = dataclasses.replace(manifest.features[0], **change)  # type: ignore[arg-type]
    with pytest.raises(BundleError, match=problem):
        Manifest.from_json(dataclasses.replace(manifest, features=(feature,)).to_json(), where="here")


def test_self_test_holds_features_against_the_original(colours_bundle: MakeBundle) -> None:
    (sound,) = self_test(open_bundle(colours_bundle())).variants
    assert sound.passed
    (feature,) = sound.features
    assert feature.name == "pooled"
    assert feature.sqnr_db > 80
    assert feature.max_abs < 1e-3


def test_self_test_finds_other_features(colours_bundle: MakeBundle, capsys: pytest.CaptureFixture[str]) -> None:
    folder = colours_bundle(wrong=1.1)
    (broken,) = self_test(open_bundle(folder)).variants
    assert broken.sqnr_db is not None
    assert broken.sqnr_db > 80
    assert broken.problem is not None
    assert broken.problem.startswith("SQNR of pooled 20.0 dB")
    assert main(["self-test", str(folder)]) == 1
    assert "pooled (SQNR dB): onnx.fp32 20.0" in capsys.readouterr().out


def test_the_command_gives_values(
    colours_bundle: MakeBundle, red_photo: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo, file = tmp_path / "red.png", tmp_path / "embeddings.json"
    photo.write_bytes(red_photo)
    assert main(["embed", str(colours_bundle()), str(photo), "--normalize", "l2", "--json", str(file)]) == 0
    assert "pooled [3], length 1" in capsys.readouterr().out
    document = json.loads(file.read_text())
    assert (document["variant"], document["layer"]) == ("onnx.fp32", "pooled")
    (found,) = document["embeddings"]
    assert found["image"] == str(photo)
    assert np.linalg.norm(found["values"]) == pytest.approx(1)


def test_an_image_that_cannot_be_read_takes_no_other_with_it(
    colours_bundle: MakeBundle, red_photo: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo, gone, file = tmp_path / "red.png", tmp_path / "gone.png", tmp_path / "embeddings.json"
    photo.write_bytes(red_photo)
    images = [str(image) for image in (photo, gone, photo)]
    assert main(["embed", str(colours_bundle()), *images, "--json", str(file)]) == 2
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) == 2
    assert f"edgetl-run: error: no image file at {gone}" in captured.err
    found = json.loads(file.read_text())["embeddings"]
    assert [item["image"] for item in found] == images
    assert found[0] == found[2]
    assert (sorted(found[0]), sorted(found[1])) == (["image", "values"], ["error", "fix", "image"])


def test_a_fake_gives_features_without_an_engine() -> None:
    with fake_classifier(
        ["day", "night"], lambda _: {"day": 0.9}, size=(8, 8), pooled=lambda image: image.mean((0, 1))
    ) as classifier:
        image = np.full((8, 8, 3), 7, np.uint8)
        assert classifier.embed(image).tolist() == [7, 7, 7]
        assert classifier.predict(image).top.id == "day"
    with pytest.raises(BundleError, match="no features"):
        fake_classifier(["a"], lambda _: {}).embed(image)
