"""What a detector finds in a photo."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from edgetl_runtime.drawing import draw_boxes
from edgetl_runtime.escaping import printable
from edgetl_runtime.frozen import dataclass
from edgetl_runtime.results import Result

if TYPE_CHECKING:
    import numpy.typing as npt
    from PIL import Image

__all__ = ["Detection", "Detections"]


@dataclass(frozen=True)
class Detection(Result):
    """One object: ``id`` and ``name`` of its label, ``index`` the label's place in the manifest, ``score`` 0..1.

    ``box`` is left, top, right, bottom in pixels of the upright photo: 0, 0 is its upper left corner, its width and
    height the lower right one.
    """

    id: str
    name: str
    index: int
    score: float
    box: tuple[float, float, float, float]

    def __str__(self) -> str:
        left, top, right, bottom = self.box
        return f"{printable(self.name)} {self.score:.0%} at {left:.0f},{top:.0f} to {right:.0f},{bottom:.0f}"


@dataclass(frozen=True)
class Detections(Result):
    """The objects in a photo, the best first; iterable, with a length, ``found[0]`` is a `Detection`.

    ``boxes`` (n, 4) float32 are left, top, right, bottom in pixels of the upright photo, whose (width, height) is
    ``size``; ``scores`` (n,) float32 are 0..1, ``labels`` (n,) int64 are places in the manifest's labels. ``ids`` and
    ``names`` (n,) are those of the labels.
    """

    boxes: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    ids: tuple[str, ...]
    names: tuple[str, ...]
    size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, place: int) -> Detection:
        left, top, right, bottom = map(float, self.boxes[place])
        label, score = int(self.labels[place]), float(self.scores[place])
        return Detection(self.ids[place], self.names[place], label, score, (left, top, right, bottom))

    def __iter__(self) -> Iterator[Detection]:
        return (self[place] for place in range(len(self)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Detections) and self.fields() == other.fields()

    def __hash__(self) -> int:
        return hash((self.ids, self.size))

    def __str__(self) -> str:
        if not len(self):
            return "no objects"
        counts = {name: self.names.count(name) for name in dict.fromkeys(self.names)}
        total = ", ".join(f"{n} {printable(name)}" for name, n in counts.items())
        return "\n".join([f"{len(self)} object{'s' if len(self) > 1 else ''}: {total}", *(f"  {one}" for one in self)])

    def fields(self) -> dict[str, Any]:
        """As JSON has it: ``objects``, the best first, and the photo's ``width`` and ``height``."""
        return {
            "width": self.size[0],
            "height": self.size[1],
            "objects": [{**one.fields(), "box": list(one.box)} for one in self],
        }

    def drawn(self, photo: Image.Image) -> Image.Image:
        """A copy of `photo`, upright, with a box and a caption for each object."""
        captions = [f"{printable(name)} {score:.0%}" for name, score in zip(self.names, self.scores, strict=True)]
        return draw_boxes(photo, self.boxes, self.labels.tolist(), captions)
