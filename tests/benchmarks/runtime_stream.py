"""Throughput: `Classifier.stream` beside a plain loop of `predict`, JPEG files, all the cores there are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from runtime_lines import Line, compared, in_rounds

import edgetl_runtime
from edgetl_runtime.bundle import Bundle
from edgetl_runtime.errors import DataError
from edgetl_runtime.machine import usable_cores
from edgetl_runtime.tasks.classification import Classifier

__all__ = ["stream_lines"]

STREAM_LIMIT = 1.4
_REPEATED = 100
"""Photos per round at least: filling and emptying the pipeline must not be what is measured."""


def stream_lines(bundle: Bundle, variant: str, photos: Sequence[Path], *, rounds: int) -> list[Line]:
    """Photos per second of one `stream` against two loops: with threads as they come, and with one thread.

    Raises `DataError` when the stream gives other labels, or the same in another order.
    """
    paths = [str(path) for path in photos] * -(-_REPEATED // len(photos))
    with ExitStack() as stack:
        default = stack.enter_context(edgetl_runtime.load(bundle, variant=variant))
        single = stack.enter_context(edgetl_runtime.load(bundle, variant=variant, threads=1))
        calls: dict[str, Callable[[], list[str]]] = {
            f"stream(), {usable_cores()} cores": lambda: _streamed(default, paths),
            "stream(), engine on 1 thread": lambda: _streamed(single, paths),
            "loop, default threads": lambda: _looped(default, paths),
            "loop, 1 thread": lambda: _looped(single, paths),
        }
        wanted = _looped(single, paths)
        for name, call in calls.items():
            if call() != wanted:
                raise DataError(f"{name} gives other labels than a loop, or in another order")
        ms = in_rounds(calls, rounds)
    per_second = {name: [len(paths) * 1e3 / value for value in found] for name, found in ms.items()}
    streams, loops = list(calls)[:2], list(calls)[2:]
    return [
        compared(
            f"{variant}: {stream} over {loop}",
            "photos/s",
            per_second[loop],
            per_second[stream],
            limit=STREAM_LIMIT if stream == streams[0] else None,
            at_least=True,
        )
        for stream in streams
        for loop in loops
    ]


def _streamed(classifier: Classifier, paths: Sequence[str]) -> list[str]:
    return [prediction.top.name for prediction in classifier.stream(paths)]


def _looped(classifier: Classifier, paths: Sequence[str]) -> list[str]:
    return [classifier.predict(path).top.name for path in paths]
