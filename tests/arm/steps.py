"""The steps of a preparation: commands that must succeed, folders that are there whole or not at all."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from edgetl_runtime.errors import EngineError, UsageError

__all__ = ["last_lines", "output_of", "whole_folder"]

_TIMEOUT = 900


def output_of(command: Sequence[str], *, cwd: Path, what: str, fix: str) -> str:
    """What `command` prints. Raises `EngineError` with `what` cannot be done, the command's last words, and `fix`;
    `UsageError` when there is no such program.
    """
    try:
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=_TIMEOUT, check=False)
    except FileNotFoundError:
        raise UsageError(f"cannot {what}: there is no {command[0]} here", fix=fix) from None
    except subprocess.TimeoutExpired:
        raise EngineError(f"cannot {what}: no answer for {_TIMEOUT} s", fix=fix) from None
    if done.returncode != 0:
        raise EngineError(f"cannot {what}: {last_lines(done.stderr)}", fix=fix)
    return done.stdout


def last_lines(text: str, count: int = 3) -> str:
    """The last lines that say something, in one."""
    return " / ".join([line.strip() for line in text.splitlines() if line.strip()][-count:])


@contextmanager
def whole_folder(destination: Path) -> Iterator[Path]:
    """A folder to fill, which replaces `destination` when all went well."""
    unfinished = destination.with_name(f"{destination.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    yield unfinished
    shutil.rmtree(destination, ignore_errors=True)
    unfinished.rename(destination)
