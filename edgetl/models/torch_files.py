"""Files that torch.save wrote, read without running anything of theirs: tensors, numbers, texts, and what holds them.

A pickle names classes and functions, and whoever unpickles calls them. ``weights_only=True`` refuses all but a few of
torch's own. Here every other name is answered by an empty class of ours, so that options and metrics beside the
weights cost nothing: no name is imported, nothing but torch's few is called.
"""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import torch

from edgetl_runtime.errors import CheckpointError
from edgetl_runtime.files import open_regular

__all__ = ["SAVE_AGAIN", "StandIn", "read_torch_file"]

SAVE_AGAIN = "in the program that made it: torch.save(model.state_dict(), FILE)"

_BEGINNINGS: tuple[tuple[bytes, str, str], ...] = (
    (b"version https://git-lfs", "is a Git LFS pointer, not the file that it stands for", "git lfs pull"),
    (b"<", "is a web page (HTML or XML), not weights", "download it again, from the link to the file itself"),
    (b"{", "is text (JSON), not weights", "name the file of the weights"),
    (b"\x1f\x8b", "is compressed (gzip)", "unpack it with gunzip"),
    (b"\x89HDF", "is an HDF5 file, as Keras writes them", SAVE_AGAIN),
    (b"%PDF", "is a PDF", "name the file of the weights"),
)
_FOREIGN = re.compile(r"GLOBAL (\S+) was not an allowed global")
_BLOCKED = re.compile(r"GLOBAL (\S+) whose module")
_OBJECTS = re.compile("Trying to call|Can only|Only persistent_load of storage")
_MOST_NAMES = 256
_DAMAGED_FIX = "copy or download it again"


class StandIn:
    """In place of an object whose class is not torch's: it has the class's name (``called``) and nothing else.

    ``is_module``: it was a network (`torch.nn.Module`).
    """

    called = ""
    is_module = False

    def __new__(cls, *_: object, **__: object) -> StandIn:
        """Whatever the class is called with."""
        return object.__new__(cls)

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        self.is_module = isinstance(state, dict) and {"_parameters", "_modules"} <= state.keys()


def read_torch_file(path: Path, *, fix: str = _DAMAGED_FIX) -> object:
    """What torch.save wrote to `path`, on the CPU; objects of foreign classes are `StandIn`.

    Raises `CheckpointError` for anything else, with `fix` when the file is damaged.
    """
    _check_beginning(path)
    names: set[str] = set()
    while True:
        try:
            return _load(path, names)
        except OSError as error:
            raise CheckpointError(f"cannot read {path}: {error.strerror or error}", fix="check the file") from error
        except Exception as error:
            # torch's unpickler raises whatever the damage leads to.
            foreign = _FOREIGN.search(str(error))
            if foreign is None or foreign[1] in names or len(names) >= _MOST_NAMES:
                raise _refusal(path, error, fix) from error
            names.add(foreign[1])


def _load(path: Path, names: set[str]) -> object:
    answers: list[Any] = []
    for name in names:
        # A dict that fills itself is written like a dict, which no stand-in may take.
        answer = _empty if name == "collections.defaultdict" else type("StandIn", (StandIn,), {"called": name})
        # torch leaves "builtins" out where it complains, not where it looks.
        answers += [(answer, name), (answer, f"builtins.{name}")]
    with warnings.catch_warnings(), torch.serialization.safe_globals(answers):
        warnings.simplefilter("ignore")  # about kinds of files that are refused here in any case
        with open_regular(path) as file:
            return torch.load(file, map_location="cpu", weights_only=True)


def _empty(*_: object) -> dict[Any, Any]:
    return {}


def _check_beginning(path: Path) -> None:
    """Raise `CheckpointError` for what can be told by a look at the first bytes."""
    try:
        if not path.is_file():
            raise CheckpointError(f"{path} is not a file", fix="check the path")
        with open_regular(path) as stream:
            head = stream.read(512)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}", fix="check the file") from error
    if not head:
        raise CheckpointError(f"{path} is empty (0 bytes): a download or a copy was cut off", fix=_DAMAGED_FIX)
    for beginning, what, fix in _BEGINNINGS:
        if head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(beginning):
            raise CheckpointError(f"{path} {what}", fix=fix)
    if head[257:262] == b"ustar":
        raise CheckpointError(f"{path} is a tar archive", fix="unpack it, and name the file of the weights")


def _refusal(path: Path, error: Exception, fix: str) -> CheckpointError:
    """One sentence of ours: torch's own advice is to trust the file."""
    said = str(error)
    blocked = _BLOCKED.search(said)
    if blocked is not None:
        return CheckpointError(f"{path} asks for {blocked[1]}, which runs programs: weights never do", fix="remove it")
    if "TorchScript" in said:
        return CheckpointError(f"{path} is a TorchScript program, not a state dict", fix=SAVE_AGAIN)
    if _OBJECTS.search(said) is not None:
        return CheckpointError(
            f"{path} holds more than tensors, numbers and texts, perhaps a whole network: to read it is to run code",
            fix=SAVE_AGAIN,
        )
    return CheckpointError(f"{path} is damaged, cut off, or not a file that torch.save wrote", fix=fix)
