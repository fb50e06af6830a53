"""How a bundle is verified, and what is known of it before."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from edgetl.verify.gate.limits import Gate
from edgetl.verify.gate.regression import Baseline
from edgetl_runtime.errors import UsageError

__all__ = ["RunFacts", "VerifyOptions"]

_LATENCY_SECONDS = 1.0


@dataclass(frozen=True)
class VerifyOptions:
    """How to verify.

    ``threads`` per session; ``latency_seconds`` per variant, 0 to leave latency out; where the gate or the baseline is
    undecided, up to ``latency_times`` as long. ``memory`` measures peak and cold start of fresh processes for each
    variant, which takes seconds each. Both are measured in any case when the gate limits them. ``layers`` compares
    layer by layer those variants whose logits are not practically equal, when the original network is at hand;
    ``diagnose`` looks for causes where a variant fails. ``precise`` measures longer, too, until the ratios of latency
    are known to 5 %: for reports that others will be held against. ``gate`` is what the report is held against, and
    ``baseline`` an earlier report. Without ``photos`` the report has names of photos, and no thumbnails.
    Raises `UsageError` for fewer than one thread or less than no time.
    """

    threads: int = 1
    latency_seconds: float = field(default_factory=lambda: _LATENCY_SECONDS)
    memory: bool = False
    layers: bool = True
    gate: Gate = field(default_factory=Gate)
    baseline: Baseline | None = None
    latency_times: int = 4
    diagnose: bool = True
    precise: bool = False
    photos: bool = True

    def __post_init__(self) -> None:
        if self.threads < 1 or not 0 <= self.latency_seconds < math.inf or self.latency_times < 1:
            raise UsageError(
                f"cannot verify with {self.threads} threads and {self.latency_seconds} s of latency runs, "
                f"{self.latency_times} times at most",
                fix="threads >= 1, seconds >= 0, times >= 1",
            )

    @property
    def seconds(self) -> float:
        """Seconds of latency runs per variant, those that the gate needs in any case."""
        needed = not self.latency_seconds and self.gate.needs("latency")
        return _LATENCY_SECONDS if needed else self.latency_seconds

    @property
    def measures_memory(self) -> bool:
        """Whether fresh processes are measured."""
        return self.memory or self.gate.needs("memory")


@dataclass(frozen=True)
class RunFacts:
    """What happened before verification and belongs in its report.

    ``seconds`` by stage, the training ``history`` (one dictionary per epoch), and ``not_exported``: by variant id the
    reason why there is no such file. Those variants are reported and fail the verdict. ``tried``: every file was run
    in a child process a moment ago, by the export. ``about_photos``: sentences on the photos, what was left out, what
    is there twice.
    """

    seconds: Mapping[str, float] = field(default_factory=dict)
    history: Sequence[Mapping[str, Any]] = ()
    not_exported: Mapping[str, str] = field(default_factory=dict)
    tried: bool = False
    about_photos: Sequence[str] = ()
