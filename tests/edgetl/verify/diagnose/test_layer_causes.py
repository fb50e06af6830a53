"""What the looks of layers are taken for; the layers are made up."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from torch import nn

from edgetl.verify.diagnose import layer_causes
from edgetl.verify.diagnose.diagnosis import Evidence, diagnose
from edgetl.verify.diagnose.layer_causes import (
    explain_by_facts,
    explain_by_first_layer,
    explain_by_layers,
    explain_non_finite,
)
from edgetl.verify.layers.file_weights import FileWeights
from edgetl.verify.layers.tensor_stats import TensorStats
from edgetl.verify.report import Finding, LayerError, Parity, VariantReport
from edgetl_export import Source
from edgetl_runtime.errors import BundleError
from edgetl_runtime.machine import CpuFeatures
from edgetl_runtime.manifest import Label, Manifest, Normalize, Preprocess, Requires, TensorSpec, Variant

INT8 = VariantReport("onnx.int8", "onnx", "int8")


class Kept:
    """A bundle that keeps `grids` by node, and by layer how many of its sums can saturate."""

    def __init__(self, grids: dict[str, tuple[float, int]], at_risk: dict[str, float] | None = None) -> None:
        activations = {node: {"scale": scale, "zero_point": zero} for node, (scale, zero) in grids.items()}
        risks = [{"layer": name, "can_saturate": share} for name, share in (at_risk or {}).items()]
        kept = {"variants": ["onnx.int8"], "activations": activations, "saturation": {"onnx.int8": risks}}
        self._text = json.dumps({"quantizations": [kept]})
        calibration = {"calibration": {"n": 250, "fingerprint": "ab" * 32}}
        self.manifest = Manifest(
            name="made up",
            task="classification",
            labels=(Label("a", "a"),),
            input=TensorSpec("image", "uint8", (1, 8, 8, 3)),
            preprocess=Preprocess(8, (8, 8)),
            normalize=Normalize((0.0,) * 3, (1.0,) * 3),
            output=TensorSpec("logits", "float32", (1, 1)),
            variants=(Variant("onnx.int8", "onnx", "int8", (), Requires("onnxruntime"), calibration),),
        )

    def read(self, relative: str) -> bytes:
        if relative != "quantization.json":
            raise BundleError("nothing else")
        return self._text.encode()


def layer(name: str, **about: object) -> LayerError:
    return replace(LayerError(name, f"node_{name}", name, 30.0, 1.0, (0.0, 4.0), (0.0, 4.0)), **about)  # type: ignore[arg-type]


def test_what_is_ordinary_for_a_task_has_no_cause() -> None:
    """Of small objects a pixel is another decision: a detector agrees less than a classifier that is as good."""
    bundle = Kept({})
    bundle.manifest = replace(bundle.manifest, task="detection")
    evidence = Evidence(bundle, (), reference=None)  # type: ignore[arg-type]

    def found(agreement: float, sqnr_db: float) -> tuple[Finding, ...]:
        parity = Parity(72, None, sqnr_db, 1.0, 0.99, agreement=agreement)
        return diagnose(replace(INT8, parity=parity, layers=(layer("head", drop_db=20.0),)), evidence)

    assert found(0.91, 24.0) == ()
    assert [finding.cause for finding in found(0.60, 24.0)] == ["head computes something else"]
    assert found(0.91, 8.0) != ()


SOUND = [layer("a", weights="int8 per channel"), layer("b"), layer("c", weights="int8 per channel")]
GRIDS = {f"node_{name}": (4 / 255, 0) for name in "abc"}


def causes(layers: list[LayerError], grids: dict[str, tuple[float, int]] = GRIDS) -> list[str]:
    return [finding.cause for finding in explain_by_layers(INT8, layers, Kept(grids), None)]  # type: ignore[arg-type]


def test_sound_layers_show_nothing() -> None:
    assert causes(SOUND) == []
    assert explain_by_first_layer(SOUND) == ()
    assert causes([]) == []


def test_a_range_that_ends_before_the_calibrated_one_is_narrow_and_one_that_ends_there_is_stale() -> None:
    narrow = layer("b", clipped=0.2, range=(0.0, 2.0), drop_db=20.0)
    stale = layer("b", clipped=0.2, original_range=(0.0, 9.0), drop_db=20.0)
    (cause,) = causes([SOUND[0], narrow, SOUND[2]])
    assert "too narrow" in cause
    (cause,) = causes([SOUND[0], stale, SOUND[2]])
    assert "another domain" in cause
    (cause,) = causes([SOUND[0], stale], {})
    assert "too narrow" in cause


def test_ranges_that_are_hardly_used_are_of_another_domain() -> None:
    (cause,) = causes(SOUND, dict.fromkeys(GRIDS, (40 / 255, 0)))
    assert "another domain" in cause


def test_what_is_clipped_behind_a_wrong_layer_is_its_consequence() -> None:
    wrong = layer("a", sqnr_db=2.0, drop_db=30.0)
    assert causes([wrong, layer("b", clipped=0.3, range=(0.0, 2.0))]) == []
    (finding,) = explain_by_first_layer([wrong, SOUND[1]])
    assert finding.cause == "a computes something else"


@pytest.mark.parametrize("without_vnni", [True, False])
def test_sums_outgrow_16_bits_where_a_processor_adds_in_so_many(
    without_vnni: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    features = CpuFeatures("x86", ("avx2",), not without_vnni)
    monkeypatch.setattr(layer_causes, "cpu_features", lambda: features)
    layers, kept = [layer("a", sqnr_db=24.0, drop_db=15.0), SOUND[1]], Kept(GRIDS, {"a": 0.12, "b": 0.0})
    found = explain_by_layers(INT8, layers, kept, None)  # type: ignore[arg-type]
    assert [finding.cause.partition(":")[0] for finding in found] == ["sums outgrow 16 bits"] * without_vnni
    assert all("--int8-safe" in finding.fix and "1 of 2 layers" in finding.evidence for finding in found)
    assert explain_by_layers(INT8, layers, Kept(GRIDS, {"b": 0.3}), None) == ()  # type: ignore[arg-type]


def test_a_file_made_for_such_a_processor_has_another_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layer_causes, "cpu_features", lambda: CpuFeatures("x86", ("avx2",), False))
    kept = Kept(GRIDS, {"a": 0.12})
    (variant,) = kept.manifest.variants
    made = replace(variant, quantization={**(variant.quantization or {}), "int8_safe": "seen"})
    kept.manifest = replace(kept.manifest, variants=(made,))
    assert explain_by_layers(INT8, [layer("a", sqnr_db=24.0, drop_db=15.0), SOUND[1]], kept, None) == ()  # type: ignore[arg-type]


def test_silu_and_the_gate_of_squeeze_excite_are_named_with_their_options() -> None:
    module = nn.ModuleDict({"silu": nn.SiLU(), "gate": nn.Sigmoid(), "plain": nn.ReLU()})
    source = Source("made up", module, (Label("a", "a"),), Preprocess(8, (8, 8)), Normalize((0.0,), (1.0,)), "0" * 64)
    for name, option in (("silu", "--activation hardswish"), ("gate", "--no-se")):
        wrong = layer(name, clipped=0.5, original_range=(-0.278, 4.0), sqnr_db=8.0, drop_db=14.0)
        (finding,) = explain_by_layers(INT8, [SOUND[0], wrong], Kept({}), source)  # type: ignore[arg-type]
        assert option in finding.fix
    wrong = layer("plain", sqnr_db=8.0, drop_db=14.0)
    assert explain_by_layers(INT8, [wrong], Kept({}), source) == ()  # type: ignore[arg-type]


def test_coarse_weights_and_dead_channels_are_facts() -> None:
    layers = [
        layer("a", weights="int8 per tensor"),
        layer("b", weights="int8 per channel, 4 bits"),
        layer("c", dead_channels=(3,), drop_db=12.0),
        layer("d", dead_channels=(4,), drop_db=0.5),
    ]
    found = [finding.cause for finding in explain_by_facts(layers)]
    assert found == [
        "weights have one scale per tensor",
        "weights of a layer have 4 bits",
        "channels of a layer are zeroed",
    ]


def test_where_nan_comes_from() -> None:
    logits = np.full((4, 2), np.nan, np.float32)
    loud = layer("a", original_range=(0.0, 1e5))
    broken = layer("b", non_finite=0.5)

    def cause(*layers: LayerError) -> str:
        (finding,) = explain_non_finite(logits, layers)
        return finding.cause

    assert "float16 overflows" in cause(loud, broken)
    assert "weights in the file" in cause(SOUND[0], layer("b", non_finite=1.0, weights="float32, not finite"))
    assert cause(SOUND[0], broken) == "b gives NaN or infinity"
    assert "engine answers with NaN" in cause(*SOUND)
    assert "engine answers with NaN" in cause()


def test_what_is_seen_of_a_layer() -> None:
    rng = np.random.default_rng(0)
    original = rng.normal(0, 1, (1, 4, 8, 8)).astype(np.float32)
    cut = np.clip(original, -0.5, 0.5)
    dead = original.copy()
    dead[:, 2] = 0.25
    infinite = original.copy()
    infinite[0, 0, 0, 0] = np.inf

    def seen(own: npt.NDArray[np.float32]) -> TensorStats:
        observed = TensorStats()
        observed.add(original, own)
        return observed

    assert seen(cut).clipped > 0.3
    assert seen(cut).range == (-0.5, 0.5)
    assert seen(original + 0.01).clipped == 0.0
    assert seen(dead).dead_channels == (2,)
    assert seen(cut).dead_channels == ()
    assert seen(infinite).non_finite == 1 / 256
    assert seen(infinite).sqnr_db == -200.0
    assert np.isfinite(seen(infinite).range).all()


def test_how_weights_are_stored_is_read_from_their_values() -> None:
    rng = np.random.default_rng(0)
    levels = np.clip(np.round(rng.normal(0, 40, (16, 27))), -127, 127)
    levels[:, 0] = 127
    scales = rng.uniform(0.01, 0.1, 16).astype(np.float32)
    plain = FileWeights("int8", (levels * scales[:, None]).astype(np.float32), scales)
    four = FileWeights("int8", (np.round(levels / 127 * 7) / 7 * 127 * scales[:, None]).astype(np.float32), scales)
    coarse = FileWeights("int8", levels.astype(np.float32), np.ones(1, np.float32))
    assert [str(stored) for stored in (plain, four, coarse)] == [
        "int8 per channel",
        "int8 per channel, 4 bits",
        "int8 per tensor",
    ]
    floats = rng.normal(0, 1, (16, 27)).astype(np.float32)
    assert str(FileWeights("float32", floats)) == "float32"
    floats[0, 0] = np.nan
    assert str(FileWeights("float32", floats)) == "float32, not finite"
