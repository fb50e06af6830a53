"""Peak memory of the calibration with few photos and with many: it must not grow with their number.

    python tests/benchmarks/calibration_memory.py --photos 250,2900

Each number of photos is calibrated on in a fresh process. What reading the weights, capturing the graph and a first
calibration on a handful of photos leave behind is there before the peak is counted from anew, so that a large peak of
theirs cannot hide one of the calibration. Exit code 1 when the peaks differ by more than a tenth.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from workloads import WORKLOADS, data_folder, source_of

from edgetl.data.dataset import load_photos, pick
from edgetl.verify.measure.memory_probe import peak_rss_bytes
from edgetl_export import CalibrationSamples, capture
from edgetl_export.calibration import MIN_SAMPLES
from edgetl_export.quantize.calibrate import calibrate
from edgetl_runtime.errors import EdgetlError, ExportError, UsageError

__all__ = ["Peak", "main", "ratio", "report"]

PHOTOS = "flowers/train"
LIMIT = 1.1
_CLEAR_REFS = Path("/proc/self/clear_refs")
_RESET_PEAK = "5"
"""Written to clear_refs it sets the peak (VmHWM) back to what is resident now: proc_pid_clear_refs(5)."""


@dataclass(frozen=True)
class Peak:
    """What a process held while it calibrated on ``n`` photos, in bytes.

    ``before`` is its peak when the calibration began, ``peak`` the peak at its end; ``seconds`` is how long it took.
    """

    n: int
    before: int
    peak: int
    seconds: float


def main(arguments: Sequence[str]) -> int:
    """Measure and print; 0 when the peaks are alike, 1 when not, 2 when there is something for the user to fix."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workload", choices=list(WORKLOADS), default="mobilenet_v2", help="whose network")
    parser.add_argument("--data", type=Path, help="weights and photos; default: EDGETL_DATA, else ../shared/data")
    parser.add_argument("--photos", default="250,2900", metavar="N,N", help=f"how many photos of {PHOTOS}")
    parser.add_argument("--in-this-process", type=int, metavar="N", help="calibrate on N photos here, print JSON")
    given = parser.parse_args(arguments)
    try:
        data = data_folder(given.data)
        if given.in_this_process is not None:
            print(json.dumps(asdict(_measured_here(given.workload, data, given.in_this_process))))
            return 0
        numbers = [int(part) for part in given.photos.split(",") if part.isdecimal()]
        if len(numbers) != 2 or min(numbers) < MIN_SAMPLES:
            raise UsageError(f"--photos {given.photos} makes no sense", fix=f"two numbers of at least {MIN_SAMPLES}")
        peaks = [_measured_afresh(given.workload, data, n) for n in sorted(numbers)]
    except EdgetlError as error:
        print(f"calibration_memory: error: {error}", file=sys.stderr)
        return 2
    print(report(peaks))
    return 0 if ratio(peaks) <= LIMIT else 1


def ratio(peaks: Sequence[Peak]) -> float:
    """The last peak over the first."""
    return peaks[-1].peak / peaks[0].peak


def report(peaks: Sequence[Peak]) -> str:
    """The peaks as a Markdown table, their ratio below it."""
    rows = [f"| {p.n} | {p.before / 1e6:.0f} | {p.peak / 1e6:.0f} | {p.seconds:.1f} |" for p in peaks]
    head = ["| photos | before MB | peak MB | seconds |", "| ---: | ---: | ---: | ---: |"]
    return "\n".join([*head, *rows, "", f"ratio of the peaks: {ratio(peaks):.3f} (at most {LIMIT})"])


def _measured_here(workload: str, data: Path, n: int) -> Peak:
    """Raises `UsageError` when there are fewer than `n` photos."""
    checkpoint = WORKLOADS[workload].checkpoint(data)
    photos = load_photos(data / PHOTOS)
    if len(photos) < n:
        raise UsageError(f"{data / PHOTOS} has {len(photos)} photos, not {n}", fix="a smaller number: --photos")
    sources = [sample.source for sample in pick(photos, n)]
    captured = capture(source_of(checkpoint))
    calibrate(captured, CalibrationSamples(sources[:MIN_SAMPLES], checkpoint.preprocess))
    if _CLEAR_REFS.is_file():
        _CLEAR_REFS.write_text(_RESET_PEAK, encoding="ascii")
    before, start = peak_rss_bytes(), time.monotonic()
    calibrate(captured, CalibrationSamples(sources, checkpoint.preprocess))
    return Peak(n, before, peak_rss_bytes(), time.monotonic() - start)


def _measured_afresh(workload: str, data: Path, n: int) -> Peak:
    command = [sys.executable, __file__, "--workload", workload, "--data", str(data), "--in-this-process", str(n)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = done.stderr.strip().splitlines() or ["no message"]
        raise ExportError(f"the calibration on {n} photos ended with code {done.returncode}: {' '.join(said[-2:])}")
    return Peak(**json.loads(done.stdout.splitlines()[-1]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
