"""Fresh virtual environments with one engine in one version, and what a bundle does in them.

Everything runs in processes of its own: an engine that crashes is a result, not the end of the script.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgetl_runtime.errors import UsageError

__all__ = ["Environment", "Outcome", "Ran", "build_wheel", "digest", "known_versions", "run", "try_bundle"]

_ROOT = Path(__file__).parents[2]
_DECISIONS = Path(__file__).with_name("decisions.py")
_SECONDS = 300
_SCRIPTS = "Scripts" if os.name == "nt" else "bin"


@dataclass(frozen=True)
class Ran:
    """How a process ended: its exit code, negative for a signal, None when it took too long; what it wrote."""

    code: int | None
    out: str = ""
    err: str = ""

    @property
    def problem(self) -> str:
        """One line that says how it failed."""
        if self.code is None:
            return f"did not end in {_SECONDS} s"
        if self.code < 0:
            return f"crashed with {signal.Signals(-self.code).name}"
        lines = [line for line in self.err.strip().splitlines() if line and not line.startswith(" ")]
        return lines[-1] if lines else f"ended with code {self.code} and no message"


@dataclass(frozen=True)
class Outcome:
    """A variant in an environment: what was wrong (None: it passed), its label for each golden sample."""

    problem: str | None
    labels: tuple[int, ...] = ()


@dataclass(frozen=True)
class Environment:
    """A virtual environment in `folder`."""

    folder: Path

    @classmethod
    def make(cls, folder: Path, requirements: Sequence[str]) -> Environment | str:
        """A new one with `requirements`, or why pip could not install them. One that is there is taken as it is."""
        installed = folder / "installed"
        if not installed.is_file():
            run([sys.executable, "-m", "venv", "--clear", "--without-pip", str(folder)])
            command = [sys.executable, "-m", "pip", "--python", str(folder), "install", "-q", *requirements]
            done = run(command, seconds=2 * _SECONDS)
            if done.code != 0:
                return done.problem
            installed.touch()
        return cls(folder)

    def run(self, program: str, *words: str) -> Ran:
        """Run a program of the environment; it sees nothing of this checkout."""
        return run([str(self.folder / _SCRIPTS / program), *words], cwd=self.folder)

    def version(self, distribution: str) -> str:
        """The installed version of `distribution`."""
        program = f"import importlib.metadata as m; print(m.version({distribution!r}))"
        return self.run("python", "-c", program).out.strip()


def run(command: Sequence[str], *, cwd: Path | None = None, seconds: int = _SECONDS) -> Ran:
    """Run `command` to its end, without the caller's Python settings."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    try:
        done = subprocess.run(
            command, cwd=cwd, env=variables, capture_output=True, text=True, errors="replace", timeout=seconds
        )
    except subprocess.TimeoutExpired:
        return Ran(None)
    return Ran(done.returncode, done.stdout, done.stderr)


def build_wheel(folder: Path) -> Path:
    """This checkout's wheel, written into `folder`. Raises `UsageError` when it cannot be built."""
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(_ROOT)]
    done = run(command)
    if done.code != 0:
        raise UsageError(f"no wheel could be built: {done.problem}", fix='pip install -e ".[test]"')
    return max(folder.glob("*.whl"), key=lambda path: path.stat().st_mtime)


def known_versions(distribution: str) -> list[str]:
    """The released versions with a file for this Python and this machine, oldest first; `UsageError` without any."""
    done = run([sys.executable, "-m", "pip", "index", "versions", distribution])
    listed = re.search(r"^Available versions: (.+)$", done.out, re.MULTILINE)
    if listed is None:
        raise UsageError(f"pip knows no version of {distribution}: {done.problem}", fix="leave it out of --engines")
    return listed.group(1).split(", ")[::-1]


def try_bundle(environment: Environment, bundle: Path, variants: Sequence[str]) -> dict[str, Outcome]:
    """What ``edgetl-run self-test`` says of `variants` and how they decide.

    When one of them takes the process down, each is tried alone.
    """
    found = _ask(environment, bundle, variants)
    if isinstance(found, dict):
        return found
    if len(variants) == 1:
        return {variants[0]: Outcome(found)}
    return {id_: outcome for one in variants for id_, outcome in try_bundle(environment, bundle, [one]).items()}


def _ask(environment: Environment, bundle: Path, variants: Sequence[str]) -> dict[str, Outcome] | str:
    """The outcomes, or the problem of the process that was to tell them."""
    tested = environment.run(
        "edgetl-run", "self-test", str(bundle), "--threads", "1", "--variants", ",".join(variants), "--json", "-"
    )
    report = _json(tested.out)
    if tested.code not in (0, 1) or report is None:
        return tested.problem
    if report["pixels"] != 0:
        return f"preprocessing differs by {report['pixels']} grey levels"
    problems = {test["id"]: test["problem"] for test in report["variants"]}
    problems |= {test["id"]: test["problem"] for test in report["not_run"]}
    decided = environment.run("python", str(_DECISIONS), str(bundle), *variants)
    labels = _json(decided.out)
    if decided.code != 0 or labels is None:
        return decided.problem
    return {
        id_: Outcome(
            _without_path(problems[id_] or labels[id_].get("problem"), bundle), tuple(labels[id_].get("labels", ()))
        )
        for id_ in variants
    }


def _without_path(problem: str | None, bundle: Path) -> str | None:
    """A problem that names files of the bundle as they stand in it."""
    return None if problem is None else problem.replace(f"{bundle}: ", "")


def _json(text: str) -> Mapping[str, Any] | None:
    """The document that `text` ends with: some engines write to stdout while they load. None without one."""
    start = 0 if text.startswith("{") else text.find("\n{") + 1
    try:
        document = json.loads(text[start:])
    except ValueError:
        return None
    return document if isinstance(document, dict) else None


def digest(path: Path) -> str:
    """The beginning of a file's SHA-256, for names."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]
