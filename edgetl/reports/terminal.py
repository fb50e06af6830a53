"""The report for a person at a terminal: a table of at most 100 columns, what failed in words, the verdict last.

The lines below the table: FAIL, a limit that does not hold; CAUSE, why and what to do; LAYER, where it starts; FEAT,
SQNR of the features in dB; SLOW, int8 files that cost time instead of saving it; SPEED, why there is none; OPEN, what
measuring could not decide; CLASS, labels that got worse; BASE, changes since the baseline; PHOTO, what to know of the
photos; NOISE, what disturbed the measuring; INT8, how it was made; TWINS, whether int8 files decide like each other.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from edgetl.reports.ladder import how_int8_was_made, surgery_line
from edgetl.reports.phrases import (
    causes,
    changes_in_words,
    class_in_words,
    features_in_words,
    most_changed_labels,
    quality_in_words,
    slower_than_float,
    undecided_checks,
    why_no_speed,
)
from edgetl.reports.table import describe, headings, rows, verdict_line, where_it_goes_wrong
from edgetl.verify.measure.cross_format import formats_in_words
from edgetl.verify.report import Report
from edgetl_runtime.console import table
from edgetl_runtime.escaping import printable

__all__ = ["render_terminal"]

_WIDTH = 100


def render_terminal(report: Report) -> str:
    """Plain text, lines of at most 100 characters, no trailing newline."""
    lines = [
        f"{printable(report.bundle)}: {len(report.variants)} variants, {report.data.n} images, "
        f"reference {quality_in_words(report)}",
        "",
        *table(headings(report), [row.cells for row in rows(report)], left=[0], ruled=True),
    ]
    surgery = surgery_line(report)
    for paragraph in (
        [
            *_wrapped("FAIL  ", [describe(check) for check in report.verdict.failed]),
            *_wrapped("CAUSE ", [text for variant in report.variants for text in causes(variant)]),
            *_wrapped("LAYER ", where_it_goes_wrong(report)),
        ],
        _wrapped("FEAT  ", features_in_words(report)),
        [*_wrapped("SLOW  ", slower_than_float(report)), *_wrapped("SPEED ", why_no_speed(report))],
        _wrapped("OPEN  ", undecided_checks(report)),
        _wrapped("CLASS ", _damaged(report)),
        _wrapped("BASE  ", changes_in_words(report)),
        _wrapped("PHOTO ", report.about_photos),
        _wrapped("NOISE ", report.disturbances),
        [
            *_wrapped("INT8  ", how_int8_was_made(report)),
            *_wrapped("TWINS ", formats_in_words(report.twins)),
            *_wrapped("", [surgery] if surgery else []),
        ],
    ):
        lines += ["", *paragraph] if paragraph else []
    return "\n".join([*lines, "", printable(verdict_line(report))])


def _damaged(report: Report) -> list[str]:
    """A line for every variant that makes labels worse by more than chance."""
    return [
        f"{variant.id} damages " + ", ".join(class_in_words(label, found, report) for label, found in damaged[:3])
        for variant in report.variants
        if variant.damage and (damaged := most_changed_labels(variant.damage))
    ]


def _wrapped(head: str, texts: Sequence[str]) -> list[str]:
    lines: list[str] = []
    for text in texts:
        text = printable(text, keep="\n\t")  # those become spaces
        lines += textwrap.wrap(text, width=_WIDTH, initial_indent=head, subsequent_indent=" " * len(head))
    return lines
