"""The commands that compare: backbones, compare, learning-curve."""

from __future__ import annotations

import argparse
import dataclasses
import json

from edgetl.cli.arguments import numbers, photos_of, recipe_of
from edgetl.cli.progress import say
from edgetl.progress import Progress
from edgetl.tasks import task_of
from edgetl_runtime.commands import split_names
from edgetl_runtime.console import out, table
from edgetl_runtime.errors import UsageError
from edgetl_runtime.writing import write_file

__all__ = ["backbones", "compare", "learning_curve"]


def compare(arguments: argparse.Namespace) -> int:
    """Train, export and measure several backbones on your photos, side by side on this machine."""
    arguments.weights, weights = _weights_by_backbone(arguments.weights)
    recipe = recipe_of(arguments)
    photos_of(recipe)
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
        quality = task_of(recipe.data.task).quality
        reached = f"{quality} {result.top1:.1%}" if result.error is None else f"failed: {result.error}"
        say(f"{result.backbone}: {reached}")

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


def learning_curve(arguments: argparse.Namespace) -> int:
    """Measure accuracy against the number of training photos, transfer against from scratch."""
    recipe = recipe_of(arguments)
    photos_of(recipe)
    from edgetl.studies.learning_curve import CurveOptions, CurvePoint, learning_curve
    from edgetl.studies.learning_curve_views import render_curve_page, render_curve_terminal

    given = {"seeds": arguments.seeds, "scratch_epochs": arguments.from_scratch_epochs}
    options = dataclasses.replace(CurveOptions(), **{name: n for name, n in given.items() if n is not None})
    if arguments.fractions is not None:
        options = dataclasses.replace(options, fractions=numbers(arguments.fractions, option="--fractions"))

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


def backbones(arguments: argparse.Namespace) -> int:
    """List every backbone: parameters, GMACs, input size, published top-1, and the targets it has been tried with."""
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
