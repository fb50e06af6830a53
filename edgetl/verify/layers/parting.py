"""Whether a variant goes wrong in a layer, beyond what its precision costs: the rule of `edgetl inspect --layers`."""

from __future__ import annotations

from collections.abc import Sequence

from edgetl.verify.diagnose.layer_causes import explain_by_facts
from edgetl.verify.layers.layer_error import find_parting
from edgetl.verify.report import LayerError, VariantReport

__all__ = ["find_place"]

_FLOATS = ("fp32", "fp16")
_NEAR_DB = 12.0
"""Logits of a sound int8 variant are nearer than this."""
_FAULT_DB = 10.0
"""What engines round differently stays below, in a variant whose logits are near."""


def find_place(report: VariantReport, reports: Sequence[VariantReport]) -> LayerError | None:
    """The first layer where the variant of `report` goes wrong beyond what its precision costs in the others of
    `reports`, or whose weights are not what they should be; None in a sound one, and where no layers are known."""
    if not report.layers:
        return None
    siblings = [other.layers for other in reports if other.id != report.id and _is_like(other, report)]
    quantised, near = report.precision not in _FLOATS, _is_near(report)
    place = find_parting(report.layers, siblings) if siblings or not (quantised and near) else None
    if quantised and near and place is not None and place.drop_db < _FAULT_DB:
        place = None
    return place or next((layer for layer in report.layers if explain_by_facts([layer])), None)


def _is_like(other: VariantReport, report: VariantReport) -> bool:
    """Whether what `other` loses in its layers is what the precision of `report` costs; floats cost nothing."""
    quantised = report.precision not in _FLOATS
    return quantised and other.precision == report.precision and bool(other.layers) and _is_near(other)


def _is_near(report: VariantReport) -> bool:
    return report.parity is not None and report.parity.sqnr_db >= _NEAR_DB
