"""What changed since a report that was accepted."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["BaselineComparison", "Change"]


@dataclass(frozen=True)
class Change:
    """One quantity of one variant (of the whole report where ``variant`` is empty), before and after.

    ``significant``: more than chance or the noise of measuring explains; ``note`` says by which rule. ``worse`` says
    the direction, and is false for changes that have none (versions, the input contract).
    """

    variant: str
    what: str
    before: float | str | None
    after: float | str | None
    significant: bool
    worse: bool
    note: str


@dataclass(frozen=True)
class BaselineComparison:
    """All changes since the report ``source``, made at ``created`` (ISO 8601)."""

    source: str
    created: str
    changes: tuple[Change, ...]
