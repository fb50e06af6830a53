"""What a device knows of each task: one module here, one line in `TASKS`, and nothing elsewhere.

To add a task, write a module with what `Task` lists and name it in the table. The module needs numpy and Pillow only.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, cast

from edgetl_runtime.errors import BundleError, UsageError, nearest
from edgetl_runtime.frozen import dataclass
from edgetl_runtime.manifest import Manifest
from edgetl_runtime.predictor import Outputs, Predictor

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["TASKS", "PredictOption", "Task", "predict_options", "task_of"]

TASKS: dict[str, str] = {
    "classification": "edgetl_runtime.tasks.classification",
    "detection": "edgetl_runtime.tasks.detection",
    "segmentation": "edgetl_runtime.tasks.segmentation",
}
"""Name in the manifest -> module, which is imported when a bundle of that task is there."""


@dataclass(frozen=True)
class PredictOption:
    """An option of ``edgetl-run predict`` that goes to the predictor's ``predict`` as the keyword `name`.

    ``type`` makes a value of its text, ``metavar`` stands for it in the help.
    """

    name: str
    type: Callable[[str], Any]
    metavar: str
    help: str


class Task(Protocol):
    """What a module of a task has."""

    @property
    def options(self) -> tuple[PredictOption, ...]:
        """What ``edgetl-run predict`` can be asked besides: keywords of the predictor's ``predict``."""
        ...

    @property
    def predictor(self) -> type[Predictor[Any]]:
        """The class that `load` gives."""
        ...

    def check(self, manifest: Manifest) -> None:
        """Raises `BundleError` where outputs or labels are none that this task can be decoded from."""
        ...

    def agreement(
        self, original: Outputs, outputs: Outputs, decoder: Mapping[str, Any] | None
    ) -> npt.NDArray[np.float64]:
        """How far decisions are the original's, for each image.

        Args:
            original: Outputs of the original by name, (n, ...) each.
            outputs: Those of a variant for the same images; they may hold values that are not finite.
            decoder: The manifest's.

        Returns:
            (n,) float64, 0 (another decision) to 1 (the same).
        """
        ...

    def decision(self, outputs: Outputs, manifest: Manifest) -> str | None:
        """The decision on one image in a few words, None where it takes more than that: dense outputs, many objects.

        Args:
            outputs: By name, without the batch.
            manifest: The bundle's, for the names of the labels.
        """
        ...


def task_of(name: str) -> Task:
    """The task that a manifest names. Raises `BundleError` for one that this runtime does not know."""
    if name not in TASKS:
        raise BundleError(
            f"the bundle is for {name!r}, a task that this edgetl does not know; {nearest(name, list(TASKS))}",
            fix="pip install --upgrade edgetl",
        )
    return cast("Task", importlib.import_module(TASKS[name]))


def predict_options(task: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Those of `given`, by the names of all tasks' options, that were given: keywords of the predictor of `task`.

    Raises `UsageError` for one that belongs to other tasks.
    """
    own = {option.name for option in task_of(task).options}
    wanted = {name: value for name, value in given.items() if value is not None}
    for name in wanted:
        if name not in own:
            raise UsageError(
                f"--{name.replace('_', '-')} says nothing in {task}", fix="leave it out; edgetl-run help predict"
            )
    return wanted
