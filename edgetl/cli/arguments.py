"""What the words of a command line stand for: the recipe, the photos."""

from __future__ import annotations

import argparse
import warnings
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from edgetl.cli.parser import FORMER
from edgetl.cli.progress import say, tell
from edgetl.training.rank import is_first
from edgetl_runtime.errors import UsageError

if TYPE_CHECKING:
    from edgetl.data.listing import Listing
    from edgetl.option import Option
    from edgetl.recipe import Recipe

__all__ = ["check_torch", "first_look", "numbers", "photos_of", "recipe_of"]


def recipe_of(arguments: argparse.Namespace) -> Recipe:
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


def first_look(arguments: argparse.Namespace, recipe: Recipe, *, holds: str) -> Listing | None:
    """Where it goes, what it is told and the photos, before torch is imported: errors come at once."""
    from edgetl_export.staging import check_destination

    if is_first():
        check_destination(arguments.out, holds=holds, force=arguments.force)
    return photos_of(recipe)


def photos_of(recipe: Recipe) -> Listing | None:
    """What photos there are, told; where torch is not installed that is said before."""
    from edgetl.first_look import look_at_photos

    check_torch()
    return look_at_photos(recipe, tell=tell)


def check_torch() -> None:
    for name in ("torch", "torchvision"):
        if find_spec(name) is None:
            raise ModuleNotFoundError(name=name)  # as its import would, later


def numbers(text: str, *, option: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(
            f"{option} {text!r} are no numbers", fix="numbers with commas between, such as 0.1,0.5,1"
        ) from None
