"""Where the operators of a loaded model run, said the same way for every engine."""

from __future__ import annotations

from collections import Counter

from edgetl_runtime.frozen import dataclass
from edgetl_runtime.results import Result

__all__ = ["FallbackWarning", "OperatorPlace", "Placement"]

_MOST_NAMED = 8


class FallbackWarning(UserWarning):
    """Operators run elsewhere than on the device that was asked for."""


@dataclass(frozen=True)
class OperatorPlace:
    """An operator as the engine has it - its name, its type - and where it runs: ``CUDA``, ``XNNPACK``, ``CPU`` ..."""

    name: str
    type: str
    device: str

    def __str__(self) -> str:
        return f"{self.type} {self.name}" if self.name else self.type


@dataclass(frozen=True)
class Placement(Result):
    """Where a session's operators run. ``asked`` is the device of `load`; ``wanted`` are the places that keep that
    promise, empty when any place does ("cpu" and "auto").

    Operators are the engine's: those of the graph that ONNX Runtime divides among its providers, those of the TFLite
    file, those of the graph that OpenVINO compiled. Constants, inputs and outputs are none.
    """

    engine: str
    asked: str
    operators: tuple[OperatorPlace, ...]
    wanted: tuple[str, ...] = ()

    @property
    def counts(self) -> dict[str, int]:
        """Number of operators by where they run, the place with the most first."""
        return dict(Counter(operator.device for operator in self.operators).most_common())

    @property
    def fallen_back(self) -> tuple[OperatorPlace, ...]:
        """The operators that run elsewhere than was asked for."""
        if not self.wanted:
            return ()
        return tuple(operator for operator in self.operators if operator.device not in self.wanted)

    def __str__(self) -> str:
        places = ", ".join(f"{n} on {device}" for device, n in self.counts.items()) or "unknown"
        fallen = self.fallen_back
        text = f"{self.engine}, device {self.asked}: of {len(self.operators)} operators {places}"
        if fallen:
            named = ", ".join(str(operator) for operator in fallen[:_MOST_NAMED])
            more = f" and {len(fallen) - _MOST_NAMED} more" if len(fallen) > _MOST_NAMED else ""
            text += f"; fallen back: {named}{more}"
        return text
