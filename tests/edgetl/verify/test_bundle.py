"""edgetl verify: exit codes, files, a baseline, a proposed gate, and the same without torch."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from edgetl.cli.main import main
from edgetl.verify.measure.original_outputs import RecordingOriginal, check_keeps_more
from edgetl.verify.report import Report
from edgetl_runtime import load
from edgetl_runtime.bundle import open_bundle
from edgetl_runtime.errors import EngineError, OutputError
from edgetl_runtime.preprocess import preprocess
from tests.conftest import put_killer

pytestmark = pytest.mark.slow

Model = Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]]
Capture = pytest.CaptureFixture[str]
Verify = Callable[..., int]

COLOURS = {"red": (200, 60, 60), "green": (60, 180, 60), "blue": (60, 60, 200), "grey": (128, 128, 128)}
EACH = 5


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Five noisy photos of each colour."""
    rng = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(EACH):
            noise = rng.integers(-40, 40, (40, 48, 3))
            pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{i}.png")
    return tmp_path / "photos"


def edit_json(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    raw = json.loads(path.read_text(encoding="utf-8"))
    change(raw)
    path.write_text(json.dumps(raw), encoding="utf-8")


def keep(bundle: Path, photos: Path, original: Model) -> None:
    """The original's answers to all photos, as ``--keep-reference`` leaves them."""
    manifest = open_bundle(bundle).manifest
    files = [file for label in manifest.labels for file in sorted((photos / label.id).iterdir())]
    recording = RecordingOriginal(original)
    recording(np.stack([preprocess(file, manifest.preprocess) for file in files]))
    labels = [index for index in range(len(manifest.labels)) for _ in range(EACH)]
    recording.keep(bundle, manifest, labels)


@pytest.fixture
def bundle(pristine_bundle: Path, tmp_path: Path, photos: Path, original: Model) -> Path:
    """Three float variants of the colour classifier, no checkpoint, with the original's answers to `photos`."""
    folder = Path(shutil.copytree(pristine_bundle, tmp_path / "colours.edgetl"))
    edit_json(folder / "manifest.json", lambda raw: raw["variants"].pop())
    keep(folder, photos, original)
    return folder


@pytest.fixture
def run(bundle: Path, photos: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> Verify:
    """``run(*options)`` is the exit code of verifying; quick, because one round of latency is enough here."""
    monkeypatch.setattr("edgetl.verify.options._LATENCY_SECONDS", 0.02)
    monkeypatch.setattr("edgetl.verify.options.VerifyOptions.seconds", 0.02)

    def verify(*options: str, data: Path = photos) -> int:
        return main(["verify", str(bundle), "--data", str(data), *options])

    return verify


@pytest.fixture
def refuses(run: Verify, bundle: Path, capsys: Capture) -> Callable[..., None]:
    """``refuses(options, "part", ...)``: exit code 2, one message with the parts, no report."""

    def check(options: Sequence[str], *parts: str, data: Path | None = None) -> None:
        capsys.readouterr()
        assert (run(*options) if data is None else run(*options, data=data)) == 2
        said = capsys.readouterr()
        assert said.out == ""
        assert said.err.count("error:") == 1, said.err
        assert "Traceback" not in said.err
        for part in parts:
            assert part in said.err
        assert not (bundle / "report.json").exists()

    return check


def report_of(bundle: Path) -> Report:
    return Report.from_json((bundle / "report.json").read_bytes(), where="report.json")


def content_of(bundle: Path) -> dict[str, str]:
    """By path a hash of every file, and the folders."""
    return {
        str(path.relative_to(bundle)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in sorted(bundle.rglob("*"))
    }


def failing_gate(tmp_path: Path, variant: str = "tflite.fp32") -> str:
    (tmp_path / "failing.toml").write_text(f'[variant."{variant}"]\nsqnr_db = 199\n')
    return str(tmp_path / "failing.toml")


@pytest.mark.parametrize("recorded", [False, True], ids=["no report", "a report"])
def test_verify_leaves_the_bundle_as_it_is(
    run: Verify, bundle: Path, tmp_path: Path, capsys: Capture, recorded: bool
) -> None:
    if recorded:
        assert run("--record") == 0
    before = content_of(bundle)
    assert ("report.json" in before) == recorded
    files = [word for name in ("json", "html", "markdown", "junit") for word in (f"--{name}", str(tmp_path / name))]
    more: list[tuple[list[str], int]] = [
        (files, 0),
        (["--variants", "onnx.fp32"], 0),
        (["--gate", failing_gate(tmp_path)], 1),
        (["--gate", failing_gate(tmp_path), "--variants", "tflite.fp32"], 1),
        (["--write-gate", str(tmp_path / "gate.toml")], 0),
        (["--gate", "gone.toml"], 2),
    ]
    for options, code in [([], 0), *(more if recorded else more[:1])]:
        capsys.readouterr()
        assert run(*options) == code, options
        assert content_of(bundle) == before, options
        said = capsys.readouterr().err
        if code != 2:
            assert f"the report was not recorded in {bundle}; --record puts it there" in said
            assert "report.html" not in said


@pytest.mark.usefixtures("run")  # for its short times
def test_the_python_api_leaves_the_bundle_as_it_is_too(bundle: Path, photos: Path) -> None:
    pytest.importorskip("torch")
    from edgetl import api

    before = content_of(bundle)
    assert api.verify(bundle, photos).verdict.passed
    assert content_of(bundle) == before
    report = api.verify(bundle, photos, record=True)
    assert report_of(bundle).variants == report.variants
    assert set(content_of(bundle)) - set(before) == {"report.json", "report.html"}
    (photos / "red" / "0.png").unlink()
    with pytest.raises(OutputError, match="20 photos, and these are 19: fewer do not replace more"):
        api.verify(bundle, photos, record=True)
    assert api.verify(bundle, photos, record=True, force=True).data.n == report_of(bundle).data.n == 19


@pytest.mark.parametrize("part", ["onnx.fp32", "onnx.fp32,openvino.fp32"])
def test_a_part_that_passes_does_not_undo_what_failed(
    run: Verify, bundle: Path, tmp_path: Path, capsys: Capture, part: str
) -> None:
    assert run("--gate", failing_gate(tmp_path), "--record") == 1
    page = (bundle / "report.html").read_text(encoding="utf-8")
    assert "FAILED: 1 of 3 variants: tflite.fp32" in page
    assert run("--variants", part, "--record") == 0, "what was asked for passes"
    assert "recorded in " in (said := capsys.readouterr().err)
    assert "FAILED: 1 of 3 variants: tflite.fp32" in said
    report = report_of(bundle)
    assert [variant.id for variant in report.variants] == ["onnx.fp32", "tflite.fp32", "openvino.fp32"]
    assert not report.verdict.passed
    assert "FAILED: 1 of 3 variants: tflite.fp32" in (bundle / "report.html").read_text(encoding="utf-8")
    assert open_bundle(bundle).failed_variants() == {"tflite.fp32"}
    with pytest.raises(EngineError, match=r"tflite\.fp32: failed verification: sqnr_db"):
        load(bundle, engine="litert")
    assert run("--variants", "tflite.fp32", "--record") == 0
    assert report_of(bundle).verdict.passed
    load(bundle, engine="litert").close()


def test_a_lesser_report_is_refused_before_anything_is_measured(
    run: Verify, bundle: Path, photos: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("--record") == 0
    before = content_of(bundle)
    few = Path(shutil.copytree(photos, tmp_path / "few"))
    (few / "red" / "0.png").unlink()
    other = Path(shutil.copytree(photos, tmp_path / "other"))
    shutil.copyfile(photos / "red" / "1.png", other / "red" / "0.png")

    def measured(*_: Any, **__: Any) -> None:
        raise AssertionError("it was measured")

    monkeypatch.setattr("edgetl.verify.bundle.verify", measured)
    for data, options, parts in (
        (few, [], ["20 photos, and these are 19", "--record --force"]),
        (
            few,
            ["--variants", "onnx.fp32"],
            ["tflite.fp32, openvino.fp32 is on 20 other photos", "leave --variants out"],
        ),
        (few, ["--variants", "onnx.fp32", "--force"], ["one set of photos"]),
        (other, ["--variants", "onnx.fp32"], ["is on 20 other photos"]),
    ):
        capsys.readouterr()
        assert run("--record", *options, data=data) == 2
        said = capsys.readouterr().err
        for text in parts:
            assert text in said
    (bundle / "report.json").write_text("{")
    assert run("--record") == 2
    assert "would be lost" in capsys.readouterr().err
    assert {**content_of(bundle), "report.json": ""} == {**before, "report.json": ""}


def test_nothing_is_recorded_in_a_single_file(run: Verify, bundle: Path, photos: Path, capsys: Capture) -> None:
    packed = Path(shutil.make_archive(str(bundle), "zip", bundle))
    assert main(["verify", str(packed), "--data", str(photos), "--record"]) == 2
    assert "is one file: no report can be recorded in it" in capsys.readouterr().err
    assert main(["verify", str(packed), "--data", str(photos)]) == 0
    said = capsys.readouterr().err
    assert "not recorded" in said
    assert "--record" not in said


def test_a_gate_made_from_a_part_says_so(run: Verify, bundle: Path, tmp_path: Path, capsys: Capture) -> None:
    gate = tmp_path / "gate.toml"
    assert run("--write-gate", str(gate)) == 0
    assert "not measured" not in capsys.readouterr().err
    whole = gate.read_text()
    assert run("--write-gate", str(gate), "--variants", "onnx.fp32") == 2
    assert gate.read_text() == whole
    capsys.readouterr()
    assert run("--write-gate", str(gate), "--variants", "onnx.fp32", "--force") == 0
    said = capsys.readouterr().err
    assert "not measured, the built-in limits stay: tflite.fp32, openvino.fp32" in said
    assert "had limits for openvino.fp32, tflite.fp32, and they are gone" in said
    assert "# Note: not measured, the built-in limits stay: tflite.fp32, openvino.fp32." in gate.read_text()


def test_a_baseline_made_from_a_part_lets_nothing_pass_unseen(
    run: Verify, bundle: Path, tmp_path: Path, capsys: Capture
) -> None:
    base = tmp_path / "base.json"
    assert run("--variants", "onnx.fp32,openvino.fp32", "--json", str(base)) == 0
    assert "1 more of the bundle were not measured" in capsys.readouterr().out
    edit_json(base, lambda raw: [variant["latency"].update(ratio=100.0) for variant in raw["variants"]])
    assert run("--baseline", str(base)) == 2
    said = capsys.readouterr().err
    assert "made of a part of the bundle: it says nothing of tflite.fp32" in said
    assert "--variants onnx.fp32,openvino.fp32" in said
    assert run("--baseline", str(base), "--variants", "onnx.fp32,openvino.fp32") == 0
    # An older report does not say what it left out: then nothing was compared, which is shown.
    edit_json(base, lambda raw: raw.pop("left_out"))
    capsys.readouterr()
    assert run("--baseline", str(base)) == 0
    shown = capsys.readouterr().out
    assert "OPEN  tflite.fp32" in shown
    assert "1 of them undecided" in shown


def test_a_bundle_without_its_checkpoint_is_held_against_the_answers_it_keeps(
    run: Verify, bundle: Path, capsys: Capture
) -> None:
    assert run("--record") == 0
    assert "answers that the bundle keeps" in capsys.readouterr().err
    report = report_of(bundle)
    assert report.verdict.passed
    assert [variant.parity.top1_agreement for variant in report.variants if variant.parity] == [1.0] * 3
    assert all(variant.accuracy and variant.accuracy.top1 == 1.0 for variant in report.variants)
    assert all(variant.latency and variant.latency.ratio for variant in report.variants)


def test_every_format_is_written(run: Verify, tmp_path: Path) -> None:
    files = {name: tmp_path / f"report.{name}" for name in ("json", "html", "markdown", "junit")}
    assert run(*(word for name, path in files.items() for word in (f"--{name}", str(path)))) == 0
    assert all(path.stat().st_size > 100 for path in files.values())
    assert "<testsuite" in files["junit"].read_text()


def test_only_some_variants(run: Verify, bundle: Path, capsys: Capture) -> None:
    assert run("--variants", "onnx.fp32,tflite.fp32", "--record") == 0
    assert [variant.id for variant in report_of(bundle).variants] == ["onnx.fp32", "tflite.fp32"]
    assert run("--variants", "onnx.fp3") == 2
    assert "did you mean 'onnx.fp32'" in capsys.readouterr().err


@pytest.mark.parametrize("options", [(), ("--memory",), ("--variants", "tflite.fp32")])
def test_a_file_that_ends_its_process_fails_alone(
    run: Verify, bundle: Path, capsys: Capture, options: Sequence[str]
) -> None:
    put_killer(bundle)
    assert run(*options, "--record") == 1
    errors = {variant.id: variant.error for variant in report_of(bundle).variants}
    assert "SIGABRT" in str(errors.pop("tflite.fp32"))
    assert set(errors.values()) <= {None}
    assert len(errors) == (0 if "--variants" in options else 2)
    assert "SIGABRT" in "".join(capsys.readouterr())


@pytest.mark.parametrize(("part", "limit"), [("peak_rss_bytes", 1_000_000), ("cold_start_ms", 1)])
def test_a_gate_on_memory_makes_it_measured(run: Verify, bundle: Path, tmp_path: Path, part: str, limit: int) -> None:
    gate = tmp_path / "gate.toml"
    gate.write_text(f'[variant."onnx.fp32"]\n{part} = {limit}\n')
    assert run("--gate", str(gate), "--variants", "onnx.fp32", "--record") == 1
    (check,) = report_of(bundle).verdict.failed
    assert (check.what, check.limit) == (part, limit)
    assert check.value is not None
    assert check.value > limit


def test_write_gate_then_hold_it(run: Verify, bundle: Path, tmp_path: Path, capsys: Capture) -> None:
    gate = tmp_path / "gate.toml"
    assert run("--write-gate", str(gate)) == 0
    assert run("--gate", str(gate), "--record") in (0, 1), "its latency is that of a busy machine"
    checks = report_of(bundle).verdict.checks
    assert {"top1_agreement", "sqnr_db", "delta", "bytes"} <= {check.what for check in checks}
    assert all(check.passed for check in checks if check.what != "p50_ratio")
    assert run("--write-gate", str(gate)) == 2
    assert "exists already" in capsys.readouterr().err
    assert run("--write-gate", str(gate), "--force") == 0


def test_a_baseline_that_nothing_is_worse_than(run: Verify, bundle: Path, tmp_path: Path) -> None:
    base = tmp_path / "base.json"
    assert run("--json", str(base)) == 0

    def slower(raw: dict[str, Any]) -> None:
        for variant in raw["variants"]:
            variant["latency"]["ratio"] = 100.0  # so that noise is no matter here

    edit_json(base, slower)
    assert run("--baseline", str(base), "--record") == 0
    report = report_of(bundle)
    assert report.baseline is not None
    assert report.baseline.source == str(base)
    assert {check.what for check in report.verdict.checks} >= {"baseline.top1", "baseline.bytes", "baseline.sqnr_db"}

    edit_json(base, lambda raw: raw["variants"][0].update(bytes=100))
    assert run("--baseline", str(base), "--record") == 1
    assert [check.what for check in report_of(bundle).verdict.failed] == ["baseline.bytes"]


def test_answers_are_only_kept_where_they_are_made(refuses: Callable[..., None]) -> None:
    refuses(["--keep-reference"], "no new answers to keep")


def test_kept_answers_are_not_replaced_by_fewer(bundle: Path) -> None:
    """As with reports: fewer photos never replace more unasked, the same number may."""
    opened = open_bundle(bundle)
    n = EACH * len(opened.manifest.labels)
    for fewer in (n - 1, 1):
        with pytest.raises(OutputError, match=rf"answers to {n} photos, and these are {fewer}.*\n.*--force"):
            check_keeps_more(opened, fewer)
    check_keeps_more(opened, n)
    (bundle / "reference" / "logits.json").write_text("{")
    check_keeps_more(open_bundle(bundle), 1)
    (bundle / "reference" / "logits.json").unlink()
    check_keeps_more(open_bundle(bundle), 1)


def test_no_images(refuses: Callable[..., None], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    refuses([], "no images in", data=tmp_path / "empty")
    (tmp_path / "empty" / "red").mkdir()
    refuses([], "no images in", data=tmp_path / "empty")
    refuses([], "does not exist", data=tmp_path / "gone")


def test_images_without_labels(refuses: Callable[..., None], photos: Path, tmp_path: Path) -> None:
    shutil.copytree(photos / "red", tmp_path / "flat")
    refuses([], "have no labels", "one folder per label", data=tmp_path / "flat")


def test_labels_that_do_not_match(refuses: Callable[..., None], photos: Path) -> None:
    (photos / "red").rename(photos / "purple")
    refuses([], "no label of the model: purple", "red")


def test_images_whose_answers_were_not_kept(refuses: Callable[..., None], photos: Path) -> None:
    (photos / "red" / "0.png").unlink()
    Image.new("RGB", (48, 40), (250, 0, 0)).save(photos / "red" / "0.png")
    refuses([], "1 of 20 images are not among the 20", "same photos")


def test_a_bundle_that_keeps_neither(refuses: Callable[..., None], bundle: Path) -> None:
    shutil.rmtree(bundle / "reference")
    refuses([], "does not keep the checkpoint", "--reference CHECKPOINT")


def test_a_bundle_of_a_newer_schema(refuses: Callable[..., None], bundle: Path) -> None:
    edit_json(bundle / "manifest.json", lambda raw: raw.update(schema=99))
    refuses([], "schema 99", "pip install --upgrade edgetl")


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (lambda raw: raw.update(schema=99), ["report schema 99"]),
        (lambda raw: raw.update(labels={"cat": "Cat"}), ["another model", "cat", "red"]),
        (lambda raw: raw["contract"]["input"].update(shape=[1, 7, 7, 3]), ["another model", "input"]),
        (lambda raw: raw.pop("variants"), ["'variants' is missing"]),
    ],
    ids=["newer schema", "labels", "input", "damaged"],
)
def test_a_baseline_that_is_none(
    refuses: Callable[..., None],
    run: Verify,
    bundle: Path,
    tmp_path: Path,
    change: Callable[[dict[str, Any]], None],
    parts: list[str],
) -> None:
    base = tmp_path / "base.json"
    assert run("--json", str(base)) == 0
    edit_json(base, change)
    refuses(["--baseline", str(base)], "base.json", *parts)


def test_a_baseline_that_is_not_there(refuses: Callable[..., None]) -> None:
    refuses(["--baseline", "gone.json"], "cannot read the baseline gone.json")


@pytest.mark.parametrize("option", ["--junit", "--write-gate", "--markdown"])
def test_reports_into_nowhere_are_refused_first(refuses: Callable[..., None], option: str) -> None:
    refuses([option, "gone/file"], "gone", f"{option} FILE")


def test_a_gate_whose_reference_is_not_there(refuses: Callable[..., None], tmp_path: Path) -> None:
    (tmp_path / "gate.toml").write_text('reference = "onnx.int8"\n')
    refuses(["--gate", str(tmp_path / "gate.toml")], "the gate's reference is 'onnx.int8'", "onnx.fp32")


_ON_A_DEVICE = """
import sys
from importlib.machinery import PathFinder

LACKS = ("torch", "torchvision", "jinja2", "matplotlib", "safetensors", "sklearn", "tqdm", "tomli_w", "onnx")

class Device(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in LACKS else PathFinder.find_spec(name, path, target)

sys.meta_path = [Device if finder is PathFinder else finder for finder in sys.meta_path]
from edgetl.cli.main import main
code = main(sys.argv[1:])
assert not [name for name in LACKS if name in sys.modules]
sys.exit(code)
"""


def on_a_device(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", _ON_A_DEVICE, *words], capture_output=True, text=True, timeout=120)


def test_verification_without_torch_and_without_the_workbenchs_libraries(bundle: Path, photos: Path) -> None:
    (bundle / "reference" / "checkpoint.json").write_text("{}")  # it is there and cannot be used
    words = ["--variants", "onnx.fp32", "--markdown", str(bundle / "summary.md"), "--record"]
    done = on_a_device("verify", str(bundle), "--data", str(photos), *words)
    assert done.returncode == 0, done.stderr
    assert "PASSED" in done.stdout
    assert "report.html was not written" in done.stderr
    assert report_of(bundle).verdict.passed
    assert not (bundle / "report.html").exists()
    assert (bundle / "summary.md").is_file()


def test_without_torch_and_without_kept_answers_the_error_says_what_to_do(bundle: Path, photos: Path) -> None:
    shutil.rmtree(bundle / "reference")
    (bundle / "reference").mkdir()
    (bundle / "reference" / "checkpoint.json").write_text("{}")
    done = on_a_device("verify", str(bundle), "--data", str(photos))
    assert done.returncode == 2
    assert "torch is not installed here" in done.stderr
    assert "--keep-reference" in done.stderr
    assert done.stderr.count("error:") == 1


class Found:
    """What an inspection finds."""

    def lines(self) -> list[str]:
        return ["onnx.int8 parts at features.7"]

    def to_json(self) -> str:
        return '{"schema": 1}'


def test_inspecting_layers(
    bundle: Path, photos: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Path, dict[str, Any]]] = []

    def inspect(path: Path, **options: Any) -> Found:
        asked.append((path, options))
        return Found()

    monkeypatch.setattr("edgetl.verify.inspect.inspect_layers", inspect)
    assert main(["inspect", str(bundle), "--layers"]) == 0
    assert asked[-1] == (bundle, {"variants": None, "images": None})
    assert capsys.readouterr().out == "onnx.int8 parts at features.7\n"
    words = ["--variants", "onnx.fp32,tflite.fp32", "--data", str(photos), "--json", "-"]
    assert main(["inspect", str(bundle), "--layers", *words]) == 0
    options = asked[-1][1]
    assert options["variants"] == ("onnx.fp32", "tflite.fp32")
    assert len(options["images"]) == 20
    assert json.loads(capsys.readouterr().out) == {"schema": 1}
    assert main(["inspect", str(bundle), "--layers", "--json", str(tmp_path / "layers.json")]) == 0
    assert json.loads((tmp_path / "layers.json").read_text()) == {"schema": 1}
    assert "parts at" in capsys.readouterr().out


def test_layers_options_go_together(bundle: Path, capsys: Capture) -> None:
    assert main(["inspect", str(bundle), "--variants", "onnx.fp32"]) == 2
    assert "--variants goes with --layers" in capsys.readouterr().err


def test_a_report_without_photos_has_none_of_those_of_before_either(run: Verify, bundle: Path, tmp_path: Path) -> None:
    thumbnail = "data:image/jpeg"
    assert run("--record") == 0
    assert thumbnail in (bundle / "report.html").read_text(encoding="utf-8")
    assert thumbnail in (bundle / "report.json").read_text(encoding="utf-8")
    page = tmp_path / "page.html"
    assert run("--no-photos", "--record", "--variants", "onnx.fp32", "--html", str(page)) == 0
    for file in (page, bundle / "report.html", bundle / "report.json"):
        assert thumbnail not in file.read_text(encoding="utf-8"), file.name


def test_no_path_of_the_disk_is_in_a_report(run: Verify, bundle: Path, photos: Path, tmp_path: Path) -> None:
    lines = [f"{file},{file.parent.name}" for file in sorted(photos.rglob("*.png"))]
    (tmp_path / "tables").mkdir()
    table = tmp_path / "tables" / "t.csv"
    table.write_text("\n".join(["path,label", *lines]))
    files = [tmp_path / name for name in ("page.html", "report.json", "summary.md")]
    words = [
        word
        for option, file in zip(("html", "json", "markdown"), files, strict=True)
        for word in (f"--{option}", str(file))
    ]
    assert run("--record", *words, data=table) == 0
    for file in (*files, bundle / "report.html"):
        text = file.read_text(encoding="utf-8")
        assert str(tmp_path) not in text, file.name
        assert "photos/" in text or file.suffix == ".md"
