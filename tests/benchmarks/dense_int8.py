"""int8 beside fp32 of detectors and segmenters in the three engines, all in one run; README.md says what is shown.

python tests/benchmarks/dense_int8.py --networks ssdlite,lraspp,unet --peers --json dense.json
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from dense_networks import MEAN, NETWORKS, STD, with_weights
from judging import ROUNDS, interleaved_medians
from peers import check_peers_installed, quantize_in_a_process
from workloads import data_folder

from edgetl.cli.progress import say
from edgetl.verify.measure.machine import describe_workbench
from edgetl_export import TARGETS, CalibrationSamples, Captured, Source, capture
from edgetl_export.artifact import Artifact
from edgetl_export.converter_log import logged_to
from edgetl_export.quantize.calibrate import calibrate
from edgetl_export.quantize.pixels import on_pixels
from edgetl_export.quantize.simulate import Simulation
from edgetl_export.quantize.static import quantize_static
from edgetl_export.targets import open_target
from edgetl_runtime.comparison import sqnr_db
from edgetl_runtime.engines import Execution, ModelBytes, Signature, open_session
from edgetl_runtime.errors import EdgetlError, UsageError, nearest
from edgetl_runtime.manifest import Label, Normalize, Preprocess
from edgetl_runtime.preprocess import preprocess
from edgetl_runtime.session import Session

__all__ = ["Row", "main", "table"]

OWN = {"onnx": "ort-percentile", "tflite": "ai-edge", "openvino": "nncf"}
"""Each engine's own quantiser, one of `PEERS`."""

JUDGED = 16
_COLUMNS = (
    "file",
    "fp32 ms",
    "times as fast",
    "of own quantiser's time",
    "size",
    "SQNR dB",
    "like simulated",
    "in float",
)


@dataclass(frozen=True)
class Row:
    """A file: milliseconds, how its time is to that of fp32 and of the engine's own quantiser's file, bytes over
    those of fp32, and by output the SQNR against the original, for int8 against the simulation too."""

    network: str
    file: str
    ms: float
    speed: float
    of_own: float | None
    size: float
    sqnr_db: dict[str, float]
    simulated_db: dict[str, float] = field(default_factory=dict)
    in_float: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class _File:
    name: str
    opener: Callable[[], Session]
    bytes: int
    in_float: dict[str, int]

    @property
    def target(self) -> str:
        return self.name.partition(".")[0]


def main(arguments: Sequence[str]) -> int:
    """Run the benchmark; exit code 0, or 2 when there is something for the user to fix."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", default="ssdlite,lraspp,unet", help=f"of: {','.join(NETWORKS)}")
    parser.add_argument("--data", type=Path, help="weights and photos; default: EDGETL_DATA, else ../shared/data")
    parser.add_argument("--trained", type=Path, help="a folder with state dicts NETWORK.pt; default: see README.md")
    parser.add_argument("--targets", default=",".join(TARGETS))
    parser.add_argument("--photos", type=int, default=48, help="to calibrate on")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--peers", action="store_true", help="each engine's own quantiser beside it")
    parser.add_argument("--files", type=Path, help="leave the files in this folder")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(arguments)
    rows: list[Row] = []
    try:
        names = given.networks.split(",")
        for name in names:
            if name not in NETWORKS:
                raise UsageError(f"unknown network {name!r}", fix=nearest(name, list(NETWORKS)))
        if given.peers:
            check_peers_installed(tuple(OWN.values()))
        for name in names:
            with tempfile.TemporaryDirectory(prefix="edgetl-dense-") as scratch:
                folder = given.files / name if given.files else Path(scratch)
                folder.mkdir(parents=True, exist_ok=True)
                found = _measured(name, given, folder)
                print(table(found), flush=True)
                rows += found
    except EdgetlError as error:
        say(f"dense_int8: error: {error}")
        return 2
    if given.json is not None:
        document = {"machine": describe_workbench(), "rows": [dataclasses.asdict(row) for row in rows]}
        given.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return 0


def _measured(name: str, given: argparse.Namespace, folder: Path) -> list[Row]:
    say(f"{name} ...")
    data, network = data_folder(given.data), NETWORKS[name]
    spec = Preprocess(0, (network.size, network.size), mode="stretch")
    photos = sorted((data / network.photos).glob("*.jpg"))
    photos = photos[:: max(1, len(photos) // (given.photos + JUDGED))]
    images = np.stack([preprocess(photo, spec) for photo in photos[: given.photos + JUDGED]])
    calibration, judged = images[: given.photos], images[given.photos :]
    trained = given.trained / f"{name}.pt" if given.trained else None
    module = with_weights(name, data, calibration[:8], trained)
    labels = (Label("0", "0"),)
    source = Source(name, module, labels, spec, Normalize(MEAN, STD), "0" * 64, task="dense", outputs=network.outputs)
    captured = capture(source)
    integer = on_pixels(captured)
    quantized = quantize_static(integer, calibrate(integer, CalibrationSamples(list(calibration), spec)))
    files: list[_File] = []
    np.save(folder / "calibration.npy", calibration)
    for target in given.targets.split(","):
        writer = open_target(target)
        with (folder / "log").open("ab") as log, logged_to(log):
            plain, rounded = writer.write(captured, "fp32"), writer.quantize(quantized)
        files.append(_file(f"{target}.fp32", plain, captured, folder))
        files.append(_file(f"{target}.int8", rounded, captured, folder))
        if given.peers:
            files.append(_of_peer(target, plain, captured, folder))
    original = source.reference().outputs(judged)
    simulated = Simulation(integer, quantized.quantization).outputs(judged)
    return _rows(name, files, judged, original, simulated, given.rounds)


def _file(name: str, artifact: Artifact, captured: Captured, folder: Path) -> _File:
    for suffix, content in artifact.files.items():
        (folder / f"{name}{suffix}").write_bytes(content)
    left = (artifact.quantization or {}).get("float_operators", {})
    assert isinstance(left, dict)
    contents = list(artifact.files.values())
    return _File(name, _opener(name, contents, captured), sum(map(len, contents)), left)


def _of_peer(target: str, plain: Artifact, captured: Captured, folder: Path) -> _File:
    name = f"{target}.own"
    source = folder / f"{target}.fp32{next(iter(plain.files))}"
    out = Path(tempfile.mkdtemp(dir=folder)) / "own"
    made, _ = quantize_in_a_process(OWN[target], source, folder / "calibration.npy", out)
    paths = [made, made.with_suffix(".bin")] if made.suffix == ".xml" else [made]
    contents = [path.read_bytes() for path in paths]
    return _File(name, _opener(name, contents, captured), sum(map(len, contents)), {})


def _opener(name: str, contents: Sequence[bytes], captured: Captured) -> Callable[[], Session]:
    model = ModelBytes(contents[0], name=name, weights=contents[1] if len(contents) > 1 else None)
    signature = Signature((captured.input,), captured.outputs)
    return partial(open_session, TARGETS[name.partition(".")[0]].engine, model, signature, Execution(threads=1))


def _rows(
    name: str,
    files: Sequence[_File],
    judged: npt.NDArray[np.uint8],
    original: dict[str, Any],
    simulated: dict[str, Any],
    rounds: int,
) -> list[Row]:
    with ExitStack() as stack:
        sessions = {file.name: stack.enter_context(file.opener()) for file in files}
        calls = {key: partial(session.run, {"image": judged[:1]}) for key, session in sessions.items()}
        times = interleaved_medians(calls, rounds=rounds)
        outputs = {key: _outputs(session, judged) for key, session in sessions.items()}
    by_name = {file.name: file for file in files}
    rows = []
    for file in files:
        plain, own = f"{file.target}.fp32", f"{file.target}.own"
        rows.append(
            Row(
                name,
                file.name,
                ms=times[file.name],
                speed=times[plain] / times[file.name],
                of_own=times[file.name] / times[own] if own in times else None,
                size=file.bytes / by_name[plain].bytes,
                sqnr_db=_decibels(original, outputs[file.name]),
                simulated_db=_decibels(simulated, outputs[file.name]) if file.name.endswith(".int8") else {},
                in_float=file.in_float,
            )
        )
    return rows


def _outputs(session: Session, images: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[Any]]:
    runs = [{name: values.copy() for name, values in session.run({"image": image[None]}).items()} for image in images]
    return {name: np.concatenate([run[name] for run in runs]) for name in runs[0]}


def _decibels(wanted: dict[str, Any], given: dict[str, Any]) -> dict[str, float]:
    return {name: float(sqnr_db(values, given[name])) for name, values in wanted.items()}


def table(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table."""
    lines = [f"| {' | '.join((rows[0].network, *_COLUMNS))} |", f"|---{'|---:' * (len(_COLUMNS) - 1)}|---|"]
    for row in rows:
        cells = [
            row.file,
            f"{row.ms:.2f}",
            f"{row.speed:.2f}",
            "-" if row.of_own is None else f"{row.of_own:.2f}",
            f"{row.size:.3f}",
            *(" / ".join(f"{value:.1f}" for value in each.values()) or "-" for each in (row.sqnr_db, row.simulated_db)),
            ", ".join(f"{kind} {n}" for kind, n in row.in_float.items()) or "-",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
