"""``python -m edgetl_runtime.cli``: the command line without its script."""

import sys

from edgetl_runtime.cli import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
