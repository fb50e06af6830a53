"""A piece that cannot be converted as a folder that shows it: a script, the weights, the error, the versions."""

from __future__ import annotations

import inspect
import json
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as write_safetensors
from torch import nn

from edgetl.verify.diagnose.bisect import Piece
from edgetl_export.staging import staged
from edgetl_export.targets import TARGETS
from edgetl_runtime import __version__

__all__ = ["SCRIPT", "save_reproduction"]

SCRIPT = "reproduce.py"
_FROM_LIBRARIES = ("torch", "torchvision")
_OF_EVERY_MODULE = frozenset(nn.Module().__dict__)

_HEAD = '''"""{path} of {name} cannot be converted to {target} at {precision}.

    {error}

Run it: python {script}. Exit code 1 while the conversion fails, 0 when it works. The network's piece is rebuilt from
structure.json and weights.safetensors, and called with inputs.safetensors.
"""

import importlib
import json
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

HERE = Path(__file__).parent
'''

_TAIL = '''

def rebuilt(structure, weights, prefix=""):
    """The module that structure.json describes: its class, plain attributes, weights and children."""
    library, _, name = structure["class"].partition(":")
    cls = getattr(importlib.import_module(library), name) if library else globals()[name]
    module = cls.__new__(cls)
    nn.Module.__init__(module)
    for key, value in structure["attributes"].items():
        setattr(module, key, tuple(value) if isinstance(value, list) else value)
    for key in structure["parameters"]:
        module.register_parameter(key, nn.Parameter(weights[prefix + key]) if prefix + key in weights else None)
    for key in structure["buffers"]:
        module.register_buffer(key, weights.get(prefix + key))
    for key, child in structure["children"].items():
        module.add_module(key, None if child is None else rebuilt(child, weights, prefix + key + "."))
    return module.eval()


def main():
    from edgetl.verify.diagnose.bisect import why_not_converted

    piece = rebuilt(json.loads((HERE / "structure.json").read_text()), load_file(HERE / "weights.safetensors"))
    tensors = load_file(HERE / "inputs.safetensors")
    inputs = [tensors[str(index)] for index in range(len(tensors))]
    print(piece)
    print("inputs:", [tuple(tensor.shape) for tensor in inputs])
    failed = why_not_converted(piece, inputs, {target!r}, {precision!r})
    print("converted" if failed is None else failed[1])
    return 0 if failed is None else 1


if __name__ == "__main__":
    sys.exit(main())
'''


def save_reproduction(piece: Piece, folder: Path, *, name: str, force: bool = False) -> Path:
    """Write the folder, whole or not at all: reproduce.py, structure.json, two safetensors, error.txt, versions.json.

    Classes that are not torch's or torchvision's are in the script as source. `name` is the network's. Raises
    `OutputError` when `folder` exists (unless `force`, and then only another such folder is replaced).
    """
    sources: dict[str, str] = {}
    structure = _structure(piece.module, sources)
    weights = {key: value.detach().contiguous().clone() for key, value in piece.module.state_dict().items()}
    # Those that a state dict leaves out are needed to run all the same.
    buffers = {key: value.detach().clone() for key, value in piece.module.named_buffers()}
    tensors = [value for value in piece.inputs if isinstance(value, torch.Tensor)]
    about = {
        "path": piece.path or "the whole network",
        "name": name,
        "target": piece.target,
        "precision": piece.precision,
        "error": piece.error,
        "script": SCRIPT,
    }
    script = _HEAD.format(**about) + "".join(f"\n\n{source}" for source in sources.values())
    script += _TAIL.replace("{target!r}", repr(piece.target)).replace("{precision!r}", repr(piece.precision))
    with staged(folder, holds=SCRIPT, force=force) as fresh:
        (fresh / SCRIPT).write_text(script, encoding="utf-8")
        (fresh / "structure.json").write_text(json.dumps(structure, indent=1) + "\n", encoding="utf-8")
        (fresh / "weights.safetensors").write_bytes(write_safetensors({**buffers, **weights}))
        inputs = {str(index): tensor.contiguous() for index, tensor in enumerate(tensors)}
        (fresh / "inputs.safetensors").write_bytes(write_safetensors(inputs))
        (fresh / "error.txt").write_text(f"{piece.error}\n\n{piece.trace}", encoding="utf-8")
        (fresh / "versions.json").write_text(json.dumps(_versions(piece.target), indent=1) + "\n", encoding="utf-8")
    return folder


def _structure(module: nn.Module, sources: dict[str, str]) -> dict[str, Any]:
    """A module in JSON; adds the source of classes that no library has."""
    cls = type(module)
    library = cls.__module__ if cls.__module__.partition(".")[0] in _FROM_LIBRARIES else ""
    if not library and cls.__name__ not in sources:
        sources[cls.__name__] = inspect.cleandoc("\n" + inspect.getsource(cls)) + "\n"
    own = {key: value for key, value in vars(module).items() if key not in _OF_EVERY_MODULE}
    return {
        "class": f"{library}:{cls.__qualname__ if library else cls.__name__}",
        "attributes": _plain(own),
        "parameters": list(module._parameters),
        "buffers": list(module._buffers),
        "children": {
            key: None if child is None else _structure(child, sources) for key, child in module._modules.items()
        },
    }


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """What JSON can hold of a module's attributes; functions and the like are left to the class."""
    kept = {}
    for key, value in values.items():
        try:
            kept[key] = json.loads(json.dumps(value))
        except TypeError:
            continue
    return kept


def _versions(target: str) -> dict[str, str]:
    libraries = ("torch", *TARGETS[target].libraries)
    return {"python": platform.python_version(), "edgetl": __version__, **{name: version(name) for name in libraries}}
