"""What an image is, and results as JSON."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from edgetl_runtime.escaping import json_value, printable
from edgetl_runtime.frozen import dataclass

__all__ = ["Prediction", "Result", "Score"]


class Result:
    """Base of the dataclasses that are results."""

    _also: ClassVar[tuple[str, ...]] = ()
    """Properties that stand in the JSON beside the fields."""

    def to_json(self, *, indent: int | None = None) -> str:
        """All of it as JSON text, nested as it is; infinities and NaN, which JSON cannot hold, are null."""
        import json

        fields = dataclasses.asdict(self)  # type: ignore[call-overload] # whoever inherits this is a dataclass
        value = {**fields, **{name: getattr(self, name) for name in self._also}}
        return json.dumps(json_value(value), indent=indent, ensure_ascii=False, allow_nan=False)


@dataclass(frozen=True)
class Score(Result):
    """A label and its probability (0..1); ``index`` is its place in the logits."""

    id: str
    name: str
    index: int
    probability: float

    def __str__(self) -> str:
        return f"{printable(self.name)} {self.probability:.1%}"


@dataclass(frozen=True)
class Prediction(Result):
    """What one image is: ``top``, the most probable label, and ``scores``, the labels that were asked for, the best
    first. Below a threshold ``scores`` is empty, and the image is none of the labels as far as one can say."""

    top: Score
    scores: tuple[Score, ...]

    _also = ("accepted",)

    @property
    def accepted(self) -> bool:
        """Whether any label reached the threshold."""
        return bool(self.scores)

    def __str__(self) -> str:
        return ", ".join(str(score) for score in self.scores) or f"none of the labels (nearest: {self.top})"
