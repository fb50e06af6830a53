"""edgetl: the command line of the workbench. Results on stdout, progress and notes on stderr.

Exit codes: 0 done and passed, 1 a gate failed or a target could not be written, 2 the user can fix it;
`edgetl_runtime.commands` has the others.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from edgetl.cli import bundles, comparing, training
from edgetl.cli.completion import completion
from edgetl.cli.options import Command, build_parser
from edgetl.cli.parser import Parser
from edgetl_runtime.commands import run_command
from edgetl_runtime.console import out
from edgetl_runtime.errors import UsageError
from edgetl_runtime.writing import check_writable

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
        "run": training.run,
        "train": training.train,
        "lr-range": training.lr_range,
        "export": bundles.export,
        "verify": bundles.verify,
        "pack": bundles.pack,
        "bench": bundles.bench,
        "inspect": bundles.inspect,
        "backbones": comparing.backbones,
        "compare": comparing.compare,
        "learning-curve": comparing.learning_curve,
        "demo": training.demo,
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


def _completion(arguments: argparse.Namespace) -> int:
    """Print the tab completion of a shell."""
    names: list[str] = []
    if find_spec("torchvision") is not None:
        from edgetl.models.backbones import backbone_names

        names = backbone_names()
    out(completion(_parser(), arguments.shell, {"--backbone": names, "--backbones": names}).rstrip())
    return 0


if __name__ == "__main__":
    sys.exit(main())
