"""Programs of `torch.export`: ``.pt2`` files. To read one is to run what it computes shapes with: only when named."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from edgetl.models.image_size import height_and_width
from edgetl.models.sources.foreign import Foreign, state_sha256
from edgetl.models.sources.own import number_of_outputs, preset
from edgetl.models.sources.source_options import SourceOptions
from edgetl_export.lifting import as_modules
from edgetl_runtime.errors import CheckpointError, UsageError
from edgetl_runtime.files import read_regular

__all__ = ["opened"]

_FREE_BATCH = (
    'torch.export.export(model, (example,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},)), '
    "with an example of two images"
)


def opened(spec: str | Path, options: SourceOptions) -> Foreign:
    """The network of a ``.pt2`` file, with what `options` say of it.

    Raises `CheckpointError` for another file, `UsageError` for a program of one number of images, and for what is not
    said or does not fit.
    """
    path = Path(spec)
    network, (channels, height, width) = _network(path)
    if options.image_size is not None and height_and_width(options.image_size) != (height, width):
        raise UsageError(f"{path} takes {height} x {width} pixels", fix="leave --image-size out")
    if options.channels not in (None, channels):
        raise UsageError(f"{path} takes {channels} channels", fix="leave --channels out")
    preprocess, normalize = preset(
        str(path), (height, width), channels=channels, decode="exact", normalize=options.normalize
    )
    return Foreign(
        kind="program",
        backbone=path.name,
        module=network,
        labels=options.labels_for(number_of_outputs(network, channels, (height, width), where=str(path)), path.name),
        preprocess=options.fitted(preprocess),
        normalize=normalize,
        sha256=state_sha256(network),
        training={"weights": path.name, "loading": f"{path.name}: a program of torch.export"},
    )


def _network(path: Path) -> tuple[nn.Module, tuple[int, ...]]:
    """The network, its layers as modules, and the shape (C, H, W) that it takes."""
    where = str(path)
    try:
        program = torch.export.load(io.BytesIO(read_regular(path)))
    except OSError as error:
        raise CheckpointError(f"cannot read {where}: {error.strerror or error}", fix="check the path") from error
    except Exception as error:  # whatever damage leads to
        raise CheckpointError(
            f"{where} is no program of torch.export, or of another torch: {str(error).strip()[:160]}",
            fix="torch.export.save(torch.export.export(...), FILE)",
        ) from error
    shape = _input_shape(program, where)
    return as_modules(program), shape


def _input_shape(program: ExportedProgram, where: str) -> tuple[int, ...]:
    names = program.graph_signature.user_inputs
    values = [node.meta["val"] for node in program.graph.nodes if node.op == "placeholder" and node.name in names]
    if len(values) != 1 or not isinstance(values[0], Tensor) or values[0].ndim != 4:
        raise UsageError(
            f"{where} does not take one tensor of images", fix="a network of normalised float32 (N, C, H, W)"
        )
    batch, *sides = tuple[Any, ...](values[0].shape)
    if isinstance(batch, int):
        raise UsageError(f"{where} is for {batch} image{'s' if batch > 1 else ''} at a time", fix=_FREE_BATCH)
    if not all(isinstance(side, int) for side in sides):
        raise UsageError(f"{where} takes images of any size", fix="export it for one size, with a free batch alone")
    return tuple(int(side) for side in sides)
