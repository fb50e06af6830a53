"""Verification: parity, accuracy, latency, the gate and the report, one module each.

`edgetl.verify.verify` runs them in order; `edgetl.verify.report` has what comes out.
"""

from __future__ import annotations

__all__: list[str] = []
