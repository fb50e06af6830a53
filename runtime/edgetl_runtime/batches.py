"""Any number of images run in a session, in batches that it takes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from edgetl_runtime.batch_sizes import FREE

if TYPE_CHECKING:
    import numpy.typing as npt

    from edgetl_runtime.session import Session, Tensors

__all__ = ["filled", "images_at_once", "run_images"]

_AT_ONCE = 32  # images in one run of a model that takes any number


def images_at_once(session: Session) -> int:
    """How many images `session` takes in one run at most; so many that more would not be faster where it takes any
    number."""
    fixed = session.inputs[0].shape[0]
    return _AT_ONCE if fixed == FREE else fixed


def filled(session: Session, images: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """`images` (n, ...), at most as many as `session` takes, with zeros for those that are missing to a fixed batch."""
    missing = session.inputs[0].shape[0] - len(images)
    if missing <= 0:
        return images
    return np.concatenate([images, np.zeros((missing, *images.shape[1:]), images.dtype)])


def run_images(session: Session, images: npt.NDArray[Any], *, most: int | None = None) -> Tensors:
    """What `session` gives for `images` (n, ...), n of 1 or more: by name, with a row for each.

    They are run in batches as large as it takes, or of `most`; a fixed batch is filled up, and what it gives for that
    is dropped. Raises `EngineError` as `Session.run`.
    """
    size = min(images_at_once(session), most or len(images))
    runs = [_run(session, part) for part in _parts(images, size)]
    return runs[0] if len(runs) == 1 else {name: np.concatenate([run[name] for run in runs]) for name in runs[0]}


def _parts(images: npt.NDArray[Any], size: int) -> Iterator[npt.NDArray[Any]]:
    for start in range(0, len(images), size):
        yield images[start : start + size]


def _run(session: Session, images: npt.NDArray[Any]) -> Tensors:
    tensors = session.run({session.inputs[0].name: filled(session, images)})
    return {name: values[: len(images)] for name, values in tensors.items()} if _is_fixed(session) else tensors


def _is_fixed(session: Session) -> bool:
    return session.inputs[0].shape[0] > 1
