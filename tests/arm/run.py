"""Does a bundle decide on aarch64 as on x86? Emulated by QEMU; no ARM board and no root is needed.

    python tests/arm/run.py --bundle flowers.edgetl --photos photos/

Exit codes: 0 self-tests passed and all decisions are the same, 1 not so, 2 there is something for the user to fix.
README.md beside this file has what was found, and what emulation cannot tell.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from arm_report import Result, Row, about_rows, row_of
from emulated_root import Emulator, find_emulator, make_root
from machines import Machine, Run, emulated, run_on, this_machine
from wheelhouse import Engine, engine_folder, install_edgetl, installed_versions, parse_engines

from edgetl_runtime.bundle import open_bundle
from edgetl_runtime.engines import installed
from edgetl_runtime.errors import DataError, EdgetlError, OutputError, UsageError
from edgetl_runtime.machine import cpu_features, describe_machine

__all__ = ["Given", "choose_photos", "main", "parse"]

ENGINES = "onnxruntime==1.23.2,onnxruntime==1.31.1,ai-edge-litert==2.1.0,ai-edge-litert==2.3.0"
CPUS = "cortex-a72,neoverse-n1,neoverse-n2"
CHECKOUT = Path(__file__).resolve().parents[2]
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp"})


@dataclass(frozen=True)
class Given:
    """The command line, checked; `photos` are the chosen ones."""

    bundle: Path
    photos: tuple[Path, ...]
    engines: tuple[Engine, ...]
    cpus: tuple[str, ...]
    workdir: Path
    qemu: Path | None
    json: Path | None
    markdown: Path | None


def main(arguments: Sequence[str]) -> int:
    """Run the check and return its exit code."""
    try:
        given = parse(arguments)
        result = _check(given)
        print(result.to_markdown(), flush=True)
        if given.json is not None:
            _save(given.json, json.dumps(result.to_json(), indent=1) + "\n")
        if given.markdown is not None:
            _save(given.markdown, result.to_markdown())
    except EdgetlError as error:
        _say(f"tests/arm: error: {error}")
        return 2
    return 0 if result.passed else 1


def parse(arguments: Sequence[str]) -> Given:
    """The command line. Raises `EdgetlError` for what cannot be run."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--photos", type=Path, required=True, help="a folder of photos, at any depth")
    parser.add_argument("--n", type=int, default=40, help="photos, evenly chosen (default: 40)")
    parser.add_argument("--engines", default=ENGINES, help=f"distributions with versions (default: {ENGINES})")
    parser.add_argument("--cpus", default=CPUS, help=f"as `qemu-aarch64 -cpu help` names them (default: {CPUS})")
    parser.add_argument(
        "--workdir", type=Path, default=Path.home() / ".cache" / "edgetl-arm", help="kept for the next time"
    )
    parser.add_argument("--qemu", type=Path, help="qemu-aarch64-static (default: PATH's, else Debian's)")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    found = parser.parse_args(arguments)
    if sys.platform != "linux" or platform.machine() not in ("x86_64", "AMD64"):
        raise UsageError("aarch64 is emulated on Linux on x86-64 only", fix="elsewhere: edgetl-run self-test BUNDLE")
    engines = parse_engines(found.engines)
    manifest = open_bundle(found.bundle).manifest
    for engine in engines:
        manifest.variant(engine.variant)
    for destination in (found.json, found.markdown):
        if destination is not None and not destination.absolute().parent.is_dir():
            raise OutputError(f"cannot write {destination}: there is no such folder", fix="make it first")
    cpus = tuple(cpu.strip() for cpu in found.cpus.split(","))
    photos = choose_photos(found.photos, found.n)
    named = (found.qemu, found.json, found.markdown)
    return Given(found.bundle.resolve(), photos, engines, cpus, found.workdir.resolve(), *named)


def choose_photos(folder: Path, n: int) -> tuple[Path, ...]:
    """`n` photos of `folder`, evenly spread over the sorted paths. Raises `DataError` when there are fewer."""
    if n < 1:
        raise UsageError(f"--n must be at least 1, not {n}")
    paths = sorted(path.resolve() for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if len(paths) < n:
        raise DataError(
            f"{folder} has {len(paths)} photos, fewer than {n}", fix=f"--n {len(paths) or 1}, or more photos"
        )
    return tuple(paths[i * len(paths) // n] for i in range(n))


def _check(given: Given) -> Result:
    given.workdir.mkdir(parents=True, exist_ok=True)
    _say("emulator and aarch64 root ...")
    emulator, root = find_emulator(given.workdir, given.qemu), make_root(given.workdir)
    # A folder of its own for each call: two may run at the same time.
    kept = given.workdir / "runs" / f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{os.getpid()}"
    _say(f"edgetl's wheel; all results are kept in {kept} ...")
    edgetl = install_edgetl(kept, CHECKOUT)
    photos = kept / "photos.json"
    photos.write_text(json.dumps([str(path) for path in given.photos]), encoding="utf-8")

    def tried(machine: Machine, engine: Engine) -> Run:
        _say(f"{engine.variant} in {engine} on {machine.name} ...")
        into = kept / f"{engine.distribution}-{engine.version}" / machine.name
        return run_on(machine, edgetl, given.bundle, engine.variant, photos, into)

    rows: list[Row] = []
    present: dict[str, Run | None] = {}
    for engine in given.engines:
        if engine.variant not in present:
            here = installed(open_bundle(given.bundle).manifest.variant(engine.variant).requires.engine) is not None
            ours = this_machine("x86, present libraries", (), own_packages=True)
            present[engine.variant] = tried(ours, engine) if here else None
        _say(f"wheels of {engine} ...")
        there = (engine_folder(given.workdir, engine, aarch64=True),)
        same_libraries = (engine_folder(given.workdir, engine, aarch64=False),)
        same = tried(this_machine("x86", same_libraries, own_packages=False), engine)
        for cpu in given.cpus:
            run = tried(emulated(cpu, emulator, root, there), engine)
            rows.append(row_of(str(engine), run, same, present[engine.variant]))
            _say(f"  {' | '.join(rows[-1].cells()[2:])}")
    return Result(_about(given, emulator, rows), tuple(rows))


def _about(given: Given, emulator: Emulator, rows: Sequence[Row]) -> dict[str, Any]:
    machine = describe_machine()
    flags = " ".join(cpu_features().flags or ())
    versions = {
        str(engine): installed_versions(engine_folder(given.workdir, engine, aarch64=True)) for engine in given.engines
    }
    libraries = {f"numpy {found['numpy']}, Pillow {found['pillow']}" for found in versions.values()}
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "bundle": f"{given.bundle.name}, {len(given.photos)} photos",
        "emulator": f"QEMU {'.'.join(map(str, emulator.version))}, Debian's Python 3.11 for arm64",
        "emulated CPUs": about_rows(rows),
        "x86": f"{machine['processor']}, {machine['cores']} cores ({flags}), Python {machine['python']}",
        "beside the engines": "; ".join(sorted(libraries)),
    }


def _save(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}", fix="choose another place") from error


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
