"""A bundle that exists, held against its original: the checkpoint, or the answers that the bundle keeps.

Runs where torch is not: everything that needs it is imported when it is used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from edgetl.data.dataset import Sample
from edgetl.models.training_history import HISTORY_FILE, read_rows
from edgetl.tasks import task_of
from edgetl.tasks.task import Judging
from edgetl.verify.measure.original_outputs import RecordingOriginal, check_keeps_more, read_kept_outputs
from edgetl.verify.measure.outputs import OriginalModel
from edgetl.verify.options import RunFacts, VerifyOptions
from edgetl.verify.record import check_record
from edgetl.verify.report import Report
from edgetl.verify.verify import verify
from edgetl_export.progress import Track, silent
from edgetl_runtime.bundle import Bundle, open_bundle
from edgetl_runtime.errors import CheckpointError, UsageError
from edgetl_runtime.manifest import Manifest

if TYPE_CHECKING:
    from edgetl.models.sources.foreign import Exportable
    from edgetl_export import Source

__all__ = ["REFERENCE", "Outcome", "source_of", "verify_bundle"]

REFERENCE = "reference"
"""Where a bundle keeps the checkpoint it came from, so that it can be held against the original at any time."""
_CHECKPOINT = "checkpoint.json"


@dataclass(frozen=True)
class Outcome:
    """What a run left: the bundle, the report on it, notes for the reader, and variants that miss ``max_drop``."""

    bundle: Path
    report: Report
    notes: tuple[str, ...] = ()
    over_budget: Mapping[str, str] = field(default_factory=dict)


def verify_bundle(
    bundle: Path,
    data: Path | Sequence[Sample],
    options: VerifyOptions | None = None,
    *,
    variants: Sequence[str] | None = None,
    reference: Exportable | None = None,
    skip_bad: bool = False,
    keep_reference: bool = False,
    record: bool = False,
    force: bool = False,
    track: Track = silent,
) -> Outcome:
    """Hold `variants` of `bundle`, by default all, against the original on the photos of `data`.

    The original is `reference`, by default the checkpoint that the bundle keeps; where there is no torch or no
    checkpoint, the answers that it keeps. With `keep_reference` the answers are kept in the bundle; nothing else is
    written. `record` says that the report is to be recorded there (`edgetl.reports.recording`): what stands
    against that is found before anything is measured. Raises `CheckpointError` when there is nothing to compare with,
    `DataError` when photos are not those whose answers were kept, `OutputError` when it could not be recorded.
    """
    opened = open_bundle(bundle)
    manifest = opened.manifest
    original = _original(bundle, opened, reference)
    answering = _kept(opened, bundle) if original is None else original.reference()
    notes: list[str] = []
    about_photos = _training_warnings(manifest)
    if isinstance(data, Path):
        judging = Judging(manifest.preprocess, skip_bad=skip_bad, track=track, tell=about_photos.append)
        samples, split = task_of(manifest.task).read_labelled(data, manifest.labels, judging)
        notes.append(f"verified on {len(samples)} photos of {data} ({split})")
    else:
        samples = tuple(data)
    if original is None:
        notes.append("held against the original's answers that the bundle keeps; layers need torch and the checkpoint")
        if keep_reference:
            raise UsageError("there are no new answers to keep", fix="leave --keep-reference out")
    if keep_reference and not force:
        check_keeps_more(opened, len(samples))
    if record:
        check_record(bundle, manifest, samples, variants=variants, force=force)
    recording = RecordingOriginal(answering, manifest.output.name)
    asked = recording if keep_reference else answering
    facts = RunFacts(history=read_rows(bundle / REFERENCE / HISTORY_FILE), about_photos=about_photos)
    report = verify(bundle, samples, asked, options, variants=variants, original=original, track=track, facts=facts)
    if keep_reference:
        recording.keep(bundle, manifest, [sample.label for sample in samples])
        notes.append(f"the original's answers to {len(samples)} photos are kept in {bundle / REFERENCE}")
    return Outcome(bundle, report, tuple(notes))


def source_of(checkpoint: Exportable, name: str, features: Sequence[str] = (), in_graph: Sequence[str] = ()) -> Source:
    """The network of `checkpoint`, as the export and the verification take it, with `features` besides its logits,
    and the task's decodings of these names in the files."""
    from edgetl_export import Source
    from edgetl_export.source import Decoding

    task = task_of(checkpoint.task)
    wanted = [task.decodings[name] for name in in_graph]
    crop = checkpoint.preprocess.crop
    return Source(
        name=name,
        module=checkpoint.build(),
        labels=checkpoint.labels,
        preprocess=checkpoint.preprocess,
        normalize=checkpoint.normalize,
        checkpoint_sha256=checkpoint.sha256,
        task=checkpoint.task,
        outputs=task.outputs,
        features=tuple(features),
        decodings=tuple(Decoding(one.names, one.module(checkpoint.decoder, crop)) for one in wanted),
        decoder=checkpoint.decoder,
        original=getattr(checkpoint, "original", None),
    )


def _original(bundle: Path, opened: Bundle, reference: Exportable | None) -> Source | None:
    """The original network; ``None`` where it cannot be had, for want of torch or of the checkpoint."""
    if reference is None:
        if not (bundle / REFERENCE / _CHECKPOINT).is_file():
            return None
        try:
            from edgetl.models.sources.opening import reopened
        except ModuleNotFoundError:
            return None
        reference = reopened(bundle / REFERENCE)
        if reference is None:
            return None
    _check_fits(reference, opened.manifest)
    return source_of(reference, opened.manifest.name, [spec.name for spec in opened.manifest.features])


def _training_warnings(manifest: Manifest) -> list[str]:
    """What was wrong with the photos that the original was trained on, as its checkpoint says."""
    training = manifest.provenance.get("training")
    data = training.get("data") if isinstance(training, dict) else None
    notes = data.get("notes") if isinstance(data, dict) else None
    texts = [note for note in notes if isinstance(note, str)] if isinstance(notes, list) else []
    return [f"of the training: {note}" for note in texts if note.startswith("warning: ")]


def _check_fits(reference: Exportable, manifest: Manifest) -> None:
    if reference.preprocess != manifest.preprocess or [label.id for label in reference.labels] != [
        label.id for label in manifest.labels
    ]:
        raise CheckpointError(
            "the reference has other labels or another preprocessing than the bundle",
            fix="name the checkpoint that the bundle was exported from",
        )


def _kept(opened: Bundle, bundle: Path) -> OriginalModel:
    """The answers that the bundle keeps, or an error that says what is missing."""
    outputs = read_kept_outputs(opened)
    if outputs is not None:
        return outputs
    if (bundle / REFERENCE / _CHECKPOINT).is_file() and find_spec("torch") is not None:
        raise CheckpointError(
            f"{bundle} came from a network whose code or file it does not keep",
            fix="name it: --reference module.py:function, FILE.pt2 or the folder it came from",
        )
    if (bundle / REFERENCE / _CHECKPOINT).is_file():
        raise CheckpointError(
            f"torch is not installed here, and {bundle} does not keep the original's answers",
            fix='pip install "edgetl[all]", or where torch is: edgetl verify BUNDLE --data DIR --keep-reference',
        )
    if opened.manifest.packed is not None:
        raise CheckpointError(
            f"{bundle} was packed for a device: the checkpoint that it is compared with was left out",
            fix="verify the bundle that it was packed from, or name the checkpoint: --reference CHECKPOINT",
        )
    raise CheckpointError(f"{bundle} does not keep the checkpoint it came from", fix="name it: --reference CHECKPOINT")
