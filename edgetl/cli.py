"""edgetl: the command line of the workbench. Results on stdout, progress and notes on stderr.

Exit codes: 0 done and passed, 1 a gate failed or a target could not be written, 2 the user can fix it, 130 interrupted.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgetl.console import say, track
from edgetl_runtime import __version__
from edgetl_runtime.errors import EdgetlError, MissingDependency, OutputError, UsageError

if TYPE_CHECKING:
    from edgetl.checkpoint import Checkpoint
    from edgetl.judging import Outcome
    from edgetl.recipe import Recipe
    from edgetl_export.ladder import Rung

__all__ = ["main"]

_INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. `argv` without the program's name, by default the process's own."""
    arguments = _parser().parse_args(argv)
    command: Callable[[argparse.Namespace], int] = arguments.command
    try:
        _check_reports(arguments)
        return command(arguments)
    except EdgetlError as error:
        say(f"edgetl: error: {error}")
        return 2
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] in ("edgetl", "edgetl_export", "edgetl_runtime"):
            raise
        say(f'edgetl: error: {error.name} is not installed here: pip install "edgetl[all]"')
        return 2
    except KeyboardInterrupt:
        say("edgetl: interrupted; nothing was left behind")
        return _INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="edgetl",
        description="Photos to a small model that runs, and is proven to run, on a device.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"edgetl {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def add(name: str, command: Callable[[argparse.Namespace], int]) -> argparse.ArgumentParser:
        about = (command.__doc__ or "").strip()
        sub = commands.add_parser(name, help=about.splitlines()[0], description=about)
        sub.set_defaults(command=command)
        return sub

    run = add("run", _run)
    _data_options(run)
    _train_options(run)
    _export_options(run)
    _judge_options(run)
    _output(run, "BUNDLE", "the bundle, e.g. flowers.edgetl")
    training = add("train", _train)
    _data_options(training)
    _train_options(training)
    _output(training, "CHECKPOINT_DIR", "the checkpoint folder")
    exporting = add("export", _export)
    exporting.add_argument(
        "checkpoint", metavar="CHECKPOINT", type=Path, help="checkpoint folder, .pth or .safetensors"
    )
    exporting.add_argument("--calibration", metavar="DIR", type=Path, required=True, help="photos like the device's")
    exporting.add_argument("--backbone", metavar="NAME", help="architecture of a plain weights file")
    exporting.add_argument("--labels", metavar="FILE", type=Path, help="labels of a plain weights file")
    exporting.add_argument("--image-size", metavar="N", type=int, help="pixels, for a plain weights file")
    _export_options(exporting)
    _output(exporting, "BUNDLE", "the bundle")
    verifying = add("verify", _verify)
    verifying.add_argument("bundle", metavar="BUNDLE", type=Path)
    verifying.add_argument("--data", metavar="DIR", type=Path, required=True, help="labelled photos")
    verifying.add_argument("--reference", metavar="CHECKPOINT", type=Path, help="the original, if the bundle has none")
    verifying.add_argument("--variants", metavar="ID,...", help="only these variants, separated by commas")
    verifying.add_argument("--skip-bad", action="store_true", help="go on without unreadable images")
    _judge_options(verifying)
    verifying.add_argument("--markdown", metavar="FILE", type=Path, help="write the report for a job summary")
    verifying.add_argument("--html", metavar="FILE", type=Path, help="write the report as a self-contained page")
    verifying.add_argument("--junit", metavar="FILE", type=Path, help="write the verdict as JUnit XML")
    verifying.add_argument("--write-gate", metavar="FILE.toml", type=Path, help="propose a gate from this report")
    verifying.add_argument("--force", action="store_true", help="replace the file of --write-gate if it exists")
    bench = add("bench", _bench)
    bench.add_argument("bundle", metavar="BUNDLE")
    bench.add_argument("--variants", metavar="ID,...", help="only these variants, separated by commas")
    bench.add_argument("--threads", metavar="N", help="cores of one run (default: all)")
    bench.add_argument("--seconds", metavar="S", help="time per variant (default: 2)")
    bench.add_argument("--json", metavar="FILE", help="write the result as JSON; - is stdout")
    inspecting = add("inspect", _inspect)
    inspecting.add_argument("bundle", metavar="BUNDLE", help="bundle folder, .edgetl file, or one model file")
    inspecting.add_argument("--json", metavar="FILE", help="write the result as JSON; - is stdout")
    inspecting.add_argument("--layers", action="store_true", help="find the first layer that parts from the original")
    inspecting.add_argument("--variants", metavar="ID,...", help="with --layers: only these, separated by commas")
    inspecting.add_argument("--data", metavar="DIR", type=Path, help="with --layers: photos (default: golden samples)")
    inspecting.add_argument(
        "--save-repro", metavar="DIR", type=Path, help="with --layers: save the smallest piece that cannot be converted"
    )
    backbones = add("backbones", _backbones)
    backbones.add_argument("--json", metavar="FILE", type=Path, help="write the list as JSON")
    demo = add("demo", _demo)
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
    group.add_argument("--skip-bad", action="store_true", default=None, help="go on without unreadable images")
    group.add_argument("--recipe", metavar="FILE.toml", type=Path, help="all options in one file; those given here win")


def _train_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("training")
    group.add_argument("--backbone", metavar="NAME", help="default: mobilenet_v2; `edgetl backbones` lists all")
    group.add_argument("--weights", metavar="imagenet|none|FILE", help="what to start from (default: imagenet)")
    group.add_argument("--strategy", metavar="head|last:N|full", help="what is trained (default: head)")
    group.add_argument("--epochs", type=int, metavar="N")
    group.add_argument("--batch-size", type=int, metavar="N")
    group.add_argument("--lr", type=float, metavar="RATE", help="learning rate of the head")
    group.add_argument("--augment", metavar="photo|shift|none")
    group.add_argument("--qat", action="store_true", default=None, help="go on with int8 simulated (minutes, on a CPU)")
    group.add_argument("--image-size", type=int, metavar="N", help="pixels (default: the backbone's own, often 224)")
    group.add_argument("--seed", type=int, metavar="N")
    group.add_argument("--device", metavar="auto|cpu|cuda")


def _export_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("export")
    group.add_argument("--targets", metavar="NAME,...", help="default: onnx,tflite,openvino")
    group.add_argument("--precisions", metavar="NAME,...", help="default: fp32,fp16,int8")
    group.add_argument(
        "--calibration-samples", type=int, metavar="N", help="images to calibrate int8 on (default: 250)"
    )
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


def _check_reports(arguments: argparse.Namespace) -> None:
    """What is written last is checked first: `OutputError` for a report in a folder that will not be there."""
    out = getattr(arguments, "out", None)
    made = () if out is None else out.absolute().parents
    for name in ("json", "markdown", "html", "junit", "write-gate"):
        path = getattr(arguments, name.replace("-", "_"), None)
        if not isinstance(path, Path):  # bench and inspect pass theirs on
            continue
        folder = path.absolute().parent
        if path.is_dir() or not (folder.is_dir() or folder in made):
            what = "is a folder" if path.is_dir() else f"lies in {folder}, which does not exist"
            raise OutputError(
                f"cannot write {path}: it {what}", fix=f"name a file in a folder that exists: --{name} FILE"
            )


_EXPORT_KEYS = (
    *("targets", "precisions", "calibration_samples", "quantize", "max_drop", "tune_data", "ranges", "int8_safe"),
    *("io", "activation", "no_se", "distill_epochs", "distill_minutes"),
)

_SECTIONS = {
    "data": {"data": "path", "val": "val", "skip_bad": "skip_bad"},
    "model": {"backbone": "backbone", "weights": "weights", "image_size": "image_size"},
    "train": {name: name for name in ("strategy", "epochs", "batch_size", "lr", "augment", "qat", "seed", "device")},
    "export": {name: name for name in _EXPORT_KEYS},
    "verify": {name: name for name in ("gate", "threads", "memory", "baseline", "keep_reference")},
}
"""Section of the recipe -> option of the command line -> key."""


def _recipe(arguments: argparse.Namespace) -> Recipe:
    """The recipe file, or the defaults, with the options of the command line on top."""
    from edgetl.recipe import Recipe, read_recipe

    file = getattr(arguments, "recipe", None)
    recipe = Recipe() if file is None else read_recipe(file)
    changes: dict[str, dict[str, Any]] = {}
    for section, options in _SECTIONS.items():
        for option, key in options.items():
            value = getattr(arguments, option, None)
            if value is not None:
                split = option in ("targets", "precisions")
                changes.setdefault(section, {})[key] = value.split(",") if split else value
    return recipe.updated(changes, where="command line")


def _run(arguments: argparse.Namespace) -> int:
    """Photos to a verified bundle: fine-tune, export, verify."""
    from edgetl import pipeline

    outcome = pipeline.run(_recipe(arguments), arguments.out, force=arguments.force, track=track)
    return _conclude(outcome, json=arguments.json)


def _demo(arguments: argparse.Namespace) -> int:
    """The main job on 1,797 handwritten digits that ship inside scikit-learn; nothing is downloaded."""
    from edgetl import pipeline
    from edgetl.data import demo_digits
    from edgetl.recipe import demo_recipe

    outcome = pipeline.run(demo_recipe(), arguments.out, dataset=demo_digits(), force=arguments.force, track=track)
    return _conclude(outcome, json=arguments.json)


def _train(arguments: argparse.Namespace) -> int:
    """Fine-tune a backbone on labelled photos; leaves a checkpoint."""
    from edgetl import pipeline

    trained = pipeline.train_to(_recipe(arguments), arguments.out, force=arguments.force, track=track)
    for note in trained.notes:
        say(note)
    best = trained.history.best
    print(f"{arguments.out}: validation top-1 {best.val_top1:.1%} in epoch {best.epoch}, {trained.seconds:.0f} s")
    return 0


def _export(arguments: argparse.Namespace) -> int:
    """Export a checkpoint, or a plain torchvision weights file, to a bundle."""
    from edgetl import pipeline
    from edgetl.checkpoint import open_checkpoint

    checkpoint = open_checkpoint(
        arguments.checkpoint,
        backbone=arguments.backbone,
        labels=arguments.labels,
        image_size=arguments.image_size,
    )
    if arguments.checkpoint.is_file() and arguments.labels is None:
        checkpoint, note = pipeline.labelled_by_folders(checkpoint, arguments.calibration)
        say(note)
    exported = pipeline.export_checkpoint(
        checkpoint,
        arguments.calibration,
        arguments.out,
        _recipe(arguments).export,
        force=arguments.force,
        track=track,
    )
    for variant in exported.manifest.variants:
        print(f"{variant.id:16} {variant.bytes / 1e6:8.2f} MB  {variant.files[0].path}")
    for variant_id, reason in exported.failed.items():
        say(f"FAIL  {variant_id}: {reason}")
    for warning in exported.warnings:
        say(f"warning: {warning}")
    _tell_rungs(exported.rungs)
    for variant_id, reason in exported.over_budget.items():
        say(f"FAIL  {variant_id}: {reason}")
    say(f"{arguments.out}: not verified yet - edgetl verify {arguments.out} --data FOLDER")
    return 1 if exported.failed or exported.over_budget else 0


def _tell_rungs(rungs: Sequence[Rung]) -> None:
    """What the ladder gave, rung by rung."""
    for rung in rungs:
        mark = "*" if rung.kept else " "
        note = f"  ({rung.note})" if rung.note else ""
        changed = round(rung.drop * rung.n)
        print(f"{mark} {rung.variant:15} {rung.rung:8} {changed:3d} of {rung.n} change, {rung.sqnr_db:5.1f} dB{note}")


def _verify(arguments: argparse.Namespace) -> int:
    """Hold every variant of a bundle against the model it came from, on labelled photos."""
    # What needs torch is imported by these when it is used: this command runs on devices.
    from edgetl.judging import verify_bundle, verify_options
    from edgetl.verify.gate_writing import check_gate_path, write_gate
    from edgetl.verify.writing import ReportFiles, write_report

    recipe = _recipe(arguments)
    if arguments.write_gate is not None:
        check_gate_path(arguments.write_gate, force=arguments.force)
    outcome = verify_bundle(
        arguments.bundle,
        arguments.data,
        dataclasses.replace(verify_options(recipe), precise=arguments.write_gate is not None),
        variants=None if arguments.variants is None else arguments.variants.split(","),
        reference=None if arguments.reference is None else _checkpoint(arguments.reference),
        skip_bad=arguments.skip_bad,
        keep_reference=recipe.verify.keep_reference,
        track=track,
    )
    in_folder = ReportFiles.in_folder(arguments.bundle)
    try:
        write_report(outcome.report, in_folder)
    except MissingDependency as error:
        # A page that nobody asked for: a device has the rest.
        write_report(outcome.report, dataclasses.replace(in_folder, html=None))
        say(f"report.html was not written: {error}")
    write_report(
        outcome.report,
        ReportFiles(html=arguments.html, markdown=arguments.markdown, junit=arguments.junit, bundle=in_folder.bundle),
    )
    if arguments.write_gate is not None:
        write_gate(outcome.report, arguments.write_gate, force=arguments.force)
        say(f"proposed gate: {arguments.write_gate}")
    return _conclude(outcome, json=arguments.json)


def _checkpoint(path: Path) -> Checkpoint:
    from edgetl.checkpoint import Checkpoint

    return Checkpoint.load(path)


def _bench(arguments: argparse.Namespace) -> int:
    """Measure latency of every variant that runs here."""
    options = ("variants", "threads", "seconds", "json")
    return _on_device("bench", arguments, options)


def _inspect(arguments: argparse.Namespace) -> int:
    """Show what is in a bundle, what of it runs here, what verification said; --layers: where variants go wrong."""
    if arguments.layers:
        return _inspect_layers(arguments)
    for name in ("variants", "data", "save_repro"):
        if getattr(arguments, name) is not None:
            raise UsageError(f"--{name.replace('_', '-')} goes with --layers", fix="edgetl inspect BUNDLE --layers ...")
    return _on_device("info", arguments, ("json",))


def _inspect_layers(arguments: argparse.Namespace) -> int:
    """The float model and the variants side by side, layer by layer."""
    from edgetl.data import load_photos
    from edgetl.verify.inspection import inspect_layers
    from edgetl.verify.writing import write_text

    found = inspect_layers(
        Path(arguments.bundle),
        variants=None if arguments.variants is None else tuple(arguments.variants.split(",")),
        images=None if arguments.data is None else [photo.source for photo in load_photos(arguments.data)],
        save_repro=arguments.save_repro,
    )
    if arguments.json == "-":
        print(found.to_json())
        return 0
    if arguments.json is not None:
        write_text(Path(arguments.json), found.to_json() + "\n")
    print("\n".join(found.lines()))
    return 0


def _on_device(command: str, arguments: argparse.Namespace, options: tuple[str, ...]) -> int:
    """What edgetl-run does too is done by it."""
    from edgetl_runtime.cli import main as run_on_device

    given = [(name, getattr(arguments, name)) for name in options]
    return run_on_device(
        [command, arguments.bundle, *(f"--{name}={value}" for name, value in given if value is not None)]
    )


def _backbones(arguments: argparse.Namespace) -> int:
    """List every backbone: parameters, GMACs, input size, published top-1, and the targets it has been tried with."""
    import dataclasses
    import json

    from edgetl.backbones import list_backbones
    from edgetl.verify.writing import write_text

    infos = list_backbones()
    if arguments.json is not None:
        rows = [dataclasses.asdict(info) for info in infos]
        write_text(arguments.json, json.dumps({"schema": 1, "backbones": rows}, indent=1) + "\n")
    print(f"{'backbone':22} {'params M':>9} {'GMACs':>7} {'input':>6} {'top-1 %':>8}  tried with")
    for info in infos:
        tried = ", ".join(target for target, done in info.tried.items() if done) or "-"
        print(
            f"{info.name:22} {info.params / 1e6:9.2f} {info.gmacs:7.2f} {info.image_size:6d} {info.top1:8.2f}  {tried}"
        )
    return 0


def _conclude(outcome: Outcome, *, json: Path | None) -> int:
    """Show the report, write it where it is wanted, and turn its verdict into an exit code."""
    from edgetl.verify.terminal import render_terminal
    from edgetl.verify.writing import ReportFiles, write_report

    write_report(outcome.report, ReportFiles(json=json))
    for note in outcome.notes:
        say(note)
    print(render_terminal(outcome.report))
    if outcome.bundle.is_dir():
        say(f"report: {outcome.bundle / 'report.html'}")
    for variant_id, reason in outcome.over_budget.items():
        say(f"FAIL  {variant_id}: {reason}")
    return 0 if outcome.report.verdict.passed and not outcome.over_budget else 1


if __name__ == "__main__":
    sys.exit(main())
