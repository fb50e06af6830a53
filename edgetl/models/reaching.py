"""Whether a server answers, in a few seconds."""

from __future__ import annotations

import threading
import urllib.request

__all__ = ["can_reach"]

_SECONDS_TO_CONNECT = 4.0


def can_reach(url: str) -> bool:
    """Whether the server of `url` answers."""
    answered = threading.Event()

    def ask() -> None:
        try:
            with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=_SECONDS_TO_CONNECT):
                answered.set()
        except OSError:
            pass

    # Name resolution knows no timeout, so it may be left behind.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(_SECONDS_TO_CONNECT + 0.5)
    return answered.is_set()
