"""What people type who know other tools, or the train of thought of this one: a literal table for "did you mean"."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["MEANT"]

_Hint = tuple[str, str]
"""The option or command here that it stands for (empty: whatever the command is), and the sentence that says it."""


def _each(words: Iterable[str], name: str, sentence: str) -> dict[str, _Hint]:
    return dict.fromkeys(words, (name, sentence))


MEANT: dict[str, _Hint] = {
    **_each(
        ("--int8", "--quantise", "--quantization", "--dtype", "--half", "--fp16", "--fp32", "--bits"),
        "--precisions",
        "did you mean --precisions int8? It picks the files: fp32,fp16,int8. --int8-safe is something else: weights "
        "for x86 CPUs without VNNI",
    ),
    "--precision": ("--precisions", "did you mean --precisions? It picks the files: fp32,fp16,int8"),
    **_each(
        ("--format", "--formats", "--target", "--to", "--onnx", "--tflite", "--openvino", "--include"),
        "--targets",
        "did you mean --targets? It picks the formats: onnx,tflite,openvino",
    ),
    **_each(("--amp", "--bf16", "--mixed-precision"), "--train-precision", "did you mean --train-precision bf16?"),
    **_each(("-q", "--quiet", "--silent"), "", "progress and notes go to stderr: 2>/dev/null hides them"),
    **_each(
        ("-v", "--verbose", "--debug"), "", "all notes are shown already; the converters' own are in BUNDLE/export.log"
    ),
    **_each(("-o", "--output", "--output-dir", "--save", "--project", "--name"), "--out", "did you mean --out?"),
    **_each(("-f", "-y", "--yes", "--overwrite", "--exist-ok"), "--force", "did you mean --force?"),
    **_each(("--model", "--arch", "--architecture", "-m"), "--backbone", "did you mean --backbone?"),
    **_each(("--dataset", "--images", "--input", "--train-data", "--source"), "--data", "did you mean --data?"),
    **_each(
        ("--calib", "--calibration-data", "--representative-dataset"), "--calibration", "did you mean --calibration?"
    ),
    **_each(("--checkpoint", "--ckpt", "--pretrained"), "--weights", "did you mean --weights?"),
    **_each(("--batch", "--bs", "-b"), "--batch-size", "did you mean --batch-size?"),
    **_each(("--imgsz", "--img", "--img-size", "--size", "--resolution"), "--image-size", "did you mean --image-size?"),
    **_each(("--learning-rate", "--lr0"), "--lr", "did you mean --lr?"),
    **_each(("--num-epochs", "-e"), "--epochs", "did you mean --epochs?"),
    **_each(("--workers", "--jobs", "-j", "--num-threads"), "--threads", "did you mean --threads?"),
    **_each(("--gpu", "--gpus", "--cuda", "--cpu"), "--device", "did you mean --device?"),
    **_each(("--config", "--cfg", "-c"), "--recipe", "did you mean --recipe?"),
    **_each(("--limits", "--thresholds"), "--gate", "did you mean --gate?"),
    **_each(("--report", "--summary"), "--markdown", "did you mean --markdown, --html or --json?"),
    **_each(("convert", "quantize", "quantise", "compile"), "export", "did you mean edgetl export?"),
    **_each(("finetune", "fine-tune", "fit"), "train", "did you mean edgetl train?"),
    **_each(("val", "validate", "eval", "evaluate", "test", "check", "gate"), "verify", "did you mean edgetl verify?"),
    **_each(("package", "bundle", "zip", "strip", "slim", "deploy"), "pack", "did you mean edgetl pack?"),
    **_each(("benchmark", "profile", "speed"), "bench", "did you mean edgetl bench?"),
    **_each(("info", "show", "summary", "list"), "inspect", "did you mean edgetl inspect?"),
    **_each(("models", "list-models"), "backbones", "did you mean edgetl backbones?"),
    **_each(("lr-find", "lr-finder", "find-lr"), "lr-range", "did you mean edgetl lr-range?"),
    **_each(("predict", "classify", "infer"), "", "that is edgetl-run predict BUNDLE IMAGE"),
    **_each(("embed", "self-test"), "", "that is a command of edgetl-run: edgetl-run -h"),
}
