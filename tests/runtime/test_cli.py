"""edgetl-run: what it prints, what it writes, and its exit codes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgetl_runtime.cli import main
from edgetl_runtime.console import table
from edgetl_runtime.machine import usable_cores

Raw = dict[str, Any]
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def photos(tmp_path: Path, red_photo: bytes) -> list[str]:
    paths = [tmp_path / "one.png", tmp_path / "two.png"]
    for path in paths:
        path.write_bytes(red_photo)
    return [str(path) for path in paths]


def fails(argv: list[str], capsys: Capture) -> str:
    """Run a command that the user can fix; what it said."""
    assert main(argv) == 2
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    lines = captured.err.splitlines()
    assert sum(line.startswith("edgetl-run: error: ") for line in lines) == 1
    return captured.err


@pytest.mark.parametrize("command", [[], ["info"], ["predict"], ["bench"], ["self-test"]])
def test_every_command_has_help(command: list[str], capsys: Capture) -> None:
    with pytest.raises(SystemExit) as caught:
        main([*command, "-h"])
    assert caught.value.code == 0
    assert "usage: edgetl-run" in capsys.readouterr().out


@pytest.mark.parametrize("argv", [[], ["predict", "bundle"], ["fly"], ["bench", "bundle", "--engine", "warp"]])
def test_wrong_usage_exits_with_2(argv: list[str], capsys: Capture) -> None:
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_info_shows_variants_and_their_state(
    bundle_path: Path, fail_in_report: Callable[..., None], no_engines: Callable[..., None], capsys: Capture
) -> None:
    fail_in_report(bundle_path, "onnx.int8")
    no_engines("openvino")
    assert main(["info", str(bundle_path), "--json", str(bundle_path.parent / "info.json")]) == 0
    out = capsys.readouterr().out
    lines = {line.split()[0]: line for line in out.splitlines() if line}
    assert "4 labels" in out
    assert "runs here" in lines["onnx.fp32"]
    assert "FAILED verification: top1_agreement 0.25 (limit 0.97)" in lines["onnx.int8"]
    assert lines["openvino.fp32"].endswith("needs openvino")
    assert out.count('openvino is not installed here: pip install "edgetl[openvino]"') == 1
    document = json.loads((bundle_path.parent / "info.json").read_text())
    assert {item["id"]: item["runnable"] for item in document["variants"]}["openvino.fp32"] is False
    assert document["preprocess"]["crop"] == [24, 32]


def test_info_shows_labels_and_what_verification_found(
    bundle_path: Path, report_of_checks: Callable[..., None], tmp_path: Path, capsys: Capture
) -> None:
    assert main(["info", str(bundle_path)]) == 0
    out = capsys.readouterr().out
    assert "labels     Red, Green, Blue, Grey" in out
    assert "verified   nothing is recorded: edgetl verify BUNDLE --data DIR --record" in out
    report_of_checks(bundle_path)
    report = json.loads((bundle_path / "report.json").read_text())
    report |= {"created": "2026-11-30T10:00:00+00:00"}
    for entry in report["variants"]:
        entry["accuracy"] = {"top1": 0.8, "delta": -0.01}
    (bundle_path / "report.json").write_text(json.dumps(report))
    assert main(["info", str(bundle_path), "--json", str(tmp_path / "info.json")]) == 0
    out = capsys.readouterr().out
    assert "verified   2026-11-30 on 100 photos; the original's top-1 is 81.0%" in out
    assert max(map(len, out.splitlines())) <= 80
    row = next(line for line in out.splitlines() if line.startswith("onnx.int8")).split()
    assert row[4:6] == ["80.0%", "100.0%"]
    document = json.loads((tmp_path / "info.json").read_text())
    found = [item["verified"] for item in document["variants"]]
    assert {item["created"] for item in found} == {"2026-11-30T10:00:00+00:00"}
    assert {(item["n"], item["top1"], item["top1_agreement"]) for item in found} == {(100, 0.8, 1.0)}


def test_info_shows_the_first_of_many_labels_and_what_was_left_out(
    bundle_path: Path, edit_manifest: Callable[[Path, Callable[[Raw], object]], None], capsys: Capture
) -> None:
    def change(raw: Raw) -> None:
        raw["labels"] = [{"id": str(n), "name": f"label\u001b {n}"} for n in range(300)]
        raw["output"]["shape"] = [1, 300]
        raw["packed"] = {"variants": ["onnx.w8"], "files": ["reference/"]}

    edit_manifest(bundle_path, change)
    assert main(["info", str(bundle_path)]) == 0
    out = capsys.readouterr().out
    assert "label\\x1b 19 and 280 more" in " ".join(out.split())
    assert "left out when it was packed: onnx.w8, reference/" in out
    assert max(map(len, out.splitlines())) <= 80


def test_info_never_says_runs_here_of_a_file_that_is_not_there(bundle_path: Path, capsys: Capture) -> None:
    (bundle_path / "onnx/model.int8.onnx").unlink()
    path = bundle_path / "tflite/model.fp32.tflite"
    path.write_bytes(path.read_bytes()[:-8])
    assert main(["info", str(bundle_path)]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line}
    assert "onnx/model.int8.onnx is missing" in lines["onnx.int8"]
    assert "is not the file that was exported" in lines["tflite.fp32"]
    assert lines["onnx.fp32"].endswith("runs here")


def test_info_tells_a_missed_cost_from_a_failure(
    bundle_path: Path, report_of_checks: Callable[..., None], photos: list[str], tmp_path: Path, capsys: Capture
) -> None:
    report_of_checks(bundle_path, ("onnx.int8", "p50_ratio", 1.34, 1.2), ("tflite.fp32", "sqnr_db", 3.0, 60.0))
    assert main(["info", str(bundle_path), "--json", str(tmp_path / "info.json")]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line}
    assert lines["onnx.int8"].endswith("runs here; missed where verified: p50_ratio 1.34 (limit 1.2)")
    assert lines["tflite.fp32"].endswith("FAILED verification: sqnr_db 3 (limit 60)")
    found = {item["id"]: item for item in json.loads((tmp_path / "info.json").read_text())["variants"]}
    assert [check["what"] for check in found["onnx.int8"]["missed_costs"]] == ["p50_ratio"]
    assert (found["onnx.int8"]["failed"], found["tflite.fp32"]["missed_costs"]) == ([], [])
    assert main(["predict", str(bundle_path), photos[0], "--variant", "onnx.int8"]) == 0
    assert "warning" not in capsys.readouterr().err


def test_info_warns_of_saturation(
    bundle_path: Path, edit_manifest: Callable[[Path, Callable[[Raw], object]], None], capsys: Capture
) -> None:
    def record(raw: Raw) -> None:
        for variant, at_risk in zip(raw["variants"], (3, 0), strict=False):
            variant["quantization"] = {"saturation": {"layers_at_risk": at_risk, "layers": 53, "worst": 64770}}

    edit_manifest(bundle_path, record)
    first = json.loads((bundle_path / "manifest.json").read_text())["variants"][0]["id"]
    assert main(["info", str(bundle_path)]) == 0
    warned = [line for line in capsys.readouterr().out.splitlines() if "VNNI" in line]
    assert warned == [f"{first}: 3 of 53 layers can saturate on x86 CPUs without VNNI: export with --int8-safe"]


def test_predict_prints_a_line_per_image_and_json(pristine_bundle: Path, photos: list[str], capsys: Capture) -> None:
    assert main(["predict", str(pristine_bundle), *photos, "--top", "2", "--json", "-", "--explain"]) == 0
    captured = capsys.readouterr()
    document: dict[str, Any] = json.loads(captured.out)
    assert f"{document['variant']}: the fastest of 4 that run here and fit" in captured.err
    assert [item["image"] for item in document["predictions"]] == photos
    assert [score["id"] for score in document["predictions"][0]["scores"]] == ["red", "grey"]
    assert f"{photos[0]}: Red 9" in captured.err
    assert main(["predict", str(pristine_bundle), *photos]) == 0
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()] == photos


def test_predict_warns_of_a_named_variant_that_failed(
    bundle_path: Path, fail_in_report: Callable[..., None], photos: list[str], capsys: Capture
) -> None:
    fail_in_report(bundle_path, "onnx.int8")
    assert main(["predict", str(bundle_path), photos[0], "--variant", "onnx.int8"]) == 0
    assert "warning: onnx.int8 failed verification" in capsys.readouterr().err
    assert main(["predict", str(bundle_path), photos[0]]) == 0
    captured = capsys.readouterr().err
    assert "warning" not in captured
    assert not captured.startswith("onnx.int8")


def test_predict_with_a_threshold_and_an_accuracy_that_nothing_has(
    bundle_path: Path, photos: list[str], capsys: Capture
) -> None:
    assert main(["predict", str(bundle_path), photos[0], "--threshold", "1"]) == 0
    assert "none of the labels (nearest: Red 9" in capsys.readouterr().out
    assert main(["predict", str(bundle_path), photos[0], "--max-drop", "0.1"]) == 2
    assert "its accuracy is not recorded" in capsys.readouterr().err


def test_placement_and_devices(pristine_bundle: Path, photos: list[str], tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "info.json"
    assert main(["info", str(pristine_bundle), "--placement", "--device", "xnnpack", "--json", str(out)]) == 0
    found = {item["id"]: item["placement"] for item in json.loads(out.read_text())["variants"]}
    assert found["onnx.fp32"] is None
    assert {operator["device"] for operator in found["tflite.fp32"]["operators"]} <= {"XNNPACK", "CPU"}
    text = capsys.readouterr().out
    assert "onnxruntime has no device 'xnnpack' here" in text
    # A device that takes no operator at all: a warning, or with --strict an error.
    device = ["--variant", "onnx.fp32", "--device", "AzureExecutionProvider"]
    assert main(["predict", str(pristine_bundle), photos[0], *device]) == 0
    assert "edgetl-run: warning: " in capsys.readouterr().err
    assert main(["predict", str(pristine_bundle), photos[0], *device, "--strict"]) == 2
    assert "fallen back: " in capsys.readouterr().err
    assert main(["predict", str(pristine_bundle), photos[0], "--device-option", "level"]) == 2
    assert "is not KEY=VALUE" in capsys.readouterr().err
    assert main(["self-test", str(pristine_bundle), "--variants", "openvino.fp32", "--device", "auto"]) == 0
    assert main(["self-test", str(pristine_bundle), "--variants", "openvino.fp32", "--device", "gpu"]) == 1
    assert "OpenVINO finds CPU" in capsys.readouterr().out


def test_bench_measures_what_runs_and_lists_the_rest(
    pristine_bundle: Path, tmp_path: Path, no_engines: Callable[..., None], capsys: Capture
) -> None:
    no_engines("openvino")
    target = tmp_path / "bench.json"
    arguments = ["--seconds", "0.01", "--threads", "1", "--json", str(target)]
    assert main(["bench", str(pristine_bundle), *arguments]) == 0
    out = capsys.readouterr().out
    assert "not run: openvino.fp32: engine openvino needs openvino, which is not installed here: pip install" in out
    document = json.loads(target.read_text())
    assert [item["id"] for item in document["variants"]] == ["onnx.fp32", "tflite.fp32", "onnx.int8"]
    latency = document["variants"][0]["latency"]
    assert latency["threads"] == 1
    assert {"n", "p50_ms", "p95_ms", "load_ms", "first_ms", "preprocess_ms"} <= set(latency)
    assert document["machine"]["cores"] == usable_cores()
    assert {"architecture", "flags", "dot_product"} == set(document["cpu_features"])


def test_bench_says_what_to_ship(
    bundle_path: Path, fail_in_report: Callable[..., None], tmp_path: Path, capsys: Capture
) -> None:
    target = tmp_path / "bench.json"
    arguments = ["bench", str(bundle_path), "--seconds", "0.01", "--threads", "1", "--json", str(target)]
    assert main(arguments) == 0
    # Once per engine: the reasons of the best one stand at the top and are not repeated.
    assert capsys.readouterr().out.count("verify first (edgetl verify --record)") == 3
    fail_in_report(bundle_path, *(f"{name}.fp32" for name in ("tflite", "openvino")), "onnx.int8")
    assert main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "to ship on this device: onnx.fp32, once it is verified" in lines
    assert "  onnx.int8 failed verification: top1_agreement 0.25 (limit 0.97)" in lines
    assert "in litert: none" in lines
    advice = json.loads(target.read_text())["advice"]
    assert (advice["recommendation"]["variant"], advice["recommendation"]["verified"]) == ("onnx.fp32", False)
    assert {item["engine"]: item["recommendation"]["variant"] for item in advice["engines"]} == {
        "onnxruntime": "onnx.fp32",
        "litert": None,
        "openvino": None,
    }


def test_bench_reads_the_report_before_it_measures(bundle_path: Path, capsys: Capture) -> None:
    (bundle_path / "report.json").write_text("{")
    assert "report.json" in fails(["bench", str(bundle_path)], capsys)


def test_bench_takes_variants_engine_and_image(
    pristine_bundle: Path, photos: list[str], capsys: Capture, tmp_path: Path
) -> None:
    arguments = ["bench", str(pristine_bundle), "--seconds", "0.01", "--image", photos[0], "--json", "-"]
    assert main([*arguments, "--variants", "onnx.fp32, tflite.fp32", "--engine", "litert"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert ([item["id"] for item in document["variants"]], document["image"]) == (["tflite.fp32"], photos[0])
    assert "no such variant" in fails([*arguments, "--variants", "onnx.fp32", "--engine", "litert"], capsys)
    assert "no variant 'onnx.fp64'" in fails([*arguments, "--variants", "onnx.fp64"], capsys)
    assert "gone.jpg" in fails(["bench", str(pristine_bundle), "--image", str(tmp_path / "gone.jpg")], capsys)


def test_self_test_passes_and_fails_with_its_exit_code(
    bundle_path: Path, fail_in_report: Callable[..., None], tmp_path: Path, capsys: Capture
) -> None:
    target = tmp_path / "test.json"
    assert main(["self-test", str(bundle_path), "--json", str(target)]) == 0
    assert "self-test passed" in capsys.readouterr().out
    document = json.loads(target.read_text())
    assert (document["passed"], document["pixels"], len(document["variants"])) == (True, 0, 4)
    fail_in_report(bundle_path, "onnx.int8")
    assert main(["self-test", str(bundle_path), "--variants", "onnx.int8"]) == 1
    out = capsys.readouterr().out
    assert "not counted" in out
    assert "self-test FAILED" in out


def test_self_test_of_a_single_file_says_what_it_could_not_check(pristine_bundle: Path, capsys: Capture) -> None:
    assert main(["self-test", str(pristine_bundle / "openvino/model.fp32.xml")]) == 0
    assert "no golden samples here" in capsys.readouterr().out


def test_self_test_finds_a_damaged_file(bundle_path: Path, capsys: Capture) -> None:
    path = bundle_path / "golden/03.png"
    path.write_bytes(path.read_bytes()[:-1])
    assert "golden/03.png" in fails(["self-test", str(bundle_path)], capsys)


@pytest.mark.parametrize("command", ["bench", "self-test", "predict"])
def test_no_engine_at_all_is_one_error(
    command: str, pristine_bundle: Path, photos: list[str], no_engines: Callable[..., None], capsys: Capture
) -> None:
    no_engines()
    images = photos if command == "predict" else []
    assert "pip install" in fails([command, str(pristine_bundle), *images], capsys)


def test_user_errors_exit_with_2(pristine_bundle: Path, photos: list[str], tmp_path: Path, capsys: Capture) -> None:
    assert "no bundle at" in fails(["info", str(tmp_path / "gone")], capsys)
    assert "no image file" in fails(["predict", str(pristine_bundle), str(tmp_path / "gone.jpg")], capsys)
    assert "threads" in fails(["predict", str(pristine_bundle), *photos, "--threads", "0"], capsys)
    assert "top" in fails(["predict", str(pristine_bundle), *photos, "--top", "0"], capsys)
    nowhere = str(tmp_path / "gone" / "x.json")
    assert "cannot write" in fails(["info", str(pristine_bundle), "--json", nowhere], capsys)


def test_interrupt_is_one_line(pristine_bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    def interrupt(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("edgetl_runtime.cli.measuring.bench_variants", interrupt)
    assert main(["bench", str(pristine_bundle)]) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "edgetl-run: interrupted"


def test_table_aligns_numbers_to_the_right() -> None:
    assert table(["name", "ms"], [["a", "1.5"], ["bcd ef", "10.5"]]) == [
        "name      ms",
        "a        1.5",
        "bcd ef  10.5",
    ]


@pytest.mark.parametrize("bad", [0, 1, 2], ids=["first", "between", "last"])
def test_an_image_that_cannot_be_read_takes_no_other_with_it(
    bad: int, pristine_bundle: Path, photos: list[str], tmp_path: Path, capsys: Capture
) -> None:
    damaged, out = tmp_path / "damaged.png", tmp_path / "out.json"
    damaged.write_bytes(Path(photos[0]).read_bytes()[:60])
    for missing in (str(tmp_path / "gone.png"), str(damaged), str(tmp_path)):
        images = [*photos[:bad], missing, *photos[bad:]]
        assert main(["predict", str(pristine_bundle), *images, "--json", str(out)]) == 2
        captured = capsys.readouterr()
        assert [line.split(":")[0] for line in captured.out.splitlines()] == photos
        assert len([line for line in captured.err.splitlines() if line.startswith("edgetl-run: error: ")]) == 1
        assert missing in captured.err
        assert "1 of 3 images could not be read" in captured.err
        found = json.loads(out.read_text())["predictions"]
        assert [item["image"] for item in found] == images
        assert [sorted(item) for i, item in enumerate(found) if i != bad] == [["image", "scores", "top"]] * 2
        assert missing in found[bad]["error"]
        assert "top" not in found[bad]


def test_no_image_that_can_be_read(pristine_bundle: Path, tmp_path: Path, capsys: Capture) -> None:
    gone = [str(tmp_path / "a.png"), str(tmp_path / "b.png")]
    assert main(["predict", str(pristine_bundle), *gone]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("edgetl-run: error: no image file at ") == 2
    assert "could not be read" not in captured.err
    assert main(["predict", str(pristine_bundle), str(tmp_path)]) == 2
    assert f"{tmp_path} is a folder\n  fix: name the images in it: {tmp_path}/*.jpg" in capsys.readouterr().err
    assert main(["predict", str(pristine_bundle), *gone, "--json", "-"]) == 2
    assert len(json.loads(capsys.readouterr().out)["predictions"]) == 2


def test_engines_by_the_name_of_their_format(pristine_bundle: Path, photos: list[str], capsys: Capture) -> None:
    assert main(["predict", str(pristine_bundle), photos[0], "--engine", "tflite"]) == 0
    assert "tflite.fp32 in litert" in capsys.readouterr().err
    assert main(["bench", str(pristine_bundle), "--engine", "onnx", "--seconds", "0.05"]) == 0
    assert "openvino" not in capsys.readouterr().out


def test_info_shows_what_was_exported_for_other_cpus(
    bundle_path: Path, edit_manifest: Callable[[Path, Callable[[Raw], object]], None], capsys: Capture
) -> None:
    assert main(["info", str(bundle_path)]) == 0  # a manifest from before says nothing
    assert "--int8-safe" not in capsys.readouterr().out

    def record(raw: Raw) -> None:
        for variant, safe in zip(raw["variants"], (True, False, "yes"), strict=False):
            variant["quantization"] = {"int8_safe": safe}

    edit_manifest(bundle_path, record)
    first = json.loads((bundle_path / "manifest.json").read_text())["variants"][0]["id"]
    assert main(["info", str(bundle_path), "--json", "-"]) == 0
    captured = capsys.readouterr()
    assert f"exported with --int8-safe, for x86 CPUs without VNNI: {first}\n" in captured.err
    found = [item["int8_safe"] for item in json.loads(captured.out)["variants"]]
    assert found == [True, False, None, None]
