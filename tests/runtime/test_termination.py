"""SIGTERM ends a command as Ctrl-C does."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from edgetl_runtime import cli
from edgetl_runtime.termination import Terminated, exit_code_of, terminable


def test_sigterm_is_raised_and_nothing_is_changed_afterwards() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Terminated) as found, terminable():
        signal.raise_signal(signal.SIGTERM)
    assert exit_code_of(found.value) == 143
    assert exit_code_of(KeyboardInterrupt()) == 130
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_program_that_listens_itself_goes_on_listening() -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: heard.append(number))
    try:
        with terminable():
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == [signal.SIGTERM]


def test_in_another_thread_nothing_happens() -> None:
    done: list[bool] = []

    def run() -> None:
        with terminable():
            done.append(True)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert done == [True]


def test_a_second_one_ends_a_program_that_does_not_stop() -> None:
    program = (
        "import signal\nfrom edgetl_runtime.termination import Terminated, terminable\n"
        "with terminable():\n"
        "    try:\n        signal.raise_signal(signal.SIGTERM)\n"
        "    except Terminated:\n        signal.raise_signal(signal.SIGTERM)\n"
    )
    assert subprocess.run([sys.executable, "-c", program], timeout=60).returncode == -signal.SIGTERM


@pytest.mark.parametrize(("how", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_command_says_so_and_leaves_nothing(
    how: signal.Signals,
    code: int,
    pristine_bundle: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def stopped(*_: object) -> None:
        signal.raise_signal(how)

    out = tmp_path / "results"
    out.mkdir()
    monkeypatch.setattr("os.fsync", stopped)
    ours = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert cli.main(["info", str(pristine_bundle), "--json", str(out / "info.json")]) == code
    finally:
        signal.signal(signal.SIGINT, ours)
    assert capsys.readouterr().err == "edgetl-run: interrupted\n"
    assert not list(out.iterdir())
