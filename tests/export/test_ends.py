"""Model files by themselves: what goes in is called ``image``, what comes out ``logits``, in every format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgetl_export import CalibrationSamples, Exported, ExportOptions, Source, export
from edgetl_export.int8 import Int8Options
from edgetl_export.targets import tflite_flatbuffer
from edgetl_runtime import open_bundle
from edgetl_runtime.manifest import Label
from tests.zoo import NORMALIZE, SPEC, Bottlenecks, Inverted, Trained, pictures

pytestmark = pytest.mark.slow

Ends = tuple[list[str], list[str]]


def of_onnx(path: Path) -> Ends:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return [end.name for end in session.get_inputs()], [end.name for end in session.get_outputs()]


def of_openvino(path: Path) -> Ends:
    import openvino

    model = openvino.Core().read_model(path)
    return [end.any_name for end in model.inputs], [end.any_name for end in model.outputs]


def of_tflite(path: Path) -> Ends:
    """By the signature; the tensors have the same names."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path))
    (signature,) = interpreter.get_signature_list().values()
    runner = interpreter.get_signature_runner()
    inputs, outputs = runner.get_input_details(), runner.get_output_details()
    assert {name: detail["name"] for name, detail in {**inputs, **outputs}.items()} == {
        name: name for name in (*inputs, *outputs)
    }
    return signature["inputs"], signature["outputs"]


READERS = {"onnx": of_onnx, "openvino": of_openvino, "tflite": of_tflite}


def ends_of(folder: Path, variant_id: str) -> Ends:
    variant = open_bundle(folder).manifest.variant(variant_id)
    return READERS[variant.target](folder / variant.files[0].path)


@pytest.mark.parametrize("target", READERS)
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_the_usual_variants(bundle: tuple[Path, Exported], target: str, precision: str) -> None:
    assert ends_of(bundle[0], f"{target}.{precision}") == (["image"], ["logits"])


def test_an_app_asks_by_name(bundle: tuple[Path, Exported], trained: Trained) -> None:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(bundle[0] / "tflite/model.int8.tflite"))
    run = interpreter.get_signature_runner("serving_default")
    logits = run(image=trained.tensors[:1])["logits"]
    with open_bundle(bundle[0]).session("tflite.int8", threads=1) as session:
        np.testing.assert_allclose(logits, session.run({"image": trained.tensors[:1]})["logits"], atol=1e-4)


@pytest.fixture(scope="module")
def more(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rarer variants, a feature beside the logits."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("more")
    images = list(pictures(16, 0)[0])
    labels = tuple(Label(name, name) for name in ("red", "green\nand more", "stripes", "checks"))
    source = Source("more", Bottlenecks(4).eval(), labels, SPEC, NORMALIZE, "0" * 64, features=("pooled",))
    options = ExportOptions(precisions=("fp32", "w8"))
    export(source, CalibrationSamples(images, SPEC), images[:2], folder, options)
    return folder


@pytest.mark.parametrize("target", READERS)
def test_features_and_rarer_precisions(more: Path, target: str) -> None:
    ids = [item.id for item in open_bundle(more).manifest.variants if item.target == target]
    assert ids
    assert {id_: ends_of(more, id_) for id_ in ids} == dict.fromkeys(ids, (["image"], ["logits", "pooled"]))


def test_integers_in_and_out(tmp_path: Path) -> None:
    torch.manual_seed(0)
    images = list(pictures(16, 0)[0])
    labels = tuple(Label(name, name) for name in "abcd")
    source = Source("whole", Inverted(4).eval(), labels, SPEC, NORMALIZE, "0" * 64)
    options = ExportOptions(("tflite",), ("int8",), Int8Options(io="int8"))
    export(source, CalibrationSamples(images, SPEC), images[:2], tmp_path, options)
    assert ends_of(tmp_path, "tflite.int8") == (["image"], ["logits"])


def test_what_only_tflite_has(trained: Trained, tmp_path: Path) -> None:
    options = ExportOptions(("tflite",), ("dynamic", "w8a16"))
    export(trained.source, trained.samples, trained.calibration[:2], tmp_path, options)
    ids = ("tflite.dynamic", "tflite.w8a16")
    assert {id_: ends_of(tmp_path, id_) for id_ in ids} == dict.fromkeys(ids, (["image"], ["logits"]))


def test_labels_stand_beside_the_models(bundle: tuple[Path, Exported], more: Path) -> None:
    assert (bundle[0] / "labels.txt").read_text() == "red\ngreen\nstripes\nchecks\n"
    assert (more / "labels.txt").read_bytes() == b"red\n" + rb"green\nand more" + b"\nstripes\nchecks\n"
    (entry,) = open_bundle(more).manifest.files
    assert entry.path == "labels.txt"
    open_bundle(more).check()
    (more / "labels.txt").write_text("another\n")
    with pytest.raises(Exception, match=r"labels\.txt .* is not the file that was exported"):
        open_bundle(more).check()


def test_an_inner_tensor_of_the_same_name_gets_another(bundle: tuple[Path, Exported]) -> None:
    content = (bundle[0] / "tflite/model.fp32.tflite").read_bytes()
    model = tflite_flatbuffer.opened(content)
    assert not tflite_flatbuffer.name_ends(model, ["image"], ["logits"])
    graph: Any = model.subgraphs[0]
    inner = next(i for i in range(len(graph.tensors)) if i not in (*graph.inputs, *graph.outputs))
    graph.tensors[inner].name = b"scores"
    model.signatureDefs = None
    assert tflite_flatbuffer.name_ends(model, ["image"], ["scores"])
    names = [tflite_flatbuffer._name(graph, i) for i in range(len(graph.tensors))]
    assert names.count("scores") == 1
    assert names[inner] == "scores_inside"
