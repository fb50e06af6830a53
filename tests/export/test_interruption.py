"""Ctrl-C and SIGTERM are not lost in code that swallows them."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from edgetl_export.converter_log import logged_to
from edgetl_export.interruption import interruption_kept
from edgetl_runtime.termination import Terminated, terminable


def swallow() -> None:
    with contextlib.suppress(BaseException):
        signal.raise_signal(signal.SIGINT)


def disguise() -> None:
    try:
        signal.raise_signal(signal.SIGINT)
    except BaseException as error:
        raise ValueError("conversion failed") from error


def let_through() -> None:
    signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("code", [swallow, disguise, let_through])
def test_an_interruption_arrives(code: Callable[[], None]) -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), interruption_kept():
        code()
    assert signal.getsignal(signal.SIGINT) is before


def test_converters_cannot_swallow_one(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as log, pytest.raises(KeyboardInterrupt), logged_to(log):
        swallow()


def test_without_one_nothing_changes() -> None:
    before = signal.getsignal(signal.SIGINT)
    with interruption_kept():
        pass
    with pytest.raises(ValueError, match="mine"), interruption_kept():
        raise ValueError("mine")
    assert signal.getsignal(signal.SIGINT) is before


def swallow_termination() -> None:
    with contextlib.suppress(BaseException):
        signal.raise_signal(signal.SIGTERM)


def disguise_termination() -> None:
    try:
        signal.raise_signal(signal.SIGTERM)
    except BaseException as error:
        raise ValueError("conversion failed") from error


@pytest.mark.parametrize(
    "code", [swallow_termination, disguise_termination, lambda: signal.raise_signal(signal.SIGTERM)]
)
def test_a_termination_arrives(code: Callable[[], None]) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Terminated), terminable(), interruption_kept():
        code()
    assert signal.getsignal(signal.SIGTERM) is before
