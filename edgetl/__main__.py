"""``python -m edgetl``, and ``torchrun -m edgetl``."""

import sys

from edgetl.cli.main import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
