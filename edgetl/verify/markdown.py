"""The report as Markdown, for the summary of a CI job or a pull request."""

from __future__ import annotations

from edgetl.verify.ladder import attempts, how_int8_was_made, ladder_variants, surgery_line
from edgetl.verify.report import Report
from edgetl.verify.rows import HEADINGS, describe, rows, verdict_line, where_it_goes_wrong

__all__ = ["render_markdown"]


def render_markdown(report: Report) -> str:
    """Verdict, the failed checks, the table, and what it was measured on. Ends with a newline."""
    reference = report.reference
    lines = [f"## {_escape(report.bundle)}", "", f"**{_escape(verdict_line(report))}**", ""]
    if report.verdict.failed:
        said = [*map(describe, report.verdict.failed), *where_it_goes_wrong(report)]
        lines += [*(f"- {_escape(text)}" for text in said), ""]
    lines += [
        "| " + " | ".join(HEADINGS) + " |",
        "| --- |" + " ---: |" * (len(HEADINGS) - 1),
        *("| " + " | ".join(row.cells) + " |" for row in rows(report)),
        "",
        f"Reference top-1 {reference.top1:.1%} (95 % interval {reference.ci95[0]:.1%} to {reference.ci95[1]:.1%}) "
        f"over {report.data.n} images. Agreement, top-1 and delta in percent; speed against fp32 of the same target.",
        "",
        *_int8(report),
        f"Measured {report.created} on {_escape(str(report.machine['processor']))}, {report.machine['cores']} cores.",
    ]
    return "\n".join(lines) + "\n"


def _int8(report: Report) -> list[str]:
    """How int8 was made: a line, and a table of rungs by variants when the ladder was climbed."""
    made, surgery, variants = how_int8_was_made(report), surgery_line(report), ladder_variants(report)
    lines = [f"int8: {_escape('; '.join(made))}.", ""] if made else []
    lines += [f"{_escape(surgery)}.", ""] if surgery else []
    if variants:
        headings = ["rung", "note", *map(_escape, variants)]
        lines += ["| " + " | ".join(headings) + " |", "|" + " --- |" * len(headings)]
        for attempt in attempts(report):
            cells = ["" if cell is None else f"**{cell.text}**" if cell.kept else cell.text for cell in attempt.cells]
            lines.append("| " + " | ".join([_escape(attempt.rung), _escape(attempt.note), *cells]) + " |")
        lines += ["", "Bold: the rung that the variant was taken from.", ""]
    return lines


def _escape(text: str) -> str:
    """`text` with the characters that Markdown and HTML would take for their own."""
    for character in "\\`*_[]<>|":
        text = text.replace(character, f"\\{character}")
    return " ".join(text.split())
