"""What every engine needs: the bytes of a model, and which of the file's tensors the manifest means."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from edgetl_runtime.batch_sizes import FREE
from edgetl_runtime.errors import EngineError
from edgetl_runtime.files import COPY_AGAIN
from edgetl_runtime.frozen import dataclass, field
from edgetl_runtime.manifest import TensorSpec

__all__ = ["Execution", "ModelBytes", "ModelPath", "Signature", "as_found", "bind", "cannot_load", "cannot_run"]


@dataclass(frozen=True)
class ModelBytes:
    """A model as it stands in its files: ``weights`` is the .bin beside an OpenVINO .xml, ``name`` is for messages."""

    main: bytes
    name: str
    weights: bytes | None = None


@dataclass(frozen=True)
class ModelPath:
    """A model in a file of its own (`edgetl_runtime.engines.private_file`), for an engine that reads files itself;
    ``name`` is for messages."""

    path: str
    name: str


@dataclass(frozen=True)
class Execution:
    """How a session runs: ``threads``, cores of one run, None for all that this process may use; ``device``, a word of
    `edgetl_runtime.engines.devices` or a name of the engine's own; ``options`` for that device, as the engine spells
    them; ``strict``: an operator that runs elsewhere is an error instead of a warning."""

    threads: int | None = None
    device: str = "cpu"
    options: Mapping[str, str] = field(default_factory=dict)
    strict: bool = False

    @property
    def kind(self) -> str:
        """The device in lower case: how the words are looked up."""
        return self.device.lower()


@dataclass(frozen=True)
class Signature:
    """Inputs and outputs as the manifest describes them. Sessions use these names, whatever the file calls them."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


def cannot_load(where: str, reason: str, library: str) -> EngineError:
    """The error for a model that an engine, of the distribution `library`, does not take.

    A newer version helps where the engine says that it misses something; else it is the file.
    """
    newer = f"pip install --upgrade {library}"
    return EngineError(f"cannot load {where}: {reason}", fix=newer if _MISSED.search(reason) else COPY_AGAIN)


_MISSED = re.compile(
    r"unsupported .{0,60}(version|opset)|newer|not a registered|not.implemented|find an implementation"
    r"|no op registered|till opset|doesn't contain the operation|didn't find op"
    r"|unresolved custom op|cannot create \w+ layer",
    re.IGNORECASE,
)
"""What engines say of operators and versions that are newer than they are."""


def cannot_run(where: str, error: Exception) -> EngineError:
    """The error for a model that was loaded and does not run."""
    return EngineError(
        f"{where} failed to run: {error}", fix="edgetl-run self-test BUNDLE says which variants run here"
    )


def bind(wanted: tuple[TensorSpec, ...], found: Sequence[TensorSpec], *, what: str, where: str) -> tuple[int, ...]:
    """For each tensor of the manifest, its position in the file.

    By name when all names are there; else by position when there are as many (converters rename tensors). `what` is
    "input" or "output", `where` names file and engine. Raises `EngineError` when the numbers, dtypes or shapes differ.
    """
    names = [spec.name for spec in found]
    if all(spec.name in names for spec in wanted):
        positions = tuple(names.index(spec.name) for spec in wanted)
    elif len(wanted) == len(found):
        positions = tuple(range(len(found)))
    else:
        raise EngineError(
            f"{where} has {what}s {', '.join(names) or 'none'}; its manifest says "
            f"{', '.join(spec.name for spec in wanted)}",
            fix="export the bundle again",
        )
    for spec, position in zip(wanted, positions, strict=True):
        _check_alike(spec, found[position], what=what, where=where)
    return positions


def as_found(
    wanted: Sequence[TensorSpec], found: Sequence[TensorSpec], positions: Sequence[int]
) -> tuple[TensorSpec, ...]:
    """The manifest's tensors with the lengths that the file has where the manifest leaves them free: what can be fed.

    `positions` are those that `bind` found.
    """
    return tuple(
        spec
        if FREE not in spec.shape
        else replace(
            spec,
            shape=tuple(
                have if want == FREE else want for want, have in zip(spec.shape, found[position].shape, strict=True)
            ),
        )
        for spec, position in zip(wanted, positions, strict=True)
    )


def _check_alike(wanted: TensorSpec, found: TensorSpec, *, what: str, where: str) -> None:
    alike = wanted.dtype == found.dtype and len(wanted.shape) == len(found.shape)
    # -1 is a free length: on either side it fits any.
    alike = alike and all(-1 in pair or pair[0] == pair[1] for pair in zip(wanted.shape, found.shape, strict=False))
    if not alike:
        raise EngineError(
            f"{what} {wanted.name!r} of {where} is {found.dtype} {list(found.shape)}; its manifest says "
            f"{wanted.dtype} {list(wanted.shape)}",
            fix="export the bundle again",
        )
