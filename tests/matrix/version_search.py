"""Which version is the least that passes: bisection over an ordered list, for many candidates at the same time.

One trial of a version says of every key (a variant of a bundle) whether it passes, so that one key's search narrows
the others'. Versions need not behave monotonically: what counts is the oldest tried version from which on everything
tried passes, and the search goes on until the version just before it has been seen to fail.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

__all__ = ["Found", "Trials", "search"]

Trial = Mapping[str, str | None]
"""By key: what was wrong, None when it passed."""


@dataclass(frozen=True)
class Found:
    """The least version of one key that passes, None when the newest does not.

    ``below`` is the version just before it, or the newest when there is none that passes, with what was ``wrong``
    there; both None when the oldest version passes.
    """

    least: str | None
    below: str | None = None
    wrong: str | None = None


@dataclass
class Trials:
    """Everything that was tried: ``versions`` oldest first, without those that could not be installed."""

    versions: list[str]
    results: dict[str, Trial] = field(default_factory=dict)

    def tried(self) -> list[str]:
        """The versions that were tried, oldest first."""
        return [version for version in self.versions if version in self.results]

    def found(self, key: str) -> Found:
        """What the trials so far say of `key`."""
        failing, passing = self._bounds(key)
        below = self.versions[failing] if failing >= 0 else None
        wrong = None if below is None else self.results[below][key]
        return Found(None if passing is None else self.versions[passing], below, wrong)

    def next_version(self, key: str) -> str | None:
        """The version whose trial says most about `key`; None when its least version is settled."""
        failing, passing = self._bounds(key)
        if passing is None or passing - failing <= 1:
            return None
        # The oldest first: when it passes, no other trial is needed.
        return self.versions[0 if failing < 0 else (failing + passing) // 2]

    def _bounds(self, key: str) -> tuple[int, int | None]:
        """Positions of the newest version that failed (-1: none) and of the oldest tried one after it."""
        tried = [(i, self.results[version][key]) for i, version in enumerate(self.versions) if version in self.results]
        failing = max((i for i, wrong in tried if wrong is not None), default=-1)
        return failing, min((i for i, _ in tried if i > failing), default=None)


def search(versions: Sequence[str], try_version: Callable[[str], Trial | None]) -> Trials:
    """Try versions (oldest first) until the least of every key is settled.

    `try_version` gives None for a version that cannot be installed, which is then passed over. The newest version
    that can be installed is tried first; its keys are those that are searched for.
    """
    trials = Trials(list(versions))

    def attempt(version: str) -> None:
        result = try_version(version)
        if result is None:
            trials.versions.remove(version)
        else:
            trials.results[version] = result

    while trials.versions and not trials.results:
        attempt(trials.versions[-1])
    keys = [key for result in trials.results.values() for key in result]
    # A trial for one key may find that another, settled before, fails in a newer version: all are looked at again.
    while (following := next(filter(None, map(trials.next_version, keys)), None)) is not None:
        attempt(following)
    return trials
