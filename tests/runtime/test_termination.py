"""SIGTERM ends a command as Ctrl-C does."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from edgetl_runtime import cli
from edgetl_runtime.commands import run_command
from edgetl_runtime.errors import DataError
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


class _Interrupted:
    """Python 3.11 makes a RuntimeError of what is raised while a class is made, as when a library is imported."""

    def __init__(self, how: signal.Signals) -> None:
        self.how = how

    def __set_name__(self, *_: object) -> None:
        signal.raise_signal(self.how)


def _while_a_class_is_made(how: signal.Signals) -> int:
    type("Made", (), {"x": _Interrupted(how)})
    return 0


def _made_another_error(how: signal.Signals) -> int:
    try:
        return _while_a_class_is_made(how)
    except (KeyboardInterrupt, RuntimeError) as error:
        raise DataError("cannot read x", fix="save it again") from error


@pytest.mark.parametrize(("how", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("work", [_while_a_class_is_made, _made_another_error])
def test_an_interruption_that_became_another_error(
    work: Callable[[signal.Signals], int], how: signal.Signals, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Found by killing `edgetl verify` while it imported matplotlib: it said that this was a bug of edgetl."""
    ours = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert run_command("prog", lambda: work(how)) == code
    finally:
        signal.signal(signal.SIGINT, ours)
    said = capsys.readouterr().err
    assert said.endswith("prog: interrupted\n")
    assert ("cannot read x" in said) == (work is _made_another_error)
    assert "bug" not in said


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
