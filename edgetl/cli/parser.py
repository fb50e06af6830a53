"""A parser whose ``-h`` shows what a newcomer needs, and ``-h --all`` (or ``-h all``) everything."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from edgetl.option import Option
from edgetl_runtime.commands import CommandParser, split_names

__all__ = ["FORMER", "Parser"]

FORMER = "former_"
"""Before the name of an option that has another one now: the attribute that `argparse` keeps its value in."""

_HELP = ("-h", "--help")


class Parser(CommandParser):
    """A `CommandParser` that makes arguments of declared options. ``examples`` stand at the end of the help."""

    def __init__(self, *, examples: Sequence[str] = (), **named: Any) -> None:
        super().__init__(**{"formatter_class": _Formatter, **named})
        self.examples = tuple(examples)
        self.declared: dict[str, Option] = {}
        """Attribute of what is parsed -> the option that it was made from."""
        self._rest: set[argparse.Action] = set()
        self._titles = {"options": self._optionals}

    def group(self, title: str) -> argparse._ArgumentGroup:
        """The group of this title in the help, made when it is first asked for."""
        if title not in self._titles:
            self._titles[title] = self.add_argument_group(title)
        return self._titles[title]

    def take(self, option: Option, title: str, *, required: bool = False) -> None:
        """Add the flag of `option`, and its former one, to the group `title`, once: two sections may share it."""
        if option.dest in self.declared:
            return
        self.declared[option.dest] = option
        group, about = self.group(option.group or title), option.help.replace("%", "%%")
        if option.kind is bool:
            how = argparse.BooleanOptionalAction if option.usual else "store_true"
            action = group.add_argument(option.flag, action=how, default=None, help=about)
        else:
            kind = option.kind if option.kind is not tuple else _numbers if option.of_numbers else split_names
            action = group.add_argument(option.flag, type=kind, metavar=option.metavar, required=required, help=about)
        if not (option.shown or required):
            self._rest.add(action)
        if option.former:
            flag = f"--{option.former.replace('_', '-')}"
            self.add_argument(flag, dest=f"{FORMER}{option.former}", help=argparse.SUPPRESS)

    def add_rare(self, *names: str, title: str = "options", **words: Any) -> None:
        """An argument of the group `title` that stands in ``-h --all`` alone."""
        self._rest.add(self.group(title).add_argument(*names, **words))

    @property
    def full_help(self) -> str:
        """The option that shows every option."""
        return "-h --all" if self._rest else "-h"

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """As a `CommandParser` does, but for ``-h`` with ``all`` or ``--all`` beside it."""
        given = list(sys.argv[1:] if args is None else args)
        if self._asked_for_all(given):
            self._print_message(self.format_help(everything=True), sys.stdout)
            self.exit()
        return super().parse_known_args(given, namespace)

    def _asked_for_all(self, given: Sequence[str]) -> bool:
        before_commands = self._subparsers is None or not given or given[0].startswith("-")
        asked = [i for i, word in enumerate(given) if word in _HELP]
        return before_commands and any("--all" in given or given[i + 1 : i + 2] == ["all"] for i in asked)

    def format_help(self, *, everything: bool = False) -> str:
        """The help of this parser: of all options, or of those that a newcomer needs."""
        left_out = set() if everything else self._rest
        formatter = self._get_formatter()
        formatter.add_usage(self._usage_in_short(), self._actions, ())
        formatter.add_text(self.description)
        for group in self._action_groups:
            formatter.start_section(group.title)
            formatter.add_arguments([action for action in group._group_actions if action not in left_out])
            formatter.end_section()
        if left_out:
            formatter.add_text(f"{len(left_out)} more options: {self.prog} {self.full_help}")
        if self.examples:
            formatter.add_text("\n".join(("examples:", *(f"  {line}" for line in self.examples))))
        formatter.add_text(self.epilog)
        return formatter.format_help()

    def _usage_in_short(self) -> str:
        """What is required by name, and the rest as ``[OPTION ...]``."""
        if self._subparsers is not None:
            return f"{self.prog} COMMAND ..."
        words = [str(action.metavar) for action in self._actions if not action.option_strings]
        words += [f"{a.option_strings[0]} {a.metavar}" for a in self._actions if a.option_strings and a.required]
        return " ".join((self.prog, *words, "[OPTION ...]"))


def _numbers(text: str) -> list[float]:
    """``0.5,0.25`` as numbers."""
    return [float(part) for part in split_names(text)]


class _Formatter(argparse.HelpFormatter):
    """Keeps the lines of a text: examples are copied."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        fill = super()._fill_text
        return "\n".join(line if len(line) <= width else fill(line, width, indent) for line in text.splitlines())
