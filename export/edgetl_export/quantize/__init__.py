"""Quantisation shared by all targets: one calibration pass, one set of ranges."""

__all__: list[str] = []
