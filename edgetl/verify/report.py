"""What verification found: frozen dataclasses, and the JSON that scripts rely on (schema 1).

Fields may be added within a schema, never renamed or removed, so unknown fields are passed over when reading.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any

from edgetl.tasks.classification.results import Accuracy, ChangedPredictions, Original, quality_of_accuracy
from edgetl.tasks.task import Picture, Quality, Table
from edgetl_runtime.decoding import decode, parse
from edgetl_runtime.errors import BundleError, UsageError
from edgetl_runtime.escaping import json_value

__all__ = [
    "NOT_EXPORTED",
    "REPORT_FILE",
    "SCHEMA",
    "SQNR_LIMIT_DB",
    "BaselineComparison",
    "Change",
    "Check",
    "CrossFormatParity",
    "Data",
    "FeatureParity",
    "Finding",
    "Latency",
    "LayerError",
    "Measured",
    "Memory",
    "Parity",
    "Report",
    "VariantReport",
    "Verdict",
]

SCHEMA = 1

REPORT_FILE = "report.json"
"""Its name in a bundle."""

NOT_EXPORTED = "not exported"
"""How the error of a variant begins that could not be written; there are no files of it."""

SQNR_LIMIT_DB = 200.0
"""SQNR is clipped to plus and minus this, so that it is always a number that JSON can hold and a gate can compare.

+200 dB stands for identical outputs (float32 arithmetic in another order gives 100 to 140 dB), -200 dB for outputs
that are not finite.
"""


@dataclass(frozen=True)
class Data:
    """The images that were used: how many, and a SHA-256 over their tensors and labels in order."""

    n: int
    fingerprint: str


@dataclass(frozen=True)
class Measured:
    """When a variant was measured (ISO 8601 in UTC), on which images, and on which processor.

    Variants with the same were measured side by side; milliseconds of others do not compare.
    """

    created: str
    data: Data
    processor: str | None = None


@dataclass(frozen=True)
class Parity:
    """How one variant's outputs compare with the original's, over ``n`` images.

    ``agreement`` is the mean share of each image's decisions that are the original's, as the task counts them, and
    ``agreement_ci95`` its 95 % interval where that is no count of images; None in older reports. ``top1_agreement`` is
    the same where a decision is a label, else None; an image whose outputs are not finite counts as a disagreement.
    ``sqnr_db`` is over all values of all images, clipped to `SQNR_LIMIT_DB`, of the output that is farthest from the
    original's; ``outputs`` has all of them where there are several. ``max_abs`` is its largest difference, ``cosine``
    the mean over images of the cosine between the two; both are ``None`` when a value is not finite. ``non_finite``
    counts the images with such values. ``agrees`` packs the shares of the images (`edgetl.stats.pack_shares`).
    """

    n: int
    top1_agreement: float | None
    sqnr_db: float
    max_abs: float | None
    cosine: float | None
    non_finite: int = 0
    agrees: str | None = None
    agreement: float | None = None
    agreement_ci95: tuple[float, float] | None = None
    outputs: tuple[FeatureParity, ...] = ()

    @property
    def decided_alike(self) -> float:
        """The agreement, of older reports too."""
        share = self.top1_agreement if self.agreement is None else self.agreement
        return 0.0 if share is None else share


@dataclass(frozen=True)
class FeatureParity:
    """How a feature of one variant compares with the reference's, over ``n`` images; numbers as in `Parity`."""

    name: str
    n: int
    sqnr_db: float
    max_abs: float | None
    cosine: float | None
    non_finite: int = 0


@dataclass(frozen=True)
class Latency:
    """Wall-clock milliseconds for one image at a time on ``threads`` threads.

    ``n`` runs gave ``p50_ms``, the median of the rounds' medians, and ``p95_ms``. ``load_ms`` is from file to session,
    ``first_ms`` the first run after it, ``preprocess_ms`` the median from image file to tensor (the same code for every
    variant). ``rounds_ms`` are the medians of the rounds in order. ``ratio`` is the median over rounds of the cost over
    that of the variant ``reference`` in the same round, ``p95_ratio`` the same of ``p95_ms``, and ``speedup`` that of
    fp32 of the same target over the variant's. ``..._ci95`` are 95 % intervals. ``waited`` is the share of the time of
    these rounds in which this process waited for a core that others had, ``start_waited`` that while it was loaded and
    run for the first time; None where the machine does not tell. ``batch`` is how many images the variant takes in one
    run, -1 any number: one image was filled up to a fixed one.
    """

    threads: int
    n: int
    p50_ms: float
    p95_ms: float
    load_ms: float
    first_ms: float
    preprocess_ms: float
    rounds_ms: tuple[float, ...] = ()
    ratio: float | None = None
    ratio_ci95: tuple[float, float] | None = None
    speedup: float | None = None
    speedup_ci95: tuple[float, float] | None = None
    p50_ci95: tuple[float, float] | None = None
    p95_ci95: tuple[float, float] | None = None
    p95_ratio: float | None = None
    p95_ratio_ci95: tuple[float, float] | None = None
    reference: str | None = None
    waited: float | None = None
    start_waited: float | None = None
    batch: int = 1


@dataclass(frozen=True)
class Memory:
    """What a fresh process took to come from nothing to a first answer: the most memory it held, in bytes, and its cold
    start in milliseconds.

    ``import_ms``: the runtime, numpy and the engine's library; ``load_ms``: from files to a session; ``first_ms``: the
    first run; ``cold_start_ms`` all three together. Times are medians over a few processes, memory is the most of any.
    ``waited``: the share of the time in which these processes waited for a core that others had.
    """

    peak_rss_bytes: int
    load_ms: float | None = None
    first_ms: float | None = None
    import_ms: float | None = None
    cold_start_ms: float | None = None
    waited: float | None = None


@dataclass(frozen=True)
class LayerError:
    """One layer of a variant beside the same layer of the original.

    ``module`` is the path of the original module, for a sum or product between modules that of the last one before
    it; ``node`` is the node of the captured graph and ``tensor`` the variant's own name for the values. An activation
    that engines fuse into a convolution is part of it. ``sqnr_db`` is the mean over images of the SQNR of the layer's
    output, ``drop_db`` how far that is below what goes into the layer (`fall_db`).

    Over all images: ``range`` is the least and greatest finite value of the variant, ``original_range`` of the
    original; ``clipped`` the share of values that stop at an end of the variant's range where the original's go on;
    ``non_finite`` the share of the variant's that are NaN or infinite; ``dead_channels`` are those where it is
    constant and the original is not. ``weights`` says how the file stores them: ``int8 per channel``,
    ``int8 per tensor``, ``float32``, with ``4 bits`` where that is all they use; None for a layer without any.
    """

    module: str
    node: str
    tensor: str
    sqnr_db: float
    drop_db: float
    range: tuple[float, float] = (0.0, 0.0)
    original_range: tuple[float, float] = (0.0, 0.0)
    clipped: float = 0.0
    non_finite: float = 0.0
    dead_channels: tuple[int, ...] = ()
    weights: str | None = None


@dataclass(frozen=True)
class Finding:
    """A recognised cause: ``evidence`` has the numbers that show it, ``fix`` the option or action that removes it."""

    cause: str
    evidence: str
    fix: str


@dataclass(frozen=True)
class VariantReport:
    """One variant. What was not measured is ``None``; ``error`` says why when the variant could not be used.

    ``layers`` are in running order, ``suspects`` those of them where the variant first goes wrong; both are empty when
    layers were not measured. ``layers_error`` says why when that was tried and failed. ``damage``: which decisions
    differ from the original's; ``findings``: the usual causes that were recognised; ``features``: how what it gives
    besides the logits compares.

    ``quality`` is the task's number against the truth, ``accuracy`` the same of a classifier in more detail; older
    reports have the latter alone. ``files_sha256`` says which files it is about: by path in the bundle; older reports
    do not. ``measured`` is None in older reports, which were measured in one go, and where no engine here could run
    it. ``earlier``: parts that were kept from another measurement of the same files (``memory``, ``layers`` ...), and
    from which.
    """

    id: str
    target: str
    precision: str
    engine: str | None = None
    engine_version: str | None = None
    bytes: int | None = None
    parity: Parity | None = None
    accuracy: Accuracy | None = None
    latency: Latency | None = None
    memory: Memory | None = None
    error: str | None = None
    layers: tuple[LayerError, ...] = ()
    suspects: tuple[LayerError, ...] = ()
    layers_error: str | None = None
    damage: ChangedPredictions | None = None
    findings: tuple[Finding, ...] = ()
    features: tuple[FeatureParity, ...] = ()
    files_sha256: dict[str, str] = field(default_factory=dict)
    measured: Measured | None = None
    earlier: dict[str, Measured] = field(default_factory=dict)
    quality: Quality | None = None

    @property
    def known_quality(self) -> Quality | None:
        """Its quality, of older reports too."""
        return self.quality or _quality_of(self.accuracy)

    @property
    def features_sqnr_db(self) -> float | None:
        """SQNR of the feature that is farthest from the original's; None when none was measured."""
        return min((feature.sqnr_db for feature in self.features), default=None)


@dataclass(frozen=True)
class CrossFormatParity:
    """How the logits of the second of two ``variants`` compare with those of the first."""

    variants: tuple[str, str]
    parity: Parity


@dataclass(frozen=True)
class Check:
    """One line of a verdict: ``value`` ``relation`` ``limit``, and whether that holds.

    ``value`` is ``None`` when the quantity was not measured, ``limit`` when the check is that the variant works at
    all; ``note`` says the reason then, and whatever else decided. ``undecided``: the interval straddles the limit even
    after the longest measuring; ``passed`` is true then. ``interval`` is the 95 % interval of ``value`` and ``p_value``
    the probability of such a value if the limit held, where they were part of the decision.
    """

    variant: str
    what: str
    limit: float | None
    value: float | None
    passed: bool
    relation: str | None = None
    note: str | None = None
    undecided: bool = False
    interval: tuple[float, float] | None = None
    p_value: float | None = None


@dataclass(frozen=True)
class Verdict:
    """The result of holding a report against a gate."""

    passed: bool
    checks: tuple[Check, ...]

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks that did not hold."""
        return tuple(check for check in self.checks if not check.passed)

    @property
    def undecided(self) -> tuple[Check, ...]:
        """The checks that could not be decided; they count as passed."""
        return tuple(check for check in self.checks if check.undecided)


@dataclass(frozen=True)
class Change:
    """One quantity of one variant (of the whole report where ``variant`` is empty), before and after.

    ``significant``: more than chance or the noise of measuring explains; ``note`` says by which rule. ``worse`` says
    the direction, and is false for changes that have none (versions, the input contract).
    """

    variant: str
    what: str
    before: float | str | None
    after: float | str | None
    significant: bool
    worse: bool
    note: str


@dataclass(frozen=True)
class BaselineComparison:
    """All changes since the report ``source``, made at ``created`` (ISO 8601)."""

    source: str
    created: str
    changes: tuple[Change, ...]


@dataclass(frozen=True)
class Report:
    """Everything that one verification found.

    ``task`` is the manifest's; ``quality`` is that of the original model on the same tensors, ``reference`` the same of
    a classifier in more detail; ``tables`` and ``pictures`` are the task's own; ``seconds`` goes by stage: train,
    calibrate, quantize, export, verify; ``labels`` are names by id. ``history`` is the training history, one dictionary
    per epoch; ``provenance`` is the manifest's; ``created`` is ISO 8601 in UTC. ``baseline``: what changed since an
    accepted report; ``disturbances``: what changed on the machine while latency was measured; ``contract``: input,
    preprocessing, normalisation and output of the manifest; ``original``: what the original model takes for what;
    ``twins``: whether the int8 files of the formats decide like each other; ``left_out``: the variants of the bundle
    that it says nothing about, None in older reports, which do not know; ``about_photos``: sentences on the photos,
    files that were left out, the same photo in two splits or under two labels.
    """

    bundle: str
    created: str
    machine: dict[str, Any]
    data: Data
    reference: Accuracy | None
    seconds: dict[str, float]
    variants: tuple[VariantReport, ...]
    verdict: Verdict
    labels: dict[str, str] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    history: tuple[dict[str, Any], ...] = ()
    baseline: BaselineComparison | None = None
    disturbances: tuple[str, ...] = ()
    contract: dict[str, Any] = field(default_factory=dict)
    original: Original | None = None
    twins: tuple[CrossFormatParity, ...] = ()
    left_out: tuple[str, ...] | None = None
    about_photos: tuple[str, ...] = ()
    task: str = "classification"
    quality: Quality | None = None
    tables: tuple[Table, ...] = ()
    pictures: tuple[Picture, ...] = ()
    schema: int = SCHEMA

    @property
    def known_quality(self) -> Quality | None:
        """The quality of the original, of older reports too."""
        return self.quality or _quality_of(self.reference)

    def variant(self, variant_id: str) -> VariantReport:
        """The part about `variant_id`; `UsageError` with the known ones when there is none."""
        for variant in self.variants:
            if variant.id == variant_id:
                return variant
        known = ", ".join(variant.id for variant in self.variants)
        raise UsageError(f"the report has no variant {variant_id!r}", fix=f"choose one of: {known}")

    def measured_of(self, variant: VariantReport) -> Measured:
        """When and on what `variant` was measured: what it says itself, else what the whole report says."""
        return variant.measured or Measured(self.created, self.data, self.machine.get("processor"))

    def to_json(self) -> str:
        """Indented JSON, always valid: a number that is not finite (a loss that went astray) becomes null."""
        fields = json_value(dataclasses.asdict(self))
        return json.dumps({"schema": fields.pop("schema"), **fields}, indent=1, ensure_ascii=False, allow_nan=False)

    @classmethod
    def from_json(cls, text: str | bytes, *, where: str) -> Report:
        """Read a report; `where` names its source in errors.

        Raises `UsageError` when it is not JSON, of a newer schema, or a field is missing or of another type.
        """
        try:
            raw = parse(text)
        except (ValueError, RecursionError) as error:
            raise _unreadable(where, f"not JSON: {error}") from None
        schema = raw.get("schema") if isinstance(raw, dict) else None
        if not isinstance(schema, int) or schema > SCHEMA:
            raise _unreadable(where, f"report schema {schema!r}, this edgetl reads up to {SCHEMA}")
        try:
            report = decode(cls, raw, where)
        except BundleError as error:
            raise _unreadable(where, error.what) from None
        assert isinstance(report, cls)
        return report


def _quality_of(accuracy: Accuracy | None) -> Quality | None:
    return None if accuracy is None else quality_of_accuracy(accuracy)


def _unreadable(where: str, why: str) -> UsageError:
    return UsageError(f"cannot read {where}: {why}", fix="make the report again with: edgetl verify BUNDLE --json FILE")
