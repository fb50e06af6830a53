"""Which variant to ship on this device, and why: from latencies measured here and what verification found.

A variant that failed verification is never advised, and one that was not verified only where none was; that one missed
a limit on time, size or memory elsewhere is only said. Of the rest
the fastest is advised. A quantised variant that is not `WORTH` times as fast as fp32 of its engine loses to a float
one, and among variants that are equally fast within the noise the better agreement decides, then the smaller size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from edgetl_runtime.bench import VariantLatency
from edgetl_runtime.frozen import dataclass
from edgetl_runtime.machine import CpuFeatures
from edgetl_runtime.ranking import as_fast, best_first
from edgetl_runtime.verification import Verified

__all__ = ["WORTH", "Advice", "EngineAdvice", "Recommendation", "Speedup", "advise"]

WORTH = 1.1
"""What quantisation has to bring: so many times the speed of fp32 in the same engine."""

_BASELINE = "fp32"
_FLOAT = ("fp32", "fp16")
_INTEGER = ("int8", "dynamic")
# Engines that multiply uint8 activations with int8 weights: on x86 without VNNI by vpmaddubsw, which adds two products
# in int16 and saturates. LiteRT's XNNPACK widens its int8 to int16 first.
_SATURATING = ("onnxruntime", "openvino")
_VERIFY_FIRST = "its accuracy is unknown: verify first (edgetl verify --record)"


@dataclass(frozen=True)
class Speedup:
    """``variant`` beside fp32 of the same engine: ``ratio`` of the median latencies, above 1 is faster; ``size``: its
    bytes as a share of fp32's; ``worth``: ``ratio`` is at least `WORTH`, None for fp16, which need not be faster."""

    variant: str
    ratio: float
    size: float
    worth: bool | None


@dataclass(frozen=True)
class Recommendation:
    """``variant`` to ship, None when every one failed; whether it is ``verified``; ``reasons``, one clause each."""

    variant: str | None
    verified: bool
    reasons: tuple[str, ...]


_NONE = Recommendation(None, False, ("every variant measured here failed verification: export the bundle again",))


@dataclass(frozen=True)
class EngineAdvice:
    """What to ship in one engine, its variants beside fp32, and why others that one might expect are not it."""

    engine: str
    recommendation: Recommendation
    speedups: tuple[Speedup, ...]
    passed_over: tuple[str, ...]


@dataclass(frozen=True)
class Advice:
    """What to ship on this device over all engines, per engine, and what the CPU means for int8."""

    recommendation: Recommendation
    engines: tuple[EngineAdvice, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Candidate:
    """A variant with all that is known of it."""

    latency: VariantLatency
    recorded: Verified

    @property
    def id(self) -> str:
        return self.latency.id

    @property
    def precision(self) -> str:
        return self.id.partition(".")[2]

    @property
    def quantised(self) -> bool:
        return self.precision not in _FLOAT

    @property
    def verified(self) -> bool:
        return self.recorded.top1_agreement is not None and not self.recorded.failed

    @property
    def p50_ms(self) -> float:
        return self.latency.run.p50_ms

    def speedup_over(self, other: _Candidate) -> Speedup:
        ratio = other.p50_ms / self.p50_ms
        worth = ratio >= WORTH if self.quantised else None
        return Speedup(self.id, ratio, self.latency.bytes / other.latency.bytes, worth)

    def as_fast_as(self, other: _Candidate) -> bool:
        """Whether the medians differ by less than `NOISE`, or the middle halves of the rounds' medians overlap."""
        if as_fast(self.p50_ms, other.p50_ms):
            return True
        low, high = np.percentile(self.latency.rounds_ms, (25, 75))
        other_low, other_high = np.percentile(other.latency.rounds_ms, (25, 75))
        return bool(low <= other_high and other_low <= high)


def advise(latencies: Sequence[VariantLatency], verified: Mapping[str, Verified], features: CpuFeatures) -> Advice:
    """Advice from `latencies` measured side by side, `verified` by variant id (absent: not verified), and the CPU.

    Raises `ValueError` when there are no latencies: a caller's mistake, not a user's.
    """
    if not latencies:
        raise ValueError("nothing was measured, so there is nothing to advise")
    candidates = {item.id: _Candidate(item, verified.get(item.id, Verified())) for item in latencies}
    by_engine: dict[str, list[_Candidate]] = {}
    for candidate in candidates.values():
        by_engine.setdefault(candidate.latency.engine, []).append(candidate)
    engines = tuple(_advise_engine(engine, members) for engine, members in by_engine.items())
    winners = {item.recommendation.variant: item.recommendation for item in engines}
    best = _overall([candidates[id_] for id_ in winners if id_ is not None], winners)
    return Advice(best, engines, _cpu_notes(latencies, features))


def _advise_engine(engine: str, members: Sequence[_Candidate]) -> EngineAdvice:
    baseline = next((item for item in members if item.precision == _BASELINE), None)
    speedups: dict[str, Speedup] = {}
    if baseline is not None:
        speedups = {item.id: item.speedup_over(baseline) for item in members if item is not baseline}
    pool = _worthwhile(_eligible(members), speedups)
    best, recommendation = None, _NONE
    if pool:
        best, rivals, merit = _choose(pool)
        reasons = (_gain(best, baseline), _closeness(best), *_missed(best), *_tie(best, rivals, merit))
        recommendation = Recommendation(best.id, best.verified, reasons)
    passed_over = tuple(_passed_over(members, best, speedups))
    return EngineAdvice(engine, recommendation, tuple(speedups.values()), passed_over)


def _overall(winners: Sequence[_Candidate], advice: Mapping[str | None, Recommendation]) -> Recommendation:
    """The best of the engines' winners, with the reasons of its engine after the one that tells it from the others."""
    pool = _eligible(winners)
    if not pool:
        return _NONE
    best, rivals, merit = _choose(pool)
    reasons = []
    others = [item for item in pool if item is not best]
    if others and not rivals:
        second = min(others, key=lambda item: item.p50_ms)
        times = f"{second.p50_ms / best.p50_ms:.2f}x as fast as {second.id}, the next engine's best"
        reasons.append(f"p50 {best.p50_ms:.2f} ms, {times}")
    reasons += [*_tie(best, rivals, merit), *advice[best.id].reasons]
    reasons += [f"{item.id} is not verified" for item in winners if item not in pool]
    return Recommendation(best.id, best.verified, tuple(dict.fromkeys(reasons)))


def _eligible(candidates: Sequence[_Candidate]) -> list[_Candidate]:
    """What passed verification; where nothing did, what did not fail it."""
    sound = [item for item in candidates if not item.recorded.failed]
    return [item for item in sound if item.verified] or sound


def _worthwhile(eligible: list[_Candidate], speedups: Mapping[str, Speedup]) -> list[_Candidate]:
    """Without the quantised variants that gain too little, as long as there is a float one to take instead."""
    if all(item.quantised for item in eligible):
        return eligible
    return [item for item in eligible if not item.quantised or item.id not in speedups or speedups[item.id].worth]


def _choose(pool: Sequence[_Candidate]) -> tuple[_Candidate, list[_Candidate], str]:
    """The best of `pool`, the others that are as fast within the noise, and what it has before the next of them."""
    best, *rivals = best_first(
        pool,
        ms=lambda item: item.p50_ms,
        merits=lambda item: tuple(_merits(item).values()),
        alike=_Candidate.as_fast_as,
    )
    merits = _merits(best)
    merit = next((name for name in merits if rivals and merits[name] != _merits(rivals[0])[name]), "")
    return best, rivals, merit


def _merits(item: _Candidate) -> dict[str, float]:
    """What decides between variants that are equally fast, in this order: the least first."""
    return {
        "agrees better with the original": -(item.recorded.top1_agreement or 0.0),
        "is not quantised": float(item.quantised),
        "is smaller": float(item.latency.bytes),
    }


def _gain(best: _Candidate, baseline: _Candidate | None) -> str:
    engine = best.latency.engine
    if best is baseline:
        return f"{_BASELINE} takes {best.p50_ms:.2f} ms in {engine} here"
    if baseline is None:
        return f"{best.precision} takes {best.p50_ms:.2f} ms in {engine} here; what it gains over fp32 was not measured"
    speedup = best.speedup_over(baseline)
    times = f"{best.p50_ms:.2f} against {baseline.p50_ms:.2f} ms"
    faster = "as fast as" if best.as_fast_as(baseline) else f"{speedup.ratio:.2f}x as fast as"
    return f"{best.precision} is {faster} fp32 in {engine} here ({times}), at {_percent(speedup.size)} of its size"


def _closeness(best: _Candidate) -> str:
    found = best.recorded
    if found.top1_agreement is None:
        return _VERIFY_FIRST
    photos = "" if found.n is None else f" of {found.n} photos"
    delta = "" if found.delta is None else f", top-1 {100 * found.delta:+.1f} points"
    return f"it agreed with the original on {100 * found.top1_agreement:.1f} %{photos}{delta}"


def _missed(best: _Candidate) -> list[str]:
    notes = best.recorded.notes
    return [f"where it was verified it missed limits of the gate: {'; '.join(notes)}"] if notes else []


def _tie(best: _Candidate, rivals: Sequence[_Candidate], merit: str) -> list[str]:
    if not rivals:
        return []
    names = ", ".join(item.id for item in rivals)
    return [f"as fast within the noise: {names}" + (f"; {best.id} {merit}" if merit else "")]


def _passed_over(members: Sequence[_Candidate], best: _Candidate | None, speedups: Mapping[str, Speedup]) -> list[str]:
    """Variants that failed, that quantisation does not pay for, or that are faster than the best but not verified."""
    lines = []
    for item in members:
        if item is best:
            continue
        speedup = speedups.get(item.id)
        if item.recorded.failed:
            lines.append(f"{item.id} failed verification: {'; '.join(item.recorded.failed)}")
        elif item.quantised and speedup is not None and not speedup.worth:
            instead = (
                f"ship {best.id} (or use it only for its size" if best is not None else "(use it only for its size"
            )
            lines.append(
                f"{item.precision} is not worth it here in {item.latency.engine}: {speedup.ratio:.2f}x as fast as "
                f"fp32; {instead}, {_percent(speedup.size)} of fp32's)"
            )
        elif best is not None and best.verified and not item.verified and item.p50_ms < best.p50_ms:
            lines.append(f"{item.id} is faster ({item.p50_ms:.2f} ms), but not verified")
    return lines


def _cpu_notes(latencies: Sequence[VariantLatency], features: CpuFeatures) -> tuple[str, ...]:
    """What the CPU means for the variants that compute in integers; nothing when there is none of them."""
    engines = {item.engine for item in latencies if item.id.partition(".")[2] in _INTEGER}
    if not engines:
        return ()
    if features.dot_product is None:
        return ("whether this CPU has int8 dot-product instructions is unknown: only the measured times tell",)
    if features.dot_product:
        return (f"this CPU multiplies and adds int8 in one instruction ({', '.join(features.dot_product_flags)})",)
    if features.architecture != "x86":
        return ("no dot-product instructions (asimddp) on this CPU: int8 may be slow",)
    slow = "no VNNI/dot-product instructions on this CPU: int8 may be slow"
    risky = [engine for engine in _SATURATING if engine in engines]
    if not risky:
        return (slow,)
    return (f"{slow}, and u8s8 products can saturate in {' and '.join(risky)}: export with --int8-safe",)


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
