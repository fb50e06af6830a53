"""What no export can mend: weights that are no numbers, and networks that decide nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from edgetl_runtime.errors import CheckpointError, EdgetlError, ExportError

if TYPE_CHECKING:
    from edgetl_export.source import Source

__all__ = ["check_decides", "check_finite", "check_sound"]

_TWO_LOGITS = (
    "give it two, the first of them always 0: softmax then gives what the sigmoid gave. "
    "For the last layer's weight and its bias alike: torch.cat([torch.zeros_like(w), w])"
)
_STATISTICS = ("running_mean", "running_var")


def check_sound(source: Source) -> None:
    """Raise `ExportError` for a network that cannot decide, or whose weights are not finite."""
    if source.task == "classification":
        check_decides(len(source.labels), source.name, kind=ExportError)
    tensors: dict[str, Tensor] = dict(source.module.named_parameters())
    # Other buffers may well be infinite: masks are.
    tensors |= {name: value for name, value in source.module.named_buffers() if name.endswith(_STATISTICS)}
    check_finite(tensors, source.name, kind=ExportError)


def check_decides(logits: int, where: str, *, kind: type[EdgetlError] = CheckpointError) -> None:
    """Raise an error of this `kind` for fewer than two `logits`: softmax makes 100 % of any single one."""
    if logits < 2:
        raise kind(f"{where} gives {logits} logit, of which every image is 100 %", fix=_TWO_LOGITS)


def check_finite(tensors: Mapping[str, Tensor], where: str, *, kind: type[EdgetlError] = CheckpointError) -> None:
    """Raise an error of this `kind` for the first of these tensors that holds NaN or an infinite value."""
    for name, value in tensors.items():
        if value.is_floating_point() and not value.isfinite().all():
            n = int((~value.isfinite()).sum())
            raise kind(
                f"{where}: {name} is not finite: {n} of its {value.numel()} values are NaN or infinite",
                fix="take an earlier state of its training, which has failed, or copy the file again",
            )
