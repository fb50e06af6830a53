"""The commands that train: run, train, lr-range, demo."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from edgetl.cli.arguments import first_look, photos_of, recipe_of
from edgetl.cli.ending import conclude
from edgetl.cli.progress import say, tell
from edgetl.estimate import Part, estimate_lines, parts_of_run, parts_of_training
from edgetl.progress import Progress
from edgetl.tasks import task_of
from edgetl.training.rank import is_first
from edgetl_runtime.console import out

if TYPE_CHECKING:
    from edgetl.data.listing import Listing
    from edgetl.recipe import Recipe

__all__ = ["demo", "lr_range", "run", "train"]


def run(arguments: argparse.Namespace) -> int:
    """Photos to a verified bundle: fine-tune, export, verify."""
    recipe = recipe_of(arguments)
    listing = first_look(arguments, recipe, holds="manifest.json")
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
    return conclude(outcome, json=arguments.json, made_for=recipe.export.made_for)


def train(arguments: argparse.Namespace) -> int:
    """Fine-tune a backbone on labelled photos; leaves a checkpoint."""
    recipe = recipe_of(arguments)
    listing = first_look(arguments, recipe, holds="checkpoint.json")
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


def lr_range(arguments: argparse.Namespace) -> int:
    """Find a learning rate: a short training whose rate grows until the loss does."""
    recipe = recipe_of(arguments)
    listing = photos_of(recipe)
    from edgetl import pipeline

    with Progress() as track:
        found = pipeline.find_rate(recipe, listing=listing, track=track, tell=say)
    if arguments.plot is not None:
        found.plot(arguments.plot)
    if arguments.json is not None:
        found.save(arguments.json)
    out(str(found))
    return 0


def demo(arguments: argparse.Namespace) -> int:
    """The main job on photos that are made in code or ship inside a library; nothing is downloaded."""
    from edgetl import pipeline
    from edgetl.recipe import Recipe

    demo = task_of(arguments.task).demo()
    recipe, dataset = Recipe().updated(demo.recipe, where="the demo"), demo.dataset
    bundle = arguments.out or Path(f"{dataset.name}.edgetl")
    parts = parts_of_run(recipe, (len(dataset.train), len(dataset.held_out[0])))
    with Progress(parts) as track:
        outcome = pipeline.run(recipe, bundle, dataset=dataset, force=arguments.force, track=track)
    return conclude(outcome, json=arguments.json)


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
