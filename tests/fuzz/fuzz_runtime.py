"""Fuzz the runtime: every input must give the right answer, or an `EdgetlError` that says what and how to fix it.

    python tests/fuzz/fuzz_runtime.py [--n 20000] [--seed 0] [--only KIND[:INDEX]] [--keep FOLDER] [--json FILE]

Inputs are made from the seed, their kind and their number, and tried in worker processes: one that crashes, hangs or
fills the memory is found, and the input that did it is written into the folder `--keep`. The exit code is 1 when
anything was found.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parent))

from workers import BAD, OUTCOMES, Limits, Result, case_files, kinds, run_all, serve, write_corpus

__all__ = ["main"]


def planned(n: int, only: str | None) -> list[tuple[str, int]]:
    """`n` inputs, as many of each kind, the kinds taking turns; `only` one kind or one input."""
    if only is not None and ":" in only:
        kind, _, index = only.rpartition(":")
        return [(kind, int(index))]
    names = [only] if only else kinds()
    return [(names[place % len(names)], place // len(names)) for place in range(n)]


def table(results: list[Result]) -> str:
    """Inputs by kind and outcome, and the median time of one; outcomes that nothing had are left out."""
    counts: dict[str, Counter[str]] = {}
    for result in results:
        counts.setdefault(result.kind, Counter())[result.outcome] += 1
    used = [
        outcome for outcome in OUTCOMES if outcome in ("right", "error") or any(c[outcome] for c in counts.values())
    ]
    ms = {kind: median(result.ms for result in results if result.kind == kind) for kind in counts}
    lines = [f"{'kind':26}" + "".join(f"{outcome:>9}" for outcome in used) + f"{'ms':>9}"]
    lines += [
        f"{kind:26}" + "".join(f"{counts[kind][o]:9}" for o in used) + f"{ms[kind]:9.1f}" for kind in sorted(counts)
    ]
    total: Counter[str] = sum(counts.values(), Counter())
    return "\n".join([*lines, f"{'all':26}" + "".join(f"{total[outcome]:9}" for outcome in used)])


def main(words: list[str] | None = None) -> int:
    """Run the fuzzer; see the module."""
    parser = argparse.ArgumentParser(allow_abbrev=False, description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--n", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", metavar="KIND[:INDEX]")
    parser.add_argument("--keep", type=Path, help="folder for the inputs of what was found")
    parser.add_argument("--json", type=Path, help="write the summary there")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--seconds", type=float, default=Limits.seconds, help="longest that one input may take")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args(words)
    if given.serve is not None:
        return serve(given.serve, seed=given.seed)
    limits = Limits(seconds=given.seconds)
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="edgetl-fuzz-") as temporary:
        folder = Path(temporary)
        write_corpus(folder)
        work = planned(given.n, given.only)
        results = run_all(work, folder, seed=given.seed, workers=given.workers, limits=limits)
        found = [result for result in results if result.outcome in BAD]
        for result in found[:50] if given.keep else ():
            target = given.keep / result.kind.replace("/", "-") / str(result.index)
            target.mkdir(parents=True, exist_ok=True)
            for name, content in case_files(folder, given.seed, result.kind, result.index).items():
                (target / Path(name).name).write_bytes(content)
    seconds = time.monotonic() - start
    print(table(results))
    growth = max((result.settled for result in results), default=0)
    late = growth - max((result.settled for result in results[: len(results) // 2]), default=0)
    print(f"{len(results)} inputs in {seconds:.0f} s, seed {given.seed}")
    print(f"a worker grew by {growth / 2**20:.0f} MB at most, {late / 2**20:.0f} MB of that in the second half")
    for result in found[:40]:
        print(f"{result.outcome.upper()} {result.kind}:{result.index} {result.detail}")
    print(f"{len(found)} found" if found else "nothing found")
    if given.json is not None:
        by_kind: dict[str, Counter[str]] = {}
        for result in results:
            by_kind.setdefault(result.kind, Counter())[result.outcome] += 1
        summary = {
            "n": len(results),
            "seed": given.seed,
            "seconds": seconds,
            "kinds": by_kind,
            "growth": growth,
            "late": late,
        }
        given.json.write_text(json.dumps({**summary, "found": [vars(item) for item in found]}, indent=1) + "\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
