"""The files that the benchmark compares: edgetl's, and what the peers make of edgetl's fp32 files."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from judging import Row
from peers import PEERS, quantize_in_a_process
from workloads import Workload, preprocessed, with_crops

from edgetl.data.dataset import pick
from edgetl.pipeline import export_checkpoint
from edgetl.recipe import ExportSection, Recipe
from edgetl_export import TARGETS, Exported
from edgetl_runtime.bundle import open_bundle
from edgetl_runtime.engines import Execution, ModelBytes, Signature, open_session
from edgetl_runtime.errors import EdgetlError
from edgetl_runtime.session import Session

__all__ = ["EDGETL", "THREADS", "Candidate", "Prepared", "edgetl_candidates", "peer_candidate", "prepare"]

THREADS = 1
EDGETL = "edgetl"
_CALIBRATION = "calibration.npy"


@dataclass(frozen=True)
class Candidate:
    """A file to judge: its line of the table so far, its target, and how it is loaded."""

    row: Row
    target: str
    open: Callable[[], Session]


@dataclass(frozen=True, eq=False)
class Prepared:
    """What edgetl exported, and the tensors (n, H, W, 3) uint8 and labels (n,) for all the tools, in ``folder``."""

    folder: Path
    exported: Exported
    calibration: npt.NDArray[np.uint8]
    evaluation: npt.NDArray[np.uint8]
    kinds: npt.NDArray[np.int64]

    @property
    def bundle(self) -> Path:
        return self.folder / "bundle.edgetl"

    def reference(self) -> npt.NDArray[np.float32]:
        """Logits (n, classes) of the original for ``evaluation``."""
        run = self.exported.captured.source.reference()
        return np.concatenate([run(image[None]) for image in self.evaluation])

    def int8_seconds(self) -> float:
        """Seconds of every stage of edgetl but the conversion of the float model, which the peers are given."""
        return sum(seconds for stage, seconds in self.exported.seconds.items() if stage != "export")


def prepare(
    workload: Workload, data: Path, folder: Path, section: dict[str, Any], limit: int | None, crops: int
) -> Prepared:
    """Read the photos, export fp32 and int8 with edgetl, and leave the calibration tensors for the peers in `folder`.

    `section` holds options of the recipe's export section. With a `limit` that many images are calibrated on, and
    twice as many are judged; every one in `crops` random crops besides. Raises what the export raises.
    """
    checkpoint = workload.checkpoint(data)
    n = limit or workload.calibration_samples
    judged_on = workload.evaluation_photos(data, checkpoint)
    if limit is not None:
        judged_on = pick(judged_on, 2 * limit)
    calibration = preprocessed(workload.calibration_photos(data, n), checkpoint)
    np.save(folder / _CALIBRATION, calibration)
    changes = {**section, "precisions": ["fp32", "int8"], "calibration_samples": n}
    options: ExportSection = Recipe().updated({"export": changes}).export
    # What `edgetl.api.export` calls; unlike it, this tells the seconds of each stage.
    exported = export_checkpoint(checkpoint, data / workload.calibration, folder / "bundle.edgetl", options)
    return Prepared(
        folder=folder,
        exported=exported,
        calibration=calibration,
        evaluation=with_crops(preprocessed(judged_on, checkpoint), crops),
        kinds=np.tile(np.array([sample.label for sample in judged_on], dtype=np.int64), 1 + crops),
    )


def edgetl_candidates(prepared: Prepared) -> list[Candidate | Row]:
    """edgetl's files; a line for each that it could not write, and one for what the int8 files cost together."""
    bundle = open_bundle(prepared.bundle)
    found: list[Candidate | Row] = []
    int8_bytes = 0
    for variant in bundle.manifest.variants:
        size = sum(entry.bytes for entry in variant.files)
        int8 = variant.precision == "int8"
        int8_bytes += size if int8 else 0
        row = Row(EDGETL if int8 else "not quantised", variant.id, bytes=size)
        found.append(Candidate(row, variant.target, partial(bundle.session, variant.id, threads=THREADS)))
    found += [Row(EDGETL, variant_id, failed=reason) for variant_id, reason in prepared.exported.failed.items()]
    return [*found, Row(EDGETL, "all its int8 files", seconds=prepared.int8_seconds(), bytes=int8_bytes)]


def peer_candidate(name: str, prepared: Prepared) -> Candidate | Row:
    """The int8 file of the peer `name`, or the line that says why there is none."""
    peer = PEERS[name]
    bundle = open_bundle(prepared.bundle)
    row = Row(peer.title, f"{peer.target}.int8")
    try:
        source = prepared.bundle / bundle.manifest.variant(f"{peer.target}.fp32").files[0].path
        made, seconds = quantize_in_a_process(name, source, prepared.folder / _CALIBRATION, prepared.folder / name)
        weights = made.with_suffix(".bin").read_bytes() if made.suffix == ".xml" else None
        model = ModelBytes(made.read_bytes(), name=peer.title, weights=weights)
        signature = Signature((bundle.manifest.input,), (bundle.manifest.output,))
        opener = partial(open_session, TARGETS[peer.target].engine, model, signature, Execution(threads=THREADS))
        with opener():  # an engine that cannot load the file says so here, and not in the middle of the comparison
            size = len(model.main) + len(weights or b"")
    except EdgetlError as error:
        return dataclasses.replace(row, failed=error.what)
    return Candidate(dataclasses.replace(row, seconds=seconds, bytes=size), peer.target, opener)
