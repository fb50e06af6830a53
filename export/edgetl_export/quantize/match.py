"""Which original activation does a converted tensor hold? Answered by value, not by name.

Converters rename, transpose, fuse and reorder, but a tensor that survives holds the same numbers. Two tensors match
when their sorted values for one probe image agree, which no transpose or reshape can change - and a range does not
depend on the order of the values either.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

__all__ = ["match_by_value"]

_RELATIVE_TOLERANCE = 1e-3
"""Of the root mean square: wide against float32 rounding of reordered sums, narrow against another layer."""


def match_by_value(
    originals: Mapping[str, npt.NDArray[np.float32]], converted: Mapping[str, npt.NDArray[np.float32]]
) -> dict[str, str]:
    """Name of the original tensor for every converted tensor that has one; the closest when several come near."""
    by_size: dict[int, list[tuple[str, npt.NDArray[np.float32]]]] = defaultdict(list)
    for name, values in originals.items():
        by_size[values.size].append((name, np.sort(values, axis=None)))
    found: dict[str, str] = {}
    for name, values in converted.items():
        candidates = by_size.get(values.size, [])
        if not candidates or not np.isfinite(values).all():
            continue
        ordered = np.sort(values, axis=None)
        tolerance = _RELATIVE_TOLERANCE * float(np.sqrt(np.mean(np.square(ordered, dtype=np.float64))))
        errors = [float(np.sqrt(np.mean(np.square(ordered - other, dtype=np.float64)))) for _, other in candidates]
        best = int(np.argmin(errors))
        if errors[best] <= tolerance:
            found[name] = candidates[best][0]
    return found
