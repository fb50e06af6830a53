"""Images with the same content where there should be none: in two splits, or under two labels."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["Duplicates", "Known", "find_duplicates"]

_SHOWN = 3


class Known(NamedTuple):
    """An image by its content (a hash), with its split, the name of its label, and its own name."""

    content: str
    split: str
    label: str
    name: str


@dataclass(frozen=True)
class Duplicates:
    """``leaks``: (split, earlier split) -> images of the first whose content is in the second too, each with its twin.
    ``two_labels``: images that stand under another label before, each with that one."""

    leaks: Mapping[tuple[str, str], Sequence[tuple[Known, Known]]]
    two_labels: Sequence[tuple[Known, Known]]

    def warnings(self) -> list[str]:
        """A sentence for each kind that there is."""
        found = [
            f"warning: {_images(len(pairs))} of {split} are in {earlier} too, with the same content, so that {split} "
            f"judges too well: {_some([f'{one.name} = {other.name}' for one, other in pairs])}"
            for (split, earlier), pairs in self.leaks.items()
        ]
        if self.two_labels:
            pairs = [f"{a.name} ({a.label}) = {b.name} ({b.label})" for a, b in self.two_labels]
            found.append(f"warning: the same content under two labels, {_images(len(pairs))}: {_some(pairs)}")
        return found


def find_duplicates(images: Iterable[Known]) -> Duplicates:
    """What of `images` is there twice; within one split and under one label that is no fault."""
    by_content: dict[str, list[Known]] = {}
    for image in images:
        by_content.setdefault(image.content, []).append(image)
    leaks: dict[tuple[str, str], list[tuple[Known, Known]]] = {}
    two_labels: list[tuple[Known, Known]] = []
    for same in by_content.values():
        if len(same) == 1:
            continue
        first = {image.split: image for image in reversed(same)}
        for earlier, later in itertools.combinations(dict.fromkeys(image.split for image in same), 2):
            leaks.setdefault((later, earlier), []).extend(
                (image, first[earlier]) for image in same if image.split == later
            )
        two_labels += [(image, same[0]) for image in same if image.label != same[0].label]
    return Duplicates(leaks, two_labels)


def _images(n: int) -> str:
    return f"{n} image" if n == 1 else f"{n} images"


def _some(texts: Sequence[str]) -> str:
    return ", ".join(texts[:_SHOWN]) + (f" and {len(texts) - _SHOWN} more" if len(texts) > _SHOWN else "")
