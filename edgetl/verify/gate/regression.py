"""A report held against one that was accepted before: what changed, and is it worse than chance and noise explain?

- **Top-1 and agreement**: on the same images (same fingerprint) decisions are paired image by image, McNemar's exact
  one-sided test; on other images Fisher's exact test of the two shares.
- **SQNR**: the same in every run, so on the same images a fall of more than 1 dB counts: less is what another version
  of a converter rounds otherwise.
- **Latency**: the ratio to the reference engine, never milliseconds. A worsening counts when all of its interval is
  beyond `LATENCY_MARGIN` times the upper end of the accepted one's (further where one of the machines was busy, see
  `edgetl.verify.gate.decision`); on another processor, with other threads or another reference it is told and does not
  count.
- **Size**: more than 1 %, for the manifest inside a file grows by a few bytes. **Peak memory**: more than 15 %.
- **Versions, images and the input contract** are told; they have no direction. Another input tensor, other labels or
  another backbone are another model, which is no baseline at all.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgetl.stats import fisher_worse, is_significant, mcnemar_worse, mean_interval, unpack_shares
from edgetl.tasks import task_of
from edgetl.tasks.classification.accuracy import changed
from edgetl.verify.gate.decision import Decision, decide_interval
from edgetl.verify.gate.provenance import contract_of, provenance_changes
from edgetl.verify.report import BaselineComparison, Change, Check, Latency, Report, VariantReport
from edgetl_runtime.errors import UsageError
from edgetl_runtime.escaping import printable
from edgetl_runtime.files import read_regular
from edgetl_runtime.manifest import Manifest

__all__ = [
    "BYTES_MARGIN",
    "LATENCY_MARGIN",
    "PEAK_MARGIN",
    "Baseline",
    "check_covers",
    "check_same_model",
    "compare_reports",
    "latency_decision",
    "latency_limit",
]

LATENCY_MARGIN = 1.15
"""The factor by which a ratio of latencies may grow. Between runs of one file on one machine it varies by a few
percent, which no interval from within a run shows."""
_SQNR_DB = 1.0
BYTES_MARGIN = 1.01
PEAK_MARGIN = 1.15
_LARGEST = 2**28  # bytes of a report


@dataclass(frozen=True)
class Baseline:
    """A report that was accepted, and where it was read from."""

    report: Report
    source: str

    @classmethod
    def read(cls, path: Path) -> Baseline:
        """Raises `UsageError` when it cannot be read, is no report, or is of a newer schema."""
        try:
            content = read_regular(path, limit=_LARGEST)
        except OSError as error:
            raise UsageError(f"cannot read the baseline {path}: {error.strerror}", fix="check the path") from None
        return cls(Report.from_json(content, where=str(path)), printable(str(path)))


def check_same_model(manifest: Manifest, baseline: Baseline) -> None:
    """`UsageError` when the baseline is about a model of other labels, another backbone or another input tensor."""
    before, fix = baseline.report, "name the report of an earlier run of the same model: --baseline FILE"
    labels = [label.id for label in manifest.labels]
    about: dict[str, tuple[object, object]] = {
        "backbone": (before.provenance.get("backbone"), manifest.provenance.get("backbone")),
        "input": (before.contract.get("input"), contract_of(manifest)["input"]),
    }
    if before.labels and list(before.labels) != labels:
        raise UsageError(
            f"the baseline {baseline.source} is of another model: it has the labels {_shown(list(before.labels))}, "
            f"{manifest.name!r} has {_shown(labels)}",
            fix=fix,
        )
    for name, (was, now) in about.items():
        if was is not None and now is not None and was != now:
            raise UsageError(
                f"the baseline {baseline.source} is of another model: its {name} is {was}, that of "
                f"{manifest.name!r} is {now}",
                fix=fix,
            )


def check_covers(variants: Collection[str], baseline: Baseline) -> None:
    """`UsageError` when the baseline was made of a part of the bundle and says nothing of some of `variants`."""
    missing = [id_ for id_ in baseline.report.left_out or () if id_ in variants]
    if missing:
        there = ",".join(variant.id for variant in baseline.report.variants if variant.id in variants)
        only = f", or verify what it has: --variants {there}" if there else ""
        raise UsageError(
            f"the baseline {baseline.source} was made of a part of the bundle: it says nothing of {', '.join(missing)}",
            fix=f"make one of all variants: edgetl verify BUNDLE --data DIR --json FILE{only}",
        )


def compare_reports(
    report: Report, baseline: Baseline, *, only: Collection[str] | None = None
) -> tuple[BaselineComparison, tuple[Check, ...]]:
    """What changed, and the checks ``baseline.<quantity>`` that follow: one of each quantity that both have.

    `only` are the variants that were asked for: others of the baseline are not missed then.
    """
    before = baseline.report
    known = {variant.id: variant for variant in before.variants if variant.error is None}
    changes, checks = list(provenance_changes(before, report)), list[Check]()
    for variant in report.variants:
        if variant.error is not None:
            continue  # that is a check of its own
        if variant.id not in known:
            note = "it is not in the baseline, or did not work then"
            changes.append(Change(variant.id, "variant", None, variant.id, False, False, note))
            if before.left_out is None and variant.id not in {other.id for other in before.variants}:
                # It may be new, or the baseline was made of a part: nothing was compared, and that is no pass.
                note = "it is not in the baseline: nothing to compare it with; accept a report that has it"
                checks.append(Check(variant.id, "baseline.variant", None, None, True, note=note, undecided=True))
        else:
            for compared in _compare(before, report, known[variant.id], variant):
                checks.append(compared.check(variant.id))
                if compared.before != compared.after:
                    changes.append(compared.change(variant.id))
    missing = [id_ for id_ in known if id_ not in {variant.id for variant in report.variants}]
    for id_ in missing if only is None else [id_ for id_ in missing if id_ in only]:
        note = "it is in the baseline, and not in this report"
        changes.append(Change(id_, "variant", id_, None, True, True, note))
        checks.append(Check(id_, "baseline.variant", None, None, False, note=note))
    return BaselineComparison(baseline.source, before.created, tuple(changes)), tuple(checks)


def latency_decision(variant: VariantReport, before: VariantReport) -> Decision | None:
    """Whether the ratio of latencies holds `LATENCY_MARGIN` times the accepted one; ``None`` when it has none."""
    now, was = variant.latency, before.latency
    if now is None or was is None or now.ratio is None or was.ratio is None:
        return None
    limit = latency_limit(was, was.ratio)
    rounds, waited = len(now.rounds_ms), now.waited or 0.0
    return decide_interval(lambda ratio: ratio <= limit, now.ratio, now.ratio_ci95, rounds, waited)


def latency_limit(was: Latency, ratio: float) -> float:
    """The most that may become of an accepted `ratio`: what it may have been at most, as sure as it was measured, and
    the margin."""
    most = ratio if was.ratio_ci95 is None else max(ratio, was.ratio_ci95[1])
    return LATENCY_MARGIN * most / (1.0 - (was.waited or 0.0))


@dataclass(frozen=True)
class _Compared:
    """A quantity before and after; ``limit`` is the value up to which it is no worsening."""

    what: str
    before: float
    after: float
    relation: str
    decision: Decision
    better: bool
    limit: float
    rule: str

    def check(self, variant: str) -> Check:
        found = self.decision
        return Check(
            variant,
            f"baseline.{self.what}",
            self.limit,
            self.after,
            found.passed,
            self.relation,
            note=found.note or self.rule,
            undecided=found.undecided,
            interval=found.interval,
            p_value=found.p_value,
        )

    def change(self, variant: str) -> Change:
        worse = self.after < self.before if self.relation == ">=" else self.after > self.before
        note = f"{self.rule}; {self.decision.note}" if self.decision.note else self.rule
        return Change(variant, self.what, self.before, self.after, not self.decision.passed or self.better, worse, note)


def _compare(before: Report, after: Report, was: VariantReport, now: VariantReport) -> Iterator[_Compared]:
    same_images = before.measured_of(was).data.fingerprint == after.measured_of(now).data.fingerprint
    task, a, b = task_of(after.task), was.known_quality, now.known_quality
    if a and b:
        yield _shares(task.quality_quantity, (a.n, a.value, a.per_image), (b.n, b.value, b.per_image), same_images)
    if was.parity and now.parity:
        c, d = was.parity, now.parity
        yield _shares(task.agreement, (c.n, c.decided_alike, c.agrees), (d.n, d.decided_alike, d.agrees), same_images)
        if same_images:
            yield _least("sqnr_db", c.sqnr_db, d.sqnr_db, c.sqnr_db - _SQNR_DB, "a fall of more than 1 dB counts")
    latency = _latency(before, after, was, now)
    if latency is not None:
        yield latency
    if was.bytes is not None and now.bytes is not None:
        yield _most("bytes", was.bytes, now.bytes, was.bytes * BYTES_MARGIN, "more than 1 % counts")
    if was.memory and now.memory:
        peaks = was.memory.peak_rss_bytes, now.memory.peak_rss_bytes
        yield _most("peak_rss_bytes", *peaks, peaks[0] * PEAK_MARGIN, "more than 15 % counts")


def _shares(
    what: str, was: tuple[int, float, str | None], now: tuple[int, float, str | None], same_images: bool
) -> _Compared:
    """Two shares of images: paired where both reports have the decisions on the same images."""
    (n_was, before, bits_was), (n_now, after, bits_now) = was, now
    old = unpack_shares(bits_was or "", n_was) if same_images and n_was == n_now else None
    new = unpack_shares(bits_now or "", n_now)
    if old is not None and new is not None and not _are_counts(old, new):
        low, high = mean_interval(new - old)
        rule = f"the 95 % interval of the change is {low:+.4f} to {high:+.4f}, paired on the same images (bootstrap)"
        return _Compared(what, before, after, ">=", Decision(high >= 0), low > 0, before, rule)
    if old is not None and new is not None:
        broken, repaired = changed(new > 0, old > 0)
        worse, better = mcnemar_worse(broken, repaired), mcnemar_worse(repaired, broken)
        rule = f"{broken} images lost and {repaired} won, paired on the same images (exact McNemar)"
    else:
        counts_was, counts_now = (round(before * n_was), n_was), (round(after * n_now), n_now)
        worse, better = fisher_worse(counts_was, counts_now), fisher_worse(counts_now, counts_was)
        rule = f"of {n_was} and {n_now} images that are not paired (Fisher's exact test)"
    failed = after < before and is_significant(worse)
    decision = Decision(not failed, p_value=min(worse, better))
    return _Compared(what, before, after, ">=", decision, after > before and is_significant(better), before, rule)


def _are_counts(*shares: npt.NDArray[np.float64]) -> bool:
    """Whether every image is right or wrong, and none in part."""
    return all(np.isin(values, (0.0, 1.0)).all() for values in shares)


def _latency(before: Report, after: Report, was: VariantReport, now: VariantReport) -> _Compared | None:
    decision = latency_decision(now, was)
    if decision is None or was.latency is None or now.latency is None:
        return None
    if was.latency.ratio is None or now.latency.ratio is None or now.id == now.latency.reference:
        return None
    limit = latency_limit(was.latency, was.latency.ratio)
    better = now.latency.ratio_ci95 is not None and now.latency.ratio_ci95[1] < was.latency.ratio / LATENCY_MARGIN
    rule = f"the ratio to {now.latency.reference}; {LATENCY_MARGIN - 1:.0%} more counts"
    other = _incomparable(before, after, was, now)
    if other is not None:
        decision, better, rule = Decision(True, interval=decision.interval), False, f"{other}: told, does not count"
    return _Compared("p50_ratio", was.latency.ratio, now.latency.ratio, "<=", decision, better, limit, rule)


def _incomparable(before: Report, after: Report, was: VariantReport, now: VariantReport) -> str | None:
    """Why two ratios of latencies cannot be compared, ``None`` when they can."""
    if was.latency is None or now.latency is None:
        return "not measured"
    if was.latency.reference != now.latency.reference:
        return f"measured against {was.latency.reference} then, {now.latency.reference} now"
    if was.latency.threads != now.latency.threads:
        return f"{was.latency.threads} threads then, {now.latency.threads} now"
    if (processor := before.measured_of(was).processor) != after.measured_of(now).processor:
        return f"another processor ({processor})"
    return None


def _least(what: str, before: float, after: float, limit: float, rule: str) -> _Compared:
    better = after - before > before - limit
    return _Compared(what, before, after, ">=", Decision(after >= limit), better, limit, rule)


def _most(what: str, before: float, after: float, limit: float, rule: str) -> _Compared:
    better = before - after > limit - before
    return _Compared(what, before, after, "<=", Decision(after <= limit), better, limit, rule)


def _shown(labels: list[str]) -> str:
    return ", ".join(labels[:4]) + (f" and {len(labels) - 4} more" if len(labels) > 4 else "")
