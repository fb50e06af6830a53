"""What options of several commands mean."""

from __future__ import annotations

import argparse
from typing import Any

from edgetl_runtime.errors import UsageError
from edgetl_runtime.tasks import TASKS, PredictOption, task_of

__all__ = ["device_of", "task_options"]


def device_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """The keywords of `load` for ``--device`` and its options."""
    options = {}
    for text in arguments.device_option:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise UsageError(f"--device-option {text!r} is not KEY=VALUE", fix="--device-option device_type=GPU")
        options[key] = value
    return {"device": arguments.device, "device_options": options}


def task_options() -> dict[str, PredictOption]:
    """What `predict` can be asked in any task, by name."""
    return {option.name: option for task in TASKS for option in task_of(task).options}
