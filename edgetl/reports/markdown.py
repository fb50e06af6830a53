"""The report as Markdown, for the summary of a CI job or a comment on a pull request.

What decides stands open, what explains is folded: failures come first, and what passed is folded beside them. The
whole stays below the 65,536 characters that GitHub allows for a comment: lists are cut, and what is folded is left out
where it no longer fits.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from edgetl.reports.ladder import attempts, how_int8_was_made, ladder_variants, surgery_line
from edgetl.reports.markdown_text import escape, summary, text_table
from edgetl.reports.phrases import (
    causes,
    change_rows,
    changed_predictions_in_words,
    feature_table,
    label_name,
    measured_apart,
    quality_in_words,
    slower_than_float,
    undecided_checks,
)
from edgetl.reports.table import (
    Row,
    describe,
    describe_limit,
    describe_value,
    headings,
    name_of,
    rows,
    verdict_line,
    where_it_goes_wrong,
)
from edgetl.tasks import task_of
from edgetl.tasks.classification.changed_predictions import worst_labels
from edgetl.verify.measure.cross_format import formats_in_words
from edgetl.verify.report import Report, VariantReport

__all__ = ["render_markdown"]

_MOST_CHARACTERS = 60_000
_MOST_LINES = 30
_MOST_CHECKS = 150
_MOST_CLASSES = 10
_FOLD = "<details>"
_MARKS = {"pass": "✅ pass", "open": "❔ open", "fail": "❌ FAIL"}


def render_markdown(report: Report) -> str:
    """Verdict, the failed checks with causes and fixes, the table, what changed, and the rest folded.

    Ends with a newline.
    """
    blocks = [
        f"## {escape(report.bundle)}",
        f"**{escape(verdict_line(report))}**",
        _bullets([describe(check) for check in report.verdict.failed]),
        _bullets([text for variant in report.variants for text in causes(variant)]),
        _bullets(where_it_goes_wrong(report)),
        _bullets([f"undecided: {text}" for text in undecided_checks(report)]),
        *_main_tables(report),
        f"Reference {quality_in_words(report, '95 % interval ')} over {report.data.n} images. Agreement, "
        f"{task_of(report.task).quality} and delta in percent; speed against fp32 of the same target.",
        _bullets(slower_than_float(report)),
        _bullets(measured_apart(report)),
        *_features(report),
        *_changes(report),
        *_damage(report),
        *_task_tables(report),
        _folded(f"All {len(report.verdict.checks)} checks", [_checks(report)]),
        _folded("How int8 was made", _int8(report)),
        _bullets(report.about_photos),
        _bullets(report.disturbances),
        # A report of others, as a baseline is, may say nothing of its machine.
        f"Measured {report.created} on {escape(str(report.machine.get('processor', 'an unknown processor')))}, "
        f"{escape(str(report.machine.get('cores', 'unknown')))} cores.",
    ]
    return "\n\n".join(_fitting([block for block in blocks if block])) + "\n"


def _fitting(blocks: Sequence[str]) -> list[str]:
    """`blocks` without those folded ones that would make it too long."""
    left = _MOST_CHARACTERS - sum(len(block) + 2 for block in blocks if not block.startswith(_FOLD))
    kept = []
    for block in blocks:
        if block.startswith(_FOLD):
            if len(block) + 2 > left:
                continue
            left -= len(block) + 2
        kept.append(block)
    return kept if len(kept) == len(blocks) else [*kept, "Some details are left out: they are in the HTML report."]


def _main_tables(report: Report) -> list[str]:
    """What failed and what is open, and the rest folded; all in one table where all passed."""
    table = rows(report)
    passed = [row for row in table if row.mark == "pass"]
    others = [row for row in table if row.mark != "pass"]
    if not others:
        return [_main_table(passed, report)]
    folded = _folded(_that_pass(len(passed)), [_main_table(passed, report)]) if passed else ""
    return [_main_table(others, report), folded]


def _that_pass(n: int) -> str:
    return f"{n} variants that pass" if n > 1 else "1 variant that passes"


def _main_table(table: Sequence[Row], report: Report) -> str:
    names = headings(report)
    cells = [(row.id, _MARKS[row.mark], *row.cells[1:-1]) for row in table]
    return _table((names[0], names[-1], *names[1:-1]), cells, left=2)


def _features(report: Report) -> list[str]:
    """SQNR of what variants give besides logits."""
    table = feature_table(report)
    return ["### Features, SQNR in dB", _table(table[0], table[1:])] if table else []


def _changes(report: Report) -> list[str]:
    """What is beyond noise as a table, the rest folded."""
    if report.baseline is None:
        return []
    headings = ("variant", "what", "before", "now", "", "by which rule")
    found = [
        ((row.variant or "bundle", row.what, row.before, row.after, row.mark, row.note), row.mark == "noise")
        for row in change_rows(report)
    ]
    counted, noise = (
        [cells for cells, is_noise in found if not is_noise],
        [cells for cells, is_noise in found if is_noise],
    )
    when = f"{escape(report.baseline.source)} of {escape(report.baseline.created[:10])}"
    return [
        f"### Since {when}",
        _table(headings, counted, left=6) if counted else "Nothing changed beyond noise.",
        _folded(f"Differences within noise: {len(noise)}", [_table(headings, noise, left=6)]) if noise else "",
    ]


def _damage(report: Report) -> list[str]:
    """For every variant that flips something: the counts, and folded the labels that lose most and the surest flips."""
    blocks = []
    for variant in report.variants:
        if variant.damage is None or not variant.damage.flipped:
            continue
        blocks.append(
            _folded(
                changed_predictions_in_words(variant, report) or variant.id, _changed_prediction_tables(variant, report)
            )
        )
    return ["### Changed decisions", *blocks] if blocks else []


def _task_tables(report: Report) -> list[str]:
    """What the task shows besides, folded."""
    return [_folded(found.title, [_table(found.headings, found.rows)]) for found in report.tables]


def _changed_prediction_tables(variant: VariantReport, report: Report) -> list[str]:
    assert variant.damage is not None
    classes = [
        (label_name(label, report), f"{d.n}", f"{100 * d.original:.1f}", f"{100 * d.variant:.1f}", f"{d.p_value:.2g}")
        for label, d in worst_labels(variant.damage.per_class, _MOST_CLASSES)
    ]
    flips = [
        (
            flip.image,
            *(label_name(label, report) for label in (flip.truth, flip.original, flip.variant)),
            f"{100 * flip.original_margin:.0f}",
        )
        for flip in variant.damage.flips[:_MOST_CLASSES]
    ]
    return [
        _table(("label", "images", "original %", "variant %", "p value"), classes, names=1) if classes else "",
        _table(("image", "truth", "original", "variant", "margin %"), flips, left=4, names=4),
    ]


def _checks(report: Report) -> str:
    # Those that failed in front, then those that are open: the table may be cut.
    checks = sorted(report.verdict.checks, key=lambda check: (check.passed, not check.undecided))[:_MOST_CHECKS]
    cells = [
        (
            check.variant or "bundle",
            name_of(check.what),
            describe_value(check),
            describe_limit(check),
            "undecided" if check.undecided else "pass" if check.passed else "FAIL",
        )
        for check in checks
    ]
    return _table(("variant", "what", "value", "limit", "result"), cells, left=2)


def _int8(report: Report) -> list[str]:
    """How int8 was made: a line, and a table of rungs by variants when the ladder was climbed."""
    made, surgery, variants = how_int8_was_made(report), surgery_line(report), ladder_variants(report)
    blocks = [f"int8: {escape('; '.join(made))}."] if made else []
    blocks += [f"{escape('; '.join(twins))}."] if (twins := formats_in_words(report.twins)) else []
    blocks += [f"{escape(surgery)}."] if surgery else []
    if variants:
        lines = [_line(["rung", "note", *map(escape, variants)]), "|" + " --- |" * (2 + len(variants))]
        for attempt in attempts(report):
            cells = [
                "" if cell is None else f"**{escape(cell.text)}**" if cell.kept else escape(cell.text)
                for cell in attempt.cells
            ]
            lines.append(_line([escape(attempt.rung), escape(attempt.note), *cells]))
        blocks += ["\n".join(lines), "Bold: the rung that the variant was taken from."]
    return blocks


def _table(headings: Sequence[str], body: Iterable[Sequence[str]], *, left: int = 1, names: int = 0) -> str:
    """As many rows as anybody reads; the first `left` columns to the left."""
    return text_table(headings, list(body)[:_MOST_CHECKS], left=range(left), names=names)


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _bullets(texts: Sequence[str]) -> str:
    lines = [f"- {escape(text)}" for text in texts[:_MOST_LINES]]
    more = len(texts) - len(lines)
    return "\n".join([*lines, f"- and {more} more"] if more > 0 else lines)


def _folded(title: str, blocks: Sequence[str]) -> str:
    shown = [block for block in blocks if block]
    if not shown:
        return ""
    # The empty lines make what is inside Markdown again.
    return "\n\n".join([f"{_FOLD}<summary>{summary(title)}</summary>", *shown, "</details>"])
