"""What was found, as a document for programs and as tables for people."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from version_search import Trials

from edgetl_runtime.machine import describe_machine

__all__ = ["as_document", "as_markdown"]

_LONGEST = 160


def as_document(found: Mapping[str, Trials], targets: Mapping[str, str], *, created: datetime) -> dict[str, Any]:
    """Everything that was `found` by library, with the machine and the date."""
    libraries = []
    for name, trials in found.items():
        keys = list(trials.results[trials.tried()[-1]])
        entries = {key: trials.found(key) for key in keys}
        libraries.append(
            {
                "library": name,
                "target": targets[name],
                "oldest": trials.versions[0],
                "newest": trials.versions[-1],
                "tried": trials.tried(),
                "found": {
                    key: {"least": one.least, "below": one.below, "wrong": one.wrong} for key, one in entries.items()
                },
                "trials": {version: dict(trials.results[version]) for version in trials.tried()},
            }
        )
    return {"created": created.isoformat(timespec="seconds"), "machine": describe_machine(), "libraries": libraries}


def as_markdown(document: Mapping[str, Any]) -> str:
    """A table per library: the least version of every variant, and what was wrong with the one before it."""
    machine = document["machine"]
    lines = [
        f"Python {machine['python']}, {machine['system']} {machine['architecture']}, {machine['processor']}, "
        f"{machine['cores']} cores, {document['created'][:10]}."
    ]
    for library in document["libraries"]:
        lines += [
            "",
            f"{library['library']}: {library['oldest']} to {library['newest']} exist; tried: "
            f"{', '.join(library['tried'])}.",
            "",
            "| bundle, variant | least version | the one before it |",
            "| --- | --- | --- |",
        ]
        for key, one in library["found"].items():
            before = "is the oldest" if one["below"] is None else f"{one['below']}: {_short(one['wrong'])}"
            lines.append(f"| {key} | {one['least'] or 'none'} | {before} |")
    return "\n".join(lines)


def _short(text: str) -> str:
    """One line without the marks of a table, its middle left out when it is long."""
    line = " ".join(text.split()).replace("|", "/")
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST // 2]} ... {line[-_LONGEST // 2 :]}"
