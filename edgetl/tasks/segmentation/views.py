"""What the report shows of masks: tables of labels, and photos with the masks that models gave."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

from edgetl.data.dataset import Sample
from edgetl.tasks.segmentation.differences import NEAR, Differences, differences_of
from edgetl.tasks.segmentation.framed_masks import in_frame
from edgetl.tasks.segmentation.metric import MaskMetric
from edgetl.tasks.segmentation.reading import truth_of
from edgetl.tasks.task import Picture, Table
from edgetl_runtime.errors import EdgetlError
from edgetl_runtime.manifest import Label, Manifest
from edgetl_runtime.placing import place
from edgetl_runtime.preprocess import load_bands, preprocess
from edgetl_runtime.tasks.segmentations import UNSEEN, mask_colours

__all__ = ["pictures_of", "tables_of"]

_MOST_PICTURES = 6
_MOST_CONFUSED = 24
"""Labels of a confusion matrix that people can still read."""
_SIDE = 200
_QUALITY = 80
_OPACITY = 0.5


def tables_of(original: MaskMetric, variants: Mapping[str, MaskMetric], manifest: Manifest) -> tuple[Table, ...]:
    """IoU by label, where masks differ, and what the original takes for what."""
    names = [label.name for label in manifest.labels]
    ids = [label.id for label in manifest.labels]
    apart = {id_: differences_of(original, metric) for id_, metric in variants.items()}
    return (
        _by_label(original, variants, names, ids),
        _where_they_differ(apart),
        _confusion(original, names),
    )


def _by_label(
    original: MaskMetric, variants: Mapping[str, MaskMetric], names: Sequence[str], ids: Sequence[str]
) -> Table:
    columns = [original.label_ious(), *(metric.label_ious() for metric in variants.values())]
    totals = original.counts.sum(axis=0)[1]
    share = totals / max(1, int(totals.sum()))
    rows = tuple(
        (name, f"{share[index]:.1%}", *(_percent(column.get(ids[index])) for column in columns))
        for index, name in enumerate(names)
    )
    accuracy = [original.pixel_accuracy, *(metric.pixel_accuracy for metric in variants.values())]
    last = ("pixels that are right", "100.0%", *map(_percent, accuracy))
    return Table("IoU by label", ("label", "pixels", "original", *variants), (*rows, last))


def _where_they_differ(apart: Mapping[str, Differences]) -> Table:
    rows = tuple(
        (
            id_,
            str(found.photos),
            f"{found.differ:.3%}",
            "-" if not found.differ else f"{found.at_boundary:.0%}",
            "-" if not found.differ else f"{1 - found.at_boundary:.0%}",
        )
        for id_, found in apart.items()
    )
    headings = ("variant", "photos", "pixels that differ", f"within {NEAR} pixels of a boundary", "in regions")
    return Table("Where masks differ from the original's", headings, rows)


def _confusion(original: MaskMetric, names: Sequence[str]) -> Table:
    """Of each true label, the shares that got each label; of many labels those with most pixels."""
    confusion = original.confusion
    shown = sorted(np.argsort(-confusion.sum(axis=1), kind="stable")[:_MOST_CONFUSED].tolist())
    rows = tuple(
        (names[row], *(_percent(confusion[row, column] / max(1, int(confusion[row].sum()))) for column in shown))
        for row in shown
        if confusion[row].any()  # of what no photo has there are no shares
    )
    left = f", the {len(shown)} labels with most pixels" if len(shown) < len(names) else ""
    return Table(
        f"What the original takes for what: shares of the pixels of each true label{left}",
        ("true label", *(names[column] for column in shown)),
        rows,
    )


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.2%}"


def pictures_of(
    original: MaskMetric,
    variants: Mapping[str, MaskMetric],
    samples: Sequence[Sample],
    manifest: Manifest,
    *,
    budget: int,
) -> tuple[Picture, ...]:
    """Photos with the masks of the truth, of the original and of a variant, and where those two differ.

    The photos are those that variants change most, one for each variant, then those that the original is worst at.
    ``budget`` is in bytes of data URIs.
    """
    pictures: list[Picture] = []
    for index, id_ in _shown(original, variants):
        made = _picture(original, variants.get(id_), samples[index], index, id_, manifest)
        if made is not None and len(made.image) <= budget:
            budget -= len(made.image)
            pictures.append(made)
    return tuple(pictures)


def _shown(original: MaskMetric, variants: Mapping[str, MaskMetric]) -> list[tuple[int, str]]:
    """Photos by their place, with the variant that is shown beside the original (none: an empty name)."""
    found: list[tuple[float, int, str]] = []
    for id_, metric in variants.items():
        by_photo = differences_of(original, metric).by_photo
        if any(by_photo):
            index = int(np.argmax(by_photo))
            found.append((by_photo[index], index, id_))
    chosen: dict[int, str] = {}
    for _, index, id_ in sorted(found, reverse=True):
        chosen.setdefault(index, id_)
    by_quality = np.argsort(_photo_ious(original)[: original.kept], kind="stable")
    for index in by_quality[: _MOST_PICTURES // 2].tolist():
        chosen.setdefault(index, "")
    return list(chosen.items())[:_MOST_PICTURES]


def _photo_ious(metric: MaskMetric) -> npt.NDArray[np.float64]:
    from edgetl.tasks.segmentation.overlap import mean_iou

    return mean_iou(metric.counts)


def _picture(
    original: MaskMetric, variant: MaskMetric | None, sample: Sample, index: int, id_: str, manifest: Manifest
) -> Picture | None:
    spec = manifest.preprocess
    try:
        pixels = preprocess(sample.source, spec)
        size = load_bands(sample.source, spec.channels)[0].size
    except EdgetlError:  # the photo is gone
        return None
    levels = pixels[:, :, :3] if spec.channels >= 3 else np.repeat(pixels[:, :, :1], 3, axis=2)
    photo = Image.fromarray(np.ascontiguousarray(levels))
    truth = in_frame(truth_of(sample), place(size, spec))
    before = original.mask(index)
    masks = [("photo", None), ("truth", truth), ("original", before)]
    text = f"IoU {_photo_ious(original)[index]:.1%} by the original"
    if variant is not None:
        after = variant.mask(index)
        masks += [(id_, after)]
        text += f", {_photo_ious(variant)[index]:.1%} by {id_}; {np.mean(before != after):.2%} of the pixels differ"
    tiles = [photo if mask is None else _tinted(photo, mask, manifest.labels) for _, mask in masks]
    if variant is not None:
        tiles.append(_differing(photo, before != after))
    columns = [*(name for name, _ in masks), *(["where they differ (red)"] if variant is not None else [])]
    return Picture(sample.name, _side_by_side(tiles), f"From the left: {', '.join(columns)}. {text}.")


def _tinted(photo: Image.Image, mask: npt.NDArray[np.uint8], labels: Sequence[Label]) -> Image.Image:
    """In the colours that the device draws; black where nothing is known."""
    tint = Image.fromarray(mask_colours(labels, _OPACITY)[mask])
    drawn = np.array(Image.alpha_composite(photo.convert("RGBA"), tint).convert("RGB"))
    drawn[mask == UNSEEN] //= 4
    return Image.fromarray(drawn)


def _differing(photo: Image.Image, different: npt.NDArray[np.bool_]) -> Image.Image:
    levels = np.array(photo) // 2
    levels[different] = (255, 0, 0)
    return Image.fromarray(levels)


def _side_by_side(tiles: Sequence[Image.Image]) -> str:
    """A data URI of all of them in a row."""
    width, height = tiles[0].size
    scale = _SIDE / max(width, height)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    row = Image.new("RGB", (len(tiles) * (size[0] + 4) - 4, size[1]), (255, 255, 255))
    for place_, tile in enumerate(tiles):
        row.paste(tile.resize(size, Image.Resampling.BILINEAR), (place_ * (size[0] + 4), 0))
    content = io.BytesIO()
    row.save(content, "JPEG", quality=_QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode("ascii")
