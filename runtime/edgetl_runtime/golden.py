"""The golden samples of a bundle: images, what preprocessing made of them, and what the original answered."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgetl_runtime.errors import BundleError
from edgetl_runtime.files import COPY_AGAIN
from edgetl_runtime.frozen import dataclass, field
from edgetl_runtime.manifest import Golden
from edgetl_runtime.npy import read_npz

if TYPE_CHECKING:
    from edgetl_runtime.files import BundleContents

__all__ = ["GoldenSamples", "read_golden"]

_LARGEST_GOLDEN = 2**28


@dataclass(frozen=True)
class GoldenSamples:
    """Golden samples in order: PNG or .npy files, what `preprocess` made of them, and what the original model gave.

    ``tensors`` is (n, H, W, C) uint8; ``outputs`` (n, ...) by name, of a classifier ``logits`` (n, classes) float32;
    ``features`` (n, ...) float32 by name.
    """

    names: tuple[str, ...]
    images: tuple[bytes, ...]
    tensors: npt.NDArray[np.uint8]
    outputs: Mapping[str, npt.NDArray[Any]]
    features: Mapping[str, npt.NDArray[np.float32]] = field(default_factory=dict)

    @property
    def logits(self) -> npt.NDArray[np.float32]:
        """The output called ``logits``."""
        logits: npt.NDArray[np.float32] = self.outputs["logits"]
        return logits


def read_golden(bundle: BundleContents) -> GoldenSamples | None:
    """The golden samples of `bundle`, None when it has none. Raises `BundleError` when they are damaged."""
    golden = bundle.manifest.golden
    if golden is None:
        return None
    images = tuple(bundle.read_entry(entry) for entry in golden.images)
    arrays = _expected(bundle, golden)
    tensors = arrays.pop("tensors")
    outputs = {spec.name: arrays.pop(spec.name) for spec in bundle.manifest.outputs}
    names = tuple(Path(entry.path).name for entry in golden.images)
    sound = tensors.dtype == np.uint8 and tensors.ndim == 4
    sound = sound and all(
        outputs[spec.name].dtype == np.dtype(spec.dtype) and outputs[spec.name].ndim == len(spec.shape)
        for spec in bundle.manifest.outputs
    )
    if not sound or {len(names), len(tensors), *map(len, outputs.values())} != {golden.n}:
        held = {"tensors": tensors, **outputs}
        told = " and ".join(f"{name} {values.dtype} {list(values.shape)}" for name, values in held.items())
        raise BundleError(
            f"{golden.expected.path} in {bundle.path} holds {told} for {golden.n} golden samples",
            fix="export the bundle again",
        )
    for spec in bundle.manifest.features:
        shape = (golden.n, *spec.shape[1:])
        if arrays[spec.name].dtype != np.float32 or arrays[spec.name].shape != shape:
            raise BundleError(
                f"{golden.expected.path} in {bundle.path} holds {spec.name} {arrays[spec.name].dtype} "
                f"{list(arrays[spec.name].shape)}, not float32 {list(shape)}",
                fix="export the bundle again",
            )
    return GoldenSamples(names, images, tensors, outputs, arrays)


def _expected(bundle: BundleContents, golden: Golden) -> dict[str, npt.NDArray[Any]]:
    """Tensors, outputs and features of the golden samples; never larger than the manifest lets them be."""
    content = bundle.read_entry(golden.expected)
    prepared = bundle.manifest.preprocess
    sizes = {"tensors": golden.n * math.prod(prepared.crop) * prepared.channels}
    for spec in (*bundle.manifest.outputs, *bundle.manifest.features):
        values = math.prod(abs(size) for size in spec.shape[1:])
        sizes[spec.name] = golden.n * values * np.dtype(spec.dtype).itemsize
    try:
        return read_npz(content, {name: min(size, _LARGEST_GOLDEN) for name, size in sizes.items()})
    except ValueError as error:
        raise BundleError(f"{golden.expected.path} in {bundle.path} is damaged: {error}", fix=COPY_AGAIN) from None
