"""The commands on bundles: export, verify, pack, bench, inspect."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgetl.cli.arguments import check_torch, recipe_of
from edgetl.cli.ending import conclude, file_lines, next_after_export
from edgetl.cli.progress import say
from edgetl.estimate import USUAL_SPEED, estimate_lines, parts_of_export, parts_of_verify
from edgetl.progress import Progress
from edgetl_export.changes import drop_in_words
from edgetl_runtime.commands import split_names
from edgetl_runtime.console import out, size
from edgetl_runtime.errors import EdgetlError, UsageError
from edgetl_runtime.escaping import json_on_screen
from edgetl_runtime.writing import write_file

if TYPE_CHECKING:
    from edgetl.models.sources.foreign import Exportable
    from edgetl.verify.bundle import Outcome
    from edgetl_export.ladder import Rung

__all__ = ["bench", "export", "inspect", "pack", "verify"]


def export(arguments: argparse.Namespace) -> int:
    """Export a checkpoint, or a plain torchvision weights file, to a bundle."""
    from edgetl.first_look import look_at_calibration

    recipe = recipe_of(arguments)
    check_torch()
    n = look_at_calibration(arguments.checkpoint, arguments.calibration, channels=arguments.channels, tell=say)
    from edgetl import pipeline
    from edgetl.models.sources.opening import SourceOptions
    from edgetl.open_to_export import open_to_export

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
    checkpoint = open_to_export(arguments.checkpoint, arguments.calibration, said, tell=say)
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
        changed = drop_in_words(rung.drop, rung.n)
        out(f"{mark} {rung.variant:15} {rung.rung:8} {changed:>13}, {rung.sqnr_db:5.1f} dB{note}")


def verify(arguments: argparse.Namespace) -> int:
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

    recipe = recipe_of(arguments)
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
    code = conclude(outcome, json=None, recorded=False)
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


def pack(arguments: argparse.Namespace) -> int:
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


def bench(arguments: argparse.Namespace) -> int:
    """Measure latency of every variant that runs here."""
    options = ("variants", "threads", "seconds", "json")
    return _on_device("bench", arguments, options)


def inspect(arguments: argparse.Namespace) -> int:
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
