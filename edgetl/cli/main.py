"""edgetl: the command line of the workbench. Results on stdout, progress and notes on stderr.

Exit codes: 0 done and passed, 1 a gate failed or a target could not be written, 2 the user can fix it;
`edgetl_runtime.commands` has the others.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgetl.cli.completion import completion
from edgetl.cli.ending import file_lines, next_after_export, next_after_run
from edgetl.cli.options import Command, build_parser
from edgetl.cli.parser import FORMER, Parser
from edgetl.cli.progress import say, tell
from edgetl.estimate import (
    USUAL_SPEED,
    Part,
    estimate_lines,
    parts_of_export,
    parts_of_run,
    parts_of_training,
    parts_of_verify,
)
from edgetl.progress import Progress
from edgetl.tasks import task_of
from edgetl.training.rank import is_first
from edgetl_runtime.commands import run_command, split_names
from edgetl_runtime.console import out, size, table
from edgetl_runtime.errors import EdgetlError, UsageError
from edgetl_runtime.escaping import json_on_screen
from edgetl_runtime.writing import check_writable, write_file

if TYPE_CHECKING:
    from edgetl.data.listing import Listing
    from edgetl.models.sources.foreign import Exportable
    from edgetl.option import Option
    from edgetl.recipe import Recipe
    from edgetl.verify.bundle import Outcome
    from edgetl_export.ladder import Rung

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. `argv` without the program's name, by default the process's own."""
    # Before torch is loaded: threads that spin while they wait take the cores from those that work.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    return run_command("edgetl", lambda: _command(argv))


def _command(argv: Sequence[str] | None) -> int:
    arguments = _parser().parse_args(argv)
    command: Command = arguments.command
    try:
        _check_reports(arguments)
        return command(arguments)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] in ("edgetl", "edgetl_export", "edgetl_runtime"):
            raise
        raise UsageError(f'{error.name} is not installed here: pip install "edgetl[all]"') from error
    except KeyboardInterrupt as interruption:
        raise type(interruption)(str(interruption) or "nothing was left behind") from None


def _parser() -> Parser:
    commands: dict[str, Command] = {
        "run": _run,
        "train": _train,
        "lr-range": _lr_range,
        "export": _export,
        "verify": _verify,
        "pack": _pack,
        "bench": _bench,
        "inspect": _inspect,
        "backbones": _backbones,
        "compare": _compare,
        "learning-curve": _learning_curve,
        "demo": _demo,
        "completion": _completion,
    }
    return build_parser(commands)


def _check_reports(arguments: argparse.Namespace) -> None:
    """What is written last is checked first: `OutputError` for a report in a folder that will not be there."""
    out = getattr(arguments, "out", None)
    made = () if out is None else out.absolute().parents
    for name in ("json", "markdown", "html", "junit", "write-gate", "plot"):
        path = getattr(arguments, name.replace("-", "_"), None)
        if not isinstance(path, Path):  # bench and inspect pass theirs on
            continue
        folder = path.absolute().parent
        if folder.is_dir() or folder not in made:
            check_writable(path, option=f"--{name}")


def _recipe(arguments: argparse.Namespace) -> Recipe:
    """The recipe file, or the defaults, with the options of the command line on top."""
    from edgetl.recipe import Recipe, declared_options, read_recipe

    file = getattr(arguments, "recipe", None)
    with warnings.catch_warnings(record=True) as former_names:
        warnings.simplefilter("always", FutureWarning)
        recipe = Recipe() if file is None else read_recipe(file)
    for warning in former_names:
        say(f"edgetl: warning: {warning.message}")
    changes: dict[str, dict[str, Any]] = {}
    for section, options in declared_options().items():
        for option in options:
            _take_former_name(option, arguments)
            value = getattr(arguments, option.dest, None) if option.flag else None
            if value is not None:
                changes.setdefault(section, {})[option.key] = value
    recipe = recipe.updated(changes, where="command line")
    if recipe.export.made_for is not None:
        export = recipe.export
        io = f" --io {export.io}" if export.io != "float" else ""
        say(
            f"for {export.made_for}: --targets {','.join(export.targets)} "
            f"--precisions {','.join(export.precisions)}{io}"
        )
    return recipe


def _take_former_name(option: Option, arguments: argparse.Namespace) -> None:
    """The flag that an option had works as its present one, and says so."""
    given = getattr(arguments, f"{FORMER}{option.former}", None) if option.former else None
    if given is None:
        return
    former = f"--{option.former.replace('_', '-')}"
    if getattr(arguments, option.dest) is not None:
        raise UsageError(f"{former} is the former name of {option.flag}: both are given", fix="leave one out")
    say(f"edgetl: warning: {former} is called {option.flag} now; {option.former_note}")
    setattr(arguments, option.dest, given)


def _run(arguments: argparse.Namespace) -> int:
    """Photos to a verified bundle: fine-tune, export, verify."""
    recipe = _recipe(arguments)
    listing = _first_look(arguments, recipe, holds="manifest.json")
    parts = [] if listing is None else parts_of_run(recipe, listing.split_sizes)
    if arguments.dry_run:
        return _dry_run(recipe, listing, parts_of_run)
    from edgetl import pipeline

    if not is_first():
        pipeline.train_along(recipe, arguments.out, resume=arguments.resume)
        return 0
    with Progress(parts) as track:
        outcome = pipeline.run(
            recipe,
            arguments.out,
            listing=listing,
            force=arguments.force,
            resume=arguments.resume,
            track=track,
            tell=tell,
        )
    return _conclude(outcome, json=arguments.json, made_for=recipe.export.made_for)


def _first_look(arguments: argparse.Namespace, recipe: Recipe, *, holds: str) -> Listing | None:
    """Where it goes, what it is told and the photos, before torch is imported: errors come at once."""
    from edgetl_export.staging import check_destination

    if is_first():
        check_destination(arguments.out, holds=holds, force=arguments.force)
    return _photos_of(recipe)


def _photos_of(recipe: Recipe) -> Listing | None:
    """What photos there are, told; where torch is not installed that is said before."""
    from edgetl.first_look import look_at_photos

    _check_torch()
    return look_at_photos(recipe, tell=tell)


def _check_torch() -> None:
    for name in ("torch", "torchvision"):
        if find_spec(name) is None:
            raise ModuleNotFoundError(name=name)  # as its import would, later


def _dry_run(recipe: Recipe, listing: Listing | None, parts_of: Callable[..., list[Part]]) -> int:
    """Look into the photos too, and say how long the rest would take."""
    from edgetl import pipeline
    from edgetl.estimate import measure_speed

    with Progress() as track:
        dataset = pipeline.check_all(recipe, track=track)
    told = [] if listing is None else listing.lines_on_files
    for note in dataset.notes:
        if note not in told:
            say(note)
    speed = measure_speed(recipe, [sample.source for sample in dataset.train if isinstance(sample.source, Path)])
    sizes = len(dataset.train), len(dataset.held_out[0])
    out("\n".join(estimate_lines(parts_of(recipe, sizes, speed), speed)))
    return 0


def _demo(arguments: argparse.Namespace) -> int:
    """The main job on photos that are made in code or ship inside a library; nothing is downloaded."""
    from edgetl import pipeline
    from edgetl.recipe import Recipe

    demo = task_of(arguments.task).demo()
    recipe, dataset = Recipe().updated(demo.recipe, where="the demo"), demo.dataset
    bundle = arguments.out or Path(f"{dataset.name}.edgetl")
    parts = parts_of_run(recipe, (len(dataset.train), len(dataset.held_out[0])))
    with Progress(parts) as track:
        outcome = pipeline.run(recipe, bundle, dataset=dataset, force=arguments.force, track=track)
    return _conclude(outcome, json=arguments.json)


def _train(arguments: argparse.Namespace) -> int:
    """Fine-tune a backbone on labelled photos; leaves a checkpoint."""
    recipe = _recipe(arguments)
    listing = _first_look(arguments, recipe, holds="checkpoint.json")
    parts = [] if listing is None else parts_of_training(recipe, listing.split_sizes)
    if arguments.dry_run:
        return _dry_run(recipe, listing, parts_of_training)
    from edgetl import pipeline

    with Progress(parts) as track:
        trained = pipeline.train_to(
            recipe,
            arguments.out,
            listing=listing,
            force=arguments.force,
            resume=arguments.resume,
            track=track,
            tell=tell,
        )
    if not is_first():
        return 0
    for note in trained.notes:
        say(note)
    best = trained.history.best
    where = trained.history.named(best)
    quality = f"{task_of(recipe.data.task).quality} {best.val_top1:.1%}"
    out(f"{arguments.out}: validation {quality} in {where}, {trained.seconds:.0f} s")
    return 0


def _lr_range(arguments: argparse.Namespace) -> int:
    """Find a learning rate: a short training whose rate grows until the loss does."""
    recipe = _recipe(arguments)
    listing = _photos_of(recipe)
    from edgetl import pipeline

    with Progress() as track:
        found = pipeline.find_rate(recipe, listing=listing, track=track, tell=say)
    if arguments.plot is not None:
        found.plot(arguments.plot)
    if arguments.json is not None:
        found.save(arguments.json)
    out(str(found))
    return 0


def _export(arguments: argparse.Namespace) -> int:
    """Export a checkpoint, or a plain torchvision weights file, to a bundle."""
    from edgetl.first_look import look_at_calibration

    recipe = _recipe(arguments)
    _check_torch()
    n = look_at_calibration(arguments.checkpoint, arguments.calibration, channels=arguments.channels, tell=say)
    from edgetl import pipeline
    from edgetl.models.sources.opening import SourceOptions

    said = SourceOptions(
        backbone=arguments.backbone,
        weights=None if arguments.weights is None else Path(arguments.weights),
        labels=arguments.labels,
        image_size=recipe.model.image_size,
        channels=arguments.channels,
        decode=arguments.decode,
        normalize=recipe.model.normalize,
        pixels=arguments.pixels,
        resize=recipe.model.resize,
        interpolation=arguments.interpolation,
        custom=arguments.custom,
    )
    checkpoint = pipeline.open_to_export(arguments.checkpoint, arguments.calibration, said, tell=say)
    photos = recipe.export.calibration_samples if n is None else n
    if arguments.dry_run:
        out("\n".join(estimate_lines(parts_of_export(recipe.export, photos), USUAL_SPEED)))
        return 0
    with Progress(parts_of_export(recipe.export, photos)) as track:
        exported = pipeline.export_checkpoint(
            checkpoint,
            arguments.calibration,
            arguments.out,
            recipe.export,
            came_from=arguments.checkpoint,
            skip_bad=recipe.data.skip_bad,
            force=arguments.force,
            track=track,
            tell=say,
        )
    out("\n".join(file_lines(arguments.out, exported.manifest)))
    for variant_id, reason in exported.failed.items():
        say(f"FAIL  {variant_id}: {reason}")
    for warning in exported.warnings:
        say(f"warning: {warning}")
    _tell_rungs(exported.rungs)
    for variant_id, reason in exported.over_budget.items():
        say(f"FAIL  {variant_id}: {reason}")
    for line in next_after_export(arguments.out, exported.manifest):
        say(line)
    return 1 if exported.failed or exported.over_budget else 0


def _tell_rungs(rungs: Sequence[Rung]) -> None:
    """What the ladder gave, rung by rung."""
    for rung in rungs:
        mark = "*" if rung.kept else " "
        note = f"  ({rung.note})" if rung.note else ""
        changed = round(rung.drop * rung.n)
        out(f"{mark} {rung.variant:15} {rung.rung:8} {changed:3d} of {rung.n} change, {rung.sqnr_db:5.1f} dB{note}")


def _verify(arguments: argparse.Namespace) -> int:
    """Hold every variant of a bundle against the model it came from, on labelled photos.

    The bundle is left as it is; --record puts what was found into it.
    """
    # What needs torch is imported by these when it is used: this command runs on devices.
    from edgetl.first_look import look_at_judges
    from edgetl.recipe import verify_options
    from edgetl.reports.writing import ReportFiles, write_report
    from edgetl.verify.bundle import verify_bundle
    from edgetl.verify.gate.propose import check_gate_path, write_gate
    from edgetl_runtime.bundle import open_bundle

    recipe = _recipe(arguments)
    if arguments.write_gate is not None:
        check_gate_path(arguments.write_gate, force=arguments.force)
    manifest = open_bundle(arguments.bundle).manifest
    n = look_at_judges(arguments.data, manifest)
    variants = None if arguments.variants is None else split_names(arguments.variants)
    with Progress([] if n is None else parts_of_verify(n, len(variants or manifest.variants))) as track:
        outcome = verify_bundle(
            arguments.bundle,
            arguments.data,
            dataclasses.replace(verify_options(recipe), precise=arguments.write_gate is not None),
            variants=variants,
            reference=None if arguments.reference is None else _reference(arguments.reference, arguments.bundle),
            skip_bad=recipe.data.skip_bad,
            keep_reference=recipe.verify.keep_reference,
            record=arguments.record,
            force=arguments.force,
            track=track,
        )
    bundle = ReportFiles.in_folder(arguments.bundle).bundle
    files = {name: getattr(arguments, name) for name in ("json", "html", "markdown", "junit")}
    write_report(outcome.report, ReportFiles(**files, bundle=bundle))
    if arguments.write_gate is not None:
        proposal = write_gate(outcome.report, arguments.write_gate, force=arguments.force)
        say(f"proposed gate: {arguments.write_gate}")
        for note in proposal.notes:
            say(f"NOTE  {note}")
    how = "; --record puts it there" if bundle else ", which is one file"
    said = [f"the report was not recorded in {arguments.bundle}{how}"]
    problem = None
    if arguments.record:
        try:  # first, so that nothing that goes wrong with the screen loses it
            said = _recorded(outcome, force=arguments.force, photos=not recipe.verify.no_photos)
        except EdgetlError as error:
            problem = error
    code = _conclude(outcome, json=None, recorded=False)
    if problem is not None:
        raise problem
    for line in said:
        say(line)
    return code


def _recorded(outcome: Outcome, *, force: bool, photos: bool) -> list[str]:
    """Put the report into its bundle; what there is to say about that."""
    from edgetl.reports.recording import record_report
    from edgetl.reports.table import verdict_line

    recorded = record_report(outcome.report, outcome.bundle, force=force, photos=photos)
    return [*recorded.notes, f"recorded in {outcome.bundle}: {verdict_line(recorded.report)}"]


def _reference(named: Path, bundle: Path) -> Exportable:
    from edgetl.models.sources.opening import open_reference

    return open_reference(named, bundle)


def _pack(arguments: argparse.Namespace) -> int:
    """Put into one file what a device needs of a bundle: some variants, without the checkpoint."""
    from edgetl.pack import pack_bundle

    variants = None if arguments.variants is None else split_names(arguments.variants)
    packed = pack_bundle(
        arguments.bundle, arguments.out, variants=variants, golden=arguments.golden, force=arguments.force
    )
    for variant in packed.manifest.variants:
        out(f"{variant.id:16} {size(variant.bytes):>9}  {variant.files[0].path}")
    out(f"{arguments.out}: {size(packed.bytes)}")
    samples = packed.manifest.golden
    if samples is not None:
        bytes_of = samples.expected.bytes + sum(image.bytes for image in samples.images)
        fewer = "; --golden 4 keeps four" if samples.n > 4 and 2 * bytes_of > packed.bytes else ""
        out(f"{samples.n} golden samples, for the self-test: {size(bytes_of)}{fewer}")
    left_out = (*packed.left_out.variants, *packed.left_out.files)
    if left_out:
        say(f"left out: {', '.join(left_out)}")
    say(f"on the device: edgetl-run self-test {arguments.out.name}")
    return 0


def _bench(arguments: argparse.Namespace) -> int:
    """Measure latency of every variant that runs here."""
    options = ("variants", "threads", "seconds", "json")
    return _on_device("bench", arguments, options)


def _inspect(arguments: argparse.Namespace) -> int:
    """Show what is in a bundle, what of it runs here, what verification said; --layers: where variants go wrong."""
    if arguments.layers:
        return _inspect_layers(arguments)
    for name in ("variants", "data"):
        if getattr(arguments, name) is not None:
            raise UsageError(f"--{name.replace('_', '-')} goes with --layers", fix="edgetl inspect BUNDLE --layers ...")
    return _on_device("info", arguments, ("json",))


def _inspect_layers(arguments: argparse.Namespace) -> int:
    """The float model and the variants side by side, layer by layer."""
    from edgetl.data.dataset import load_photos
    from edgetl.verify.inspect import inspect_layers
    from edgetl_runtime.bundle import open_bundle

    images = None
    if arguments.data is not None:
        spec = open_bundle(arguments.bundle).manifest.preprocess
        images = [photo.source for photo in load_photos(arguments.data, spec=spec, tell=say)]
    found = inspect_layers(
        Path(arguments.bundle),
        variants=None if arguments.variants is None else tuple(split_names(arguments.variants)),
        images=images,
    )
    if arguments.json == "-":
        print(json_on_screen(found.to_json()), flush=True)
        return 0
    if arguments.json is not None:
        write_file(Path(arguments.json), found.to_json() + "\n")
    out("\n".join(found.lines()))
    return 0


def _on_device(command: str, arguments: argparse.Namespace, options: tuple[str, ...]) -> int:
    """What edgetl-run does too is done by it."""
    from edgetl_runtime.cli import main as run_on_device

    given = [(name, getattr(arguments, name)) for name in options]
    words = [command, arguments.bundle, *(f"--{name}={value}" for name, value in given if value is not None)]
    return run_on_device(words, program="edgetl")


def _backbones(arguments: argparse.Namespace) -> int:
    """List every backbone: parameters, GMACs, input size, published top-1, and the targets it has been tried with."""
    import dataclasses
    import json

    from edgetl.models.backbones import list_backbones, timm_backbones

    infos = [*list_backbones(), *timm_backbones()]
    if arguments.json is not None:
        document = {"schema": 1, "backbones": [dataclasses.asdict(info) for info in infos]}
        write_file(arguments.json, json.dumps(document, indent=1) + "\n")
    tried = [", ".join(target for target, done in info.tried.items() if done) or "-" for info in infos]
    rows = [
        (
            info.name,
            f"{info.params / 1e6:.2f}",
            f"{info.gmacs:.2f}",
            str(info.image_size),
            "-" if info.top1 is None else f"{info.top1:.2f}",
            targets,
        )
        for info, targets in zip(infos, tried, strict=True)
    ]
    out("\n".join(table(("backbone", "params M", "GMACs", "input", "top-1 %", "tried with"), rows)))
    out("also any other network of timm (timm:NAME), and your own (module.py:function)")
    return 0


def _completion(arguments: argparse.Namespace) -> int:
    """Print the tab completion of a shell."""
    names: list[str] = []
    if find_spec("torchvision") is not None:
        from edgetl.models.backbones import backbone_names

        names = backbone_names()
    out(completion(_parser(), arguments.shell, {"--backbone": names, "--backbones": names}).rstrip())
    return 0


def _compare(arguments: argparse.Namespace) -> int:
    """Train, export and measure several backbones on your photos, side by side on this machine."""
    arguments.weights, weights = _weights_by_backbone(arguments.weights)
    recipe = _recipe(arguments)
    _photos_of(recipe)
    from edgetl.studies.backbone_comparison import CompareOptions, compare_backbones
    from edgetl.studies.backbone_comparison_views import (
        render_comparison_markdown,
        render_comparison_page,
        render_comparison_terminal,
    )
    from edgetl.studies.backbone_results import BackboneResult

    options = CompareOptions(tuple(split_names(arguments.backbones)), weights)
    if arguments.within is not None:
        options = dataclasses.replace(options, within=arguments.within / 100)

    def tell(result: BackboneResult) -> None:
        say(
            f"{result.backbone}: " + (f"top-1 {result.top1:.1%}" if result.error is None else f"failed: {result.error}")
        )

    with Progress() as track:
        found = compare_backbones(recipe, arguments.out, options, force=arguments.force, track=track, tell=tell)
    for suffix, text in {
        "html": render_comparison_page(found),
        "json": found.to_json(),
        "md": render_comparison_markdown(found),
    }.items():
        write_file(arguments.out / f"comparison.{suffix}", text)
    if arguments.json is not None:
        write_file(arguments.json, found.to_json())
    out(render_comparison_terminal(found))
    say(f"page: {arguments.out / 'comparison.html'}")
    return 1 if found.failed else 0


def _weights_by_backbone(text: str | None) -> tuple[str | None, dict[str, str]]:
    """``none,mobilenet_v2=FILE``: the weights of all, and by backbone those of single ones."""
    parts = [part.partition("=") for part in split_names(text or "") if part]
    of_all = [name for name, sign, _ in parts if not sign]
    if len(of_all) > 1:
        raise UsageError(f"--weights {text} gives all backbones two", fix="NAME=FILE for a single one")
    return next(iter(of_all), None), {name: value for name, sign, value in parts if sign}


def _learning_curve(arguments: argparse.Namespace) -> int:
    """Measure accuracy against the number of training photos, transfer against from scratch."""
    recipe = _recipe(arguments)
    _photos_of(recipe)
    from edgetl.studies.learning_curve import CurveOptions, CurvePoint, learning_curve
    from edgetl.studies.learning_curve_views import render_curve_page, render_curve_terminal

    given = {"seeds": arguments.seeds, "scratch_epochs": arguments.from_scratch_epochs}
    options = dataclasses.replace(CurveOptions(), **{name: n for name, n in given.items() if n is not None})
    if arguments.fractions is not None:
        options = dataclasses.replace(options, fractions=_numbers(arguments.fractions, option="--fractions"))

    def tell(point: CurvePoint) -> None:
        say(f"{point.start}, {point.n} photos, seed {point.seed}: {point.top1:.1%} ({point.seconds:.0f} s)")

    with Progress() as track:
        curve = learning_curve(recipe, arguments.out, options, track=track, tell=tell)
    page = arguments.out / "learning-curve.html"
    write_file(page, render_curve_page(curve))
    write_file(arguments.out / "learning-curve.json", curve.to_json())
    if arguments.json is not None:
        write_file(arguments.json, curve.to_json())
    out(render_curve_terminal(curve))
    say(f"page: {page}")
    return 0


def _numbers(text: str, *, option: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(
            f"{option} {text!r} are no numbers", fix="numbers with commas between, such as 0.1,0.5,1"
        ) from None


def _conclude(outcome: Outcome, *, json: Path | None, recorded: bool = True, made_for: str | None = None) -> int:
    """Show the report, write it where it is wanted, and turn its verdict into an exit code.

    `recorded`: the bundle holds it too; what comes next is said then, and `made_for` is what it is for.
    """
    from edgetl.reports.terminal import render_terminal
    from edgetl.reports.writing import ReportFiles, write_report
    from edgetl_runtime.bundle import open_bundle

    write_report(outcome.report, ReportFiles(json=json))
    for note in outcome.notes:
        say(note)
    out(render_terminal(outcome.report))
    for variant_id, reason in outcome.over_budget.items():
        say(f"FAIL  {variant_id}: {reason}")
    if recorded:
        out("")
        out("\n".join(file_lines(outcome.bundle, open_bundle(outcome.bundle).manifest)))
        say(f"report: {outcome.bundle / 'report.html'}")
        for line in next_after_run(outcome.bundle, outcome.report, made_for=made_for):
            say(line)
    return 0 if outcome.report.verdict.passed and not outcome.over_budget else 1


if __name__ == "__main__":
    sys.exit(main())
