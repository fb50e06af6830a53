"""The plugin as users have it: pytest in a folder of its own, with the options on the command line."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgetl.verify.measure.original_outputs import RecordingOriginal
from edgetl_runtime.bundle import open_bundle
from edgetl_runtime.preprocess import preprocess

pytest_plugins = ["pytester"]

VARIANTS = ["onnx.fp32", "tflite.fp32", "openvino.fp32", "onnx.int8"]
NO_TORCH = "import sys\nsys.modules['torch'] = None\n"
"""A conftest.py that makes it as if torch were not installed."""


@pytest.fixture(autouse=True)
def _engines() -> None:
    for engine in ("onnxruntime", "ai_edge_litert", "openvino"):
        pytest.importorskip(engine)


@pytest.fixture
def bundle(pristine_bundle: Path, pytester: pytest.Pytester) -> Path:
    return Path(shutil.copytree(pristine_bundle, pytester.path / "colours.edgetl"))


@pytest.fixture
def photos(pytester: pytest.Pytester) -> Path:
    """Twelve photos of three labels that the bundle knows."""
    rng = np.random.default_rng(5)
    for label, colour in (("red", (200, 60, 60)), ("green", (60, 180, 60)), ("blue", (60, 60, 200))):
        folder = pytester.path / "photos" / label
        folder.mkdir(parents=True)
        for number in range(4):
            pixels = np.clip(rng.normal(colour, 30, (48, 60, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
    return pytester.path / "photos"


def run(pytester: pytest.Pytester, *words: str | Path) -> pytest.RunResult:
    return pytester.runpytest_subprocess("-v", "-p", "no:cacheprovider", *words)


def test_a_test_for_every_variant_and_check(pytester: pytest.Pytester, bundle: Path) -> None:
    """The bundle's int8 is fp32 by another name, which no limit would show."""
    result = run(pytester, "--edgetl-bundle", bundle)
    result.assert_outcomes(passed=3 * 3 + 2, skipped=1, failed=1)
    result.stdout.fnmatch_lines(
        [
            "edgetl: colours.edgetl, 4 variants, on its golden samples; *",
            "colours.edgetl::onnx.fp32::works?golden? PASSED*",
            "colours.edgetl::onnx.fp32::top1_agreement?golden? PASSED*",
            "colours.edgetl::onnx.fp32::sqnr_db?golden? PASSED*",
            "colours.edgetl::openvino.fp32::works?golden? PASSED*",
            "colours.edgetl::onnx.int8::works?golden? FAILED*",
            "colours.edgetl::onnx.int8::delta?golden? SKIPPED*",
            "*onnx.int8: works?golden? of colours.edgetl*",
            "onnx.int8: the file says int8 and holds float weights*",
        ]
    )


@pytest.mark.slow
def test_nothing_is_written_into_the_bundle(pytester: pytest.Pytester, bundle: Path, photos: Path) -> None:
    def content() -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in bundle.rglob("*") if path.is_file()}

    before = content()
    run(pytester, "--edgetl-bundle", bundle)
    run(pytester, "--edgetl-bundle", bundle, "--edgetl-data", photos)
    assert content() == before


def test_a_failure_is_its_message_and_no_trace(pytester: pytest.Pytester, bundle: Path) -> None:
    (pytester.path / "gate.toml").write_text('[variant."onnx.fp32"]\nsqnr_db = 199\n')
    result = run(pytester, "--edgetl-bundle", bundle, "--edgetl-gate", "gate.toml", "-k", "onnx.fp32")
    result.assert_outcomes(passed=2, failed=1, deselected=10)
    result.stdout.fnmatch_lines(["onnx.fp32: SQNR in dB is *, the gate asks for at least 199"])
    assert "Traceback" not in result.stdout.str()
    assert "runtest" not in result.stdout.str()
    assert result.ret == 1


@pytest.mark.slow
def test_a_damaged_file_fails_its_variant_only(pytester: pytest.Pytester, bundle: Path) -> None:
    path = bundle / "onnx/model.fp32.onnx"
    path.write_bytes(path.read_bytes()[:-9])
    result = run(pytester, "--edgetl-bundle", bundle)
    assert result.ret == 1
    result.stdout.fnmatch_lines(
        [
            "colours.edgetl::onnx.fp32::works?golden? FAILED*",
            "colours.edgetl::onnx.fp32::sqnr_db?golden? FAILED*",
            "colours.edgetl::tflite.fp32::works?golden? PASSED*",
            "*model.fp32.onnx in * is not the file that was exported*",
            "onnx.fp32: sqnr_db not measured: the variant does not work",
        ]
    )


@pytest.mark.slow
def test_photos_without_torch_against_the_answers_that_are_kept(
    pytester: pytest.Pytester, bundle: Path, photos: Path
) -> None:
    opened = open_bundle(bundle)
    images = np.stack([preprocess(path, opened.manifest.preprocess) for path in sorted(photos.rglob("*.png"))])
    with opened.session("openvino.fp32") as session:
        recording = RecordingOriginal(
            lambda batch: np.concatenate([session.run({"image": image[None]})["logits"] for image in batch])
        )
        recording(images)
    recording.keep(bundle, opened.manifest, [0] * len(images))
    pytester.makeconftest(NO_TORCH)
    result = run(pytester, "--edgetl-bundle", bundle, "--edgetl-data", photos)
    result.assert_outcomes(passed=3 * 3 + 3, failed=1)
    result.stdout.fnmatch_lines(
        ["edgetl: * the original's answers that the bundle keeps; *", "*::onnx.int8::delta PASSED*"]
    )


@pytest.mark.slow
def test_photos_without_torch_and_without_answers_are_replaced_by_golden_samples(
    pytester: pytest.Pytester, bundle: Path, photos: Path
) -> None:
    pytester.makeconftest(NO_TORCH)
    result = run(pytester, "--edgetl-bundle", bundle, "--edgetl-data", photos, "-k", "tflite.fp32")
    result.assert_outcomes(passed=3, deselected=10)
    result.stdout.fnmatch_lines(["edgetl: * on its golden samples (no torch here for *", "*works?golden? PASSED*"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--edgetl-bundle", "nowhere"], "*no bundle at nowhere*"),
        (["--edgetl-bundle", "colours.edgetl", "--edgetl-gate", "gate.toml"], "*unknown limit 'sqnr'*"),
        (["--edgetl-bundle", "colours.edgetl", "--edgetl-data", "none"], "*none does not exist*"),
        (["--edgetl-gate", "gate.toml"], "*--edgetl-gate needs --edgetl-bundle*"),
    ],
)
def test_what_is_wrong_with_the_options_is_one_message(
    pytester: pytest.Pytester, bundle: Path, words: list[str], message: str
) -> None:
    (pytester.path / "gate.toml").write_text("[default]\nsqnr = 9\n")
    result = run(pytester, *words)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([message])
    assert "Traceback" not in result.stderr.str()


def test_without_options_nothing_is_added_and_nothing_is_imported(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import sys

        def test_light():
            checks = "edgetl.testing.bundle_checks"
            heavy = {"torch", "onnxruntime", "matplotlib", "edgetl.data", "edgetl.verify", checks}
            assert not heavy & set(sys.modules)
            assert "edgetl.testing.pytest_plugin" in sys.modules

        def test_of_a_bundle(edgetl_bundle):
            assert False
        """
    )
    result = run(pytester, "-rs")
    result.assert_outcomes(passed=1, skipped=1)
    result.stdout.fnmatch_lines(["*no bundle: pytest --edgetl-bundle BUNDLE"])


def test_fixtures_for_tests_of_ones_own(pytester: pytest.Pytester, bundle: Path, photos: Path) -> None:
    pytester.makepyfile(
        """
        from pathlib import Path

        import numpy as np
        import pytest

        PHOTOS = sorted(Path("photos").rglob("*.png"))

        def test_alike(edgetl_session, assert_parity):
            a, b = edgetl_session("onnx.fp32"), edgetl_session("tflite.fp32", threads=1)
            found = assert_parity(a, b, PHOTOS, sqnr_db=60)
            assert found.n == 12

        def test_once(edgetl_bundle, edgetl_session):
            assert edgetl_session("onnx.fp32") is edgetl_session("onnx.fp32")
            assert edgetl_bundle.manifest.name == "colours"

        def test_different(edgetl_session, assert_parity):
            a = edgetl_session("onnx.fp32")

            class Shifted:
                inputs, outputs = a.inputs, a.outputs
                def run(self, feeds):
                    return {"logits": np.roll(a.run(feeds)["logits"], 1, axis=1)}

            assert_parity(a, Shifted(), PHOTOS, top1_agreement=0.9, sqnr_db=20)

        def test_tensors(edgetl_session, assert_parity):
            assert_parity(edgetl_session("onnx.fp32"), edgetl_session("onnx.int8"), np.zeros((3, 24, 32, 3), np.uint8))
        """
    )
    result = run(pytester, "--edgetl-bundle", bundle, "-k", "not golden")
    result.assert_outcomes(passed=3, failed=1, deselected=13)
    result.stdout.fnmatch_lines(
        [
            "*GateError: 0 of 12 decisions are equal, at least 90.0% asked for",
            "*SQNR of the logits is *, at least 20 dB asked for",
            "*sample 0 (photos/blue/0.png): 2 -> 3",
            "*and 7 more",
        ]
    )


def test_pytest_starts_without_the_workbench() -> None:
    program = (
        "import sys, edgetl.testing.pytest_plugin as p; "
        "print([n for n in ('torch', 'onnxruntime', 'edgetl.data.dataset', 'edgetl.verify') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "[]"
