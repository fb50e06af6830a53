"""The command line of the workbench: every command with its options. What they do is in `edgetl.cli.main`."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeAlias

from edgetl.cli.meant import MEANT
from edgetl_runtime import __version__
from edgetl_runtime.commands import EXIT_CODES, CommandParser

__all__ = ["Command", "build_parser"]

Command: TypeAlias = Callable[[argparse.Namespace], int]

_ABOUT = {
    "run": "Photos to a verified bundle: fine-tune, export, verify.",
    "train": "Fine-tune a backbone on labelled photos; leaves a checkpoint.",
    "lr-range": "Find a learning rate: a short training whose rate grows until the loss does.",
    "export": "Export a checkpoint, or a plain torchvision weights file, to a bundle.",
    "verify": "Hold every variant of a bundle against the model it came from, on labelled photos.",
    "bench": "Measure latency of every variant that runs here.",
    "inspect": "Show what is in a bundle, what of it runs here, what verification said; --layers: where it goes wrong.",
    "backbones": "List every backbone: parameters, GMACs, input, published top-1, and the targets it was tried on.",
    "compare": "Train, export and measure several backbones on your photos, side by side on this machine.",
    "learning-curve": "Measure accuracy against the number of training photos, transfer against from scratch.",
    "demo": "The main job on 1,797 handwritten digits that ship inside scikit-learn; nothing is downloaded.",
}


def build_parser(run_by: Mapping[str, Command]) -> argparse.ArgumentParser:
    """The parser of `edgetl`: ``command`` of what it parses is the function of `run_by` that does it."""
    parser = CommandParser(
        prog="edgetl",
        description="Photos to a small model that runs, and is proven to run, on a device.\n"
        "edgetl help COMMAND shows its options.",
        epilog=EXIT_CODES.format(failed="a limit of the gate does not hold, or a target could not be written"),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        meant=MEANT,
    )
    parser.add_argument("--version", action="version", version=f"edgetl {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def add(name: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=_ABOUT[name], description=_ABOUT[name], meant=MEANT)
        sub.set_defaults(command=run_by[name])
        return sub

    run = add("run")
    _data_options(run)
    _model_options(run)
    _train_options(run)
    _export_options(run)
    _judge_options(run)
    _output(run, "BUNDLE", "the bundle, e.g. flowers.edgetl")
    _resume(run)
    training = add("train")
    _data_options(training)
    _model_options(training)
    _train_options(training)
    _output(training, "CHECKPOINT_DIR", "the checkpoint folder")
    _resume(training)
    finding = add("lr-range")
    _data_options(finding)
    _train_options(finding)
    finding.add_argument("--plot", metavar="FILE", type=Path, help="draw loss over rate (.png, .svg)")
    finding.add_argument("--json", metavar="FILE", type=Path, help="write rates and losses as JSON")
    exporting = add("export")
    exporting.add_argument(
        "checkpoint", metavar="CHECKPOINT", type=Path, help="checkpoint folder, .pth or .safetensors"
    )
    exporting.add_argument(
        "--calibration", metavar="DIR", type=Path, required=True, help="photos like the device's, or a CSV of them"
    )
    _skip_bad(exporting)
    exporting.add_argument("--backbone", metavar="NAME", help="architecture of a plain weights file")
    exporting.add_argument("--labels", metavar="FILE", type=Path, help="labels of a plain weights file")
    exporting.add_argument("--image-size", metavar="N", type=int, help="pixels, for a plain weights file")
    exporting.add_argument("--channels", metavar="N", type=int, help="of a plain weights file (default: what it has)")
    _decode(exporting)
    _export_options(exporting)
    _device_option(exporting)
    _output(exporting, "BUNDLE", "the bundle")
    verifying = add("verify")
    _verify_options(verifying)
    bench = add("bench")
    bench.add_argument("bundle", metavar="BUNDLE")
    bench.add_argument("--variants", metavar="ID,...", help="only these variants, separated by commas")
    bench.add_argument("--threads", type=int, metavar="N", help="cores of one run (default: all)")
    bench.add_argument("--seconds", type=float, metavar="S", help="time per variant (default: 2)")
    bench.add_argument("--json", metavar="FILE", help="write the result as JSON; - is stdout")
    inspecting = add("inspect")
    _inspect_options(inspecting)
    backbones = add("backbones")
    backbones.add_argument("--json", metavar="FILE", type=Path, help="write the list as JSON")
    comparing = add("compare")
    _compare_options(comparing)
    _data_options(comparing)
    _train_options(comparing)
    _export_options(comparing)
    _judge_options(comparing)
    _output(comparing, "FOLDER", "a bundle of each backbone, comparison.html, .json and .md")
    curve = add("learning-curve")
    _data_options(curve)
    _model_options(curve)
    _train_options(curve)
    _curve_options(curve)
    demo = add("demo")
    demo.add_argument(
        "--out", metavar="BUNDLE", type=Path, default=Path("digits.edgetl"), help="default: digits.edgetl"
    )
    demo.add_argument("--force", action="store_true", help="replace the bundle if it exists")
    demo.add_argument("--json", metavar="FILE", type=Path, help="write the report as JSON")
    return parser


def _data_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("photos")
    group.add_argument("--data", metavar="DIR", type=Path, help="one folder per label, or a CSV: path,label[,split]")
    group.add_argument("--val", metavar="DIR", type=Path, help="validation photos (default: DIR/val, else a split)")
    _skip_bad(group)
    group.add_argument("--recipe", metavar="FILE.toml", type=Path, help="all options in one file; those given here win")


def _skip_bad(parser: argparse._ActionsContainer) -> None:
    parser.add_argument("--skip-bad", action="store_true", default=None, help="go on without unreadable images")


def _decode(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--decode", metavar="exact|scaled", help="scaled: large JPEGs at a fraction of their size, here and on devices"
    )


def _model_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("model")
    group.add_argument("--backbone", metavar="NAME", help="default: mobilenet_v2; `edgetl backbones` lists all")
    group.add_argument("--weights", metavar="imagenet|none|FILE", help="what to start from (default: imagenet)")


def _train_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("training")
    group.add_argument(
        "--strategy",
        metavar="head|last:N|full|head-then-last:N|head-then-full|gradual",
        help="what is trained (default: head)",
    )
    group.add_argument("--epochs", type=int, metavar="N")
    group.add_argument("--batch-size", type=int, metavar="N", help="images of a step and process")
    group.add_argument("--accumulate", type=int, metavar="N", help="parts that a step goes through the network in")
    group.add_argument("--lr", type=float, metavar="RATE", help="learning rate of the head; `edgetl lr-range` helps")
    group.add_argument("--layer-decay", type=float, metavar="X", help="times the rate, for each stage from the head")
    group.add_argument("--dropout", type=float, metavar="SHARE", help="before the head")
    group.add_argument("--hidden", type=int, metavar="N", help="an extra hidden layer in the head, N wide")
    group.add_argument("--imbalance", metavar="weights|sampler|focal|none", help="for labels with few photos")
    group.add_argument("--mixup", type=float, metavar="ALPHA", help="mix images (0: off)")
    group.add_argument("--cutmix", type=float, metavar="ALPHA", help="paste images into others (0: off)")
    group.add_argument("--ema", type=float, metavar="DECAY", help="average the weights over steps (0: off)")
    group.add_argument("--teacher", metavar="DIR|NAME:FILE", help="a checkpoint, or a backbone's weights")
    group.add_argument("--patience", type=int, metavar="N", help="end after N epochs without a better one")
    group.add_argument("--augment", metavar="similar|different|shift|none", help="what images are (default: similar)")
    group.add_argument("--qat", action="store_true", default=None, help="go on with int8 simulated (minutes, on a CPU)")
    group.add_argument("--image-size", type=int, metavar="N", help="pixels (default: the backbone's own, often 224)")
    group.add_argument("--channels", type=int, metavar="N", help="of an image: 1 is grey, 3 is RGB (default: 3)")
    _decode(group)
    group.add_argument("--seed", type=int, metavar="N")
    group.add_argument("--train-precision", metavar="auto|fp32|bf16|fp16", help="what the network is trained in")
    group.add_argument("--precision", dest="former_precision", metavar="NAME", help=argparse.SUPPRESS)
    group.add_argument("--compile", action="store_true", default=None, help="torch.compile the network")
    group.add_argument("--tensorboard", metavar="DIR", help="a folder for TensorBoard, one for each training")
    _device_option(parser)


def _device_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device", metavar="auto|cpu|cuda", help="where networks are trained (default: auto, a GPU when there is one)"
    )


def _compare_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("comparison")
    group.add_argument("--backbones", metavar="NAME,...", required=True, help="what is compared")
    group.add_argument(
        "--weights",
        metavar="ALL,NAME=FILE,...",
        help="what to start from: imagenet, none or a file (default: imagenet)",
    )
    group.add_argument(
        "--within", type=float, metavar="POINTS", help="recommend the fastest within so many of the best (default: 1)"
    )


def _curve_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("learning curve")
    group.add_argument("--fractions", metavar="F,...", help="of the training photos (default: 0.05,0.1,0.25,0.5,1)")
    group.add_argument("--seeds", type=int, metavar="N", help="draws of each fraction (default: 3)")
    group.add_argument(
        "--from-scratch-epochs", type=int, metavar="N", help="of the trainings from scratch; 0: none (default: 20)"
    )
    group.add_argument("--out", metavar="FOLDER", type=Path, required=True, help="keeps what was trained already")
    group.add_argument("--json", metavar="FILE", type=Path, help="write the curve as JSON")


def _export_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("export")
    group.add_argument("--targets", metavar="NAME,...", help="default: onnx,tflite,openvino")
    group.add_argument("--precisions", metavar="NAME,...", help="default: fp32,fp16,int8")
    group.add_argument(
        "--calibration-samples", type=int, metavar="N", help="images to calibrate int8 on (default: 250)"
    )
    group.add_argument(
        "--features", metavar="pooled|NAME,...", help="outputs besides the logits: what the head is given, or layers"
    )
    group.add_argument("--opset", type=int, metavar="N", help="operator set of ONNX files, for old runtimes (13 to 20)")
    int8 = parser.add_argument_group("int8")
    int8.add_argument("--max-drop", type=float, metavar="SHARE", help="climb until no more photos change their label")
    int8.add_argument("--tune-data", metavar="DIR", type=Path, help="photos that judge it (default: held-out ones)")
    int8.add_argument("--quantize", metavar="ptq|distill|qat", help="no training, on photos alone, or on labels too")
    int8.add_argument("--ranges", metavar="mse|percentile|minmax", help="how activation ranges are found")
    int8.add_argument("--int8-safe", action="store_true", default=None, help="for x86 CPUs without VNNI: no saturation")
    int8.add_argument("--io", metavar="float|int8", help="what tflite.int8 takes and gives (default: float)")
    int8.add_argument("--activation", metavar="relu6|hardswish", help="replace SiLU and its like, then distil")
    int8.add_argument("--no-se", action="store_true", default=None, help="replace squeeze-excite by constants")
    int8.add_argument("--distill-epochs", type=int, metavar="N", help="at most (default: 16)")
    int8.add_argument("--distill-minutes", type=float, metavar="N", help="at most (default: 8)")


def _judge_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("verification")
    group.add_argument("--gate", metavar="FILE.toml", type=Path, help="limits (default: decisions must not fall apart)")
    group.add_argument("--threads", type=int, metavar="N", help="cores of one run (default: 1)")
    group.add_argument("--memory", action="store_true", default=None, help="measure peak memory and cold start too")
    group.add_argument("--baseline", metavar="REPORT.json", type=Path, help="an accepted report: nothing may be worse")
    group.add_argument(
        "--keep-reference", action="store_true", default=None, help="keep the original's answers, to verify sans torch"
    )
    group.add_argument("--json", metavar="FILE", type=Path, help="write the report as JSON")


def _output(parser: argparse.ArgumentParser, metavar: str, what: str) -> None:
    parser.add_argument("--out", metavar=metavar, type=Path, required=True, help=what)
    parser.add_argument("--force", action="store_true", help="replace it if it exists")


def _resume(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--resume", action="store_true", help="go on with a training that was interrupted")


def _verify_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", metavar="BUNDLE", type=Path)
    parser.add_argument("--data", metavar="DIR", type=Path, required=True, help="labelled photos")
    parser.add_argument("--reference", metavar="CHECKPOINT", type=Path, help="the original, if the bundle has none")
    parser.add_argument("--variants", metavar="ID,...", help="only these variants, separated by commas")
    _skip_bad(parser)
    _judge_options(parser)
    parser.add_argument("--markdown", metavar="FILE", type=Path, help="write the report for a job summary")
    parser.add_argument("--html", metavar="FILE", type=Path, help="write the report as a self-contained page")
    parser.add_argument("--junit", metavar="FILE", type=Path, help="write the verdict as JUnit XML")
    parser.add_argument("--write-gate", metavar="FILE.toml", type=Path, help="propose a gate from this report")
    parser.add_argument("--record", action="store_true", help="put what was found into the bundle, for the runtime")
    parser.add_argument(
        "--force", action="store_true", help="replace the file of --write-gate; record fewer photos than were"
    )


def _inspect_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", metavar="BUNDLE", help="bundle folder, .edgetl file, or one model file")
    parser.add_argument("--json", metavar="FILE", help="write the result as JSON; - is stdout")
    parser.add_argument("--layers", action="store_true", help="find the first layer that parts from the original")
    parser.add_argument("--variants", metavar="ID,...", help="with --layers: only these, separated by commas")
    parser.add_argument("--data", metavar="DIR", type=Path, help="with --layers: photos (default: golden samples)")
    parser.add_argument(
        "--save-repro", metavar="DIR", type=Path, help="with --layers: save the smallest piece that cannot be converted"
    )
