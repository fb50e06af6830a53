"""From the start of a process to its first label: edgetl_runtime beside hand-written code, engine by engine.

    python tests/benchmarks/runtime_startup.py BUNDLE --photo PHOTO --work FOLDER

BUNDLE is a MobileNetV2 with ImageNet labels. Each start is a fresh process (import, load, one photo), all take turns.
Two hand-written programs are shown: one runs edgetl's own file, so that only the code differs; one runs the model that
the engine's own quantiser made in FOLDER (`runtime_models.py`), normalises, and has no hashes to check. Exit code 1
when a target of the design is missed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from runtime_lines import CLOCKS, Line, compared, heading, measured, write
from runtime_models import HandMade, built
from runtime_processes import Start, edgetl_command, hand_command, in_turns
from workloads import data_folder

from edgetl_runtime.bundle import Bundle, open_bundle
from edgetl_runtime.engines import ENGINES
from edgetl_runtime.errors import EdgetlError, ExportError, UsageError, nearest

__all__ = ["Given", "foreign_modules", "lines_of", "main", "parse", "variant_of"]

START_LIMIT, MEMORY_LIMIT, IMPORT_LIMIT_MS, WHEEL_LIMIT_KB = 1.15, 1.10, 30.0, 300.0
OWN_MODEL, SAME_FILE, EDGETL = "own model", "same file", "edgetl"
_ON_THE_DEVICE = frozenset({"numpy", "PIL", "edgetl_runtime", "runtime_hand", "runtime_edgetl", "runtime_child"})
_IMPORT = """\
import time
import numpy, PIL.Image, PIL.ImageOps
wall, cpu = time.perf_counter_ns(), time.process_time_ns()
import edgetl_runtime
wall, cpu = time.perf_counter_ns() - wall, time.process_time_ns() - cpu
from runtime_child import report
report("", time.monotonic_ns(), wall=wall / 1e6, cpu=cpu / 1e6)
"""


@dataclass(frozen=True)
class Given:
    """The command line, checked."""

    bundle: Path
    photo: Path
    work: Path
    data: Path
    engines: tuple[str, ...]
    rounds: int
    clock: str
    python: str
    wheel: bool
    json: Path | None
    markdown: Path | None


def main(arguments: Sequence[str]) -> int:
    """Measure and print; 0 when every target is met, 1 when not, 2 when there is something for the user to fix."""
    try:
        given = parse(arguments)
        bundle, by_hand = open_bundle(given.bundle), built(given.work, given.data)
        lines: list[Line] = []
        for engine in given.engines:
            starts = in_turns(_commands(engine, bundle, by_hand, given), rounds=given.rounds)
            lines += lines_of(engine, starts, clock=given.clock)
        imports = in_turns({"import": [given.python, "-c", _IMPORT]}, rounds=given.rounds)["import"]
        lines.append(_import_line(imports, clock=given.clock))
        if given.wheel:
            lines += _wheel_lines()
        title = f"From process start to first label, one thread, {_version(given.python)}"
        title = heading(title, rounds=given.rounds, clock=given.clock)
        write(lines, title, markdown=given.markdown, as_json=given.json)
    except EdgetlError as error:
        print(f"runtime_startup: error: {error}", file=sys.stderr)
        return 2
    return 1 if any(line.met is False for line in lines) else 0


def parse(arguments: Sequence[str]) -> Given:
    """The command line. Raises `UsageError` or `DataError` for what cannot be run."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--photo", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="keeps the hand-written code's own models")
    parser.add_argument("--data", type=Path, help="weights and photos; default: EDGETL_DATA, else ../shared/data")
    parser.add_argument("--engines", default=",".join(ENGINES), help=f"of: {','.join(ENGINES)}")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall", help="cpu: on a busy machine")
    parser.add_argument("--python", default=sys.executable, help="of an environment with edgetl and the engines")
    parser.add_argument("--no-wheel", action="store_true", help="build no wheel to weigh it")
    parser.add_argument("--json", type=Path, help="write the results there as well")
    parser.add_argument("--markdown", type=Path, help="write the table there as well")
    found = parser.parse_args(arguments)
    engines = tuple(found.engines.split(","))
    for engine in engines:
        if engine not in ENGINES:
            raise UsageError(f"unknown engine {engine!r}", fix=nearest(engine, tuple(ENGINES)))
    if found.rounds < 3:
        raise UsageError(f"--rounds {found.rounds} give no median", fix="3 or more")
    data = data_folder(found.data)
    if not found.photo.is_file():
        raise UsageError(f"no photo at {found.photo}", fix="check the path")
    options = (found.rounds, found.clock, found.python, not found.no_wheel, found.json, found.markdown)
    return Given(found.bundle, found.photo, found.work, data, engines, *options)


def variant_of(bundle: Bundle, engine: str) -> str:
    """The int8 variant that `engine` runs. Raises `UsageError` when the bundle has none."""
    for variant in bundle.manifest.variants:
        if variant.requires.engine == engine and variant.precision == "int8":
            return variant.id
    raise UsageError(f"{bundle.path} has no int8 variant for {engine}", fix="export one, or leave it out: --engines")


def lines_of(engine: str, starts: dict[str, list[Start]], *, clock: str) -> list[Line]:
    """Time, memory and imports of one engine's starts. Raises `ExportError` when the programs disagree on the label.

    The own model is another network after quantisation, so only the two that run the same file must agree.
    """
    labels = {start.label for name in (SAME_FILE, EDGETL) for start in starts[name]}
    if len(labels) != 1:
        raise ExportError(f"the same file gives different labels in {engine}: {', '.join(sorted(labels))}")
    ms = {name: [start.cpu_ms if clock == "cpu" else start.ms for start in found] for name, found in starts.items()}
    mb = {name: [start.peak / 1e6 for start in found] for name, found in starts.items()}
    lines = [
        compared(f"{engine}: {what}, {name}", unit, values[name], values[EDGETL], limit=limit)
        for what, unit, values, limit in (("first label", "ms", ms, START_LIMIT), ("peak", "MB", mb, MEMORY_LIMIT))
        for name in (OWN_MODEL, SAME_FILE)
    ]
    foreign = foreign_modules(starts)
    named = f" ({', '.join(sorted(foreign))})" if foreign else ""
    return [*lines, Line(f"{engine}: packages imported beyond its own{named}", "", float(len(foreign)), limit=0.0)]


def foreign_modules(starts: dict[str, list[Start]]) -> frozenset[str]:
    """Packages that edgetl's process imports beyond the standard library, numpy, Pillow and what the engine imports."""
    by_hand = frozenset().union(*(start.modules for start in starts[SAME_FILE]))
    return frozenset().union(*(start.modules for start in starts[EDGETL])) - by_hand - _ON_THE_DEVICE


def _commands(engine: str, bundle: Bundle, by_hand: HandMade, given: Given) -> dict[str, list[str]]:
    variant = variant_of(bundle, engine)
    file = bundle.path / bundle.manifest.variant(variant).files[0].path
    labels, photo, python = by_hand.labels, given.photo, given.python
    return {
        OWN_MODEL: hand_command(engine, by_hand.models[engine], labels, photo, pixels="float32", python=python),
        SAME_FILE: hand_command(engine, file, labels, photo, pixels="uint8", python=python),
        EDGETL: edgetl_command(bundle.path, variant, photo, python=python),
    }


def _import_line(starts: list[Start], *, clock: str) -> Line:
    what = "import edgetl_runtime after numpy and Pillow"
    return measured(what, "ms", [start.more[clock] for start in starts], limit=IMPORT_LIMIT_MS)


def _wheel_lines() -> list[Line]:
    """Raises `ExportError` when a wheel cannot be built."""
    root, found = Path(__file__).parents[2], []
    for name, folder, limit in (
        ("edgetl-runtime", root / "runtime", WHEEL_LIMIT_KB),
        ("edgetl, all three packages", root, None),
    ):
        with tempfile.TemporaryDirectory(prefix="edgetl-wheel-") as out:
            command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, str(folder)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            wheels = list(Path(out).glob("*.whl"))
            if done.returncode != 0 or not wheels:
                said = (done.stderr or done.stdout).strip().splitlines() or ["no message"]
                raise ExportError(
                    f"the wheel cannot be built: {said[-1]}", fix='pip install "edgetl[test]", or --no-wheel'
                )
            found.append(Line(f"the wheel of {name}", "kB", wheels[0].stat().st_size / 1e3, limit=limit))
    return found


def _version(python: str) -> str:
    code = (
        "from edgetl_runtime import __version__; from importlib.metadata import version; "
        "print(*(f'{name} {version(name)},' for name in ('numpy', 'pillow')), 'edgetl_runtime', __version__)"
    )
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise UsageError(
            f"{python} has no numpy, Pillow or edgetl_runtime", fix="--python of an environment with all of them"
        )
    return done.stdout.strip()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
