"""Does the gate hold still? One bundle verified again and again on a machine that is kept busy.

    python tests/benchmarks/gate_noise.py BUNDLE --data PHOTOS [--others 1] [--written quiet|busy] [--runs 20]

The gate is the one that ``edgetl verify --write-gate`` proposes from a first run, with nothing else going on or beside
the others. Then, every run a fresh process:

- Beside one process that spins on another core (``--others 1``), or none, there is a core for edgetl: the bundle as it
  is must pass every time; with the variant made 25 % slower (a sleep after every run, in proportion to it) it must fail
  every time; made 5 % slower it must pass or be undecided.
- Beside as many as the machine has cores, or more, the kernel gives edgetl's core to others: as it is and 5 % slower it
  must not fail, 25 % slower it must not pass.

Exit code 1 when one of them does not. BUNDLE keeps its reference, or its answers alone (then torch is not loaded, which
is quicker): edgetl verify BUNDLE --data PHOTOS --keep-reference. What else runs on the machine counts too: each line
has the share of the time in which edgetl waited for a core.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgetl.data.dataset import load_labelled, pick
from edgetl.verify.bundle import verify_bundle
from edgetl.verify.gate.limits import Gate, read_gate
from edgetl.verify.gate.propose import propose_gate
from edgetl.verify.options import VerifyOptions
from edgetl.verify.report import Report
from edgetl_runtime.bundle import Bundle, open_bundle
from edgetl_runtime.session import Session

__all__ = ["Slower", "acceptable", "keep_busy", "main", "verdict_of"]

SLOWER = {"as it is": 0.0, "25 % slower": 0.25, "5 % slower": 0.05}
WANTED = {"as it is": {"pass"}, "25 % slower": {"fail"}, "5 % slower": {"pass", "undecided"}}
"""As it is, the limit is 15 % away: undecided would be too unsure for that."""
CROWDED = {
    "as it is": {"pass", "undecided"},
    "25 % slower": {"undecided", "fail"},
    "5 % slower": {"pass", "undecided"},
}
"""Where others take edgetl's core away."""
_LEAST_SLEEP = 0.3e-3
"""Seconds. A sleep lasts a little longer than asked, so that its end is spun."""


class Slower:
    """A session whose runs take `share` longer: sleeping, as a device that is throttled does."""

    def __init__(self, session: Session, share: float) -> None:
        self._session = session
        self._share = share

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def __enter__(self) -> Slower:
        self._session.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._session.__exit__(*error)

    def run(self, feeds: Any) -> Any:
        """What the session gives, later."""
        start = time.perf_counter()
        outputs = self._session.run(feeds)
        end = time.perf_counter()
        end += self._share * (end - start)
        time.sleep(max(0.0, end - time.perf_counter() - _LEAST_SLEEP))
        while time.perf_counter() < end:
            pass
        return outputs


def verdict_of(report: Report, variant: str) -> str:
    """``pass``, ``undecided`` or ``fail``: what the checks of `variant` on latency come to."""
    checks = [check for check in report.verdict.checks if check.variant == variant and check.what == "p50_ratio"]
    if not checks:
        return "not measured"
    return "fail" if not checks[0].passed else "undecided" if checks[0].undecided else "pass"


def acceptable(counts: dict[str, Counter[str]], wanted: dict[str, set[str]] = WANTED) -> bool:
    """Whether every condition gave what it must."""
    return all(set(counts[condition]) <= verdicts for condition, verdicts in wanted.items())


@contextlib.contextmanager
def keep_busy(others: int = 1) -> Iterator[list[subprocess.Popen[bytes]]]:
    """So many processes that spin for as long as the block runs: a single one on the last core, several anywhere."""
    cores = "{max(os.sched_getaffinity(0))}" if others == 1 else "os.sched_getaffinity(0)"
    program = (
        f"import os; os.sched_setaffinity(0, {cores}); parent = os.getppid()\n"
        "while os.getppid() == parent: pass"  # whatever becomes of this one
    )
    spinning = [subprocess.Popen([sys.executable, "-c", program]) for _ in range(others)]
    try:
        yield spinning
    finally:
        for process in spinning:
            process.kill()
            process.wait()


def verify_once(given: argparse.Namespace, gate: Gate, slower: float) -> Report:
    """One verification of the variant and its reference, in this process."""
    real = Bundle.session

    def session(self: Bundle, variant_id: str, **options: Any) -> Any:
        opened = real(self, variant_id, **options)
        return Slower(opened, slower) if slower and variant_id == given.variant else opened

    Bundle.session = session  # type: ignore[method-assign]
    samples, _ = load_labelled(given.data, open_bundle(given.bundle).manifest.labels)
    options = VerifyOptions(
        gate=gate, layers=False, diagnose=False, precise=given.precise, latency_seconds=given.seconds
    )
    variants = dict.fromkeys([given.reference, given.variant])
    return verify_bundle(given.bundle, pick(samples, given.images), options, variants=list(variants)).report


def in_a_process(given: argparse.Namespace, gate: Path, slower: float, *precise: str) -> Report:
    """The same in a fresh process: what changes from start to start is part of the noise."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "report.json"
        options = {"data": given.data, "images": given.images, "variant": given.variant, "reference": given.reference}
        options |= {"child": out, "gate": gate, "slower": slower, "seconds": given.seconds}
        command = [sys.executable, __file__, str(given.bundle), *precise]
        command += [f"--{name}={value}" for name, value in options.items()]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(done.stderr)
        return Report.from_json(out.read_bytes(), where=str(out))


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--variant", default="onnx.int8")
    parser.add_argument("--reference", default="onnx.fp32", help="the variant that its latency is held against")
    parser.add_argument("--images", type=int, default=16, help="photos for the other checks; all must be known")
    parser.add_argument("--seconds", type=float, default=1.0, help="of runs for each variant")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--gate", type=Path, help="this gate, instead of one proposed from a first run")
    parser.add_argument("--others", type=int, default=1, help="processes that spin meanwhile (default: 1)")
    parser.add_argument("--written", choices=("quiet", "busy"), default="quiet", help="how the gate is proposed")
    parser.add_argument("--precise", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--slower", type=float, default=0.0, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all conditions and print how often each verdict came; 0 when all are as they must be."""
    given = parse(arguments)
    if given.child is not None:
        report = verify_once(given, Gate() if given.gate is None else read_gate(given.gate), given.slower)
        given.child.write_text(replace(report, history=()).to_json(), encoding="utf-8")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        gate = given.gate
        if gate is None:
            gate = Path(folder) / "gate.toml"
            gate.write_text("", encoding="utf-8")
            with keep_busy(given.others if given.written == "busy" else 0):
                proposal = propose_gate(in_a_process(given, gate, 0.0, "--precise"))
            gate.write_text(proposal.text, encoding="utf-8")
            print("\n".join(["gate:", *proposal.notes]), flush=True)
        rows: list[dict[str, Any]] = []
        with keep_busy(given.others):
            for number in range(given.runs):
                for condition, slower in SLOWER.items():
                    rows.append(_row(in_a_process(given, gate, slower), given.variant, condition, number))
                    print(json.dumps(rows[-1]), flush=True)
    counts = {name: Counter(row["verdict"] for row in rows if row["condition"] == name) for name in SLOWER}
    for condition, counted in counts.items():
        print(f"{condition:12} " + ", ".join(f"{number} {verdict}" for verdict, number in sorted(counted.items())))
    if given.json is not None:
        given.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    return 0 if acceptable(counts, CROWDED if given.others >= len(os.sched_getaffinity(0)) else WANTED) else 1


def _row(report: Report, variant: str, condition: str, number: int) -> dict[str, Any]:
    latency = report.variant(variant).latency
    check = next(c for c in report.verdict.checks if c.variant == variant and c.what == "p50_ratio")
    return {
        "run": number,
        "condition": condition,
        "verdict": verdict_of(report, variant),
        "passed": report.verdict.passed,
        "limit": check.limit,
        "ratio": latency and latency.ratio,
        "interval": latency and latency.ratio_ci95,
        "rounds": latency and len(latency.rounds_ms),
        "waited": latency and latency.waited,
        "load": os.getloadavg()[0],
        "seconds": round(report.seconds["verify"], 1),
        "disturbances": report.disturbances,
    }


if __name__ == "__main__":
    sys.exit(main())
