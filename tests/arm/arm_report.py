"""What the check found: rows, the verdict, and both as Markdown and JSON."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from comparing import Comparison, compare
from machines import Run

__all__ = ["HEAD", "Result", "Row", "about_rows", "row_of"]


@dataclass(frozen=True)
class Row:
    """A run on an emulated CPU, held against x86.

    ``same`` is against the same versions of all libraries on x86, ``present`` against those installed where the
    script runs (``present_version``). Both are None when a run gave no outputs; ``problem`` then says why.
    """

    engine: str
    variant: str
    cpu: str
    cpu_flags: tuple[str, ...]
    self_test: bool
    same: Comparison | None
    present_version: str | None
    present: Comparison | None
    seconds_per_photo: float | None
    problem: str | None

    @property
    def passed(self) -> bool:
        """Self-test passed, and every photo is decided as on x86."""
        return self.self_test and self.problem is None and self.same is not None and self.same.passed

    def cells(self) -> tuple[str, ...]:
        """As in the table: engine, CPU, self-test, decisions, bits, logits, pixels, present, seconds, result."""
        state = "ok" if self.passed else f"FAILED: {self.problem or 'decides otherwise'}"
        test = "passed" if self.self_test else "FAILED"
        numbers = ("-", "-", "-", "-")
        if self.same is not None:
            largest = f"{self.same.max_abs:.3g} of sigma {self.same.sigma:.3g}" if self.same.max_abs else "0"
            n = self.same.n
            bits = f"{self.same.same_bits} of {n}"
            numbers = (f"{self.same.same_decisions} of {n}", bits, largest, f"{self.same.pixels}")
        against = "-"
        if self.present is not None:
            against = f"{self.present.same_decisions} of {self.present.n} ({self.present_version})"
        seconds = "-" if self.seconds_per_photo is None else f"{self.seconds_per_photo:.2f}"
        return (f"{self.variant}, {self.engine}", self.cpu, test, *numbers, against, seconds, state)


HEAD = (
    "variant, engine", "emulated CPU", "self-test", "same decisions", "same logits to the last bit",
    "largest difference of a logit", "of a pixel", "same decisions, present engine", "s a photo", "result",
)  # fmt: skip


@dataclass(frozen=True)
class Result:
    """All rows, and ``about``: the words that say what was run on what."""

    about: Mapping[str, Any]
    rows: tuple[Row, ...]

    @property
    def passed(self) -> bool:
        """Whether every row passed, and there are some."""
        return bool(self.rows) and all(row.passed for row in self.rows)

    def verdict(self) -> str:
        """One line."""
        failed = sum(not row.passed for row in self.rows)
        return f"FAILED: {failed} of {len(self.rows)} runs" if failed else f"PASSED: all {len(self.rows)} runs"

    def to_markdown(self) -> str:
        """Heading, table, verdict."""
        cells = (HEAD, ("---",) * len(HEAD), *(row.cells() for row in self.rows))
        table = "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in cells)
        about = "\n".join(f"- {key}: {value}" for key, value in self.about.items())
        return f"{about}\n\n{table}\n\n{self.verdict()}\n"

    def to_json(self) -> dict[str, Any]:
        """For `json.dumps`: an infinite difference is null."""
        rows = [{**dataclasses.asdict(row), "passed": row.passed} for row in self.rows]
        for row in rows:
            for found in (row["same"], row["present"]):
                if found is not None and not math.isfinite(found["max_abs"]):
                    found["max_abs"] = None
        return {"schema": 1, "about": dict(self.about), "passed": self.passed, "rows": rows}


def row_of(engine: str, run: Run, same: Run, present: Run | None) -> Row:
    """`run` on an emulated CPU against x86 with the `same` libraries and, where there is one, the `present` ones."""
    problem = run.problem or (f"x86: {same.problem}" if same.problem else None)
    outputs = run.outputs
    return Row(
        engine=engine,
        variant=run.variant,
        cpu=run.machine,
        cpu_flags=() if outputs is None else tuple(outputs.about["cpu_features"]["flags"] or ()),
        self_test=run.self_test,
        same=_compared(same, run),
        present_version=None if present is None or present.outputs is None else present.outputs.about["engine_version"],
        present=None if present is None else _compared(present, run),
        seconds_per_photo=None if outputs is None else outputs.about["seconds_per_photo"],
        problem=problem,
    )


def _compared(reference: Run, run: Run) -> Comparison | None:
    if reference.outputs is None or run.outputs is None:
        return None
    return compare(reference.outputs, run.outputs)


def about_rows(rows: Sequence[Row]) -> str:
    """The instructions of the CPUs that were imitated."""
    flags = {row.cpu: " ".join(row.cpu_flags) for row in rows if row.cpu_flags}
    return "; ".join(f"{cpu} ({found})" for cpu, found in flags.items())
