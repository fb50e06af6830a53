"""edgetl-run predict and embed: images to results and to features."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from edgetl_runtime import console
from edgetl_runtime.bundle import Bundle, open_bundle
from edgetl_runtime.cli.options import device_of, task_options
from edgetl_runtime.drawing import check_drawings, save_drawing
from edgetl_runtime.errors import ImageError, UsageError
from edgetl_runtime.loading import load
from edgetl_runtime.preprocess import load_image
from edgetl_runtime.tasks import predict_options

__all__ = ["embed", "predict"]

_UNREADABLE = 2

_Answer = TypeVar("_Answer")


def predict(arguments: argparse.Namespace) -> int:
    """Say what images are, with the fastest variant that runs here and is accurate enough, or the one that is named."""
    bundle = open_bundle(arguments.bundle)
    options = predict_options(bundle.manifest.task, {name: getattr(arguments, name) for name in task_options()})
    drawings = {} if arguments.draw is None else check_drawings(arguments.draw, arguments.images)
    with _loaded(bundle, arguments, min_top1=arguments.min_top1, max_drop=arguments.max_drop) as predictor:
        session, chosen = predictor.session, predictor.variant.id
        console.note(f"{chosen} in {session.engine} {session.engine_version}")
        if chosen in bundle.failed_variants():
            console.note(f"warning: {chosen} failed verification; it runs because it was named")
        if arguments.explain:
            console.note(str(predictor.choice or f"{chosen}: it was named"))
        predict = partial(predictor.predict, **options)
        found, failed = _of_each(arguments.images, predict)
    for image, drawing in drawings.items():
        if image in found:
            _draw(found[image], image, drawing)
    results = [
        {"image": image, **(failed[image] if image in failed else found[image].fields())} for image in arguments.images
    ]
    lines = [line for image in arguments.images if image in found for line in f"{image}: {found[image]}".split("\n")]
    document: dict[str, Any] = {"bundle": str(bundle.path), "variant": chosen, "engine": session.engine}
    document |= {"engine_version": session.engine_version, "predictions": results}
    if lines or arguments.json:
        console.show(lines, document, arguments.json)
    return _UNREADABLE if failed else 0


def _loaded(bundle: Bundle, arguments: argparse.Namespace, **more: Any) -> Any:
    """The predictor that the options of both commands, and `more`, name."""
    said = {name: getattr(arguments, name) for name in ("variant", "engine", "threads", "strict")}
    return load(bundle, **said, **more, **device_of(arguments))


def _draw(result: Any, image: str, destination: str) -> None:
    """Write `image` with its result drawn into it. Raises `UsageError` for a result that is no drawing."""
    if not hasattr(result, "drawn"):
        raise UsageError(
            "--draw says nothing of this bundle: its results have no place in an image", fix="leave it out"
        )
    save_drawing(result.drawn(load_image(Path(image))), destination)
    console.note(f"drawn: {destination}")


def _of_each(
    images: Sequence[str], answer: Callable[[Path], _Answer]
) -> tuple[dict[str, _Answer], dict[str, dict[str, str | None]]]:
    """What `answer` says of every image, and, as JSON has it, why others cannot be read: those are named on stderr."""
    found: dict[str, _Answer] = {}
    failed: dict[str, dict[str, str | None]] = {}
    for image in dict.fromkeys(images):
        try:
            found[image] = answer(Path(image))
        except ImageError as error:
            console.note(f"edgetl-run: error: {error}")
            failed[image] = {"error": error.what, "fix": error.fix}
    if failed and found:
        console.note(f"{len(failed)} of {len(found) + len(failed)} images could not be read")
    return found, failed


def embed(arguments: argparse.Namespace) -> int:
    """Give the features of images: with --json their values, else their sizes and lengths."""
    bundle = open_bundle(arguments.bundle)
    with _loaded(bundle, arguments) as predictor:
        session, chosen = predictor.session, predictor.variant.id
        console.note(f"{chosen} in {session.engine} {session.engine_version}")
        embed = partial(predictor.embed, layer=arguments.layer, normalize=arguments.normalize or False)
        found, failed = _of_each(arguments.images, embed)
    layer = arguments.layer or bundle.manifest.features[0].name
    lines = [
        f"{image}: {layer} {list(value.shape)}, length {float((value.astype(float) ** 2).sum()) ** 0.5:.4g}"
        for image, value in ((image, found[image]) for image in arguments.images if image in found)
    ]
    document = {
        "bundle": str(bundle.path),
        "variant": chosen,
        "engine": session.engine,
        "engine_version": session.engine_version,
        "layer": layer,
        "embeddings": [
            {"image": image, **(failed[image] if image in failed else {"values": found[image].tolist()})}
            for image in arguments.images
        ],
    }
    if lines or arguments.json:
        console.show(lines, document, arguments.json)
    return _UNREADABLE if failed else 0
