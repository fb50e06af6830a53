"""From options to files: the ladder on real engines, what it leaves in the bundle, and what is refused."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from edgetl_export import CalibrationSamples, Exported, ExportOptions, capture, export
from edgetl_export.int8 import Int8Options, Quantizer
from edgetl_export.quantize.distill import DistillOptions
from edgetl_export.quantize.pixels import on_pixels
from edgetl_export.targets import TARGETS, open_target
from edgetl_runtime.bundle import open_bundle
from edgetl_runtime.errors import UsageError
from tests.export.test_precisions import _int8_values
from tests.zoo import LABELS, SPEC, Pooling, Trained, fitted, pictures

pytestmark = pytest.mark.slow

DISTILLATION = DistillOptions(epochs=1)
JUDGED = 160


@pytest.fixture(scope="module")
def tough() -> Trained:
    """A small ResNet in which one channel is a thousand times as large as the others, undone behind its ReLU."""
    torch.manual_seed(0)
    trained = fitted(Pooling(len(LABELS)))
    network = copy.deepcopy(trained.source.module)
    norm, behind = network.get_submodule("inner.1"), network.get_submodule("outer")
    norm.get_parameter("weight").data[1] *= 1000
    norm.get_parameter("bias").data[1] *= 1000
    behind.get_parameter("weight").data[:, 1] /= 1000
    return replace(trained, source=replace(trained.source, module=network))


def exported(trained: Trained, folder: Path, targets: tuple[str, ...], max_drop: float) -> Exported:
    tune = CalibrationSamples(list(pictures(JUDGED, 2)[0]), SPEC)
    int8 = Int8Options(max_drop=max_drop, tune=tune, distillation=DISTILLATION)
    options = ExportOptions(targets=targets, precisions=("int8",), int8=int8)
    return export(trained.source, trained.samples, trained.calibration[:4], folder, options)


@pytest.fixture(scope="module")
def climbed(tough: Trained, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Exported]:
    """The tough network, of which no photo may get another label by much, in all three formats."""
    folder = tmp_path_factory.mktemp("climbed")
    return folder, exported(tough, folder, tuple(TARGETS), 0.02)


def test_a_network_that_needs_mixed_precision_gets_it_in_every_format(climbed: tuple[Path, Exported]) -> None:
    _, found = climbed
    assert found.failed == {}
    assert found.over_budget == {}
    for target in TARGETS:
        tried = [rung for rung in found.rungs if rung.variant == f"{target}.int8"]
        # Where sums outgrow 16 bits, as ONNX Runtime's do on processors without VNNI, more nodes have to be float.
        assert list(dict.fromkeys(rung.rung for rung in tried)) == ["static", "repair", "mixed"]
        assert [rung.kept for rung in tried] == [False] * (len(tried) - 1) + [True]
        assert all(rung.drop > 0.1 for rung in tried[:2])
        assert tried[-1].drop <= 0.02
        assert all(rung.n == JUDGED and rung.agreement == pytest.approx(1 - rung.drop) for rung in tried)
        assert tried[1].note is not None
        assert "equalised channels" in tried[1].note


def test_what_the_ladder_promised_holds_for_the_files_of_the_bundle(
    climbed: tuple[Path, Exported], tough: Trained
) -> None:
    folder, _ = climbed
    labels = tough.source.reference()(tough.tensors).argmax(1)
    for target in TARGETS:
        with open_bundle(folder).session(f"{target}.int8", threads=1) as session:
            logits = np.concatenate([session.run({"image": tensor[None]})["logits"] for tensor in tough.tensors])
        assert (logits.argmax(1) == labels).mean() > 0.96, target


def test_the_manifest_and_quantization_json_say_how_it_came_about(climbed: tuple[Path, Exported]) -> None:
    folder, found = climbed
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["provenance"]["ladder"] == [asdict(rung) for rung in found.rungs]
    assert {variant["id"]: variant["quantization"]["method"] for variant in manifest["variants"]} == {
        f"{target}.int8": "mixed" for target in TARGETS
    }
    written = json.loads((folder / "quantization.json").read_text())["quantizations"]
    assert [entry["variants"] for entry in written] == [[f"{target}.int8" for target in TARGETS]]
    (entry,) = written
    assert entry["rung"] == "mixed"
    assert entry["in_float"]
    assert entry["calibration"]["n"] == 64
    assert set(entry["activations"]) > set(entry["in_float"])


_KILLING_RUNGS = """
import dataclasses, sys
from pathlib import Path

import pytest

from edgetl_export.targets import tflite_file
from tests.conftest import killing
from tests.zoo import fitted, LABELS, Pooling
from tests.export.test_int8 import exported

quantize = tflite_file.TfliteTarget.quantize
trained = fitted(Pooling(len(LABELS)))

for number, killers in enumerate(sys.argv[2:]):
    rungs = []

    def damaged(self, quantized, *args, **options):
        artifact = quantize(self, quantized, *args, **options)
        rungs.append(quantized.quantization.rung)
        if rungs[-1] not in killers.split(","):
            return artifact
        return dataclasses.replace(artifact, files={".tflite": killing(artifact.files[".tflite"])})

    tflite_file.TfliteTarget.quantize = damaged
    folder = Path(sys.argv[1]) / str(number)
    folder.mkdir()
    found = exported(trained, folder, ("onnx", "tflite"), 0.4)
    print(f"{killers} rungs", *rungs)
    print(f"{killers} failed", found.failed)
    print(f"{killers} variants", *(variant.id for variant in found.manifest.variants))
    print(f"{killers} left", *sorted(path.name for path in folder.iterdir()))
"""


def test_a_rung_that_ends_its_engine_does_not_end_the_export(tmp_path: Path) -> None:
    """Run in a process of its own, which the file of a rung would take down with it."""
    first, every = "static", "static,repair,mixed,distill"
    words = [sys.executable, "-c", _KILLING_RUNGS, str(tmp_path), first, every]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    told = [line.split(" ", 2) for line in done.stdout.splitlines() if line.startswith((f"{first} ", f"{every} "))]
    said = {(killers, what): text for killers, what, text in told}
    for killers in (first, every):
        assert said[killers, "rungs"].split()[:1] == ["static"]
        assert len(said[killers, "rungs"].split()) > 1  # it went on
        assert "candidate" not in said[killers, "left"]
    assert said[first, "failed"] == "{}"
    assert said[first, "variants"] == "onnx.int8 tflite.int8"
    assert "SIGABRT" in said[every, "failed"]
    assert said[every, "variants"] == "onnx.int8"


@pytest.mark.parametrize("target", TARGETS)
def test_mixed_files_have_fewer_integer_weights_than_static_ones(
    target: str, climbed: tuple[Path, Exported], tough: Trained
) -> None:
    folder, found = climbed
    static = Quantizer(tough.source, on_pixels(capture(tough.source)), tough.samples, Int8Options()).quantized()
    whole = open_target(target).quantize(static)
    mixed = found.manifest.variant(f"{target}.int8")
    files = {Path(file.path).suffix: (folder / file.path).read_bytes() for file in mixed.files}
    left = _int8_values(target, replace(whole, files=files))
    everything = _int8_values(target, whole)
    assert 0.05 * everything < left < 0.8 * everything


def test_the_nearest_is_written_where_nothing_fits(trained: Trained, tmp_path: Path) -> None:
    """Not one photo may change, and the photos are noise, on which the network is never sure."""
    noise = np.random.default_rng(0).integers(0, 256, (300, 40, 40, 3), np.uint8)
    int8 = Int8Options(max_drop=0.0, tune=CalibrationSamples(list(noise), SPEC), distillation=DISTILLATION)
    options = ExportOptions(targets=("onnx",), precisions=("int8",), int8=int8)
    found = export(trained.source, trained.samples, trained.calibration[:4], tmp_path, options)
    rungs = [rung.rung for rung in found.rungs]
    kept = [rung for rung in found.rungs if rung.kept]
    assert len(kept) == 1
    assert kept[0].drop == min(rung.drop for rung in found.rungs)
    assert (kept[0].drop > 0) == ("onnx.int8" in found.over_budget)
    assert not found.over_budget or {"distill", "mixed"} == set(rungs[rungs.index("distill") :])
    assert [variant.id for variant in found.manifest.variants] == ["onnx.int8"]
    assert json.loads((tmp_path / "quantization.json").read_text())["quantizations"][0]["rung"] == kept[0].rung


def test_without_photos_to_judge_on_every_fifth_is_held_out(trained: Trained) -> None:
    pixels = on_pixels(capture(trained.source))
    quantizer = Quantizer(trained.source, pixels, trained.samples, Int8Options(max_drop=0.01))
    assert quantizer.tune is not None
    assert (len(quantizer.samples), len(quantizer.tune)) == (52, 12)
    assert quantizer.calibration.n == 52
    held = {image.tobytes() for image in quantizer.tune.sources}  # type: ignore[union-attr]
    assert held == {image.tobytes() for image in trained.calibration[4::5]}
    assert not held & {image.tobytes() for image in quantizer.samples.sources}  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"quantize": "ptt"}, "unknown way to quantise 'ptt'(?s:.)*did you mean 'ptq'"),
        ({"ranges": "minimax"}, "unknown way to find ranges 'minimax'(?s:.)*did you mean 'minmax'"),
        ({"max_drop": 1.0}, "max_drop = 1 makes no sense"),
        ({"max_drop": -0.1}, "max_drop = -0.1 makes no sense"),
        ({"max_drop": float("nan")}, "max_drop must be a number, found nan"),
        ({"max_drop": 0.01, "quantize": "distill"}, "give one of the two"),
    ],
)
def test_options_that_make_no_sense(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Int8Options(**wrong)  # type: ignore[arg-type]


def test_a_drop_without_int8_is_refused() -> None:
    with pytest.raises(UsageError, match="a drop is only limited for int8"):
        ExportOptions(precisions=("fp32",), int8=Int8Options(max_drop=0.01))


def test_safe_int8_cannot_saturate_whichever_way_it_was_made(trained: Trained) -> None:
    from edgetl_export.quantize.saturation import saturation_risk

    pixels = on_pixels(capture(trained.source))

    def worst(options: Int8Options) -> int:
        quantized = Quantizer(trained.source, pixels, trained.samples, options).quantized()
        return max(risk.worst for risk in saturation_risk(quantized))

    assert worst(Int8Options()) > 32767
    for way in ("ptq", "distill"):
        assert worst(Int8Options(quantize=way, safe=True, distillation=DISTILLATION)) <= 32767, way
