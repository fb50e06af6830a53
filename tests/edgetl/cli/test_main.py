"""edgetl: bad input gives exit code 2, one clear message, and leaves nothing behind."""

from __future__ import annotations

import argparse
import errno
import importlib
import json
import os
import pkgutil
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file

from edgetl.cli.main import main

pytestmark = pytest.mark.slow

Capture = pytest.CaptureFixture[str]
MakePhotos = Callable[[Path, Mapping[str, int]], Path]
Fails = Callable[..., str]

BACKBONE = "mobilenet_v3_small"
LABELS = {"daisy": 6, "roses": 6}


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plain state dict of an untrained network with two outputs."""
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    torch.manual_seed(0)
    save_file(torchvision.models.mobilenet_v3_small(num_classes=2).state_dict(), path)
    return path


@pytest.fixture
def photos(tmp_path: Path, make_photos: MakePhotos) -> Path:
    return make_photos(tmp_path / "photos", LABELS)


@pytest.fixture
def run_words(photos: Path, weights: Path, tmp_path: Path) -> list[str]:
    """An ``edgetl run`` that would work; options added behind it win."""
    return [
        *("run", "--data", str(photos), "--backbone", BACKBONE, "--weights", str(weights)),
        *("--image-size", "32", "--epochs", "1", "--targets", "onnx", "--precisions", "fp32"),
        *("--out", str(tmp_path / "out.edgetl")),
    ]


@pytest.fixture
def export_words(photos: Path, weights: Path, tmp_path: Path) -> list[str]:
    """An ``edgetl export`` that would work."""
    return [
        *("export", str(weights), "--backbone", BACKBONE, "--calibration", str(photos), "--image-size", "32"),
        *("--targets", "onnx", "--precisions", "fp32", "--out", str(tmp_path / "out.edgetl")),
    ]


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file and folder below `folder`, hidden ones too: size and time of the last change of each file."""
    return {
        path.relative_to(folder).as_posix(): (path.stat().st_size, path.stat().st_mtime_ns)
        if path.is_file()
        else (0, 0)
        for path in folder.rglob("*")
    }


@pytest.fixture
def fails(tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> Fails:
    """``fails(words, "part", ...)``: exit code 2, one message with all these parts, and nothing left behind."""
    monkeypatch.chdir(tmp_path)

    def check(words: list[str], *parts: str) -> str:
        before = listing(tmp_path)
        assert main(words) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert "Traceback" not in captured.err
        said = captured.err.partition("edgetl: error: ")[2]
        assert captured.err.count("error:") == 1, captured.err
        assert said.strip()
        for part in parts:
            assert part in said
        assert listing(tmp_path) == before
        return said

    return check


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (["--backbone", "mobilenet_v9"], ["'mobilenet_v9'", "mobilenet_v2"]),
        (["--targets", "onx"], ["unknown target 'onx'", "did you mean 'onnx'?", "tflite"]),
        (["--targets", "onnx,onnx"], ["target is given twice"]),
        (["--precisions", "int9"], ["unknown precision 'int9'", "did you mean 'int8'?"]),
        (["--precisions", ""], ["unknown precision ''"]),
        (["--strategy", "tail"], ["strategy", "'tail'", "head, last:N, stride:N, full"]),
        (["--strategy", "last:99"], ["last:99", "stages"]),
        (["--weights", "none"], ["weights none", "--strategy full"]),
        (["--weights", "gone.pth"], ["no weights file at gone.pth"]),
        (["--epochs", "0"], ["epochs", "from 1 to"]),
        (["--image-size", "0"], ["image"]),
        (["--decode", "half"], ["decode", "half", "exact or scaled"]),
        (["--calibration-samples", "0"], ["calibration_samples", "from 1 to"]),
        (["--seed", "-1"], ["seed", "from 0 to"]),
        (["--threads", "0"], ["threads"]),
        (["--data", "gone"], ["gone does not exist"]),
        (["--gate", "gone.toml"], ["gone.toml"]),
        (["--recipe", "gone.toml"], ["gone.toml"]),
        (["--json", "gone/report.json"], ["gone", "does not exist"]),
        (["--json", "photos"], ["photos", "is a folder"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) and value[0].startswith("--") else "",
)
def test_options_without_sense(options: list[str], parts: list[str], run_words: list[str], fails: Fails) -> None:
    fails([*run_words, *options], *parts)


def test_run_without_photos(run_words: list[str], fails: Fails) -> None:
    fails(["run", *run_words[3:]], "no photos", "--data")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("[train]\nepoch = 3\n", ["unknown key 'epoch'", "did you mean 'epochs'?"]),
        ("[training]\nepochs = 3\n", ["unknown section [training]", "did you mean 'train'?"]),
        ("[train]\nepochs = 'three'\n", ["epochs must be a whole number, not 'three'"]),
        ("[train\n", ["cannot read the recipe"]),
    ],
    ids=["key", "section", "type", "TOML"],
)
def test_bad_recipe(text: str, parts: list[str], run_words: list[str], tmp_path: Path, fails: Fails) -> None:
    (tmp_path / "bad.toml").write_text(text)
    fails([*run_words, "--recipe", "bad.toml"], "bad.toml", *parts)


def test_verify_without_a_bundle(photos: Path, fails: Fails) -> None:
    fails(["verify", "gone.edgetl", "--data", str(photos)], "no bundle at gone.edgetl")
    fails(["verify", str(photos), "--data", str(photos), "--html", "gone/x.html"], "gone", "--html FILE")


def test_bad_gate(run_words: list[str], tmp_path: Path, fails: Fails) -> None:
    (tmp_path / "gate.toml").write_text("[precision.int8]\ntop1_agrement = 0.9\n")
    fails([*run_words, "--gate", "gate.toml"], "top1_agrement", "top1_agreement")


def test_empty_class(run_words: list[str], photos: Path, fails: Fails) -> None:
    (photos / "tulips").mkdir()
    fails(run_words, "tulips (0)", "fix:")


def test_a_label_with_one_photo_and_one_with_too_few(
    run_words: list[str], photos: Path, make_photos: MakePhotos, fails: Fails
) -> None:
    make_photos(photos, {"lilies": 1, "tulips": 4})
    fails(run_words, "too few training images of: lilies (1), tulips (4)", "at least 5 of each label")


def test_one_class(run_words: list[str], photos: Path, fails: Fails) -> None:
    shutil.rmtree(photos / "roses")
    fails(run_words, "one label only: 'daisy'")


def test_truncated_photo_is_named_and_can_be_skipped(run_words: list[str], photos: Path, fails: Fails) -> None:
    victim = photos / "daisy" / "002.jpg"
    victim.write_bytes(victim.read_bytes()[:-200])
    said = fails(run_words, "daisy/002.jpg", "truncated", "--skip-bad")
    assert "001.jpg" not in said


def test_truncated_photo_among_those_to_calibrate_on(export_words: list[str], photos: Path, fails: Fails) -> None:
    for victim in photos.rglob("*.jpg"):
        victim.write_bytes(victim.read_bytes()[:-200])
    fails([*export_words, "--precisions", "int8"], ".jpg")


def test_weights_for_another_architecture(run_words: list[str], export_words: list[str], fails: Fails) -> None:
    wrong = ["--backbone", "mobilenet_v2"]
    fails([*run_words, *wrong], "does not fit mobilenet_v2", f"--backbone {BACKBONE}")
    fails([*export_words, *wrong], "does not fit mobilenet_v2", f"--backbone {BACKBONE}")


def test_labels_that_do_not_fit_the_weights(export_words: list[str], tmp_path: Path, fails: Fails) -> None:
    (tmp_path / "labels.txt").write_text("a\nb\nc\n")
    fails([*export_words, "--labels", "labels.txt"], "2 logits", "3 labels")


def test_damaged_weights(export_words: list[str], tmp_path: Path, fails: Fails) -> None:
    (tmp_path / "bad.pth").write_bytes(b"not a pickle")
    fails(["export", "bad.pth", *export_words[2:]], "bad.pth")


def test_a_weights_file_needs_its_backbone(export_words: list[str], fails: Fails) -> None:
    fails([*export_words[:2], *export_words[4:]], "--backbone NAME")


@pytest.mark.parametrize("command", ["run", "export", "train"])
def test_output_that_exists(
    command: str, run_words: list[str], export_words: list[str], tmp_path: Path, fails: Fails
) -> None:
    target = tmp_path / "out.edgetl"
    target.mkdir()
    (target / "mine.txt").write_text("keep me")
    words = export_words if command == "export" else [command, *run_words[1:]]
    if command == "train":
        words = ["train", *run_words[1:11], "--out", str(target)]
    fails(words, str(target), "exists", "--force")
    fails([*words, "--force"], str(target), "not replaced")


@pytest.mark.parametrize("command", ["run", "export"])
def test_read_only_output(
    command: str, run_words: list[str], export_words: list[str], fails: Fails, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.access", lambda *arguments, **options: False)  # root may write anywhere
    fails(run_words if command == "run" else export_words, "cannot write to", "--out")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_folder(export_words: list[str], tmp_path: Path, fails: Fails) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o555)
    fails([*export_words, "--out", str(locked / "out.edgetl")], "cannot write to", "locked")


@pytest.mark.parametrize(
    ("module", "name"),
    [("edgetl_export.export", "write_variant"), ("edgetl_export.bundle_writer", "write_file"), ("tempfile", "mkdtemp")],
)
def test_no_space(
    module: str, name: str, export_words: list[str], fails: Fails, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(importlib.import_module(module), name, full)
    fails(export_words, "No space left on device", "out.edgetl", "make room")


def test_no_network_for_published_weights(
    run_words: list[str], tmp_path: Path, fails: Fails, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgetl.models.weights.can_reach", lambda url: False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    cache = str(tmp_path / "torch" / "hub" / "checkpoints")
    fails([*run_words, "--weights", "imagenet"], "cannot be reached", "mobilenet_v3_small-", cache, "--weights FILE")


def test_missing_converter(export_words: list[str], fails: Fails, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgetl_export.targets.find_spec", lambda name: None if name == "litert_torch" else object())
    said = fails([*export_words, "--targets", "onnx,tflite"], "litert_torch", 'pip install "edgetl[export]"')
    assert len(said.splitlines()) == 1


@pytest.fixture
def run_that_lacks(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Make ``edgetl run`` fail to import a module."""

    def lack(name: str) -> None:
        def command(arguments: object) -> int:
            """Run."""
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

        monkeypatch.setattr("edgetl.cli.training.run", command)

    return lack


def test_missing_library(run_words: list[str], fails: Fails, run_that_lacks: Callable[[str], None]) -> None:
    run_that_lacks("torch._C")
    assert fails(run_words) == 'torch._C is not installed here: pip install "edgetl[all]"\n'


def test_a_missing_module_of_edgetl_is_a_bug(
    run_words: list[str], run_that_lacks: Callable[[str], None], capsys: Capture
) -> None:
    run_that_lacks("edgetl.gone")
    assert main(run_words) == 70  # 1 would read as "a variant failed"
    said = capsys.readouterr().err
    assert "No module named 'edgetl.gone'" in said
    assert "Traceback" in said
    assert said.splitlines()[-1].startswith("edgetl: this is a bug of edgetl (exit code 70)")


@pytest.mark.parametrize(
    ("owner", "name"),
    [("edgetl_export.targets.onnx_file:OnnxTarget", "write"), ("edgetl_export.export:", "write_golden")],
)
def test_interrupt(
    owner: str, name: str, export_words: list[str], tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pkgutil.resolve_name(owner), name, interrupt)
    before = listing(tmp_path)
    assert main(export_words) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "edgetl: interrupted; nothing was left behind"
    assert listing(tmp_path) == before


@pytest.mark.parametrize("words", [["edgetl.cli.main", "backbones"], ["edgetl_runtime.cli", "info", "BUNDLE"]])
def test_a_reader_that_leaves_is_no_error(words: list[str], pristine_bundle: Path, tmp_path: Path) -> None:
    """As `edgetl backbones | head -1` when head is gone before the rest is printed."""
    command = [sys.executable, "-m", *(str(pristine_bundle) if word == "BUNDLE" else word for word in words)]
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=120, cwd=tmp_path)
    finally:
        os.close(writing)
    assert done.stderr == ""
    assert done.returncode == 141


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_the_middle_of_an_export(how: signal.Signals, export_words: list[str], tmp_path: Path) -> None:
    before = listing(tmp_path)
    # Tests that were started in the background of a shell ignore the signal, and so would what they start.
    ours = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "edgetl.cli.main", *export_words], cwd=tmp_path, stderr=subprocess.PIPE, text=True
        )
    finally:
        signal.signal(signal.SIGINT, ours)
    try:
        give_up = time.monotonic() + 120
        while not list(tmp_path.glob(".out.edgetl-*/new/export.log")):
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < give_up
            time.sleep(0.05)
        process.send_signal(how)
        _, err = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 128 + how, err
    assert "Traceback" not in err
    assert err.splitlines()[-1] == "edgetl: interrupted; nothing was left behind"
    assert listing(tmp_path) == before


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["export", "w.pth", "--int8"], ["no option --int8", "--precisions int8", "--int8-safe"]),
        (["run", "--format", "onnx"], ["no option --format", "--targets"]),
        (["train", "--quiet"], ["no option --quiet", "2>/dev/null"]),
        (["export", "--precision", "int8"], ["no option --precision\n", "--precisions"]),
        (["verify", "b", "--thread", "2"], ["no option --thread\n", "--threads"]),
        (["train", "--prec", "bf16"], ["no option --prec\n"]),
        (["exprot"], ["no command 'exprot'", "did you mean export?"]),
        (["evaluate"], ["no command 'evaluate'", "edgetl verify"]),
        (["predict"], ["edgetl-run predict"]),
    ],
)
def test_what_is_not_there(words: list[str], parts: list[str], capsys: Capture) -> None:
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) <= 3
    for part in parts:
        assert part in said


def test_every_hint_names_something_that_is_there() -> None:
    from edgetl.cli.main import _parser
    from edgetl.cli.meant import MEANT

    parser = _parser()
    (commands,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    options = {option for sub in commands.choices.values() for option in sub._option_string_actions}
    for word, (name, sentence) in MEANT.items():
        assert not name or name in options | set(commands.choices), word
        assert sentence


def test_inspect_signs_its_own_errors(capsys: Capture) -> None:
    assert main(["inspect", "gone"]) == 2
    assert main(["bench", "gone"]) == 2
    said = capsys.readouterr().err
    assert said.count("edgetl: error: ") == 2
    assert "edgetl-run: " not in said


@pytest.mark.parametrize("variants", ["onnx.fp32, tflite.fp32", "onnx.fp32 ,tflite.fp32", " onnx.fp32,tflite.fp32 "])
def test_spaces_between_variants(variants: str, pristine_bundle: Path, tmp_path: Path) -> None:
    found = tmp_path / "bench.json"
    words = ["bench", str(pristine_bundle), "--variants", variants, "--seconds", "0.01", "--json", str(found)]
    assert main(words) == 0
    assert [item["id"] for item in json.loads(found.read_text())["variants"]] == ["onnx.fp32", "tflite.fp32"]


def test_the_former_name_of_the_training_precision(run_words: list[str], fails: Fails, capsys: Capture) -> None:
    said = fails([*run_words, "--train-precision", "int8"], "train_precision = 'int8'", "--precisions int8")
    assert "auto, fp32, bf16, fp16" in said
    assert main([*run_words, "--precision", "int8"]) == 2
    said = capsys.readouterr().err
    assert "--precision is called --train-precision now" in said
    assert "train_precision = 'int8'" in said
    fails([*run_words, "--precision", "fp32", "--train-precision", "fp32"], "both are given")


@pytest.mark.parametrize(("before", "after"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_waiting_threads_leave_the_cores_to_others(
    monkeypatch: pytest.MonkeyPatch, before: str | None, after: str
) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", before or "")
    if before is None:
        monkeypatch.delenv("OMP_WAIT_POLICY")
    with pytest.raises(SystemExit):
        main(["--version"])
    assert os.environ["OMP_WAIT_POLICY"] == after
