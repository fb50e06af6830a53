"""Which variant to load on this machine: the fastest that runs here and is accurate enough, found by trying.

What was found is kept in the user's cache for the bundle, the machine and the versions of its engines, so that only
the first start pays for it.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgetl_runtime.bundle import Bundle
from edgetl_runtime.cache import keep, own_cache
from edgetl_runtime.console import size, table
from edgetl_runtime.engines import ENGINES, engine_info, installed
from edgetl_runtime.errors import EdgetlError, EngineError
from edgetl_runtime.escaping import printable
from edgetl_runtime.files import read_regular
from edgetl_runtime.frozen import dataclass, field
from edgetl_runtime.machine import cpu_features, describe_machine
from edgetl_runtime.manifest import Variant
from edgetl_runtime.preflight import obstacle
from edgetl_runtime.quantities import DROP, SHARE, percent_in_words, told_apart
from edgetl_runtime.ranking import as_fast, best_first
from edgetl_runtime.results import Result
from edgetl_runtime.session import Session, Tensors
from edgetl_runtime.verification import Verified, read_verified

__all__ = ["Candidate", "Choice", "Wish", "choose"]

_PREFERRED_PRECISIONS = ("int8", "fp16", "fp32")
_VERSION = 2  # of what is kept
_LARGEST = 2**20  # bytes of it
_RUNS = 7  # of each variant, in turns
_HOPELESS = 2.0  # times the fastest: not worth more runs
_UNKNOWN = Verified()
_ROUNDING = 1e-9  # of shares that are differences
_VERIFY = "edgetl verify BUNDLE --data DIR --record"
_NOT_VERIFIED = "not verified"
_NOT_RECORDED = "its accuracy is not recorded"


@dataclass(frozen=True)
class Wish:
    """What a variant has to fit.

    ``engine`` names one engine ("auto": any installed); ``device``, ``device_options``, ``threads`` and ``strict``
    are those of `load`. ``min_top1`` is the least top-1 accuracy in the bundle's report
    (share of 1), ``max_drop`` the most that it may lie below the original's (share of 1, below a half); where accuracy
    was not measured, the share of decisions that differ stands for the drop, which cannot be larger.
    """

    engine: str = "auto"
    device: str = "cpu"
    device_options: Mapping[str, str] = field(default_factory=dict)
    threads: int | None = None
    strict: bool = False
    min_top1: float | None = None
    max_drop: float | None = None

    def __post_init__(self) -> None:
        if self.engine != "auto":  # "onnx" is ONNX Runtime
            object.__setattr__(self, "engine", engine_info(self.engine).name)
        if self.min_top1 is not None:
            SHARE.check("min_top1", self.min_top1)
        if self.max_drop is not None:
            DROP.check("max_drop", self.max_drop)


@dataclass(frozen=True)
class Candidate:
    """A variant as it was considered: ``fastest_ms`` is the shortest of its runs here (one image), None when it was
    not run; ``top1_agreement`` and ``delta`` are the report's; ``problem`` says why it was not taken, None when it
    could have been. ``note``: the limits on time, size or memory that it missed where it was verified, None without;
    they are no reason not to take it."""

    variant: str
    engine: str
    bytes: int
    fastest_ms: float | None = None
    top1_agreement: float | None = None
    delta: float | None = None
    problem: str | None = None
    note: str | None = None


@dataclass(frozen=True)
class Choice(Result):
    """The ``variant`` to load, the ``reason``, and all ``candidates`` in the manifest's order. ``cached``: found by
    an earlier start. Printed, it is the table it was chosen from."""

    variant: str
    reason: str
    candidates: tuple[Candidate, ...]
    cached: bool = False

    def __str__(self) -> str:
        rows = [_row(candidate, self.variant) for candidate in self.candidates]
        origin = " (found by an earlier start)" if self.cached else ""
        head = ["", "variant", "engine", "ms", "agree", "delta", "size", "state"]
        return "\n".join([printable(f"{self.variant}: {self.reason}{origin}"), *table(head, rows)])


def choose(bundle: Bundle, wish: Wish) -> Choice:
    """The fastest variant of those that run here and fit the wish.

    Among equally fast ones the better agreement with the original decides, then the smaller size. A variant that
    failed a check of its quality in the bundle's report is never taken, and one that was not verified only where none
    was. A limit on time, size or memory that it missed there is a note: that was another machine, or somebody's wish.

    Args:
        bundle: The open bundle.
        wish: What a variant has to fit.

    Returns:
        The variant to load, why, and all that were considered.

    Raises:
        MissingDependency: No engine of the bundle is installed.
        EngineError: None of the variants fits, or runs here; it says what is missing.
    """
    candidates = [item for item in bundle.manifest.variants if wish.engine in ("auto", item.requires.engine)]
    if not candidates:
        engines = sorted({item.requires.engine for item in bundle.manifest.variants})
        raise EngineError(
            f"{bundle.path} has no variant for engine {wish.engine!r}{bundle.manifest.left_out}",
            fix=f"choose one of: {', '.join(engines)}",
        )
    verified = read_verified(bundle)
    errors = {item.id: missing.error for item in candidates if (missing := obstacle(item)) is not None}
    problems = {id_: error.what for id_, error in errors.items()} | _unfit(candidates, errors, verified, wish)
    fit = [item for item in candidates if item.id not in problems]
    if not fit:
        raise _nothing_fits(bundle, candidates, errors, problems)
    race = _raced(bundle, fit, verified, wish)
    problems |= race.failed
    left = [item for item in fit if item.id not in race.failed]
    if not left:
        # Nobody is told to name one that failed when it was tried.
        tried = {id_: EngineError(reason, fix="export the bundle again") for id_, reason in race.failed.items()}
        raise _nothing_fits(bundle, candidates, {**errors, **tried, **race.errors}, problems)
    best = _best(left, race.times, verified) if race.times else left[0].id
    reason = f"the fastest of {len(race.times)} that run here and fit"
    if not race.times:
        reason = "the only one that runs here and fits"
    if race.untried is not None:
        reason += f"; no child process tried them first: {race.untried}"
    chosen = _choice(candidates, verified, problems, race.times, best, reason)
    return dataclasses.replace(chosen, cached=race.cached)


def _unfit(
    candidates: Sequence[Variant], errors: Mapping[str, EdgetlError], verified: Mapping[str, Verified], wish: Wish
) -> dict[str, str]:
    """Why variants that could run are not to be taken."""
    able = [item for item in candidates if item.id not in errors]
    some_verified = any(verified.get(item.id, _UNKNOWN).top1_agreement is not None for item in able)
    problems = {}
    for item in able:
        recorded = verified.get(item.id, _UNKNOWN)
        if recorded.failed:
            problems[item.id] = f"failed verification: {recorded.failed[0]}"
        elif some_verified and recorded.top1_agreement is None:
            problems[item.id] = _NOT_VERIFIED
        elif (reason := _too_inaccurate(recorded, wish)) is not None:
            problems[item.id] = reason
    return problems


def _too_inaccurate(recorded: Verified, wish: Wish) -> str | None:
    if wish.min_top1 is not None:
        if recorded.top1 is None:
            return _NOT_RECORDED
        if recorded.top1 < wish.min_top1 - _ROUNDING:
            top1, asked = told_apart(recorded.top1, wish.min_top1, percent_in_words)
            return f"{recorded.quality} {top1}, asked for {asked}"
    if wish.max_drop is not None:
        drop = recorded.drop
        if drop is None:
            return _NOT_RECORDED
        if drop > wish.max_drop + _ROUNDING:
            lost, asked = told_apart(drop, wish.max_drop, percent_in_words)
            return f"drop {lost}, asked for {asked} at most"
    return None


def _nothing_fits(
    bundle: Bundle, candidates: Sequence[Variant], errors: Mapping[str, EdgetlError], problems: Mapping[str, str]
) -> EdgetlError:
    """The error for a bundle of which nothing can be taken: what is missing, or what each variant lacks."""
    able = [item.id for item in candidates if item.id not in errors]
    by_reason = {error.what: error for error in errors.values()}
    fixes = list(dict.fromkeys(error.fix for error in by_reason.values() if error.fix))
    if able:
        reasons = "; ".join(f"{id_}: {problems[id_]}" for id_ in able)
        unverified = any(problems[id_] in (_NOT_VERIFIED, _NOT_RECORDED) for id_ in able)
        # Another export brings no device and no engine.
        ways = [f"verify it: {_VERIFY}"] if unverified else [] if fixes else ["export the bundle again"]
        return EngineError(
            f"no variant of {bundle.path} that can run here is good enough ({'; '.join([reasons, *by_reason])})",
            fix="   or   ".join([*ways, *fixes, f"name one of them as the variant, to use it anyway: {able[0]}"]),
        )
    if len(by_reason) == 1:
        return next(iter(by_reason.values()))
    return EngineError(f"no variant of {bundle.path} can run here: {'; '.join(by_reason)}", fix="   or   ".join(fixes))


@dataclass(frozen=True)
class _Race:
    """Fastest run (ms) by variant id, and why the others could not run after all; a single variant is not timed.

    ``untried``: why none was tried in a child process first, None when they were. ``errors`` are not kept.
    """

    times: dict[str, float]
    failed: dict[str, str]
    cached: bool = False
    untried: str | None = None
    errors: Mapping[str, EdgetlError] = field(default_factory=dict)


def _raced(bundle: Bundle, fit: Sequence[Variant], verified: Mapping[str, Verified], wish: Wish) -> _Race:
    """`_tried_and_timed`, or what it gave before for the same bundle, machine, engines and wish."""
    folder = own_cache("choices")
    if folder is None:
        return _tried_and_timed(bundle, fit, wish)
    file = folder / f"{_key(bundle, fit, verified, wish)}.json"
    race = _read(file, {item.id for item in fit})
    if race is None:
        race = _tried_and_timed(bundle, fit, wish)
        fields = {"times": race.times, "failed": race.failed, "untried": race.untried}
        keep(file, json.dumps(fields).encode())
    return race


def _tried_and_timed(bundle: Bundle, fit: Sequence[Variant], wish: Wish) -> _Race:
    """Run the variants in a child process, and time those here that did not end it: no file takes this process down."""
    from edgetl_runtime.trial import death, try_variants  # here: a choice that was kept needs none

    trials = try_variants(
        {item.id: bundle.path for item in fit},
        threads=wish.threads,
        device=wish.device,
        device_options=wish.device_options,
        strict=wish.strict,
    )
    failed = {id_: death(id_, how).what for id_, how in trials.died.items()}
    left = [item for item in fit if item.id not in failed]
    if len(fit) > 1 and left:
        race = _race(bundle, left, wish)
        return _Race(race.times, failed | race.failed, untried=trials.untried, errors=race.errors)
    return _Race({}, failed, untried=trials.untried)


def _race(bundle: Bundle, variants: Sequence[Variant], wish: Wish) -> _Race:
    """Run the variants: one engine is open at a time, and its variants take turns. One that is hopeless after its
    first turns is left at that."""
    from edgetl_runtime.racing import Race, Turns

    spec = bundle.manifest.preprocess
    feeds: Tensors = {bundle.manifest.input.name: np.full((1, *spec.crop, spec.channels), 128, np.uint8)}
    times: dict[str, float] = {}
    errors: dict[str, EdgetlError] = {}
    ranked = sorted(variants, key=_rank)
    for engine in dict.fromkeys(variant.requires.engine for variant in ranked):
        with Race(dropping=(EngineError,)) as race:
            for variant in ranked:
                if variant.requires.engine == engine:
                    race.enter(variant.id, functools.partial(_open, bundle, variant.id, wish), feeds)
            # One run a turn. The least of them counts: whatever else the machine does can only make one slower.
            fastest = min(times.values(), default=math.inf)
            turns = Turns(0.0, rounds=_RUNS, warm_up=0, least=1, hopeless=_HOPELESS, fastest_ms=fastest)
            times |= {id_: min(map(min, rounds)) for id_, rounds in race.go(turns).items()}
            errors |= race.errors
    return _Race(times, {id_: error.what for id_, error in errors.items()}, errors=errors)


def _open(bundle: Bundle, variant_id: str, wish: Wish) -> Session:
    return bundle.session(
        variant_id,
        threads=wish.threads,
        device=wish.device,
        device_options=wish.device_options,
        strict=wish.strict,
    )


def _best(fit: Sequence[Variant], times: Mapping[str, float], verified: Mapping[str, Verified]) -> str:
    """The id of the fastest; among equally fast ones the better agreement decides, then the smaller size."""
    ranked = best_first(
        [item for item in fit if item.id in times],
        ms=lambda item: times[item.id],
        merits=lambda item: (-(verified.get(item.id, _UNKNOWN).top1_agreement or 0.0), item.bytes),
        alike=lambda item, fastest: item is fastest or as_fast(times[item.id], times[fastest.id]),
    )
    return ranked[0].id


def _rank(variant: Variant) -> tuple[int, int]:
    """Engine by engine, and in each the likely winners first."""
    precision = variant.precision
    known = _PREFERRED_PRECISIONS
    return (
        list(ENGINES).index(variant.requires.engine),
        known.index(precision) if precision in known else len(known),
    )


def _key(bundle: Bundle, fit: Sequence[Variant], verified: Mapping[str, Verified], wish: Wish) -> str:
    """SHA-256 over all that the choice depends on; the manifest has the hash of every file."""
    engines = {engine: installed(engine) for engine in sorted({item.requires.engine for item in fit})}
    facts: dict[str, Any] = {
        "version": _VERSION,
        "manifest": bundle.manifest.to_json(compact=True),
        "fit": [item.id for item in fit],
        "verified": {id_: dataclasses.asdict(recorded) for id_, recorded in verified.items()},
        "wish": dataclasses.asdict(wish),
        "machine": describe_machine(),
        "cpu": cpu_features().flags,
        "engines": engines,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _read(file: Path, fit: set[str]) -> _Race | None:
    """What `file` holds; None when it is not there, damaged, or speaks of other variants."""
    try:
        fields = json.loads(read_regular(file, limit=_LARGEST))
        times = {str(id_): float(ms) for id_, ms in fields["times"].items()}
        failed = {str(id_): str(reason) for id_, reason in fields["failed"].items()}
        untried = None if fields["untried"] is None else str(fields["untried"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    timed = times and {*times, *failed} == fit and all(0.0 < ms < math.inf for ms in times.values())
    sound = timed or (len(fit) == 1 and not times and {*failed} <= fit)
    return _Race(times, failed, cached=True, untried=untried) if sound else None


def _choice(
    candidates: Sequence[Variant],
    verified: Mapping[str, Verified],
    problems: Mapping[str, str],
    times: Mapping[str, float],
    chosen: str,
    reason: str,
) -> Choice:
    considered = []
    for item in candidates:
        recorded = verified.get(item.id, _UNKNOWN)
        considered.append(
            Candidate(
                variant=item.id,
                engine=item.requires.engine,
                bytes=item.bytes,
                fastest_ms=times.get(item.id),
                top1_agreement=recorded.top1_agreement,
                delta=recorded.delta,
                problem=problems.get(item.id),
                note="; ".join(recorded.notes) or None,
            )
        )
    return Choice(chosen, reason, tuple(considered))


def _row(candidate: Candidate, chosen: str) -> list[str]:
    return [
        "*" if candidate.variant == chosen else " ",
        candidate.variant,
        candidate.engine,
        "-" if candidate.fastest_ms is None else f"{candidate.fastest_ms:.2f}",
        "-" if candidate.top1_agreement is None else f"{candidate.top1_agreement:.1%}",
        "-" if candidate.delta is None else f"{candidate.delta:+.1%}",
        size(candidate.bytes),
        candidate.problem or ("fits" if candidate.note is None else f"fits; missed where verified: {candidate.note}"),
    ]
