"""What the report shows of a detector: precision by label and size, curves, photos where variants differ most."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from edgetl.data.dataset import Sample
from edgetl.tasks.detection.curves import precision_recall
from edgetl.tasks.detection.matching import AREAS
from edgetl.tasks.detection.metric import BoxMetric
from edgetl.tasks.detection.precision import mean_of_known
from edgetl.tasks.task import Details, Picture, Table
from edgetl_runtime.drawing import draw_boxes
from edgetl_runtime.errors import EdgetlError
from edgetl_runtime.manifest import Manifest
from edgetl_runtime.preprocess import load_image
from edgetl_runtime.tasks.boxes import Found
from edgetl_runtime.tasks.detection import share_in_common

__all__ = ["details"]

_MOST_PHOTOS, _SIDE, _GAP, _QUALITY = 6, 420, 6, 80
"""Photos that are shown, and the pixels of the longer side of each half."""


def details(
    original: BoxMetric, variants: Mapping[str, BoxMetric], samples: Sequence[Sample], manifest: Manifest
) -> Details:
    """Tables and pictures for the report."""
    models = {"original": original, **variants}
    names = [label.name for label in manifest.labels]
    tables = (_by_label(models, names, original), _by_size(models), _objects(models))
    curves = precision_recall(original.judged.by_label, names)
    pictures = [Picture("Precision and recall", curves, "the original, boxes that overlap by 0.5; mean precision "
                        "and number of objects of each label")] if curves else []  # fmt: skip
    return Details(
        report={"tables": tables, "pictures": (*pictures, *_differences(original, variants, samples, names))},
        notes=_nothing_found(original),
    )


def _nothing_found(original: BoxMetric) -> tuple[str, ...]:
    """A sentence where there is no object that an agreement could be of: it is 100 % then."""
    if any(len(found.scores) for found in original.found):
        return ()
    best = max((float(photo.scores.max()) for photo in original.judged.photos if len(photo.scores)), default=0.0)
    return (
        f"warning: the original finds no object at a score of {original.score:g} (its best box has {best:.2f}): "
        "agreement compares nothing, and a device shows nothing - train it longer, or with more photos",
    )


def _by_label(models: Mapping[str, BoxMetric], names: Sequence[str], original: BoxMetric) -> Table:
    rows = []
    for place, name in enumerate(names):
        n = int(original.judged.by_label[place].objects[:, 0].sum())
        cells = [
            f"{_percent(m.precisions[place, 0])} / {_percent(m.precisions[place].mean())}" for m in models.values()
        ]
        rows.append((name, str(n), *cells))
    return Table("mAP@.5 / mAP@[.5:.95] by label", ("label", "objects", *models), tuple(rows))


def _by_size(models: Mapping[str, BoxMetric]) -> Table:
    rows = []
    for area in list(AREAS)[1:]:
        place = list(AREAS).index(area)
        first = next(iter(models.values()))
        n = sum(int(label.objects[:, place].sum()) for label in first.judged.by_label)
        cells = [_percent(mean_of_known(model.judged.precisions(area))) for model in models.values()]
        low, high = (round(side**0.5) for side in AREAS[area])
        said = f"{area}, above {low} x {low} pixels" if high > 10**4 else f"{area}, up to {high} x {high} pixels"
        rows.append((said, str(n), *cells))
    return Table("mAP@[.5:.95] by size", ("objects of", "objects", *models), tuple(rows))


def _objects(models: Mapping[str, BoxMetric]) -> Table:
    rows = []
    for name, model in models.items():
        found = [int(counts.sum()) for counts in model.judged.found_and_not(model.score)]
        rows.append((name, *map(str, found)))
    score = next(iter(models.values())).score
    return Table(
        f"Objects found, missed and invented, at a score of {score:g} and an overlap of 0.5",
        ("model", "found", "missed", "invented"),
        tuple(rows),
    )


def _differences(
    original: BoxMetric, variants: Mapping[str, BoxMetric], samples: Sequence[Sample], names: Sequence[str]
) -> list[Picture]:
    """The photos that variants and original agree least on, each with the variant that differs most."""
    shares = {
        id_: np.array([share_in_common(*pair) for pair in zip(original.found, metric.found, strict=True)])
        for id_, metric in variants.items()
    }
    if not shares:
        return []
    ids, table = list(shares), np.stack(list(shares.values()))
    pictures = []
    for photo in np.argsort(table.min(axis=0), kind="stable")[:_MOST_PHOTOS].tolist():
        row = int(table[:, photo].argmin())
        if table[row, photo] == 1.0:
            break
        image = _side_by_side(samples[photo], original.found[photo], variants[ids[row]].found[photo], names)
        if image is not None:
            same = f"{table[row, photo]:.0%} of the objects are the same"
            text = f"{samples[photo].name}: left the original, right {ids[row]}; {same}"
            pictures.append(Picture(f"Where {ids[row]} differs", image, text))
    return pictures


def _side_by_side(sample: Sample, first: Found, second: Found, names: Sequence[str]) -> str | None:
    """A data URI; None where the photo cannot be read any more."""
    try:
        photo = load_image(sample.source)
    except EdgetlError:
        return None
    scale = _SIDE / max(photo.size)
    size = max(1, round(photo.width * scale)), max(1, round(photo.height * scale))
    small = photo.resize(size, Image.Resampling.BICUBIC)
    both = Image.new("RGB", (2 * size[0] + _GAP, size[1]), (255, 255, 255))
    for place, found in enumerate((first, second)):
        captions = [f"{names[label]} {score:.0%}" for label, score in zip(found.labels, found.scores, strict=True)]
        drawn = draw_boxes(small, found.boxes * np.float32(scale), found.labels.tolist(), captions)
        both.paste(drawn, (place * (size[0] + _GAP), 0))
    content = io.BytesIO()
    both.save(content, "JPEG", quality=_QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode("ascii")


def _percent(share: float) -> str:
    return "-" if np.isnan(share) else f"{share:.1%}"
