"""The device's side of the toy task: the module that its line in `edgetl_runtime.tasks.TASKS` names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from edgetl_runtime.errors import BundleError
from edgetl_runtime.frozen import dataclass
from edgetl_runtime.manifest import Manifest
from edgetl_runtime.placing import Placed
from edgetl_runtime.predictor import Outputs, Predictor
from edgetl_runtime.preprocess import ColorOrder
from edgetl_runtime.results import Result
from edgetl_runtime.sources import ImageSource
from edgetl_runtime.tasks import PredictOption


@dataclass(frozen=True)
class Count(Result):
    """How many there are."""

    value: float
    n: int

    def __str__(self) -> str:
        return f"{self.n} blobs ({self.value:.2f})"


class Counter(Predictor[Count]):
    """Counts blobs."""

    def predict(self, image: ImageSource | Iterable[ImageSource], *, most: int = 99, color: ColorOrder = "RGB") -> Any:
        return self._predict(image, color=color, most=most)

    def predict_batch(self, images: Iterable[ImageSource]) -> list[Count]:
        return self._predict_batch(images, workers=None, color="RGB", most=99)

    def _decode(self, outputs: Outputs, placed: Placed, **options: Any) -> Count:
        value = float(outputs["count"][0])
        return Count(value, min(options["most"], max(0, round(value))))


predictor = Counter
options = (PredictOption("most", int, "N", "count no further"),)


def check(manifest: Manifest) -> None:
    if manifest.output.shape[1:] != (1,):
        raise BundleError("a count is one number", fix="export the bundle again")


def agreement(original: Outputs, outputs: Outputs, decoder: Mapping[str, Any] | None) -> npt.NDArray[np.float64]:
    same: npt.NDArray[np.bool_] = np.rint(original["count"][:, 0]) == np.rint(outputs["count"][:, 0])
    return same.astype(np.float64)


def decision(outputs: Outputs, manifest: Manifest) -> str | None:
    return str(round(float(outputs["count"][0])))
