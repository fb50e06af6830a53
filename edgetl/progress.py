"""What long work shows: which stage it is at, about how much is left, bars on a terminal, lines elsewhere.

The stages and their seconds come from `edgetl.estimate`; what the stages before took corrects them. When nothing else
is shown for a while a line says that it still works.
"""

from __future__ import annotations

import re
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self, TextIO, TypeVar

from edgetl.estimate import Part, spoken
from edgetl.training.rank import is_first
from edgetl_export.progress import Track, silent
from edgetl_runtime.escaping import message

__all__ = ["Progress", "tracked"]

T = TypeVar("T")
_SECONDS_BETWEEN_LINES = 10.0
_SECONDS_WORTH_A_LINE = 2.0
_SECONDS_OF_SILENCE = 30.0
_LEAST_TO_LEARN_FROM = 2.0
"""Seconds. Less than this says nothing of how fast a machine is."""
_FACTORS = (0.1, 20.0)
_SECONDS_TO_BEGIN = 2.0
"""So long nothing shows the way before a stage is said to have begun: what shows it may come at once."""
_EPOCH = re.compile(r"epoch (\d+)/(\d+)")


class Progress:
    """An `edgetl_export.progress.Track` that knows the whole way.

    ``with Progress(parts) as track:`` while it works. Of several processes the first one shows its own.
    """

    def __init__(
        self,
        parts: Sequence[Part] = (),
        *,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._parts = list(parts)
        self._stages = list(dict.fromkeys(part.stage for part in self._parts))
        self._stream, self._clock = stream, clock
        self._at = 0
        self._began = self._last = clock()
        self._share = 0.0
        self._spent = {False: 0.0, True: 0.0}
        self._expected = {False: 0.0, True: 0.0}
        self._stage = ""
        self._what = ""
        self._bar: Any = None
        self._lock = threading.RLock()
        self._over = threading.Event()

    def __enter__(self) -> Self:
        self._over.clear()
        self._began = self._last = self._clock()
        if is_first():
            threading.Thread(target=self._watch, name="edgetl progress", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()

    def __call__(self, items: Iterable[T], *, what: str, total: int) -> Iterable[T]:
        """The same items, shown."""
        return self._shown(items, what, total) if is_first() else items

    def left(self) -> float | None:
        """About how many seconds are left; None where nothing is known."""
        with self._lock:
            if not self._parts:
                return None
            part, elapsed = self._parts[self._at], self._clock() - self._began
            own = max(self._corrected(part) - elapsed, 0.0)
            if self._share > 0.05:
                own = elapsed * (1 - self._share) / self._share
            return own + sum(map(self._corrected, self._parts[self._at + 1 :]))

    def line(self) -> str:
        """``stage 4 of 6, calibrate; about 40 s left``."""
        left = self.left()
        if left is None:
            return ""
        stage = self._parts[self._at].stage
        return f"stage {self._stages.index(stage) + 1} of {len(self._stages)}, {stage}; about {spoken(left)} left"

    def _shown(self, items: Iterable[T], what: str, total: int) -> Iterator[T]:
        with self._lock:
            self._enter(what)
            self._what = what
        terminal = _is_terminal(self._out) or _in_notebook()
        bar = self._new_bar(what, total) if terminal else None
        start = said = self._clock()
        try:
            for done, item in enumerate(items, start=1):
                yield item
                with self._lock:
                    self._share = _share(what, done, total)
                    if bar is not None:
                        bar.update()
                        self._last = self._clock()
                    elif self._clock() - said >= _SECONDS_BETWEEN_LINES and done < total:
                        said = self._clock()
                        self._say(f"{what}: {done}/{total} ({self._clock() - start:.0f} s); {self._left_in_words()}")
        finally:
            with self._lock:
                self._bar = None
            if bar is not None:
                bar.close()
        with self._lock:
            seconds = self._clock() - start
            if bar is None and seconds >= _SECONDS_WORTH_A_LINE:
                self._say(f"{what}: done ({seconds:.0f} s)")
            if _share(what, total, total) >= 1.0:
                self._leave(what)

    def _new_bar(self, what: str, total: int) -> Any:
        from tqdm import tqdm

        bar = tqdm(total=total, desc=f"{what:>12}", leave=True, dynamic_ncols=True, file=self._out)
        with self._lock:
            self._bar = bar
        return bar

    def _enter(self, what: str) -> None:
        """Go on to the part that shows `what`, if it is one of those to come; say so where a stage begins."""
        name = _part_name(what)
        ahead = [i for i in range(self._at, len(self._parts)) if self._parts[i].what == name]
        if ahead and ahead[0] != self._at:
            self._go_to(ahead[0])
        self._announce()

    def _leave(self, what: str) -> None:
        """`what` is done: what follows, shown or not, begins."""
        if self._parts and self._parts[self._at].what == _part_name(what) and self._at + 1 < len(self._parts):
            self._go_to(self._at + 1)

    def _go_to(self, index: int) -> None:
        now, part = self._clock(), self._parts[self._at]
        self._spent[part.of_files] += now - self._began
        self._expected[part.of_files] += part.seconds
        self._at, self._began, self._share = index, now, 0.0

    def _announce(self) -> None:
        if self._parts and self._parts[self._at].stage != self._stage:
            self._stage = self._parts[self._at].stage
            self._say(self.line())

    def _corrected(self, part: Part) -> float:
        """Its seconds, by how much longer than was thought the parts of its kind took that are done."""
        spent, expected = self._spent[part.of_files], self._expected[part.of_files]
        if spent < _LEAST_TO_LEARN_FROM or expected < _LEAST_TO_LEARN_FROM:
            return part.seconds
        return part.seconds * min(max(spent / expected, _FACTORS[0]), _FACTORS[1])

    def _left_in_words(self) -> str:
        left = self.left()
        if left is None:
            return ""
        part = self._parts[self._at]
        late = not self._share and self._clock() - self._began > self._corrected(part)
        return "it takes longer than was thought" if late else f"about {spoken(left)} left"

    def _watch(self) -> None:
        """In a thread: the clock of the bar goes on, and a long silence is broken."""
        while not self._over.wait(1.0):
            self._tick()

    def _tick(self) -> None:
        with self._lock:
            now = self._clock()
            if self._bar is not None:
                self._bar.refresh()
                return
            if now - self._began >= _SECONDS_TO_BEGIN:
                self._announce()
            if now - self._last >= _SECONDS_OF_SILENCE:
                where = self._parts[self._at].stage if self._parts else self._what or "at work"
                left = self._left_in_words()
                self._say(f"{where}: goes on{f'; {left}' if left else ''}")

    @property
    def _out(self) -> TextIO:
        return self._stream or sys.stderr

    def _say(self, text: str) -> None:
        self._last = self._clock()
        print(message(text.removesuffix("; ")), file=self._out, flush=True)


@contextmanager
def tracked(parts: Sequence[Part], *, track: Track | None, progress: bool) -> Iterator[Track]:
    """The `track` of a caller of the Python API; without one a `Progress`, if `progress`, on a terminal or in a
    notebook, and nothing elsewhere: a program's log is its own.
    """
    if track is not None or not progress or not (_is_terminal(sys.stderr) or _in_notebook()):
        yield track or silent
        return
    with Progress(parts) as shown:
        yield shown


def _in_notebook() -> bool:
    """Whether this is a cell of Jupyter's, where bars are drawn as on a terminal."""
    shell: Any = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return type(shell).__name__ == "ZMQInteractiveShell"


def _part_name(what: str) -> str:
    return "epoch" if _EPOCH.fullmatch(what) else what


def _share(what: str, done: int, total: int) -> float:
    """The share of its part that is done: an epoch is one of several."""
    part = done / max(1, total)
    found = _EPOCH.fullmatch(what)
    return part if found is None else (int(found[1]) - 1 + part) / int(found[2])


def _is_terminal(stream: TextIO) -> bool:
    try:
        return stream.isatty()
    except ValueError:  # it is closed
        return False
