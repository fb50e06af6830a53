"""Inputs tried in child processes, some hundreds in each, beside a canary that must stay as it is.

Every input gives an answer or an `EdgetlError` with a fix. A child that dies or takes too long is found, and another
one goes on behind the input that it died of.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from canary import beside_canary

from edgetl_runtime.errors import EdgetlError

__all__ = ["Found", "Kinds", "Random", "main", "one", "run"]

Random = np.random.Generator
Kinds = Mapping[str, Callable[[Random, Path], None]]
_AT_ONCE = 300
_SECONDS = 20


@dataclass(frozen=True)
class Found:
    """What happened: ``right``, ``error`` (of ours, with a fix), or what is wrong."""

    kind: str
    index: int
    outcome: str


def one(kinds: Kinds, kind: str, index: int, seed: int, folder: Path) -> Found:
    """Make the input in `folder` and read it."""
    rng = np.random.default_rng([seed, list(kinds).index(kind), index])
    try:
        kinds[kind](rng, folder)
    except EdgetlError as error:
        lines = str(error).splitlines()
        told = error.fix and len(lines) == 2 and "weights_only" not in str(error) and "\0" not in str(error)
        return Found(kind, index, "error" if told else f"error that does not help: {error}")
    except Exception as error:  # noqa: BLE001 - this is what is looked for
        at = error.__traceback__
        while at is not None and at.tb_next is not None:
            at = at.tb_next
        where = "" if at is None else f" at {Path(at.tb_frame.f_code.co_filename).name}:{at.tb_lineno}"
        return Found(kind, index, f"{type(error).__name__}: {error}"[:200] + where)
    return Found(kind, index, "right")


def run(script: str, work: list[tuple[str, int]], seed: int) -> list[Found]:
    """Read all inputs of `work` in children that run `script`, whose `main` is the one below."""
    found: list[Found] = []
    while len(found) < len(work):
        part = work[len(found) : len(found) + _AT_ONCE]
        command = [sys.executable, script, "--seed", str(seed), "--serve"]
        done = subprocess.run(command, input=json.dumps(part), capture_output=True, text=True, check=False)
        lines = [Found(**json.loads(line)) for line in done.stdout.splitlines() if line.startswith('{"kind"')]
        found += lines
        if len(lines) < len(part):
            how = f"no answer in {_SECONDS} s" if done.returncode == -signal.SIGALRM else f"died: {done.returncode}"
            found.append(Found(*part[len(lines)], f"the process: {how} {done.stderr[-300:]}"))
    return found


def _serve(kinds: Kinds, seed: int) -> None:
    with beside_canary() as (folder, canary):
        for kind, index in json.load(sys.stdin):
            signal.alarm(_SECONDS)  # ends the process, whatever it waits for
            result = one(kinds, kind, index, seed, folder)
            touched = canary.touched()
            if touched is not None:
                result = Found(kind, index, touched)
            print(json.dumps(vars(result)), flush=True)
        signal.alarm(0)


def main(script: str, kinds: Kinds, about: str, words: list[str] | None = None) -> int:
    """Run the fuzzer `script`; `about` says what it is."""
    parser = argparse.ArgumentParser(description=about.partition("\n")[0])
    parser.add_argument("--n", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", metavar="KIND[:INDEX]")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args(words)
    if given.serve:
        _serve(kinds, given.seed)
        return 0
    kind, _, index = (given.only or "").partition(":")
    names = [kind] if kind else list(kinds)
    work = [(names[place % len(names)], place // len(names)) for place in range(given.n)]
    found = run(script, [(kind, int(index))] if index else work, given.seed)
    counts = Counter((one.kind, one.outcome if one.outcome in ("right", "error") else "BAD") for one in found)
    for name in names:
        print(f"{name:20}", *(f"{outcome} {counts[name, outcome]:5}" for outcome in ("right", "error", "BAD")))
    bad = [one for one in found if one.outcome not in ("right", "error")]
    for one_bad in bad[:50]:
        print(f"{one_bad.kind}:{one_bad.index}: {one_bad.outcome}")
    print(f"{len(found)} inputs, seed {given.seed}: {len(bad) or 'nothing'} found")
    return 1 if bad else 0
