"""Inputs tried in child processes, some hundreds in each, beside a canary that must stay as it is.

Every input gives an answer or an `EdgetlError` with a fix. A child that dies or takes too long is found, and another
one goes on behind the input that it died of.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgetl_runtime.errors import EdgetlError

__all__ = ["Canary", "Found", "Kinds", "Random", "main", "one", "run"]

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


class Canary:
    """A tree of somebody else beside the folder of the inputs, which may name it: content, times and permissions."""

    def __init__(self, place: Path) -> None:
        self.place = place
        (place / "pixels" / "deep").mkdir(parents=True)
        (place / "secret").write_text("what no input may read, change or remove")
        (place / "pixels" / "photo.bmp").write_bytes(b"BM" + bytes(200))
        (place / "pixels" / "deep" / "manifest.json").write_text("{}")
        (place / "sealed").write_text("x")
        (place / "sealed").chmod(0o400)
        (place / "link").symlink_to("secret")
        os.mkfifo(place / "pipe")
        self._before = self._state()

    def _state(self) -> dict[str, tuple[object, ...]]:
        found: dict[str, tuple[object, ...]] = {}
        for path in [self.place, *sorted(self.place.rglob("*"))]:
            about = path.lstat()
            content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
            found[str(path)] = about.st_mode, about.st_mtime_ns, about.st_ctime_ns, about.st_ino, content
        found["beside it"] = tuple(sorted(path.name for path in self.place.parent.iterdir()))
        return found

    def touched(self) -> str | None:
        """What is not as it was, None when everything is."""
        now = self._state()
        changed = [name for name in now.keys() | self._before.keys() if now.get(name) != self._before.get(name)]
        return f"changed outside: {', '.join(sorted(changed))}" if changed else None


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
    with tempfile.TemporaryDirectory(prefix="edgetl-fuzz-") as temporary:
        os.environ["EDGETL_CACHE"] = str(Path(temporary, "work", "cache"))
        folder = Path(temporary, "work")
        folder.mkdir()
        canary = Canary(Path(temporary, "canary"))
        os.chdir(folder)
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
