"""What verification found: frozen dataclasses, and the JSON that scripts rely on (schema 1).

Fields may be added within a schema, never renamed or removed, so unknown fields are passed over when reading.
"""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from dataclasses import dataclass, field
from typing import Any

from edgetl.verify.diagnose.diagnosis import Finding
from edgetl.verify.gate.baseline import BaselineComparison
from edgetl.verify.layers.layer_error import LayerFidelity
from edgetl.verify.measure.accuracy import Accuracy
from edgetl.verify.measure.changed_predictions import Damage
from edgetl.verify.measure.cross_format import Twins
from edgetl.verify.measure.latency import Latency
from edgetl.verify.measure.original import Original
from edgetl.verify.measure.parity import FeatureParity, Parity
from edgetl_runtime.errors import UsageError
from edgetl_runtime.escaping import json_value

__all__ = ["NOT_EXPORTED", "SCHEMA", "Check", "Data", "Measured", "Memory", "Report", "VariantReport", "Verdict"]

SCHEMA = 1
NOT_EXPORTED = "not exported"
"""How the error of a variant begins that could not be written; there are no files of it."""


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
class VariantReport:
    """One variant. What was not measured is ``None``; ``error`` says why when the variant could not be used.

    ``layers`` are in running order, ``suspects`` those of them where the variant first goes wrong; both are empty when
    layers were not measured. ``layers_error`` says why when that was tried and failed. ``damage``: which decisions
    differ from the original's; ``findings``: the usual causes that were recognised; ``features``: how what it gives
    besides the logits compares.

    ``files_sha256`` says which files it is about: by path in the bundle; older reports do not. ``measured`` is None
    in older reports, which were measured in one go, and where no engine here could run it. ``earlier``: parts that
    were kept from another measurement of the same files (``memory``, ``layers`` ...), and from which.
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
    layers: tuple[LayerFidelity, ...] = ()
    suspects: tuple[LayerFidelity, ...] = ()
    layers_error: str | None = None
    damage: Damage | None = None
    findings: tuple[Finding, ...] = ()
    features: tuple[FeatureParity, ...] = ()
    files_sha256: dict[str, str] = field(default_factory=dict)
    measured: Measured | None = None
    earlier: dict[str, Measured] = field(default_factory=dict)

    @property
    def features_sqnr_db(self) -> float | None:
        """SQNR of the feature that is farthest from the original's; None when none was measured."""
        return min((feature.sqnr_db for feature in self.features), default=None)


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
class Report:
    """Everything that one verification found.

    ``reference`` is the accuracy of the original model on the same tensors; ``seconds`` goes by stage: train,
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
    reference: Accuracy
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
    twins: tuple[Twins, ...] = ()
    left_out: tuple[str, ...] | None = None
    about_photos: tuple[str, ...] = ()
    schema: int = SCHEMA

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
            raw = json.loads(text)
        except ValueError as error:
            raise _unreadable(where, f"not JSON: {error}") from None
        schema = raw.get("schema") if isinstance(raw, dict) else None
        if not isinstance(schema, int) or schema > SCHEMA:
            raise _unreadable(where, f"report schema {schema!r}, this edgetl reads up to {SCHEMA}")
        report = _decode(cls, raw, where)
        assert isinstance(report, cls)
        return report


def _decode(kind: Any, value: Any, where: str) -> Any:
    """`value` (from JSON) as an instance of the annotation `kind`."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        if value is None:
            return None
        inner = [arg for arg in args if arg is not type(None)]
        # A number or a text, whichever stands there.
        chosen = str if str in inner and isinstance(value, str) else inner[0]
        return _decode(chosen, value, where)
    if kind is Any:
        return value
    if origin is tuple:
        _require(isinstance(value, list), where, "a list", value)
        kinds = [args[0]] * len(value) if args[-1] is Ellipsis else list(args)
        _require(len(kinds) == len(value), where, f"{len(kinds)} items", value)
        return tuple(_decode(kinds[i], item, f"{where}[{i}]") for i, item in enumerate(value))
    if origin is dict or dataclasses.is_dataclass(kind):
        _require(isinstance(value, dict), where, "an object", value)
        if origin is dict:
            return {key: _decode(args[1], item, f"{where}: {key}") for key, item in value.items()}
        return _decode_dataclass(kind, value, where)
    if kind is float:
        _require(isinstance(value, (int, float)) and not isinstance(value, bool), where, "a number", value)
        return float(value)
    _require(isinstance(value, kind) and not (kind is int and isinstance(value, bool)), where, kind.__name__, value)
    return value


def _decode_dataclass(kind: type[Any], value: dict[str, Any], where: str) -> Any:
    hints = typing.get_type_hints(kind)
    found: dict[str, Any] = {}
    for item in dataclasses.fields(kind):
        if item.name in value:
            found[item.name] = _decode(hints[item.name], value[item.name], f"{where}: {item.name}")
        elif item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING:
            raise _unreadable(where, f"field {item.name!r} is missing")
    return kind(**found)


def _require(fits: bool, where: str, wanted: str, value: Any) -> None:
    if not fits:
        raise _unreadable(where, f"expected {wanted}, found {value!r:.60}")


def _unreadable(where: str, why: str) -> UsageError:
    return UsageError(f"cannot read {where}: {why}", fix="make the report again with: edgetl verify BUNDLE --json FILE")
