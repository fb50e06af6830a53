"""A number that a gate can limit: where a report has it, by which rule it is decided, what it is called."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgetl_runtime.quantities import Range

__all__ = ["CHANGE", "LABEL_CHANGE", "Quantity"]

LABEL_CHANGE = Range(-1.0, 1.0, "a share of 1", -0.05, (0.01,), but=(-1.0, 1.0))
"""Of one label: it may be lost altogether."""
CHANGE = Range(-0.5, 0.5, "a share of 1", -0.01, (0.01,), but=(-0.5, 0.5))
"""Of a share. Who loses half of all photos has no limit, but percent."""


@dataclass(frozen=True)
class Quantity:
    """Something a gate can limit: ``value relation limit``.

    ``part`` of a variant's report (empty: the report itself; ``quality.parts`` for the task's own numbers) has it as
    ``field``; ``kind`` is the rule of `edgetl.verify.gate.decision`: plain, share, change, time, or start (a time that
    is measured once). ``interval`` is
    the field with its 95 % interval, ``waited`` that with the share of time that others kept the process waiting.
    ``title`` is its name for people, and ``range`` are the limits that make sense.
    """

    relation: str
    part: str
    field: str
    title: str
    range: Range
    kind: str = "plain"
    interval: str | None = None
    waited: str | None = None

    def read(self, report: Any) -> float | None:
        """The value, ``None`` when it was not measured."""
        value: float | None = self._field(report, self.field)
        return value

    def interval_of(self, report: Any) -> tuple[float, float] | None:
        """Its 95 % interval, ``None`` when it has none."""
        interval: tuple[float, float] | None = None if self.interval is None else self._field(report, self.interval)
        return interval

    def waited_of(self, report: Any) -> float:
        """The share of time that others kept it waiting; 0 where that is not known."""
        return 0.0 if self.waited is None else self._field(report, self.waited) or 0.0

    def holds(self, value: float, limit: float) -> bool:
        """Whether `value` is within `limit`."""
        return value >= limit if self.relation == ">=" else value <= limit

    def _field(self, report: Any, name: str) -> Any:
        holder = report
        for part in filter(None, self.part.split(".")):
            holder = None if holder is None else getattr(holder, part)
        if holder is None:
            return None
        return holder.get(name) if isinstance(holder, Mapping) else getattr(holder, name)
