"""The manifest survives its JSON, and says what is wrong when it is damaged."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgetl_runtime import BundleError, Manifest, open_bundle

Raw = dict[str, Any]


@pytest.fixture
def raw(pristine_bundle: Path) -> Raw:
    result: Raw = json.loads((pristine_bundle / "manifest.json").read_text())
    return result


def test_json_round_trip(pristine_bundle: Path) -> None:
    manifest = open_bundle(pristine_bundle).manifest
    assert Manifest.from_json(manifest.to_json(), where="here") == manifest
    assert list(json.loads(manifest.to_json()))[:3] == ["schema", "name", "task"]


def test_unknown_fields_are_passed_over(raw: Raw) -> None:
    raw["new"] = raw["labels"][0]["colour"] = "x"
    assert Manifest.from_json(json.dumps(raw), where="here").labels[0].id == "red"


def test_embedded_has_one_variant_and_no_files(pristine_bundle: Path) -> None:
    embedded = open_bundle(pristine_bundle).manifest.embedded("onnx.int8")
    assert [(variant.id, variant.files) for variant in embedded.variants] == [("onnx.int8", ())]
    assert embedded.golden is None


def test_what_compares_variants_is_not_in_every_file(pristine_bundle: Path) -> None:
    manifest = open_bundle(pristine_bundle).manifest
    provenance = {"ladder": [{"rung": "static"}] * 20, "methods": {"onnx.int8": "static"}, "surgery": {"epochs": 3}}
    embedded = dataclasses.replace(manifest, provenance=provenance).embedded("onnx.int8")
    assert embedded.provenance == {"surgery": {"epochs": 3}}


def test_unknown_variant_lists_the_known_ones(pristine_bundle: Path) -> None:
    with pytest.raises(BundleError, match=r"onnx\.int9.*\n.*onnx\.fp32, tflite\.fp32"):
        open_bundle(pristine_bundle).manifest.variant("onnx.int9")


@pytest.mark.parametrize("schema", [2, 0, "1", None, True])
def test_other_schemas_are_refused(schema: object, raw: Raw) -> None:
    raw["schema"] = schema
    with pytest.raises(BundleError, match="reads up to 1"):
        Manifest.from_json(json.dumps(raw), where="here")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", b"\xff\xfe\xfa", "[" * 100_000])
def test_what_is_no_json_object_is_refused(text: str | bytes) -> None:
    with pytest.raises(BundleError, match="manifest of here is not"):
        Manifest.from_json(text, where="here")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda raw: raw.pop("labels"), "'labels' is missing"),
        (lambda raw: raw["variants"][0].pop("requires"), r"variants\[0\]: field 'requires'"),
        (lambda raw: raw.update(labels="red"), "labels: expected a list"),
        (lambda raw: raw["preprocess"].update(resize="big"), "resize: expected int"),
        (lambda raw: raw["preprocess"].update(resize=True), "resize: expected int"),
        (lambda raw: raw["preprocess"].update(resize=[30]), "resize: expected 2 items"),
        (lambda raw: raw["preprocess"].update(resize=[30, "40"]), r"resize\[1\]: expected int"),
        (lambda raw: raw["preprocess"].update(resize=[30, 0]), "must be positive"),
        (lambda raw: raw["preprocess"].update(resize=[30, 2**20]), "must be positive"),
        (lambda raw: raw["preprocess"].update(crop=[1]), "crop: expected 2 items"),
        (lambda raw: raw["preprocess"].update(crop=[0, 9]), "must be positive"),
        (lambda raw: raw.update(input=3), "input: expected an object"),
        (lambda raw: raw["labels"].pop(), "3 labels for an output"),
        (lambda raw: raw.update(variants=[]), "no variants"),
        (lambda raw: raw["variants"].append(raw["variants"][0]), "same id"),
        (lambda raw: raw["golden"].update(n=3), "golden samples"),
    ],
)
def test_damage_is_named(change: Callable[[Raw], object], message: str, raw: Raw) -> None:
    change(raw)
    with pytest.raises(BundleError, match=message):
        Manifest.from_json(json.dumps(raw), where="here")


def test_what_an_image_covers_is_a_side_or_height_and_width(raw: Raw) -> None:
    assert Manifest.from_json(json.dumps(raw), where="here").preprocess.covered == (28, 28)
    raw["preprocess"].update(resize=[30, 50])
    manifest = Manifest.from_json(json.dumps(raw), where="here")
    assert manifest.preprocess.resize == manifest.preprocess.covered == (30, 50)
    assert Manifest.from_json(manifest.to_json(), where="here") == manifest


@pytest.mark.parametrize("literal", ["NaN", "Infinity", "-1e999", "9" * 5000, '"\\ud800"', "[" * 70 + "]" * 70])
def test_what_only_python_reads_is_refused(literal: str, raw: Raw) -> None:
    raw["provenance"]["odd"] = "@@"
    with pytest.raises(BundleError, match="manifest of here is not JSON"):
        Manifest.from_json(json.dumps(raw).replace('"@@"', literal), where="here")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda raw: raw["preprocess"].update(crop=[10**6, 10**6]), "at most 16384"),
        (lambda raw: raw["preprocess"].update(interpolation="lanczos"), "interpolation 'lanczos'"),
        (lambda raw: raw["preprocess"].update(decode="half"), "decode 'half'"),
        (lambda raw: raw["normalize"].update(mean=[10**400, 0, 0]), "expected a number"),
        (lambda raw: raw["input"].update(dtype="pixels"), "a dtype or a shape that none has"),
        (lambda raw: raw["output"].update(shape=[0, 4]), "a dtype or a shape that none has"),
        (lambda raw: raw["variants"][0]["requires"].update(min_version="9" * 5000), "a version that is none"),
    ],
)
def test_values_that_cannot_be_are_named(change: Callable[[Raw], object], message: str, raw: Raw) -> None:
    change(raw)
    with pytest.raises(BundleError, match=message):
        Manifest.from_json(json.dumps(raw), where="here")


def test_emoji_are_no_halves_of_surrogate_pairs(raw: Raw) -> None:
    raw["labels"][0]["name"] = "\U0001f339"
    assert Manifest.from_json(json.dumps(raw), where="here").labels[0].name == "\U0001f339"


def test_a_manifest_is_only_parsed_when_it_is_small() -> None:
    with pytest.raises(BundleError, match="9000000 bytes"):
        Manifest.from_json(b" " * 9_000_000, where="here")


@pytest.mark.parametrize("label", [{"id": "", "name": "x"}, {"id": "x", "name": ""}, {"id": " ", "name": "x"}])
def test_a_label_has_a_name(label: Raw, raw: Raw) -> None:
    raw["labels"][1] = label
    with pytest.raises(BundleError, match="a label has no name"):
        Manifest.from_json(json.dumps(raw), where="here")
