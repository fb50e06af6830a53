"""Hypotheses about wrong answers, each tried: what would have to be done to whom, so that both answer alike?

A map of the logits that turns the original's into the variant's, or a change of the images that makes the variant
answer like the original. What is done to the original instead is in `edgetl.verify.diagnose.preprocessing_probes`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgetl.verify.report import Finding
from edgetl_runtime.comparison import sqnr_db
from edgetl_runtime.tasks.classification import softmax

__all__ = [
    "FITTED_DB",
    "GAINED_DB",
    "SCREENED",
    "Explanation",
    "FewOutputs",
    "explain_by_images",
    "explain_by_logits",
]

Images = npt.NDArray[np.uint8]
Logits = npt.NDArray[np.float32]

_EXPLAINED_DB = 12.0
"""Nearer than this after a change: signal four times the noise. Int8 files stay between 15 and 30 dB."""
GAINED_DB = 6.0
"""And nearer than before by this: half the amplitude of what was wrong is gone."""
FITTED_DB = 20.0
"""What is found by fitting, with numbers to choose freely, must explain more."""
SCREENED = 3
"""Images that choose a hypothesis; all of them judge it."""
_EXPORT_AGAIN = "export the variant again with edgetl export, which puts the checkpoint's own"


@dataclass(frozen=True)
class Explanation:
    """A finding, and how near (dB) both are after what it says; infinite where that is no matter of degree."""

    near_db: float
    finding: Finding


@dataclass(frozen=True, eq=False)
class FewOutputs:
    """A few images (n, H, W, C) uint8, and the logits (n, classes) that original and variant gave for them."""

    images: Images
    reference: Logits
    variant: Logits

    @property
    def now_db(self) -> float:
        """How near the variant is as it stands."""
        return sqnr_db(self.reference, self.variant)

    def explains(self, found_db: float) -> bool:
        """Whether a change after which both are `found_db` near says what is wrong."""
        return found_db >= max(_EXPLAINED_DB, self.now_db + GAINED_DB)


def explain_by_logits(reference: Logits, variant: Logits) -> Explanation | None:
    """Softmax in the output, permuted logits, another scale, or answers that do not depend on the image.

    Both (n, classes), finite, of the same images.
    """
    now = sqnr_db(reference, variant)
    for explain in (_probabilities, _constant, _permuted, _rescaled):
        found = explain(reference, variant, now)
        if found is not None:
            return found
    return None


def _probabilities(reference: Logits, variant: Logits, now: float) -> Explanation | None:
    def is_probability(rows: Logits) -> bool:
        return bool((rows >= -1e-3).all() and np.abs(rows.sum(axis=1) - 1).max() < 0.02)

    once = softmax(reference)
    if is_probability(variant) and not is_probability(reference):
        twice_db, once_db = sqnr_db(softmax(once), variant), sqnr_db(once, variant)
        times = "twice" if twice_db > max(once_db, _EXPLAINED_DB) else "once"
        finding = Finding(
            "the output is probabilities, not logits: softmax in the model",
            f"every row is within 0 and 1 and sums to 1; softmax {times} of the original's logits gives the variant's "
            f"within {max(once_db, twice_db):.0f} dB, as logits they are {now:.0f} dB",
            "leave the softmax out of the exported module: the runtime applies it to the logits",
        )
        return Explanation(math.inf, finding)
    logs_db = sqnr_db(np.log(np.maximum(once, 1e-30)), variant)
    if logs_db >= max(FITTED_DB, now + GAINED_DB):
        finding = Finding(
            "the output is log-probabilities, not logits",
            f"log-softmax of the original's logits gives the variant's within {logs_db:.0f} dB, before {now:.0f} dB",
            "leave the log-softmax out of the exported module",
        )
        return Explanation(logs_db, finding)
    return None


def _constant(reference: Logits, variant: Logits, now: float) -> Explanation | None:
    if len(variant) < 3 or np.ptp(reference, axis=0).max() == 0:
        return None
    if np.ptp(variant, axis=0).max() > 1e-6 * max(1.0, float(np.abs(variant).max())):
        return None
    finding = Finding(
        "the answer does not depend on the image",
        f"the same logits for all {len(variant)} images; the original's differ by up to "
        f"{np.ptp(reference, axis=0).max():.3g}",
        "look for the layer that gives a constant: edgetl inspect BUNDLE --layers",
    )
    return Explanation(math.inf, finding)


def _permuted(reference: Logits, variant: Logits, now: float) -> Explanation | None:
    order = _matching(reference, variant)
    if order is None or np.array_equal(order, np.arange(len(order))):
        return None
    found = sqnr_db(reference[:, order], variant)
    if found < max(_EXPLAINED_DB, now + GAINED_DB):
        return None
    moved = np.flatnonzero(order != np.arange(len(order)))
    shown = ", ".join(f"{place} is {order[place]}" for place in moved[:4])
    finding = Finding(
        "the logits are permuted: the rows of the head, or the labels, are in another order",
        f"{len(moved)} of {len(order)} logits stand in another's place (logit {shown}); put in order, the variant is "
        f"{found:.0f} dB near, before {now:.0f} dB",
        "export the variant again from the checkpoint whose labels the manifest has",
    )
    return Explanation(found, finding)


def _matching(reference: Logits, variant: Logits) -> npt.NDArray[np.int64] | None:
    """For every logit of the variant the one of the original that it is nearest to; None when two share one."""
    a, b = variant.astype(np.float64), reference.astype(np.float64)
    distances = (a**2).sum(0)[:, None] + (b**2).sum(0)[None] - 2 * a.T @ b
    order: npt.NDArray[np.int64] = distances.argmin(axis=1)
    return order if len(np.unique(order)) == len(order) else None


def _rescaled(reference: Logits, variant: Logits, now: float) -> Explanation | None:
    a, b = variant.astype(np.float64).ravel(), reference.astype(np.float64).ravel()
    centred = b - b.mean()
    if not centred.any():
        return None
    scale = float(centred @ (a - a.mean()) / (centred @ centred))
    shift = float(a.mean() - scale * b.mean())
    found = sqnr_db(a, scale * b + shift) if scale > 0 and a.any() else -np.inf
    if found < max(FITTED_DB, now + 2 * GAINED_DB):
        return None
    finding = Finding(
        "the logits are scaled: the output's scale or zero point is wrong",
        f"{scale:.3g} times the original's logits and {shift:+.3g} gives the variant's within {found:.0f} dB, "
        f"before {now:.0f} dB",
        "export the variant again; for an int8 output, correct scale and zero_point in the manifest",
    )
    return Explanation(found, finding)


@dataclass(frozen=True)
class _Change:
    cause: str
    tried: str
    fix: str
    apply: Callable[[Images], Images]


def _shifted(rows: int, columns: int) -> Callable[[Images], Images]:
    def shift(images: Images) -> Images:
        padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
        height, width = images.shape[1:3]
        return np.ascontiguousarray(padded[:, 1 + rows : 1 + rows + height, 1 + columns : 1 + columns + width])

    return shift


def _channel_changes(channels: int) -> Iterator[_Change]:
    """What can only happen where there are several channels."""
    again = f"{_EXPORT_AGAIN} layout and colour order into the file"
    if channels == 3:
        yield _Change(
            "the colour order is BGR where the contract says RGB",
            "with red and blue swapped",
            'swap the channels of the first layer back, or feed color="BGR" frames through edgetl_runtime as such; '
            + again,
            lambda x: np.ascontiguousarray(x[..., ::-1]),
        )
    if channels > 1:
        yield _Change(
            "the layout is wrong: NHWC bytes are read as NCHW",
            "with the bytes laid out channel by channel",
            "transpose, do not reshape, in front of the first layer; " + again,
            lambda x: np.ascontiguousarray(x.transpose(0, 3, 1, 2)).reshape(x.shape),
        )
        yield _Change(
            "the layout is wrong: NCHW bytes are read as NHWC",
            "with the bytes laid out pixel by pixel",
            "transpose, do not reshape, in front of the first layer; " + again,
            lambda x: np.ascontiguousarray(x.reshape(len(x), channels, *x.shape[1:3]).transpose(0, 2, 3, 1)),
        )


def _transpositions(height: int, width: int) -> Iterator[_Change]:
    """The pixels in the order of columns, in a tensor of the same shape: of a rectangle there are two such mistakes."""
    cause, again = "height and width are swapped", f"{_EXPORT_AGAIN} layout and colour order into the file"
    yield _Change(
        cause,
        "with rows and columns swapped" if height == width else "with the bytes laid out column by column",
        again,
        lambda x: np.ascontiguousarray(x.transpose(0, 2, 1, 3)).reshape(x.shape),
    )
    if height != width:
        yield _Change(
            cause,
            f"with the bytes of {width} rows of {height} pixels laid out column by column",
            again,
            lambda x: np.ascontiguousarray(x.reshape(len(x), width, height, -1).transpose(0, 2, 1, 3)),
        )


def _image_changes(images: Images) -> Iterator[_Change]:
    again = f"{_EXPORT_AGAIN} layout and colour order into the file"
    yield from _channel_changes(images.shape[3])
    yield from _transpositions(*images.shape[1:3])
    yield _Change("the image is mirrored", "mirrored", again, lambda x: np.ascontiguousarray(x[:, :, ::-1]))
    yield _Change("the image is upside down", "upside down", again, lambda x: np.ascontiguousarray(x[:, ::-1]))
    yield _Change("the grey levels are inverted", "as its negative", again, lambda x: 255 - x)
    for rows in (-1, 0, 1):
        for columns in (-1, 0, 1):
            if rows or columns:
                yield _Change(
                    "the crop is off by one pixel",
                    f"moved by {rows} rows and {columns} columns",
                    "compute the crop's offset as torchvision does: round((size - crop) / 2)",
                    _shifted(rows, columns),
                )


def explain_by_images(answers: FewOutputs, run: Callable[[Images], Logits]) -> Explanation | None:
    """Colour order, layout, orientation, an offset of one pixel: `run` is the variant, on images changed back."""
    few, known = answers.images[:SCREENED], answers.reference[:SCREENED]
    tried = [(sqnr_db(known, run(change.apply(few))), change) for change in _image_changes(few)]
    _, change = max(tried, key=lambda item: item[0])
    found = sqnr_db(answers.reference, run(change.apply(answers.images)))
    if not answers.explains(found):
        return None
    evidence = f"{change.tried}, the variant is {found:.0f} dB near the original, before {answers.now_db:.0f} dB"
    return Explanation(found, Finding(change.cause, evidence, change.fix))
