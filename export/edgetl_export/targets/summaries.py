"""What the manifest says of a variant that is quantised without a calibration."""

from __future__ import annotations

__all__ = ["weight_summary"]


def weight_summary(precision: str, activations: str = "") -> dict[str, object]:
    """Of w8, or of dynamic, whose `activations` are rounded as they come."""
    rounded = f"{activations}, at run time" if precision == "dynamic" else "float32"
    return {"method": precision, "weights": "int8 symmetric per output channel", "activations": rounded}
