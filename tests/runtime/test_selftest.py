"""A device that computes something else is found out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from edgetl_runtime import Bundle, BundleError, FakeSession, Session, open_bundle, self_test, selftest
from edgetl_runtime.selftest import limits_for

Tensors = Mapping[str, npt.NDArray[Any]]
Original = Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]]


@pytest.fixture
def on_device(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Tensors], Any]], None]:
    """Let every session of every bundle compute its logits with a function instead."""

    def replace(compute: Callable[[Tensors], Any]) -> None:
        def session(self: Bundle, variant_id: str, **options: object) -> Session:
            return FakeSession(
                (self.manifest.input,), (self.manifest.output,), lambda feeds: {"logits": compute(feeds)}
            )

        monkeypatch.setattr(Bundle, "session", session)

    return replace


def test_sound_bundle_passes(pristine_bundle: Path) -> None:
    result = self_test(open_bundle(pristine_bundle))
    assert result.passed
    assert (result.golden, result.pixels) == (16, 0)
    assert [test.id for test in result.variants] == ["onnx.fp32", "tflite.fp32", "openvino.fp32", "onnx.int8"]
    for test in result.variants:
        assert (test.agreement, test.problem, test.n) == (1.0, None, 16)
        assert test.sqnr_db is not None
        assert test.sqnr_db > 80


@pytest.mark.parametrize(
    ("what", "problem"),
    [
        ("channels swapped", "decides like the original on"),
        ("noise", "SQNR"),
        ("nan", "not finite"),
        ("labels permuted", "decides like the original on"),
        ("all equal", "decides like the original on"),
    ],
)
def test_device_that_computes_something_else_fails(
    what: str, problem: str, pristine_bundle: Path, original: Original, on_device: Callable[..., None]
) -> None:
    rng = np.random.default_rng(0)
    broken: dict[str, Callable[[npt.NDArray[np.uint8]], npt.NDArray[Any]]] = {
        "channels swapped": lambda image: original(image[..., ::-1]),
        "noise": lambda image: original(image) + rng.normal(0, 0.1, (1, 4)),
        "nan": lambda image: original(image) * np.nan,
        "labels permuted": lambda image: original(image)[:, [1, 2, 3, 0]],
        "all equal": lambda image: np.zeros((1, 4)),
    }
    on_device(lambda feeds: broken[what](feeds["image"]).astype(np.float32))
    result = self_test(open_bundle(pristine_bundle), variant_ids=("onnx.fp32",))
    assert not result.passed
    assert problem in str(result.variants[0].problem)


def test_int8_noise_is_allowed_to_int8_only(
    pristine_bundle: Path, original: Original, on_device: Callable[..., None]
) -> None:
    rng = np.random.default_rng(0)
    on_device(lambda feeds: (original(feeds["image"]) + rng.normal(0, 0.1, (1, 4))).astype(np.float32))
    result = self_test(open_bundle(pristine_bundle))
    assert {test.id: test.passed for test in result.variants} == {
        "onnx.fp32": False,
        "tflite.fp32": False,
        "openvino.fp32": False,
        "onnx.int8": True,
    }


def test_limits_by_precision() -> None:
    assert limits_for("fp32").agreement == 1.0
    assert limits_for("fp16").agreement == 15 / 16
    assert limits_for("w8a16") == limits_for("int8")
    assert limits_for("int8").sqnr_db < limits_for("fp16").sqnr_db < limits_for("fp32").sqnr_db


def test_variant_that_failed_verification_is_shown_but_not_counted(
    bundle_path: Path, fail_in_report: Callable[..., None], original: Original, on_device: Callable[..., None]
) -> None:
    fail_in_report(bundle_path, "onnx.int8")
    on_device(lambda feeds: original(feeds["image"][..., ::-1]))
    bundle = open_bundle(bundle_path)
    alone = self_test(bundle, variant_ids=("onnx.int8",))
    assert [(test.counted, test.passed) for test in alone.variants] == [(False, False)]
    assert not alone.passed, "nothing was counted, so nothing is proven"


def test_pixels_that_differ_fail(bundle_path: Path, edit_manifest: Callable[..., None]) -> None:
    path = bundle_path / "golden/05.png"
    pixels = np.asarray(Image.open(path)).copy()
    pixels[24, 30] ^= 0x80
    Image.fromarray(pixels).save(path)
    content = path.read_bytes()
    entry = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    edit_manifest(bundle_path, lambda raw: raw["golden"]["images"][5].update(entry))
    result = self_test(open_bundle(bundle_path), variant_ids=("onnx.fp32",))
    assert result.pixels is not None
    assert result.pixels > 0
    assert result.variants[0].passed, "the model is fed the tensors of the bundle, so only the pixels are to blame"
    assert not result.passed


def test_single_file_is_only_run(pristine_bundle: Path, on_device: Callable[..., None]) -> None:
    bundle = open_bundle(pristine_bundle / "tflite/model.fp32.tflite")
    result = self_test(bundle)
    assert result.passed
    assert (result.golden, result.pixels, result.variants[0].agreement) == (0, None, None)
    on_device(lambda feeds: np.full((1, 4), np.nan, np.float32))
    assert not self_test(bundle).passed


def test_missing_engines_are_listed_and_prove_nothing(pristine_bundle: Path, no_engines: Callable[..., None]) -> None:
    no_engines("openvino")
    result = self_test(open_bundle(pristine_bundle))
    assert result.passed
    assert [id_ for id_, _ in result.not_run] == ["openvino.fp32"]
    assert "edgetl[openvino]" in result.not_run[0][1]
    no_engines()
    assert not self_test(open_bundle(pristine_bundle)).passed


def test_damaged_file_is_an_error_not_a_result(bundle_path: Path) -> None:
    (bundle_path / "onnx/model.fp32.onnx").write_bytes(b"x")
    with pytest.raises(BundleError, match=r"model\.fp32\.onnx"):
        self_test(open_bundle(bundle_path))


def test_what_differs_is_named(
    pristine_bundle: Path, original: Original, on_device: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    golden = open_bundle(pristine_bundle).golden()
    assert golden is not None
    first = golden.tensors[0]

    def compute(feeds: Tensors) -> npt.NDArray[Any]:
        logits = original(feeds["image"])
        return np.roll(logits, 1) if np.array_equal(feeds["image"][0], first) else logits

    on_device(compute)
    real = selftest.preprocess
    monkeypatch.setattr(
        selftest, "preprocess", lambda image, spec: real(image, spec) - (3 if image == golden.images[1] else 0)
    )
    result = self_test(open_bundle(pristine_bundle), variant_ids=("onnx.int8",))
    names = [label.name for label in open_bundle(pristine_bundle).manifest.labels]
    expected = int(golden.logits[0].argmax())
    (other,) = result.variants[0].others
    assert (other.sample, other.original, other.here) == (golden.names[0], names[expected], names[(expected + 1) % 4])
    assert str(other) == f"{golden.names[0]} is {other.here}, for the original {other.original}"
    assert [name for name, _ in result.other_pixels] == [golden.names[1]]
    assert not result.passed
