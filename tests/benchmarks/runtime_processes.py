"""Fresh processes from their start to their first label, in turns."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgetl_runtime.errors import EngineError

__all__ = ["HERE", "Start", "edgetl_command", "hand_command", "in_turns", "started"]

HERE = Path(__file__).parent
"""Where the measured processes find their own modules: it is their working directory."""
_SECONDS = 300


@dataclass(frozen=True)
class Start:
    """A process: milliseconds from before it was started to its first label, peak memory in bytes, what it imported.

    ``cpu_ms`` is what its threads used of the CPU; ``modules`` are the names of the packages that are not of the
    standard library; ``more`` is what else it said.
    """

    label: str
    ms: float
    cpu_ms: float
    peak: int
    modules: frozenset[str]
    more: dict[str, float]


def hand_command(engine: str, model: Path, labels: Path, photo: Path, *, pixels: str, python: str) -> list[str]:
    """The process of `runtime_hand.py`, compiled already, as the modules of edgetl are."""
    return [python, "-c", "import runtime_hand; runtime_hand.main()", engine, *_absolute(model, labels, photo), pixels]


def edgetl_command(bundle: Path, variant: str, photo: Path, *, python: str) -> list[str]:
    """The process of `runtime_edgetl.py`."""
    (path, image) = _absolute(bundle, photo)
    return [python, "-c", "import runtime_edgetl; runtime_edgetl.main()", path, variant, image]


def started(command: Sequence[str]) -> Start:
    """Run `command`, which reports as `runtime_child` does. Raises `EngineError` with the last line of what it said.

    It may keep what it compiled, whatever this process may: pip compiles what it installs, so a device never does.
    """
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    begun = time.monotonic_ns()
    try:
        done = subprocess.run(
            command, cwd=HERE, env=environment, capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise EngineError(f"{' '.join(command)} took longer than {_SECONDS} s") from None
    if done.returncode != 0:
        said = done.stderr.strip().splitlines() or ["no message"]
        raise EngineError(f"{' '.join(command)} ended with code {done.returncode}: {said[-1]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    # CLOCK_MONOTONIC is the machine's, not the process's.
    ms = (found.pop("ended") - begun) / 1e6
    modules = frozenset(found.pop("modules"))
    return Start(found.pop("label"), ms, found.pop("cpu_ms"), found.pop("peak"), modules, found)


def in_turns(commands: Mapping[str, Sequence[str]], *, rounds: int) -> dict[str, list[Start]]:
    """`rounds` starts of each command: all take turns in every round, another one begins each time.

    A first round fills the file cache and is not counted.
    """
    names = list(commands)
    found: dict[str, list[Start]] = {name: [] for name in names}
    for number in range(-1, rounds):
        first = number % len(names)
        for name in (*names[first:], *names[:first]):
            start = started(commands[name])
            if number >= 0:
                found[name].append(start)
        if sys.stderr.isatty():
            print(f"round {number + 1} of {rounds}", end="\r", file=sys.stderr, flush=True)
    return found


def _absolute(*paths: Path) -> list[str]:
    return [str(path.resolve()) for path in paths]
