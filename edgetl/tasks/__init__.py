"""The tasks of the workbench: one folder for each, one line in `TASKS`, and nothing elsewhere.

To add a task, make a folder with a ``TASK`` that has what `edgetl.tasks.task.Task` lists, name it in this table, and
its device side in that of `edgetl_runtime.tasks`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from edgetl_runtime.errors import BundleError, nearest

if TYPE_CHECKING:
    from edgetl.tasks.task import Task

__all__ = ["TASKS", "task_of"]

TASKS: dict[str, str] = {
    "classification": "edgetl.tasks.classification",
    "detection": "edgetl.tasks.detection",
    "segmentation": "edgetl.tasks.segmentation",
}
"""Name -> module, imported when the task is met."""


def task_of(name: str) -> Task:
    """The task of that name. Raises `BundleError` for one that is not known."""
    if name not in TASKS:
        raise BundleError(
            f"{name!r} is a task that this edgetl does not know; {nearest(name, list(TASKS))}",
            fix="pip install --upgrade edgetl",
        )
    task: Task = importlib.import_module(TASKS[name]).TASK
    return task
