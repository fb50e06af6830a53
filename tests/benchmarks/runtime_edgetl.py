"""The same job as `runtime_hand.py` with edgetl's runtime: BUNDLE VARIANT PHOTO, reported as `runtime_child` does."""

import sys
import time

import edgetl_runtime

__all__ = ["main"]


def main() -> None:
    """Load, predict once, report."""
    bundle, variant, photo = sys.argv[1:]
    label = edgetl_runtime.load(bundle, variant=variant, threads=1).predict(photo).top.name
    ended = time.monotonic_ns()

    from runtime_child import report

    report(label, ended)


if __name__ == "__main__":
    main()
