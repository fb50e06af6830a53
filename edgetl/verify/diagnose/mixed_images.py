"""Faults that show only in a run of several images: an answer that depends on the other images."""

from __future__ import annotations

from collections.abc import Mapping

from edgetl.verify.diagnose.audit import Fault
from edgetl.verify.measure.batches import BatchSums
from edgetl.verify.report import Check, Finding

__all__ = ["CHECK", "batch_check", "batch_fault"]

CHECK = "batch"
"""The check of the verdict: so many images are decided otherwise in a run with others than alone; none may be."""

_SHOWN = 3


def batch_check(variant_id: str, sums: BatchSums) -> Check:
    """The line of the verdict."""
    note = f"{sums.n} images alone and up to {sums.size} in one run"
    passed = not sums.others and not sums.far
    return Check(variant_id, CHECK, 0.0, float(len(sums.others)), passed, "<=", note)


def batch_fault(variant_id: str, sums: BatchSums, name_of: Mapping[int, str]) -> Fault | None:
    """What is wrong with a variant whose answers depend on the images beside them; None where they do not.

    `name_of` has the names of the images by their places.
    """
    check = batch_check(variant_id, sums)
    if check.passed:
        return None
    told = [f"{len(sums.others)} of {sums.n} images get another label in a run of up to {sums.size} than alone"]
    if sums.others:
        shown = [name_of.get(place, str(place)) for place in sums.others[:_SHOWN]]
        told = [f"{told[0]} ({', '.join(shown)}{', ...' if len(sums.others) > _SHOWN else ''})"]
    told += [f"{name} is {near:.0f} dB near what it is alone" for name, near in sums.far.items()]
    finding = Finding(
        "what it answers depends on the other images of a run",
        "; ".join(told),
        "export it without --batch, or mend the network: something in it mixes images, as a mean over all axes does",
    )
    return Fault(check, finding)
