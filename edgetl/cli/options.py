"""The command line of the workbench: every command with its options. What they do is in the modules beside it.

Options of a recipe are declared there, beside their fields; here stand those that only a command has.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from edgetl.cli.completion import SHELLS
from edgetl.cli.meant import MEANT
from edgetl.cli.parser import Parser
from edgetl.recipe import declared_options
from edgetl.tasks import TASKS
from edgetl_runtime import __version__
from edgetl_runtime.commands import EXIT_CODES

__all__ = ["Command", "build_parser"]

Command: TypeAlias = Callable[[argparse.Namespace], int]

_ABOUT = {
    "run": "Photos to a verified bundle: fine-tune, export, verify.",
    "train": "Fine-tune a backbone on labelled photos; leaves a checkpoint.",
    "lr-range": "Find a learning rate: a short training whose rate grows until the loss does.",
    "export": "Export a network that you have to a bundle: a checkpoint, weights, Keras, timm, your own module.",
    "verify": "Hold every variant of a bundle against the model it came from, on labelled photos.",
    "pack": "Put into one file what a device needs of a bundle: some variants, without the checkpoint.",
    "bench": "Measure latency of every variant that runs here.",
    "inspect": "Show what is in a bundle, what of it runs here, what verification said; --layers: where it goes wrong.",
    "backbones": "List every backbone: parameters, GMACs, input, published top-1, and the targets it was tried on.",
    "compare": "Train, export and measure several backbones on your photos, side by side on this machine.",
    "learning-curve": "Measure accuracy against the number of training photos, transfer against from scratch.",
    "completion": "Print the tab completion of bash, zsh or fish.",
    "demo": "The main job on small photos that come with it, such as handwritten digits; nothing is downloaded.",
}

_EXAMPLES = {
    "run": (
        "edgetl run --data photos/ --out flowers.edgetl",
        "edgetl run --data photos/ --for raspberry-pi --out pi.edgetl",
    ),
    "train": ("edgetl train --data photos/ --strategy full --out flowers.checkpoint",),
    "export": ("edgetl export flowers.checkpoint --calibration photos/ --out flowers.edgetl",),
    "verify": (
        "edgetl verify flowers.edgetl --data photos/ --record",
        "edgetl verify flowers.edgetl --data photos/ --gate gate.toml",
    ),
    "pack": ("edgetl pack flowers.edgetl --variants tflite.int8 --out pi.edgetl",),
    "compare": ("edgetl compare --data photos/ --backbones mobilenet_v2,resnet18 --out nets/",),
    "completion": (
        "edgetl completion bash > ~/.local/share/bash-completion/completions/edgetl",
        'edgetl completion zsh > "${fpath[1]}/_edgetl"',
        "edgetl completion fish > ~/.config/fish/completions/edgetl.fish",
    ),
}

_TITLES = {"data": "photos", "model": "model", "train": "training", "export": "export", "verify": "verification"}
"""Section of the recipe -> the title of its options in the help."""


def build_parser(run_by: Mapping[str, Command]) -> Parser:
    """The parser of `edgetl`: ``command`` of what it parses is the function of `run_by` that does it."""
    parser = Parser(
        prog="edgetl",
        description="Photos to a small model that runs, and is proven to run, on a device.\n"
        "edgetl help COMMAND shows its options.",
        epilog=EXIT_CODES.format(failed="a limit of the gate does not hold, or a target could not be written"),
        meant=MEANT,
    )
    parser.add_argument("--version", action="version", version=f"edgetl {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, add_options in _COMMANDS.items():
        examples = _EXAMPLES.get(name, ())
        sub = commands.add_parser(name, help=_ABOUT[name], description=_ABOUT[name], meant=MEANT, examples=examples)
        sub.set_defaults(command=run_by[name])
        add_options(sub)
    return parser


def _take(parser: Parser, section: str, *keys: str) -> None:
    """Add the flags of a section of the recipe: all of them, or those of these keys."""
    for option in declared_options()[section]:
        if option.flag and (not keys or option.key in keys):
            parser.take(option, _TITLES[section])


def _take_as(
    parser: Parser, section: str, key: str, about: str, *, title: str = "", required: bool = False, **words: Any
) -> None:
    """Add one flag of a section, with other words: where it stands for something narrower."""
    (option,) = (option for option in declared_options()[section] if option.key == key)
    parser.take(
        dataclasses.replace(option, **{"about": about, "usual": "", "default": None, "shown": True, **words}),
        title or _TITLES[section],
        required=required,
    )


def _run_options(parser: Parser) -> None:
    _data_options(parser)
    for section in ("model", "train", "export"):
        _take(parser, section)
    _judge_options(parser)
    _output(parser, "BUNDLE", "the bundle, e.g. flowers.edgetl")
    _dry_run(parser)
    _resume(parser)


def _training_options(parser: Parser) -> None:
    _data_options(parser)
    _take(parser, "model")
    _take(parser, "train")
    _output(parser, "CHECKPOINT_DIR", "the checkpoint folder")
    _dry_run(parser)
    _resume(parser)


def _lr_range_options(parser: Parser) -> None:
    _data_options(parser)
    _take(parser, "model", "image_size", "channels")
    _take(parser, "train")
    parser.add_argument("--plot", metavar="FILE", type=Path, help="draw loss over rate (.png, .svg)")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write rates and losses as JSON")


def _export_options(parser: Parser) -> None:
    parser.add_argument(
        "checkpoint",
        metavar="MODEL",
        type=Path,
        help="checkpoint folder, .keras, .h5, .pt2, timm:NAME, module.py:function, or weights: .pth, .safetensors",
    )
    parser.add_argument(
        "--calibration", metavar="DIR", type=Path, required=True, help="photos like the device's, or a CSV of them"
    )
    _take(parser, "data", "skip_bad")
    plain = "a plain weights file"
    _take_as(parser, "model", "backbone", "its architecture", title=plain)
    parser.group(plain).add_argument("--labels", metavar="FILE", type=Path, help="its labels")
    _take_as(parser, "model", "image_size", "pixels of its images", title=plain)
    _take_as(parser, "model", "channels", "of its images", usual="what it has", title=plain)
    _take(parser, "model", "decode")
    elsewhere = "a network from elsewhere"
    _take_as(
        parser, "model", "weights", "of timm:NAME or module.py:function", title=elsewhere, metavar="FILE", shown=False
    )
    _take_as(parser, "model", "mean", "of pixels in 0..1, taken off", title=elsewhere, shown=False)
    _take_as(parser, "model", "std", "of pixels in 0..1, which they are divided by", title=elsewhere, shown=False)
    parser.group(elsewhere).add_argument(
        "--pixels",
        metavar="NAME",
        help="what a Keras model takes: tf, torch, caffe, 0..1, 0..255 (default: as its graph says)",
    )
    parser.add_rare(
        "--interpolation",
        title=elsewhere,
        metavar="NAME",
        help="how its photos are resized: nearest, bilinear, bilinear_no_antialias (default: the last, as Keras does)",
    )
    _take_as(
        parser,
        "model",
        "resize",
        "how its photos fit",
        title=elsewhere,
        usual="stretch for Keras, else crop",
        shown=False,
    )
    parser.add_rare("--custom", title=elsewhere, metavar="FILE.py", type=Path, help="code with your own Keras layers")
    _take(parser, "export")
    _output(parser, "BUNDLE", "the bundle")
    _dry_run(parser)


def _compare_options(parser: Parser) -> None:
    group = parser.group("comparison")
    group.add_argument("--backbones", metavar="NAME,...", required=True, help="what is compared")
    _take_as(
        parser,
        "model",
        "weights",
        "what to start from: imagenet, none or a file",
        usual="imagenet",
        metavar="ALL,NAME=FILE,...",
        title="comparison",
    )
    group.add_argument(
        "--within", type=float, metavar="POINTS", help="recommend the fastest within so many of the best (default: 1)"
    )
    _data_options(parser)
    _take(parser, "model", "image_size", "channels")
    _take(parser, "train")
    _take(parser, "export")
    _judge_options(parser)
    _output(parser, "FOLDER", "a bundle of each backbone, comparison.html, .json and .md")


def _curve_options(parser: Parser) -> None:
    _data_options(parser)
    _take(parser, "model")
    _take(parser, "train")
    group = parser.group("learning curve")
    group.add_argument("--fractions", metavar="F,...", help="of the training photos (default: 0.05,0.1,0.25,0.5,1)")
    group.add_argument("--seeds", type=int, metavar="N", help="draws of each fraction (default: 3)")
    group.add_argument(
        "--from-scratch-epochs", type=int, metavar="N", help="of the trainings from scratch; 0: none (default: 20)"
    )
    group.add_argument("--out", metavar="FOLDER", type=Path, required=True, help="keeps what was trained already")
    group.add_argument("--json", metavar="FILE", type=Path, help="write the curve as JSON")


def _verify_options(parser: Parser) -> None:
    parser.add_argument("bundle", metavar="BUNDLE", type=Path, help="bundle folder, or .edgetl file")
    _take_as(parser, "data", "path", "labelled photos", required=True)
    _take(parser, "data", "skip_bad")
    parser.add_argument(
        "--reference",
        metavar="MODEL",
        type=Path,
        help="the original, if the bundle has none: a checkpoint, or what it was made from",
    )
    parser.add_argument("--variants", metavar="ID,...", help="only these variants, separated by commas")
    _judge_options(parser)
    parser.add_argument("--markdown", metavar="FILE", type=Path, help="write the report for a job summary")
    parser.add_argument("--html", metavar="FILE", type=Path, help="write the report as a self-contained page")
    parser.add_argument("--junit", metavar="FILE", type=Path, help="write the verdict as JUnit XML")
    parser.add_argument("--write-gate", metavar="FILE.toml", type=Path, help="propose a gate from this report")
    parser.add_argument("--record", action="store_true", help="put what was found into the bundle, for the runtime")
    parser.add_argument(
        "--force",
        action="store_true",
        help="replace the file of --write-gate; record, or keep the original's answers to, fewer photos than were",
    )


def _pack_options(parser: Parser) -> None:
    parser.add_argument("bundle", metavar="BUNDLE", type=Path, help="bundle folder, .edgetl file, or one model file")
    parser.add_argument("--variants", metavar="ID,...", help="only these variants (default: all)")
    parser.add_argument("--golden", type=int, metavar="N", help="golden samples, to test the device (default: all)")
    _output(parser, "FILE.edgetl", "one file, or a folder where it has no such ending")


def _bench_options(parser: Parser) -> None:
    parser.add_argument("bundle", metavar="BUNDLE", help="bundle folder, .edgetl file, or one model file")
    parser.add_argument("--variants", metavar="ID,...", help="only these variants, separated by commas")
    _take_as(parser, "verify", "threads", "cores of one run", usual="all", title="options")
    parser.add_argument("--seconds", type=float, metavar="S", help="time per variant (default: 2)")
    parser.add_argument("--json", metavar="FILE", help="write the result as JSON; - is stdout")


def _inspect_options(parser: Parser) -> None:
    parser.add_argument("bundle", metavar="BUNDLE", help="bundle folder, .edgetl file, or one model file")
    parser.add_argument("--json", metavar="FILE", help="write the result as JSON; - is stdout")
    parser.add_argument("--layers", action="store_true", help="find the first layer that parts from the original")
    title = "with --layers"
    group = parser.group(title)
    group.add_argument("--variants", metavar="ID,...", help="only these variants, separated by commas")
    _take_as(parser, "data", "path", "photos", usual="golden samples", title=title)


def _backbones_options(parser: Parser) -> None:
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the list as JSON")


def _completion_options(parser: Parser) -> None:
    parser.add_argument("shell", metavar="SHELL", choices=SHELLS, help="bash, zsh or fish")


def _demo_options(parser: Parser) -> None:
    _take_as(parser, "data", "task", f"what is learned: {', '.join(TASKS)}", title="the demo", default="classification")
    parser.add_argument("--out", metavar="BUNDLE", type=Path, help="default: the photos' name, as digits.edgetl")
    parser.add_argument("--force", action="store_true", help="replace the bundle if it exists")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the report as JSON")


def _data_options(parser: Parser) -> None:
    _take(parser, "data", "path")
    _take(parser, "data")
    parser.group(_TITLES["data"]).add_argument(
        "--recipe", metavar="FILE.toml", type=Path, help="all options in one file; those given here win"
    )


def _judge_options(parser: Parser) -> None:
    _take(parser, "verify")
    parser.group(_TITLES["verify"]).add_argument("--json", metavar="FILE", type=Path, help="write the report as JSON")


def _output(parser: Parser, metavar: str, what: str) -> None:
    parser.add_argument("--out", metavar=metavar, type=Path, required=True, help=what)
    parser.add_argument("--force", action="store_true", help="replace it if it exists")


def _dry_run(parser: Parser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="look at photos and options, say how long it takes")


def _resume(parser: Parser) -> None:
    parser.add_rare("--resume", action="store_true", help="go on with a training that was interrupted")


_COMMANDS: dict[str, Callable[[Parser], None]] = {
    "run": _run_options,
    "train": _training_options,
    "lr-range": _lr_range_options,
    "export": _export_options,
    "verify": _verify_options,
    "pack": _pack_options,
    "bench": _bench_options,
    "inspect": _inspect_options,
    "backbones": _backbones_options,
    "compare": _compare_options,
    "learning-curve": _curve_options,
    "demo": _demo_options,
    "completion": _completion_options,
}
