"""An option is declared once: a field of a section of the recipe, with its help, its flag and its check beside it.

The recipe's keys, the flags of the command line, its help and its completion, and the checks are all made from that.
Here is no torch, so that a command line answers at once.
"""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, TypeVar, cast

from edgetl_runtime.errors import UsageError, nearest

__all__ = ["SEED", "Check", "OneOf", "Option", "Section", "matching", "option", "options_of", "within"]

T = TypeVar("T")
Check: TypeAlias = Callable[[str, Any], object]
"""Takes the name of an option and a value. Raises `UsageError` for a value that makes no sense."""

_METADATA = "edgetl.option"
_NO_FLAG = "-"
_METAVARS: dict[Any, str] = {int: "N", float: "X", Path: "PATH"}


@dataclass(frozen=True)
class Option:
    """What is declared of an option, and of the field that it stands at.

    ``about`` is its help, a phrase without its default; ``usual`` is the default in words, where the value does not say
    it. ``shown``: a newcomer sees it in ``-h``, the others stand in ``-h --all``. ``choices`` are the values that can
    be named; ``metavar`` stands for a value in the help. ``flag`` is empty where only a recipe has the option.
    ``former`` is the name that key and flag had, and ``former_note`` what else to say to people who use it. ``group``
    is the title that it has in the help, by default the section's.
    ``name`` is the field's, ``key`` the recipe's, ``kind`` the type of a value (`bool`, `int`, `float`, `str`, `Path`
    or `tuple`; ``of_numbers``: a tuple of numbers, otherwise of texts).
    """

    about: str
    check: Check | None = None
    usual: str = ""
    shown: bool = False
    choices: tuple[str, ...] = ()
    metavar: str = ""
    flag: str = ""
    former: str = ""
    former_note: str = ""
    group: str = ""
    name: str = ""
    key: str = ""
    kind: type = str
    of_numbers: bool = False
    default: Any = None

    @property
    def dest(self) -> str:
        """The attribute that `argparse` keeps its value in."""
        return self.flag.removeprefix("--").replace("-", "_")

    @property
    def help(self) -> str:
        """``about``, and the default."""
        text = self.usual
        if not text and self.default is not None and self.kind is not bool:
            text = ",".join(self.default) if self.kind is tuple else _number(self.default)
        return f"{self.about} (default: {text})" if text else self.about


def option(
    default: T,
    about: str,
    *,
    check: Check | None = None,
    usual: str = "",
    shown: bool = False,
    choices: Sequence[str] = (),
    metavar: str = "",
    key: str = "",
    flag: str | None = "",
    former: str = "",
    former_note: str = "",
    group: str = "",
) -> T:
    """A field of a `Section` with this `default`: see `Option`. Without `key` the recipe has it by the field's name,
    without `flag` the command line by the key; None: only a recipe has it.
    """
    declared = Option(
        about=about,
        check=check,
        usual=usual,
        shown=shown,
        choices=tuple(choices) or (check.choices if isinstance(check, OneOf) else ()),
        metavar=metavar,
        key=key,
        flag=_NO_FLAG if flag is None else flag,
        former=former,
        former_note=former_note,
        group=group,
    )
    return dataclasses.field(default=default, metadata={_METADATA: declared})


def options_of(section: type) -> tuple[Option, ...]:
    """The options of a dataclass, in the order of their fields. A field without `option` is none."""
    if section not in _KNOWN:
        hints = typing.get_type_hints(section)
        fields = [field for field in dataclasses.fields(section) if _METADATA in field.metadata]
        _KNOWN[section] = tuple(_placed(field.metadata[_METADATA], field, hints[field.name]) for field in fields)
    return _KNOWN[section]


_KNOWN: dict[type, tuple[Option, ...]] = {}


def _placed(declared: Option, field: dataclasses.Field[Any], hint: Any) -> Option:
    """What was declared, with what follows from its field."""
    kind = _kind(hint)
    key = declared.key or field.name
    return dataclasses.replace(
        declared,
        name=field.name,
        key=key,
        flag="" if declared.flag == _NO_FLAG else declared.flag or f"--{key.replace('_', '-')}",
        kind=kind,
        of_numbers=kind is tuple and "float" in str(hint),
        default=field.default,
        metavar=declared.metavar or "|".join(declared.choices) or _METAVARS.get(kind, "NAME"),
    )


class Section:
    """Base of the dataclasses whose fields are options: holds each value against the check that stands beside it.

    A value of None, where that is the default, is left open. Raises `UsageError` for values that make no sense.
    """

    def __post_init__(self) -> None:
        for declared in options_of(type(self)):
            value = getattr(self, declared.name)
            if declared.check is not None and not (value is None and declared.default is None):
                declared.check(declared.key, value)


@dataclass(frozen=True)
class OneOf:
    """The check for one of `choices`. ``fix`` says what is allowed (by default the nearest of them), ``more`` goes
    behind it.
    """

    choices: tuple[str, ...]
    fix: str = ""
    more: str = ""

    def __call__(self, name: str, value: Any) -> None:
        if value not in self.choices:
            raise _senseless(name, value, f"{self.fix or nearest(str(value), self.choices)}{self.more}")


def within(least: float, most: float, *, but: tuple[float, ...] = (), more: str = "") -> Check:
    """The check for a number from `least` to `most`, without those of the two in `but`."""
    first = f"above {_number(least)}, at most" if least in but else f"from {_number(least)} to"
    allowed = f"{first} {_number(most)}"
    if most in but:
        allowed = f"{'above' if least in but else 'from'} {_number(least)}, below {_number(most)}"

    def check(name: str, value: Any) -> None:
        if not least <= value <= most or value in but:
            raise _senseless(name, value, allowed + more)

    return check


def matching(pattern: str, allowed: str) -> Check:
    """The check for text that is as the regular expression `pattern` as a whole; `allowed` says that in words."""
    wanted = re.compile(pattern)

    def check(name: str, value: Any) -> None:
        if not wanted.fullmatch(value):
            raise _senseless(name, value, allowed)

    return check


def _senseless(name: str, value: Any, allowed: str) -> UsageError:
    return UsageError(f"{name} = {value!r} makes no sense", fix=allowed)


def _number(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _kind(hint: Any) -> type:
    """The type of a value by its annotation: ``int | None`` is an int, ``tuple[str, ...]`` a tuple. One of several
    types is a text on the command line.
    """
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        kinds = [part for part in typing.get_args(hint) if part is not type(None)]
        hint = kinds[0] if len(kinds) == 1 else str
    return typing.get_origin(hint) or cast(type, hint)


SEED = within(0, 2**32 - 1)
"""The check for what every generator of random numbers takes."""
