"""Int8 by today's tools and by edgetl, from the same weights and photos, side by side in one Markdown table.

    python tests/benchmarks/int8_peers.py --workload mobilenet_v2 --json result.json

Every tool starts from edgetl's own fp32 file of its format and is given the same uint8 tensors, so that only the
quantisation differs. See README.md beside this file for what the columns mean.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from candidates import EDGETL, THREADS, Candidate, Prepared, edgetl_candidates, peer_candidate, prepare
from judging import Logits, Row, interleaved_medians, judged, logits_of, markdown_table
from peers import PEERS, check_peers_installed
from workloads import WORKLOADS, data_folder

from edgetl.cli.progress import say
from edgetl.recipe import Recipe
from edgetl.verify.measure.machine import describe_workbench
from edgetl_runtime.errors import EdgetlError, OutputError, UsageError, nearest

__all__ = ["Given", "main", "parse", "settings"]

ORIGINAL = "original (torch)"
PAIR = "edgetl, one file against another"


@dataclass(frozen=True)
class Given:
    """The command line, checked. ``limit`` is the number of calibration images; twice as many are judged on, and
    so many ``crops`` of each of them besides."""

    workload: str
    data: Path
    peers: tuple[str, ...]
    section: dict[str, Any]
    limit: int | None
    crops: int
    speed_only: bool
    json: Path | None


def main(arguments: Sequence[str]) -> int:
    """Run the benchmark; exit code 0, or 2 when there is something for the user to fix."""
    try:
        given = parse(arguments)
        with tempfile.TemporaryDirectory(prefix="edgetl-peers-") as folder:
            result = _benchmark(given, Path(folder))
        if given.json is not None:
            _save(given.json, result)
    except EdgetlError as error:
        say(f"int8_peers: error: {error}")
        return 2
    return 0


def parse(arguments: Sequence[str]) -> Given:
    """The command line. Raises `UsageError` or `DataError` for what cannot be run."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workload", choices=list(WORKLOADS), default="mobilenet_v2")
    parser.add_argument("--data", type=Path, help="weights and photos; default: EDGETL_DATA, else ../shared/data")
    parser.add_argument("--peers", default=",".join(PEERS), help=f"of: {','.join(PEERS)}; none for edgetl alone")
    parser.add_argument("--quantize", metavar="RUNG", help="short for --edgetl-set quantize=RUNG")
    parser.add_argument(
        "--edgetl-set", action="append", default=[], metavar="KEY=VALUE", help="of the recipe's [export]"
    )
    parser.add_argument(
        "--limit", type=int, metavar="N", help="N images to calibrate on and 2 N to judge on: a quick try"
    )
    parser.add_argument(
        "--crops", type=int, default=0, metavar="N", help="judge on N random crops of every photo too: less chance"
    )
    parser.add_argument(
        "--speed-only", action="store_true", help="judge no photos, measure only how fast the files are"
    )
    parser.add_argument("--json", type=Path, help="write the results there as well")
    found = parser.parse_args(arguments)
    names = () if found.peers == "none" else tuple(found.peers.split(","))
    for name in names:
        if name not in PEERS:
            raise UsageError(f"unknown peer {name!r}", fix=f"{nearest(name, list(PEERS))}, none")
    if found.limit is not None and found.limit < 8:
        raise UsageError(f"--limit {found.limit} images are too few to calibrate on", fix="8 or more")
    if found.json is not None and not found.json.parent.is_dir():
        raise OutputError(f"cannot write {found.json}: there is no such folder", fix="make it first")
    check_peers_installed(names)
    pairs = [*found.edgetl_set, *([] if found.quantize is None else [f"quantize={found.quantize}"])]
    section = settings(pairs)
    Recipe().updated({"export": section}, where="--edgetl-set")
    return Given(
        found.workload,
        data_folder(found.data),
        names,
        section,
        found.limit,
        max(0, found.crops),
        found.speed_only,
        found.json,
    )


def settings(pairs: Sequence[str]) -> dict[str, Any]:
    """``["max_drop=0.01", "quantize=ptq"]`` as a recipe has it: values as in TOML, or else plain strings.

    Raises `UsageError` for a pair without "=" and for a key that the benchmark sets itself.
    """
    found: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals:
            raise UsageError(f"--edgetl-set {pair} has no value", fix="KEY=VALUE")
        if key in ("targets", "precisions", "calibration_samples"):
            raise UsageError(f"--edgetl-set {key}: the benchmark sets {key} itself", fix="leave it out")
        try:
            found[key] = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            found[key] = text
    return found


def _benchmark(given: Given, folder: Path) -> dict[str, Any]:
    say("edgetl ...")
    prepared = prepare(WORKLOADS[given.workload], given.data, folder, given.section, given.limit, given.crops)
    found = edgetl_candidates(prepared)
    for name in given.peers:
        say(f"{PEERS[name].title} ...")
        found.append(peer_candidate(name, prepared))
    candidates = [item for item in found if isinstance(item, Candidate)]
    say("speed ...")
    rows = _with_speed(candidates, prepared.evaluation[:1])
    if not given.speed_only:
        say(f"judging {len(candidates)} files on {_judged_on(given, prepared)} ...")
        rows = _with_decisions(candidates, rows, prepared)
    rows = sorted([*rows, *(item for item in found if isinstance(item, Row))], key=_place)
    machine = describe_workbench()
    heading = _heading(given, prepared, machine)
    print(f"{heading}\n\n{markdown_table(rows)}\n\n{_about_seconds(prepared)}", flush=True)
    return {
        "workload": given.workload,
        "heading": heading,
        "machine": machine,
        "edgetl": {"settings": given.section, "seconds": prepared.exported.seconds},
        "calibration": len(prepared.calibration),
        "evaluation": 0 if given.speed_only else len(prepared.evaluation),
        "rows": [dataclasses.asdict(row) for row in rows],
    }


def _with_speed(candidates: Sequence[Candidate], image: npt.NDArray[np.uint8]) -> list[Row]:
    """The candidates' lines with the ratio to the fp32 file of the same engine."""
    with ExitStack() as stack:
        sessions = [stack.enter_context(candidate.open()) for candidate in candidates]
        calls = {i: partial(session.run, {session.inputs[0].name: image}) for i, session in enumerate(sessions)}
        medians = interleaved_medians(calls)
    fp32 = {item.target: medians[i] for i, item in enumerate(candidates) if item.row.file.endswith(".fp32")}
    return [
        dataclasses.replace(item.row, speed=fp32[item.target] / medians[i] if item.target in fp32 else None)
        for i, item in enumerate(candidates)
    ]


def _with_decisions(candidates: Sequence[Candidate], rows: Sequence[Row], prepared: Prepared) -> list[Row]:
    """The original's line, `rows` with what their files decide, and edgetl's int8 files against each other."""
    reference = prepared.reference()
    original = Row(ORIGINAL, "-", top1=float((reference.argmax(axis=1) == prepared.kinds).mean()))
    judged_rows: list[Row] = []
    of_edgetl: dict[str, Logits] = {}
    for candidate, row in zip(candidates, rows, strict=True):
        with candidate.open() as session:
            logits = logits_of(session, prepared.evaluation)
        judged_rows.append(judged(row, reference, logits, prepared.kinds))
        if row.model == EDGETL:
            of_edgetl[row.file] = logits
    pairs = [
        judged(Row(PAIR, f"{first}, {second}"), of_edgetl[first], of_edgetl[second])
        for first, second in combinations(of_edgetl, 2)
    ]
    return [original, *judged_rows, *pairs]


def _place(row: Row) -> int:
    """The original and the fp32 files first, then the peers, then edgetl: each file, all of them, in pairs."""
    if row.model in (ORIGINAL, EDGETL, PAIR):
        return {ORIGINAL: 0, EDGETL: 3, PAIR: 4}[row.model]
    return 1 if row.file.endswith(".fp32") else 2


def _heading(given: Given, prepared: Prepared, machine: dict[str, Any]) -> str:
    libraries = {**machine["libraries"], **({"nncf": version("nncf")} if find_spec("nncf") else {})}
    kept = ("edgetl", "torch", "onnxruntime", "openvino", "nncf", "ai-edge-litert", "litert-torch", "ai-edge-quantizer")
    versions = ", ".join(f"{name} {libraries[name]}" for name in kept if name in libraries)
    chosen = ", ".join(f"{key} = {value}" for key, value in given.section.items()) or "its defaults"
    judged_on = "speed only" if given.speed_only else f"{_judged_on(given, prepared)} to judge on"
    return (
        f"{WORKLOADS[given.workload].title}; {len(prepared.calibration)} photos to calibrate on, {judged_on}; "
        f"edgetl with {chosen}.\n{datetime.now(UTC):%Y-%m-%d}, {machine['processor']}, {machine['cores']} cores "
        f"({' '.join(machine['cpu_flags'])}), {machine['system']}, Python {machine['python']}; speed on {THREADS} "
        f"thread.\n{versions}."
    )


def _judged_on(given: Given, prepared: Prepared) -> str:
    photos = len(prepared.evaluation) // (1 + given.crops)
    return f"{photos} photos" + (f" and {given.crops} random crops of each" if given.crops else "")


def _about_seconds(prepared: Prepared) -> str:
    stages = ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in prepared.exported.seconds.items())
    return f"edgetl's seconds by stage: {stages}; its row counts all of them but export, the float conversion."


def _save(path: Path, result: dict[str, Any]) -> None:
    try:
        path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error}", fix="choose another place") from error


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
