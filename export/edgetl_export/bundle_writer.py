"""The files of a bundle: variants, golden samples, manifest, each with what the manifest records of it."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from edgetl_export.artifact import Artifact
from edgetl_export.quantize.quantization import Quantization
from edgetl_export.quantize.saturation import LayerRisk
from edgetl_export.sealing import file_entry, sealed_manifest
from edgetl_export.source import Source
from edgetl_runtime.manifest import FileEntry, Golden, Manifest, Preprocess, Variant
from edgetl_runtime.npy import write_npy
from edgetl_runtime.placing import place
from edgetl_runtime.preprocess import ImageSource, load_bands, preprocess, stack_bands

__all__ = ["write_file", "write_golden", "write_manifest", "write_quantizations", "write_variant"]

_GOLDEN_MARGIN = 1.25
"""A golden image keeps this many times the pixels that preprocessing resizes to, so that it has something to resize."""


def write_file(folder: Path, relative: str, content: bytes) -> FileEntry:
    """Write one file of the bundle and say what the manifest records of it."""
    path = folder / relative
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return file_entry(relative, content)


def write_variant(folder: Path, variant: Variant, artifact: Artifact) -> Variant:
    """Write ``<target>/model.<precision>.*`` and return `variant` with its files."""
    files = tuple(
        write_file(folder, f"{variant.target}/model.{variant.precision}{suffix}", content)
        for suffix, content in artifact.files.items()
    )
    return dataclasses.replace(variant, files=files)


def write_golden(folder: Path, source: Source, originals: Sequence[ImageSource]) -> Golden:
    """The images (PNG, or .npy where no PNG has so many channels), their tensors, the original's logits and features.

    The photos are stored without loss, reduced to little more than preprocessing needs, and the tensors are made
    from what is stored: so a device whose JPEG decoder differs can still be held to every pixel.
    """
    spec = source.preprocess
    images: list[FileEntry] = []
    tensors = []
    for index, original in enumerate(originals):
        suffix, content = _without_loss([_reduced(band, spec) for band in load_bands(original, spec.channels)])
        images.append(write_file(folder, f"golden/{index:02d}{suffix}", content))
        tensors.append(preprocess(content, spec))
    stacked = np.stack(tensors)
    reference = source.reference()
    answers = [reference.outputs(tensor[None]) for tensor in stacked]
    expected = {name: np.concatenate([answer[name] for answer in answers]) for name in answers[0]}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, tensors=stacked, **expected)  # type: ignore[arg-type] # none is allow_pickle
    return Golden(len(images), tuple(images), write_file(folder, "golden/expected.npz", buffer.getvalue()))


def write_quantizations(
    folder: Path, quantizations: Mapping[str, Quantization], risks: Mapping[str, Sequence[LayerRisk]]
) -> None:
    """``quantization.json``: the grids and scales that the integer variants were written from, each set once.

    ``saturation`` is what 16 bits may do to every layer, by variant of the set, where kernels add in 16 bits.
    """
    sets: list[tuple[Quantization, list[str]]] = []
    for variant, quantization in quantizations.items():
        for kept, variants in sets:
            if kept is quantization:
                variants.append(variant)
                break
        else:
            sets.append((quantization, [variant]))
    if sets:
        entries = [
            {
                "variants": variants,
                **dataclasses.asdict(kept),
                "saturation": {
                    name: [dataclasses.asdict(risk) for risk in risks[name]] for name in variants if name in risks
                },
            }
            for kept, variants in sets
        ]
        text = json.dumps({"schema": 1, "quantizations": entries}, allow_nan=False)
        (folder / "quantization.json").write_text(text + "\n", encoding="utf-8")


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """``manifest.json``, sealed, last of all."""
    (folder / "manifest.json").write_bytes(sealed_manifest(manifest.to_json()))


def _reduced(image: Image.Image, spec: Preprocess) -> Image.Image:
    resized = place(image.size, spec).resized
    # The side that is shrunk least; of equals the shorter one, where sizes are not truncated.
    side, wanted = max(sorted(zip(image.size, resized, strict=True)), key=lambda pair: pair[1] / pair[0])
    scale = round(_GOLDEN_MARGIN * wanted) / side
    if scale >= 1:
        return image
    return image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))


def _without_loss(bands: Sequence[Image.Image]) -> tuple[str, bytes]:
    """Suffix and content of an image file of these bands, all of one size."""
    if len(bands) not in (1, 4):
        return ".npy", write_npy(stack_bands(bands))
    image = bands[0] if len(bands) == 1 else Image.merge("RGBA", bands)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return ".png", buffer.getvalue()
