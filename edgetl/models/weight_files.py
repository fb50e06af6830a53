"""State dicts as people have them: in wrappers of training programs, with prefixes of what wrapped the network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, strided

from edgetl.models.torch_files import SAVE_AGAIN, StandIn, read_torch_file
from edgetl_runtime.errors import CheckpointError
from edgetl_runtime.files import open_regular

__all__ = ["CHECKPOINT_WEIGHTS", "State", "WeightsFile", "read_state"]

State: TypeAlias = dict[str, Tensor]

CHECKPOINT_WEIGHTS = "model.safetensors"
"""The weights in the folder of a checkpoint."""

_TORCH_SUFFIXES = (".pth", ".pt", ".ckpt", ".bin", ".pth.tar", ".pt.tar", ".tar")
_WRAPPERS = (
    *("state_dict", "model_state_dict", "model_state", "model", "network", "net", "weights"),
    *("state_dict_ema", "model_ema", "ema_state_dict", "ema"),
)
"""Under which of its keys a training program keeps the network; of several the first is taken, and that is said."""

_PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.", "backbone.")
"""What data parallel, averaged, compiled and Lightning modules put in front of every key, in any order."""

_AVERAGED = "n_averaged"
_DEEPEST = 4


@dataclass(frozen=True)
class WeightsFile:
    """The tensors of a file by their name in the network, and what there is to say of what was taken."""

    state: State
    notes: tuple[str, ...] = ()


def read_state(path: Path) -> WeightsFile:
    """The state dict of a ``.safetensors`` file or of one that torch.save wrote, out of its wrappers, bare of prefixes.

    Nothing of a file is ever run (`edgetl.models.torch_files`). Raises `CheckpointError`.
    """
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder and no checkpoint", fix="name a file of weights in it")
    if not path.is_file():
        raise CheckpointError(f"no weights file at {path}", fix="check the path")
    name = path.name.lower()
    if not name.endswith((".safetensors", *_TORCH_SUFFIXES)):
        raise CheckpointError(
            f"cannot read weights from {path.name}", fix=f"a .safetensors, {', '.join(_TORCH_SUFFIXES[:5])} file"
        )
    raw = _read_safetensors(path) if name.endswith(".safetensors") else read_torch_file(path)
    inside, notes = _unwrapped(raw, path)
    return WeightsFile(_bare(inside, path), tuple(notes))


def _read_safetensors(path: Path) -> object:
    try:
        with open_regular(path) as file:
            head = file.read(23)
        if head in (b"", b"version https://git-lfs"):
            return read_torch_file(path)  # which says what it is
        return load_file(path)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}", fix="check the file") from error
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError, AttributeError, OverflowError) as error:
        raise CheckpointError(
            f"{path} is damaged, cut off, or no safetensors file", fix="copy or download it again"
        ) from error


def _unwrapped(raw: object, path: Path) -> tuple[Mapping[object, Tensor], list[str]]:
    """The tensors by key, out of the wrappers of training programs, and what to say of that."""
    notes: list[str] = []
    for _ in range(_DEEPEST):
        if not isinstance(raw, Mapping):
            break
        there = {key: raw[key] for key in _WRAPPERS if isinstance(raw.get(key), Mapping) and raw[key]}
        there = there or {key: raw[key] for key in _WRAPPERS if isinstance(raw.get(key), StandIn)}
        if not there:
            break
        taken, *left = there
        if left:
            notes.append(f"{taken} was taken, {', '.join(left)} left")
        raw = there[taken]
    if isinstance(raw, StandIn):
        what = f"a whole {'network' if raw.is_module else 'object'} ({raw.called})"
        raise CheckpointError(f"{path} holds {what}, not its state dict: to read it is to run code", fix=SAVE_AGAIN)
    if not isinstance(raw, Mapping):
        raise CheckpointError(f"{path} holds no state dict, but {type(raw).__name__}", fix=SAVE_AGAIN)
    tensors = {key: value for key, value in raw.items() if isinstance(value, Tensor)}
    if not tensors:
        shown = ", ".join(str(key) for key in list(raw)[:6]) or "nothing"
        raise CheckpointError(f"{path} holds no state dict: {shown}", fix=SAVE_AGAIN)
    others = [str(key) for key in raw if key not in tensors]
    if others:
        notes.append(f"no tensors, and left out: {', '.join(others[:4])}{' ...' if others[4:] else ''}")
    return tensors, notes


def _bare(tensors: Mapping[object, Tensor], path: Path) -> State:
    """The tensors under the names that the network itself has for them."""
    state: State = {}
    came_from: dict[str, str] = {}
    for raw, value in tensors.items():
        key = raw.decode("utf-8", "replace") if isinstance(raw, bytes) else str(raw)
        name = _without_prefixes(key)
        if name == _AVERAGED:
            continue
        if name in state:
            raise CheckpointError(
                f"{path} holds two networks: {came_from[name]} and {key}",
                fix="save the one that is meant: torch.save(model.state_dict(), FILE)",
            )
        if value.layout is not strided or value.is_quantized or value.is_complex() or value.is_meta:
            raise CheckpointError(f"{path}: {key} is no plain tensor ({value.dtype}, {value.layout})", fix=SAVE_AGAIN)
        state[name], came_from[name] = value, key
    return state


def _without_prefixes(key: str) -> str:
    found = next((prefix for prefix in _PREFIXES if key.startswith(prefix)), None)
    return key if found is None else _without_prefixes(key.removeprefix(found))
