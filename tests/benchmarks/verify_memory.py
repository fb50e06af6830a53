"""Peak memory of a verification with few photos and with many: outputs, maps of them too, must not pile up.

    python tests/benchmarks/verify_memory.py --photos 50,500
    python tests/benchmarks/verify_memory.py --bundle cats.edgetl --labelled cats/ --photos 74,740

Each number of photos is verified on in a fresh process; where there are fewer they are taken again and again. Without
a bundle one is made, whose every output has 256 x 256 x 12 floats: a U-Net with random weights. Exit code 1 when the
peaks differ by more than a tenth.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from calibration_memory import LIMIT, Peak, ratio, report

from edgetl.data.dataset import Sample
from edgetl.models.backbones import build, preset
from edgetl.models.checkpoint import Checkpoint
from edgetl.models.heads import HeadSpec, head_named
from edgetl.pipeline import export_checkpoint
from edgetl.recipe import ExportSection
from edgetl.tasks import task_of
from edgetl.tasks.task import Judging
from edgetl.verify.bundle import verify_bundle
from edgetl.verify.measure.memory_probe import peak_rss_bytes
from edgetl.verify.options import VerifyOptions
from edgetl_runtime.bundle import open_bundle
from edgetl_runtime.errors import EdgetlError, ExportError, UsageError
from edgetl_runtime.manifest import Label

__all__ = ["main"]

_SIDE, _LABELS = 512, 12
"""A U-Net gives logits at half of the side."""
_PHOTOS = 16


def main(arguments: Sequence[str]) -> int:
    """Measure and print; 0 when the peaks are alike, 1 when not, 2 when there is something for the user to fix."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, help="default: one that is made here")
    parser.add_argument("--labelled", type=Path, help="photos for the bundle, as `edgetl verify --data` takes them")
    parser.add_argument("--photos", default="50,500", metavar="N,N", help="how many to verify on")
    parser.add_argument("--in-this-process", type=int, metavar="N", help="verify on N photos here, print JSON")
    given = parser.parse_args(arguments)
    try:
        numbers = [int(part) for part in given.photos.split(",") if part.isdecimal()]
        if len(numbers) != 2:
            raise UsageError(f"--photos {given.photos} makes no sense", fix="two numbers")
        if given.in_this_process is not None:
            print(json.dumps(asdict(_measured_here(given.bundle, given.labelled, given.in_this_process))))
            return 0
        if (given.bundle is None) != (given.labelled is None):
            raise UsageError("a bundle needs photos, and photos a bundle", fix="--bundle BUNDLE --labelled FOLDER")
        with tempfile.TemporaryDirectory(prefix="edgetl-verify-memory-") as scratch:
            bundle = given.bundle or _made(Path(scratch) / "maps.edgetl")
            peaks = [_measured_afresh(bundle, given.labelled, n) for n in sorted(numbers)]
    except EdgetlError as error:
        print(f"verify_memory: error: {error}", file=sys.stderr)
        return 2
    print(report(peaks))
    return 0 if ratio(peaks) <= LIMIT else 1


def _made(out: Path) -> Path:
    """A bundle of ONNX files, fp32 and int8."""
    torch.manual_seed(0)
    name, head = "mnasnet0_5", HeadSpec("unet")
    spec, normalize = preset(name, _SIDE)
    spec = replace(spec, resize=0, mode="stretch")
    labels = tuple(Label(str(index), f"label {index}") for index in range(_LABELS))
    trunk = build(name, len(labels)).eval()
    network = head_named(head.name).attach(trunk, len(labels), head.settings, crop=spec.crop, channels=3).eval()
    checkpoint = Checkpoint.of(
        network,
        backbone=name,
        labels=labels,
        preprocess=spec,
        normalize=normalize,
        task="segmentation",
        head=head,
    )
    export_checkpoint(checkpoint, _samples()[:_PHOTOS], out, ExportSection(("onnx",), ("fp32", "int8")))
    return out


def _samples() -> list[Sample]:
    """Photos of noise, with masks of it."""
    rng = np.random.default_rng(0)
    shape = (_SIDE, _SIDE)
    return [
        Sample(
            rng.integers(0, 256, (*shape, 3), np.uint8),
            0,
            f"noise-{index}",
            rng.integers(0, _LABELS, shape, np.uint8),
            shape,
        )
        for index in range(_PHOTOS)
    ]


def _measured_here(bundle: Path, labelled: Path | None, n: int) -> Peak:
    manifest = open_bundle(bundle).manifest
    if labelled is None:
        samples: Sequence[Sample] = _samples()
    else:
        samples = task_of(manifest.task).read_labelled(labelled, manifest.labels, Judging(manifest.preprocess))[0]
    chosen = [replace(samples[place % len(samples)], name=f"photo-{place}") for place in range(n)]
    before, start = peak_rss_bytes(), time.monotonic()
    verify_bundle(bundle, chosen, VerifyOptions(latency_seconds=0))
    return Peak(n, before, peak_rss_bytes(), time.monotonic() - start)


def _measured_afresh(bundle: Path, labelled: Path | None, n: int) -> Peak:
    photos = [] if labelled is None else ["--labelled", str(labelled)]
    command = [sys.executable, __file__, "--bundle", str(bundle), *photos, "--in-this-process", str(n)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = done.stderr.strip().splitlines() or ["no message"]
        raise ExportError(f"the verification on {n} photos ended with code {done.returncode}: {' '.join(said[-2:])}")
    return Peak(**json.loads(done.stdout.splitlines()[-1]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
