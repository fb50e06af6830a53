"""What the command lines share: parsers that take no abbreviations and say what was meant, and how a command ends."""

from __future__ import annotations

import argparse
import difflib
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from edgetl_runtime.console import Streams, note
from edgetl_runtime.errors import EdgetlError, OutputError, nearest
from edgetl_runtime.escaping import printable
from edgetl_runtime.termination import exit_code_of, interruption_behind, terminable

__all__ = ["EXIT_CODES", "FIXABLE", "INTERNAL", "UNREAD", "CommandParser", "run_command", "split_names"]

FIXABLE = 2
INTERNAL = 70
"""A bug, with its traceback on stderr: ``EX_SOFTWARE``. Python's own 1 would read as "a variant failed"."""
UNREAD = 141
"""Nobody reads the output any more: what a shell gives for a program that SIGPIPE ended."""

EXIT_CODES = """exit codes:
  0    done and passed
  1    {failed}
  2    something for you to fix, or the output could not be written
  70   a bug of edgetl, with its traceback
  130  interrupted (143 by SIGTERM)
  141  nobody reads the output"""
"""For the end of ``-h``; ``failed`` says what 1 stands for."""

_NUMBER = re.compile(r"-\d+$|-\d*\.\d+$")


class CommandParser(argparse.ArgumentParser):
    """An `argparse.ArgumentParser` without abbreviations, whose errors say what may have been meant.

    ``meant`` is for words of neighbouring tools: an option or a command that is not there -> the names here that it
    may stand for and a sentence, which is said where the first of the names is an option or a command.
    """

    def __init__(self, *, meant: Mapping[str, tuple[str, str]] | None = None, **named: Any) -> None:
        super().__init__(allow_abbrev=False, **named)
        self.meant = dict(meant or {})

    @property
    def full_help(self) -> str:
        """The option that shows every option."""
        return "-h"

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """As `argparse` does. An option that is not there is told before anything else that is missing."""
        given = list(sys.argv[1:] if args is None else args)
        if self._subparsers is not None:
            if not given:
                self.print_help(sys.stderr)
                self.exit(FIXABLE)
            if given[0] == "help":
                given = [*given[1:2], "-h", *given[2:]]
        self._refuse_unknown(given)
        return super().parse_known_args(list(map(_at_home, given)), namespace)

    def print_usage(self, file: Any = None) -> None:
        """One line: the whole is what ``-h`` shows."""
        words = "COMMAND ..." if self._subparsers is not None else "..."
        self._print_message(f"usage: {self.prog} {words}    ({self.prog} {self.full_help} shows all of it)\n", file)

    def _refuse_unknown(self, given: Sequence[str]) -> None:
        for word in given:
            if word == "--" or (self._subparsers is not None and not word.startswith("-")):
                return  # what follows are no options, or those of a command
            option = word.partition("=")[0]
            is_option = len(word) > 1 and word.startswith("-") and " " not in word and not _NUMBER.match(word)
            if is_option and option not in self._option_string_actions:
                actions = self._option_string_actions.items()
                shown = [name for name, action in actions if action.help != argparse.SUPPRESS]
                self.error(f"there is no option {option}\n  fix: {self._fix(option, shown)}")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        known = None if action.choices is None else [str(choice) for choice in action.choices]
        if known is None or value in known:
            return
        if isinstance(action, argparse._SubParsersAction):
            self.error(f"there is no command {value!r}\n  fix: {self._fix(str(value), known)}")
        raise argparse.ArgumentError(action, f"{value!r} is not known; {nearest(str(value), known)}")

    def _fix(self, word: str, known: Sequence[str]) -> str:
        """What may have been meant by an option or a command, and where all of them are shown."""
        there, sentence = self.meant.get(word, ("", ""))
        if there in known or (sentence and not there):
            return f"{sentence} ({self.prog} {self.full_help} shows all)"
        begun = [name for name in known if len(word) > 3 and name.startswith(word)]
        close = begun or difflib.get_close_matches(word, known, n=3, cutoff=0.6)
        hint = f"did you mean {' or '.join(close)}? " if close else ""
        return f"{hint}{self.prog} {self.full_help} shows all"

    def _print_message(self, message: str, file: Any = None) -> None:
        # Words of the command line may be file names that a shell put in.
        super()._print_message("\n".join(map(printable, message.split("\n"))), file)


def _at_home(word: str) -> str:
    """``--out=~/x`` as ``--out ~/x`` would be: shells replace a ``~`` only where a word begins with it."""
    option, equals, value = word.partition("=")
    if not (equals and option.startswith("--") and (value == "~" or value.startswith("~/"))):
        return word
    return f"{option}={os.path.expanduser(value)}"  # noqa: PTH111 - pathlib takes long to import


def split_names(text: str) -> list[str]:
    """``"a, b"`` as a and b: people put spaces behind commas."""
    return [part.strip() for part in text.split(",")]


def run_command(program: str, work: Callable[[], int]) -> int:
    """`work()`, and its exit code; what it raises is told on stderr and has a code of its own.

    A name that the console cannot encode is escaped, and output that cannot be written ends nothing: the work is done
    to its end, and the exit code says it afterwards where it would have been 0. `SystemExit` (of ``-h``) goes through.
    """
    with Streams() as streams:
        try:
            code = _guarded(program, work)
        except SystemExit as leaving:
            if leaving.code in (None, 0) and (lost := streams.lost()) is not None:
                return _unread(program, lost)
            raise
        lost = streams.lost()
        return code if code or lost is None else _unread(program, lost)


def _guarded(program: str, work: Callable[[], int]) -> int:
    try:
        with terminable():
            return work()
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - the end: whatever it is must not look like a verdict
        if isinstance(error, EdgetlError):
            note(f"{program}: error: {error}")
        interruption = interruption_behind(error)
        if interruption is not None:
            note(f"{program}: interrupted{f'; {interruption}' if str(interruption) else ''}")
            return exit_code_of(interruption)
        if isinstance(error, EdgetlError):
            return FIXABLE
        import traceback

        note(traceback.format_exc().rstrip())
        note(f"{program}: this is a bug of edgetl (exit code {INTERNAL}): please report it with the lines above")
        return INTERNAL


def _unread(program: str, lost: OSError) -> int:
    if isinstance(lost, BrokenPipeError):
        return UNREAD
    reason = OutputError(f"cannot write to standard output: {lost.strerror}", fix="the work is done; look at its files")
    note(f"{program}: error: {reason}")
    return FIXABLE
