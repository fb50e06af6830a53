"""How the model of a report is used: what to install, the command, the labels, what to ship."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from edgetl.reports.phrases import input_in_words
from edgetl.tasks import task_of
from edgetl.verify.report import Report, VariantReport
from edgetl_runtime.engines import engine_info

__all__ = ["Choice", "Usage", "usage_of"]

_MOST_LABELS = 12
_NOT_KNOWN = "-"
_PACKED = "device.edgetl"


@dataclass(frozen=True)
class Choice:
    """The variant of one format to take, as text: ``package`` brings its engine, ``files`` are its own."""

    variant: str
    package: str
    files: tuple[str, ...]
    size: str
    agree: str
    p50: str


@dataclass(frozen=True)
class Usage:
    """``choices``: one for each format with a variant that passes, the fastest first; ``timed``: all were timed.
    ``pack``, ``check``, ``command`` and ``python`` can be copied as they stand. ``labels``: the first names of
    ``count``. ``alone``: a model file that does without the bundle."""

    choices: tuple[Choice, ...]
    timed: bool
    pack: str
    check: str
    command: str
    python: str
    input: str | None
    labels: str
    count: int
    alone: str | None


def usage_of(report: Report) -> Usage:
    """What a person needs to know who has only this page. Without a variant that passes there are no ``choices``."""
    failed = {check.variant for check in report.verdict.failed}
    passed = [variant for variant in report.variants if variant.id not in failed and variant.error is None]
    best: dict[str, VariantReport] = {}
    for variant in sorted(passed, key=_cost):
        best.setdefault(variant.target, variant)
    name = shlex.quote(report.bundle)
    fastest = next((variant.id for variant in best.values()), "")
    task = task_of(report.task)
    arguments = ", ".join(filter(None, ["'photo.jpg'", task.predict_example]))
    names = list(report.labels.values())
    more = len(names) - _MOST_LABELS
    return Usage(
        choices=tuple(map(_choice, best.values())),
        timed=all(variant.latency for variant in passed),
        pack=f"edgetl pack {name} --variants {fastest} --out {_PACKED}",
        check=f"edgetl-run self-test {_PACKED}",
        command=f"edgetl-run predict {_PACKED} photo.jpg{' --draw drawn.jpg' if task.drawn else ''}",
        python=f"edgetl_runtime.load({_PACKED!r}).predict({arguments})",
        input=input_in_words(report),
        labels=", ".join(names[:_MOST_LABELS]) + (f" and {more} more" if more > 0 else ""),
        count=len(names),
        alone=next((file for one in best.values() for file in _alone(one)), None),
    )


def _cost(variant: VariantReport) -> tuple[float, float]:
    """The fastest first, then the smallest; what was not timed comes last."""
    latency = variant.latency.p50_ms if variant.latency else float("inf")
    return latency, variant.bytes if variant.bytes is not None else float("inf")


def _choice(variant: VariantReport) -> Choice:
    parity, latency = variant.parity, variant.latency
    return Choice(
        variant=variant.id,
        package=f"edgetl-runtime[{engine_info(variant.target).extra}]",
        files=tuple(variant.files_sha256),
        size=_NOT_KNOWN if variant.bytes is None else f"{variant.bytes / 1e6:.2f}",
        agree=_NOT_KNOWN if parity is None else f"{100 * parity.decided_alike:.1f}",
        p50=_NOT_KNOWN if latency is None else f"{latency.p50_ms:.2f}",
    )


def _alone(variant: VariantReport) -> Sequence[str]:
    """The one file that the variant is; nothing where it is several."""
    return tuple(variant.files_sha256) if len(variant.files_sha256) == 1 else ()
