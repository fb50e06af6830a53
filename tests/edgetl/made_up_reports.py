"""A bundle of fake sessions around a small linear model, so that verification is tested without any engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import edgetl.verify.verify as verify_module
from edgetl.data.dataset import Sample
from edgetl.tasks.classification.accuracy import wilson_interval
from edgetl.tasks.classification.results import (
    Accuracy,
    ChangedPrediction,
    ChangedPredictions,
    ClassAccuracy,
    LabelChanges,
    LabelScores,
    Original,
    WorstImage,
)
from edgetl.verify.gate.limits import Gate, judge
from edgetl.verify.report import (
    BaselineComparison,
    Change,
    Check,
    Data,
    Finding,
    Latency,
    Memory,
    Parity,
    Report,
    VariantReport,
    Verdict,
)
from edgetl_runtime.engines import ModelBytes
from edgetl_runtime.errors import BundleError, MissingDependency
from edgetl_runtime.manifest import FileEntry, Label, Manifest, Normalize, Preprocess, Requires, TensorSpec, Variant
from edgetl_runtime.session import FakeSession, Session, Tensors

SIDE, CLASSES = 8, 6
Logits = npt.NDArray[np.float32]
_WEIGHTS = np.random.default_rng(7).normal(size=(SIDE * SIDE * 3, CLASSES)).astype(np.float32)


def _linear(images: npt.NDArray[np.uint8]) -> Logits:
    """(batch, 8, 8, 3) uint8 to (batch, 6) float32."""
    return (images.reshape(len(images), -1).astype(np.float32) / 255 - 0.5) @ _WEIGHTS


@dataclass
class FakeBundle:
    """Stands in for a bundle: `behaviour` is by variant id, what the variant makes of its image."""

    behaviour: dict[str, Callable[[npt.NDArray[np.uint8]], Logits]]
    missing: set[str] = field(default_factory=set)
    threads_seen: list[int | None] = field(default_factory=list)

    @property
    def manifest(self) -> Manifest:
        variants = tuple(
            Variant(
                name,
                *name.split(".", 1),
                files=(FileEntry(f"{name}.bin", "0" * 64, 4_000_000 if name.endswith("fp32") else 1_000_000),),
                requires=Requires("fake"),
            )
            for name in self.behaviour
        )
        return Manifest(
            name="fakes",
            task="classification",
            labels=tuple(Label(f"id{i}", f"Label {i}") for i in range(CLASSES)),
            input=TensorSpec("image", "uint8", (1, SIDE, SIDE, 3), "NHWC"),
            preprocess=Preprocess(resize=SIDE, crop=(SIDE, SIDE)),
            normalize=Normalize((0.5,) * 3, (1.0,) * 3),
            output=TensorSpec("logits", "float32", (1, CLASSES)),
            variants=variants,
            provenance={"checkpoint_sha256": "abc"},
        )

    def golden(self) -> None:
        """It has none."""

    def read(self, relative: str) -> bytes:
        raise BundleError(f"{relative} is not there")

    def model(self, variant_id: str, *, verify: bool = True) -> ModelBytes:
        raise BundleError(f"{variant_id} has no files")

    def session(self, variant_id: str, *, threads: int | None = None, verify: bool = True) -> Session:
        self.threads_seen.append(threads)
        if variant_id in self.missing:
            raise MissingDependency("onnxruntime", needed_for=variant_id, extra="onnx")
        manifest = self.manifest

        def compute(feeds: Mapping[str, npt.NDArray[Any]]) -> Tensors:
            return {"logits": self.behaviour[variant_id](feeds["image"])}

        return FakeSession((manifest.input,), (manifest.output,), compute)


@pytest.fixture(scope="session")
def linear() -> Callable[[npt.NDArray[np.uint8]], Logits]:
    return _linear


@pytest.fixture(scope="session")
def samples() -> list[Sample]:
    """150 images, more than two chunks, labelled with what the linear model says but for the first ten."""
    images = np.random.default_rng(3).integers(0, 256, size=(150, SIDE, SIDE, 3), dtype=np.uint8)
    labels = _linear(images).argmax(axis=1)
    labels[:10] = (labels[:10] + 1) % CLASSES
    return [Sample(images[i], int(labels[i]), f"image {i}") for i in range(len(images))]


@pytest.fixture
def fake_bundle(monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakeBundle]:
    """Makes the bundle that `verify` opens whatever the path."""

    def make(behaviour: dict[str, Callable[[npt.NDArray[np.uint8]], Logits]], *missing: str) -> FakeBundle:
        bundle = FakeBundle(behaviour, set(missing))
        monkeypatch.setattr(verify_module, "open_bundle", lambda path: bundle)
        return bundle

    return make


@pytest.fixture
def fake_manifest() -> Manifest:
    """That of a `FakeBundle` with one variant."""
    return FakeBundle({"onnx.fp32": _linear}).manifest


@pytest.fixture
def bundle_path() -> Path:
    return Path("somewhere/fakes.edgetl")


@pytest.fixture
def report() -> Report:
    """Nine variants: seven sound ones, tflite.int8 whose decisions fell apart, openvino.int8 that was not exported."""
    targets, precisions = ("onnx", "tflite", "openvino"), ("fp32", "fp16", "int8")
    reports = [_variant(target, precision) for target in targets for precision in precisions]
    reports[5] = replace(reports[5], parity=Parity(367, 0.4, -200.0, None, None, 3))
    reports[8] = VariantReport("openvino.int8", "openvino", "int8", error="not exported: unsupported operator")
    return Report(
        bundle="flowers.edgetl",
        created="2026-01-02T03:04:05+00:00",
        machine={"processor": "Some CPU", "cores": 2, "libraries": {"numpy": "2.0"}, "memory_bytes": None},
        data=Data(367, "f" * 64),
        reference=_accuracy(319),
        seconds={"train": 60.0, "verify": 30.5},
        variants=tuple(reports),
        verdict=judge(reports, Gate()),
        labels={f"id{i}": f"Label <{i}>" for i in range(3)},
        provenance={"backbone": "mobilenet_v2"},
        history=(
            {"epoch": 1, "train_loss": 1.2, "val_loss": 1.1, "val_top1": 0.7},
            {"epoch": 2, "train_loss": 0.8, "val_loss": 0.9, "val_top1": 0.87},
        ),
    )


@pytest.fixture
def full_report(report: Report) -> Report:
    """`report` with everything a report can hold: an undecided check, damage, findings, a baseline, disturbances, and
    what the original takes for what."""
    per_class = {
        "id0": LabelChanges(122, 0.8, 0.8, 1.0),
        "id1": LabelChanges(122, 0.85, 0.85 - 10 / 122, 0.002),
        "id2": LabelChanges(122, 0.9, 0.9 + 1 / 122, 1.0),
    }
    flips = (
        ChangedPrediction("id1/a<b>.jpg", "id1", "id1", "id0", 0.8, "data:image/jpeg;base64,/9j/4AAQ"),
        ChangedPrediction("id2/c.jpg", "id2", "id0", "id2", 0.1, None),
        ChangedPrediction("id2/d.jpg", "id2", "id0", "", 0.05, None),
    )
    variants = list(report.variants)
    variants[2] = replace(
        variants[2],
        damage=ChangedPredictions(flips, 13, 11, 1, per_class),
        memory=Memory(120_000_000, load_ms=31.0, first_ms=12.0, import_ms=140.0),
    )
    variants[5] = replace(
        variants[5],
        damage=ChangedPredictions((replace(flips[0], thumbnail=None),), 220, 200, 0, per_class),
        findings=(Finding("colours in the order BGR", "with R and B swapped 99.2 % agree, as is 40 %", "feed RGB"),),
    )
    slow = Check("onnx.fp32", "p95_ms", 9.0, 9.1, True, "<=", "measured 4 times as long", True, (8.7, 9.4))
    checks = [slow, *report.verdict.checks]
    return replace(
        report,
        variants=tuple(variants),
        verdict=Verdict(False, tuple(checks)),
        baseline=BaselineComparison(
            "accepted.json",
            "2025-12-24T00:00:00+00:00",
            (
                Change("onnx.int8", "top1", 0.877, 0.864, False, True, "p 0.3"),
                Change("onnx.int8", "bytes", 2_500_000, 2_400_000, True, False, "exact"),
                Change("tflite.int8", "top1_agreement", 0.98, 0.4, True, True, "p 1e-50"),
                Change("", "onnxruntime", "1.30.0", "1.31.0", True, False, "another version"),
            ),
        ),
        disturbances=("the load of other processes rose from 0.1 to 1.3 cores",),
        about_photos=("warning: 8 images of val are in train too",),
        original=Original(
            0.42,
            {
                "id0": LabelScores(122, 120 / 122, 121, 120 / 121),
                "id1": LabelScores(122, 121 / 122, 123, 121 / 123),
                "id2": LabelScores(122, 1.0, 122, 1.0),
            },
            {"id0": {"id0": 120, "id1": 2}, "id1": {"id0": 1, "id1": 121}, "id2": {"id2": 122}},
            (WorstImage("id1/e.jpg", "id1", "id0", 0.98, 0.01, 4.605, "data:image/jpeg;base64,/9j/4AAQ"),),
        ),
    )


def _variant(target: str, precision: str) -> VariantReport:
    parity = {
        "fp32": Parity(367, 1.0, 200.0, 0.0, 1.0),
        "fp16": Parity(367, 1.0, 61.3, 0.01, 0.9999),
        "int8": Parity(367, 361 / 367, 22.0, 0.9, 0.99),
    }[precision]
    p50 = {"fp32": 8.0, "fp16": 7.5, "int8": 3.0}[precision]
    return VariantReport(
        f"{target}.{precision}",
        target,
        precision,
        engine="onnxruntime",
        engine_version="1.31.0",
        bytes={"fp32": 9_000_000, "fp16": 4_500_000, "int8": 2_400_000}[precision],
        parity=parity,
        accuracy=_accuracy(317 if precision == "int8" else 319, reference=319),
        latency=Latency(1, 100, p50, p50 + (0.5 if precision == "int8" else 1.0), 20.0, 11.0, 4.0),
    )


def _accuracy(right: int, *, reference: int | None = None) -> Accuracy:
    return Accuracy(
        n=367,
        top1=right / 367,
        top5=1.0,
        delta=None if reference is None else (right - reference) / 367,
        ci95=wilson_interval(right, 367),
        per_class={f"id{i}": ClassAccuracy(122, 0.8 + i / 20) for i in range(3)},
    )
