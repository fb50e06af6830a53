"""What is wrong with a variant: usual causes, each tried as a hypothesis on a handful of images, not guessed.

A cause is named when undoing it brings the variant back to the original's answers, or doing it to the original gives
the variant's, or when the file itself says so. ``diagnose`` returns nothing for a variant that is sound.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgetl.data import Sample
from edgetl_runtime.bundle import Bundle

if TYPE_CHECKING:
    from edgetl.verify.report import VariantReport
    from edgetl_export import Captured, Source

__all__ = ["Evidence", "Finding", "diagnose"]


@dataclass(frozen=True)
class Finding:
    """A recognised cause: ``evidence`` has the numbers that show it, ``fix`` the option or action that removes it."""

    cause: str
    evidence: str
    fix: str


@dataclass(frozen=True, eq=False)
class Evidence:
    """What `diagnose` may look at: the open ``bundle``, and the images of the verification with all answers to them.

    ``samples`` are those that the logits belong to, in order: ``reference`` (n, classes) float32 of the original and
    ``logits`` of the variant, None when it could not be run. ``original`` is the network behind the reference, None
    on a device without torch: hypotheses that need it are left out then. ``threads`` is what a session uses.
    """

    bundle: Bundle
    samples: Sequence[Sample]
    reference: npt.NDArray[np.float32]
    logits: npt.NDArray[np.float32] | None = None
    original: Source | Captured | None = None
    threads: int = 1


def diagnose(report: VariantReport, evidence: Evidence) -> tuple[Finding, ...]:
    """The causes that were recognised for the variant of `report`, the surest first; empty when none was.

    Reads the variant's files and runs it (and the original) on a few of the images; takes seconds. It never raises for
    a fault of the variant.
    """
    return ()
