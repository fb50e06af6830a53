"""What converters print, log and warn, kept out of the user's sight."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from typing import BinaryIO

from edgetl_export.interruption import interruption_kept

__all__ = ["logged_to"]


@contextlib.contextmanager
def logged_to(log: BinaryIO) -> Iterator[None]:
    """Send all that converters print, log and warn into `log`: from Python and, through the descriptors, from C++.

    Ctrl-C is heard even where they swallow it (`interruption_kept`).
    """
    sys.stdout.flush()
    sys.stderr.flush()
    saved = {descriptor: os.dup(descriptor) for descriptor in (1, 2)}
    streams = sys.stdout, sys.stderr
    text = io.TextIOWrapper(open(log.fileno(), "wb", closefd=False), write_through=True)  # noqa: SIM115
    root_handlers = logging.root.handlers[:]
    logging.root.handlers[:] = [logging.StreamHandler(text)]
    try:
        for descriptor in saved:
            os.dup2(log.fileno(), descriptor)
        sys.stdout = sys.stderr = text
        with warnings.catch_warnings(), interruption_kept():
            warnings.simplefilter("default")
            yield
    finally:
        text.flush()
        sys.stdout, sys.stderr = streams
        logging.root.handlers[:] = root_handlers
        for descriptor, copy in saved.items():
            os.dup2(copy, descriptor)
            os.close(copy)
