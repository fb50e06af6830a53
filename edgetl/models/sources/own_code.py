"""Code that a person names, ``module.py:function``, and modules in the memory of this process.

A file of code is run when a person names it, and only then: never because a checkpoint or a bundle names it.
"""

from __future__ import annotations

import copy
import importlib.util
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgetl.models.image_size import ImageSize
from edgetl.models.sources import MEMORY, allow_code, is_allowed
from edgetl_runtime.errors import CheckpointError, UsageError

__all__ = ["loaded_file", "made", "named_head", "remember"]

_NAMES = ("num_classes", "classes", "num_labels")
"""What functions call the number of labels."""


@dataclass(frozen=True, eq=False)
class _Remembered:
    module: nn.Module
    head: str | None


_IN_MEMORY: dict[str, _Remembered] = {}


def remember(module: nn.Module, *, head: str | None = None) -> str:
    """A name for a module in memory, good for this process; `head` is the path of its last layer, by default found."""
    for name, known in _IN_MEMORY.items():
        if known.module is module and known.head == head:
            return name
    name = f"{MEMORY}{type(module).__name__}-{len(_IN_MEMORY) + 1}"
    _IN_MEMORY[name] = _Remembered(module, head)
    allow_code(name)
    return name


def made(name: str, *, num_classes: int | None, image_size: ImageSize | None, channels: int | None) -> nn.Module:
    """What the function gives with the arguments that it has a name for, or a copy of the module in memory: in float32.

    Raises `UsageError` for a function that is not there, that cannot be called so, fails, or gives no module of layers,
    and `CheckpointError` for code that nobody named.
    """
    if name.startswith(MEMORY):
        if name not in _IN_MEMORY:
            raise CheckpointError(
                f"{name} was a module in the memory of the program that trained it",
                fix="name its code: --backbone module.py:function, a function that builds it",
            )
        _check_plain(_IN_MEMORY[name].module, name)
        return copy.deepcopy(_IN_MEMORY[name].module).float()
    if not is_allowed(name):
        raise CheckpointError(
            f"the network is built by {name}, and code is only run when you name it yourself",
            fix=f"--backbone {name}",
        )
    function = _function(name)
    given: dict[str, Any] = {"image_size": image_size, "channels": channels, "in_chans": channels}
    given |= dict.fromkeys(_NAMES, num_classes)
    try:
        parameters = set(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        parameters = set()
    arguments = {key: value for key, value in given.items() if key in parameters and value is not None}
    try:
        model = function(**arguments)
    except TypeError as error:
        unsaid = num_classes is None and any(word in parameters for word in _NAMES)
        raise UsageError(
            f"{name} cannot be called with {', '.join(arguments) or 'no arguments'}: {error}",
            fix="--labels FILE says how many there are"
            if unsaid
            else "a function without arguments, or with num_classes, image_size and channels",
        ) from error
    except (Exception, SystemExit) as error:  # whatever the user's code raises
        raise UsageError(f"{name} fails: {type(error).__name__}: {error}", fix="mend it") from error
    if not isinstance(model, nn.Module):
        raise UsageError(f"{name} gives {type(model).__name__}, no torch.nn.Module", fix="return the network")
    _check_plain(model, name)
    return model.float()


def _check_plain(model: nn.Module, name: str) -> None:
    """Raise `UsageError` for a network that is a program already, or has weights that are no tensors."""
    if isinstance(model, torch.jit.ScriptModule):
        raise UsageError(
            f"{name} is TorchScript, a program without layers",
            fix="the network that it was made from, before torch.jit.script or torch.jit.trace",
        )
    if others := [key for key, value in model.state_dict().items() if not isinstance(value, torch.Tensor)]:
        raise UsageError(
            f"{name} has weights that are no tensors, as of layers that are quantised already: {', '.join(others[:4])}",
            fix="the network as it was before that: edgetl quantises it",
        )


def loaded_file(path: Path) -> Any:
    """The module that a file of Python code is. Raises `UsageError`."""
    if not path.is_file():
        raise UsageError(f"there is no file {path}", fix="check the path")
    known = f"edgetl_own_{path.stem}_{abs(hash(str(path.resolve()))):x}"
    if known in sys.modules:
        return sys.modules[known]
    spec = importlib.util.spec_from_file_location(known, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[known] = module
    sys.path.insert(0, str(path.resolve().parent))  # what stands beside it may be imported, as when it is run
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # whatever the user's code raises
        del sys.modules[known]
        raise UsageError(f"{path} cannot be run: {type(error).__name__}: {error}", fix="mend it") from error
    finally:
        sys.path.remove(str(path.resolve().parent))
    return module


def _function(name: str) -> Callable[..., object]:
    file, _, called = name.rpartition(":")
    function = getattr(loaded_file(Path(file)), called, None)
    if not callable(function):
        raise UsageError(f"{file} has no function {called!r}", fix="module.py:function, with a function that is there")
    found: Callable[..., object] = function
    return found


def named_head(name: str) -> str | None:
    """Path of the last layer, where the user says it."""
    if name.startswith(MEMORY):
        return _IN_MEMORY[name].head
    return getattr(loaded_file(Path(name.rpartition(":")[0])), "HEAD", None)
