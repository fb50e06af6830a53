"""What a user would otherwise install to get from a photo to a label: start, latency, memory and size on disk.

    python tests/benchmarks/runtime_peers.py BUNDLE --photos DIR --work FOLDER

Every library gets a virtual environment of its own in FOLDER/envs, installed from the package index (Ultralytics and
Hugging Face bring torch with CUDA: 6 GB each) and deleted at the end unless --keep says otherwise. All classify the
same JPEG files with an int8 MobileNetV2, with their own defaults and preprocessing.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from runtime_by_hand import photos_of_side
from runtime_lines import heading, saved
from runtime_models import HandMade, built
from runtime_peer_models import hugging_face_folder, ultralytics_file
from runtime_processes import HERE, Start, in_turns
from workloads import data_folder

from edgetl_runtime.bundle import Bundle, open_bundle
from edgetl_runtime.errors import EdgetlError, ExportError, UsageError, nearest

__all__ = ["PEERS", "Peer", "Result", "installed_size", "main", "markdown_table", "result_of"]

_REPEATS = 3
_INSTALLED = ".installed"
_COLUMNS = ("what", "first label ms", "p50 ms", "peak RSS MB", "installed MB", "packages", "versions")
_COUNT = """\
import importlib.metadata, json, pathlib, sysconfig
site = pathlib.Path(sysconfig.get_paths()["purelib"])
tools = ("pip", "setuptools", "wheel")
found = {d.name.lower(): d.version for d in importlib.metadata.distributions() if d.name.lower() not in tools}
def size(name):
    return name.split("-")[0].split(".")[0] not in (*tools, "_distutils_hack", "pkg_resources")
files = [f for f in site.rglob("*") if f.is_file() and not f.is_symlink() and "__pycache__" not in f.parts]
kept = [f for f in files if size(f.relative_to(site).parts[0])]
print(json.dumps({"packages": found, "bytes": sum(f.stat().st_size for f in kept)}))
"""


@dataclass(frozen=True)
class Peer:
    """A library as a user installs it: requirements for pip, and the model it is given.

    ``kind`` is its name in `runtime_peer_child`; ``shown`` are the packages whose versions the table names.
    """

    title: str
    kind: str
    requirements: tuple[str, ...]
    model: Callable[[Bundle, HandMade, Path], Path]
    shown: tuple[str, ...]


@dataclass(frozen=True)
class Result:
    """A line of the table; ``failed`` says why there are no numbers."""

    title: str
    first_ms: float | None = None
    p50_ms: float | None = None
    peak_mb: float | None = None
    installed_mb: float | None = None
    packages: int | None = None
    versions: str = ""
    failed: str | None = None


def _file_of(engine: str) -> Callable[[Bundle, HandMade, Path], Path]:
    def path(bundle: Bundle, by_hand: HandMade, work: Path) -> Path:
        for variant in bundle.manifest.variants:
            if variant.requires.engine == engine and variant.precision == "int8":
                return bundle.path / variant.files[0].path
        raise UsageError(f"{bundle.path} has no int8 variant for {engine}", fix="export one")

    return path


PEERS: dict[str, Peer] = {
    "edgetl-onnx": Peer(
        "edgetl_runtime, ONNX Runtime",
        "edgetl",
        ("{wheel}[onnx]",),
        lambda bundle, by_hand, work: bundle.path,
        ("edgetl", "onnxruntime"),
    ),
    "edgetl-tflite": Peer(
        "edgetl_runtime, LiteRT",
        "edgetl",
        ("{wheel}[tflite]",),
        lambda bundle, by_hand, work: bundle.path,
        ("edgetl", "ai-edge-litert"),
    ),
    "mediapipe": Peer(
        "MediaPipe Tasks image classifier", "mediapipe", ("mediapipe",), _file_of("litert"), ("mediapipe",)
    ),
    "huggingface": Peer(
        "Hugging Face pipeline, optimum-onnx",
        "huggingface",
        ("optimum-onnx[onnxruntime]", "pillow"),
        lambda bundle, by_hand, work: hugging_face_folder(by_hand, work / "huggingface"),
        ("optimum-onnx", "transformers", "onnxruntime", "torch"),
    ),
    "ultralytics": Peer(
        "Ultralytics classify on ONNX",
        "ultralytics",
        ("ultralytics", "onnxruntime", "onnx"),
        lambda bundle, by_hand, work: ultralytics_file(by_hand, work / "ultralytics.onnx"),
        ("ultralytics", "onnxruntime", "torch"),
    ),
}


def main(arguments: Sequence[str]) -> int:
    """Install, measure, print, delete; 0, or 2 when there is something for the user to fix."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--photos", type=Path, required=True, help="folder of JPEG files, searched through")
    parser.add_argument("--limit", type=int, default=20, metavar="N", help="N of the photos")
    parser.add_argument("--side", type=int, default=480, metavar="PX", help="longer side of the photos; 0: as they are")
    parser.add_argument("--work", type=Path, required=True, help="for environments, models and photos")
    parser.add_argument("--data", type=Path, help="weights and photos; default: EDGETL_DATA, else ../shared/data")
    parser.add_argument("--peers", default=",".join(PEERS), help=f"of: {','.join(PEERS)}")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--keep", action="store_true", help="leave the environments for another time")
    parser.add_argument("--json", type=Path, help="write the results there as well")
    parser.add_argument("--markdown", type=Path, help="write the table there as well")
    given = parser.parse_args(arguments)
    try:
        names = tuple(given.peers.split(","))
        for name in names:
            if name not in PEERS:
                raise UsageError(f"unknown peer {name!r}", fix=nearest(name, tuple(PEERS)))
        work, bundle = given.work.resolve(), open_bundle(given.bundle.resolve())
        by_hand = built(work, data_folder(given.data))
        (work / "photos").mkdir(exist_ok=True)
        photos = photos_of_side(given.photos, given.limit, given.side, work / "photos")
        try:
            results = _results(names, bundle, by_hand, photos, work, rounds=given.rounds)
        finally:
            if not given.keep:
                shutil.rmtree(work / "envs", ignore_errors=True)
        title = heading(f"{len(photos)} photos to labels, defaults of each", rounds=given.rounds, clock="wall")
        text = f"{title}\n\n{markdown_table(results)}\n"
        print(text, flush=True)
        saved(given.markdown, text)
        saved(given.json, json.dumps({"heading": title, "rows": [asdict(row) for row in results]}, indent=2) + "\n")
    except EdgetlError as error:
        print(f"runtime_peers: error: {error}", file=sys.stderr)
        return 2
    return 0


def markdown_table(results: Sequence[Result]) -> str:
    """The results as one Markdown table, what failed with its reason."""
    rows = [_COLUMNS, ("---", *["---:"] * 5, "---")]
    for row in results:
        numbers = (row.first_ms, row.p50_ms, row.peak_mb, row.installed_mb, row.packages)
        digits = (0, 1, 0, 0, 0)
        cells = ("-" if n is None else f"{n:,.{d}f}" for n, d in zip(numbers, digits, strict=True))
        title = row.title if row.failed is None else f"{row.title} - failed: {row.failed}"
        rows.append((title.replace("|", "/"), *cells, row.versions))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def result_of(peer: Peer, starts: Sequence[Start], packages: dict[str, str], size: int) -> Result:
    """The line of `starts`: medians over the processes, the largest of their peaks."""
    return Result(
        peer.title,
        first_ms=float(np.median([start.ms for start in starts])),
        p50_ms=float(np.median([start.more["p50_ms"] for start in starts])),
        peak_mb=max(start.peak for start in starts) / 1e6,
        installed_mb=size / 1e6,
        packages=len(packages),
        versions=", ".join(f"{name} {packages[name]}" for name in peer.shown if name in packages),
    )


def _results(
    names: Sequence[str], bundle: Bundle, by_hand: HandMade, photos: Sequence[Path], work: Path, *, rounds: int
) -> list[Result]:
    commands: dict[str, list[str]] = {}
    failed: dict[str, str] = {}
    sizes: dict[str, tuple[dict[str, str], int]] = {}
    for name in names:
        peer = PEERS[name]
        try:
            python = _environment(peer, work / "envs" / name, work)
            sizes[name] = installed_size(python)
            model = peer.model(bundle, by_hand, work)
            code = "import runtime_peer_child; runtime_peer_child.main()"
            command = [str(python), "-c", code, peer.kind, str(model), str(_REPEATS), *map(str, photos)]
            in_turns({name: command}, rounds=1)  # one that cannot run says so here, and not in the middle
            commands[name] = command
        except EdgetlError as error:
            failed[name] = error.what.splitlines()[-1][-300:]
    found = in_turns(commands, rounds=rounds) if commands else {}
    return [
        result_of(PEERS[name], found[name], *sizes[name]) if name in found else Result(PEERS[name].title, failed=why)
        for name, why in ((name, failed.get(name)) for name in names)
    ]


def installed_size(python: Path) -> tuple[dict[str, str], int]:
    """Distributions (name to version) and bytes in an environment's site-packages, without pip and compiled files."""
    done = _run([str(python), "-c", _COUNT])
    found = json.loads(done)
    return found["packages"], int(found["bytes"])


def _environment(peer: Peer, folder: Path, work: Path) -> Path:
    """The interpreter of an environment with `peer`; one that is there already is taken. Raises `ExportError`."""
    python = folder / "bin" / "python"
    if not (folder / _INSTALLED).is_file():
        wheel = str(_wheel(work)) if any("{wheel}" in name for name in peer.requirements) else ""
        _run([sys.executable, "-m", "venv", str(folder)])
        wanted = [name.format(wheel=wheel) for name in peer.requirements]
        print(f"installing {' '.join(wanted)} ...", file=sys.stderr, flush=True)
        _run([str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", *wanted])
        (folder / _INSTALLED).touch()
    return python


def _wheel(work: Path) -> Path:
    folder = work / "wheel"
    found = list(folder.glob("*.whl"))
    if not found:
        command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder)]
        _run([*command, str(HERE.parents[1])])
        found = list(folder.glob("*.whl"))
    return found[0]


def _run(command: Sequence[str]) -> str:
    """Its output. Raises `ExportError` with the last line of what it said."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines() or ["no message"]
        raise ExportError(f"{' '.join(command[:6])} ended with code {done.returncode}: {said[-1]}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
