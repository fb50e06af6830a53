"""A Python to run the bundle in - emulated or not - and what a run of self-test and photos there came to."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from comparing import Outputs, read_outputs
from emulated_root import Emulator
from steps import last_lines

__all__ = ["Machine", "Run", "emulated", "ending", "run_on", "this_machine"]

_PROBE = Path(__file__).with_name("probe.py")
_TIMEOUT = 1800


@dataclass(frozen=True)
class Machine:
    """A name for the report, the command that starts Python there, and the folders it imports from."""

    name: str
    python: tuple[str, ...]
    folders: tuple[Path, ...]


@dataclass(frozen=True)
class Run:
    """A variant on a machine: whether `edgetl-run self-test` passed, the outputs for the photos (None when there are
    none), and what went wrong, in one line.
    """

    machine: str
    variant: str
    self_test: bool
    outputs: Outputs | None
    problem: str | None


def emulated(cpu: str, emulator: Emulator, root: Path, folders: tuple[Path, ...]) -> Machine:
    """aarch64: the root's own Python 3.11 on a CPU that QEMU imitates. It sees no packages but those of `folders`."""
    python = (str(emulator.program), "-cpu", cpu, "-L", str(root), str(root / "usr/bin/python3.11"), "-S")
    return Machine(cpu, python, folders)


def this_machine(name: str, folders: tuple[Path, ...], *, own_packages: bool) -> Machine:
    """x86: this very Python, with `folders` before its own packages, or without those."""
    return Machine(name, (sys.executable,) if own_packages else (sys.executable, "-S"), folders)


def run_on(machine: Machine, edgetl: Path, bundle: Path, variant: str, photos: Path, folder: Path) -> Run:
    """Self-test of `variant`, then the photos listed in the JSON file `photos`; results are kept in `folder`.

    `edgetl` is the folder in which edgetl's wheel is installed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    out, tested = folder / "photos.npz", folder / "self-test.json"
    out.unlink(missing_ok=True)
    command = [str(edgetl / "bin" / "edgetl-run"), "self-test", str(bundle), "--variants", variant, "--threads", "1"]
    problem = _python(machine, edgetl, [*command, "--json", str(tested)])
    if problem is not None:
        return Run(machine.name, variant, False, None, f"self-test {problem}")
    problem = _python(machine, edgetl, [str(_PROBE), str(bundle), variant, str(photos), str(out)])
    if problem is not None:
        return Run(machine.name, variant, True, None, f"photos: {problem}")
    return Run(machine.name, variant, True, read_outputs(out), None)


def ending(returncode: int, stdout: str, stderr: str) -> str:
    """How a process that failed ended: by which signal, or with its last words."""
    if returncode < 0:
        return f"was killed by {signal.Signals(-returncode).name}: {last_lines(stderr, 1)}"
    # edgetl-run says on stdout what failed, and why nothing could be tried on stderr, where engines chatter as well.
    return f"ended with exit code {returncode}: {last_lines(stdout or stderr)}"


def _python(machine: Machine, edgetl: Path, words: list[str]) -> str | None:
    """Run a script there; None when it ended well, else how it did."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "LD_", "QEMU_"))}
    path = os.pathsep.join(str(folder) for folder in (edgetl, *machine.folders))
    environment |= {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    command = [*machine.python, *words]
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, errors="replace", timeout=_TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired:
        return f"gave no result in {_TIMEOUT} s"
    return None if done.returncode == 0 else ending(done.returncode, done.stdout, done.stderr)
