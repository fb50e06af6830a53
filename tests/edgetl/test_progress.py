"""The line of the whole: which stage, about how much is left; and that no minute passes without a sign."""

from __future__ import annotations

import io
import sys
from types import SimpleNamespace

import pytest

from edgetl.estimate import Part
from edgetl.progress import Progress, tracked
from edgetl_export.progress import silent

PARTS = [
    Part("photos", "check photos", 10.0),
    Part("train", "features", 40.0),
    Part("train", "features", 10.0),
    Part("export", "export", 20.0, of_files=True),
    Part("verify", "verify", 20.0),
    Part("verify", "", 10.0, of_files=True),
]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def worked(progress: Progress, clock: Clock, what: str, total: int, seconds: float) -> None:
    for _ in progress(range(total), what=what, total=total):
        clock.now += seconds / total


def test_each_stage_says_which_it_is_and_what_is_left() -> None:
    clock, stream = Clock(), io.StringIO()
    progress = Progress(PARTS, stream=stream, clock=clock)
    worked(progress, clock, "check photos", 4, 20.0)
    worked(progress, clock, "features", 4, 80.0)
    worked(progress, clock, "features", 4, 20.0)
    worked(progress, clock, "export", 4, 20.0)
    worked(progress, clock, "verify", 4, 40.0)
    said = [line for line in stream.getvalue().splitlines() if line.startswith("stage")]
    assert said == [
        "stage 1 of 4, photos; about 2 min left",
        "stage 2 of 4, train; about 3 min left",  # all that goes by photos takes twice as long as was thought
        "stage 3 of 4, export; about 70 s left",
        "stage 4 of 4, verify; about 50 s left",
    ]


def test_files_do_not_take_longer_because_photos_do() -> None:
    clock = Clock()
    progress = Progress(PARTS, stream=io.StringIO(), clock=clock)
    worked(progress, clock, "check photos", 4, 100.0)
    assert progress.left() == pytest.approx(10 * (40 + 10 + 20) + 20 + 10)


def test_within_a_part_its_own_pace_counts() -> None:
    clock = Clock()
    progress = Progress(PARTS[-2:], stream=io.StringIO(), clock=clock)
    items = iter(progress(range(10), what="verify", total=10))
    next(items)
    for _ in range(5):
        clock.now += 30.0
        next(items)
    assert progress.left() == pytest.approx(150.0 + 10.0)


def test_epochs_are_shares_of_one_part() -> None:
    clock = Clock()
    progress = Progress([Part("train", "epoch", 100.0)], stream=io.StringIO(), clock=clock)
    worked(progress, clock, "epoch 1/4", 5, 10.0)
    assert progress.left() == pytest.approx(30.0)
    worked(progress, clock, "epoch 2/4", 5, 10.0)
    assert progress.left() == pytest.approx(20.0)


def test_a_stage_that_shows_nothing_is_named_and_silence_is_broken() -> None:
    clock, stream = Clock(), io.StringIO()
    progress = Progress(PARTS, stream=stream, clock=clock)
    worked(progress, clock, "verify", 2, 1.0)
    before = stream.getvalue()
    for _ in range(70):
        clock.now += 1.0
        progress._tick()
    more = stream.getvalue().removeprefix(before).splitlines()
    assert more == ["verify: goes on; it takes longer than was thought"] * 2


def test_bars_stay_on_a_terminal() -> None:
    clock, stream = Clock(), Terminal()
    progress = Progress(PARTS, stream=stream, clock=clock)
    worked(progress, clock, "check photos", 4, 1.0)
    assert "check photos: 100%" in stream.getvalue()
    assert stream.getvalue().endswith("\n")


def test_what_is_not_in_the_plan_is_shown_too() -> None:
    clock, stream = Clock(), io.StringIO()
    progress = Progress(stream=stream, clock=clock)
    worked(progress, clock, "rates", 4, 60.0)
    assert "rates: 1/4 (15 s)" in stream.getvalue()
    assert "rates: done (60 s)" in stream.getvalue()
    assert "left" not in stream.getvalue()


def test_an_error_on_the_way_ends_the_bar() -> None:
    stream = Terminal()
    progress = Progress(PARTS, stream=stream)

    def failing() -> None:
        for _ in progress(range(4), what="check photos", total=4):
            raise ValueError

    with pytest.raises(ValueError, match=r"^$"):
        failing()
    assert progress._bar is None


@pytest.mark.parametrize(("where", "progress", "shows"), [("terminal", True, True), ("terminal", False, False)])
def test_python_shows_it_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, where: str, progress: bool, shows: bool
) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    with tracked(PARTS, track=None, progress=progress) as track:
        assert isinstance(track, Progress) is shows


def test_python_says_nothing_elsewhere_but_in_notebooks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with tracked(PARTS, track=None, progress=True) as track:
        assert track is silent
    shell = type("ZMQInteractiveShell", (), {})()
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))  # type: ignore[arg-type]
    with tracked(PARTS, track=None, progress=True) as track:
        assert isinstance(track, Progress)
    with tracked(PARTS, track=silent, progress=True) as track:
        assert track is silent
