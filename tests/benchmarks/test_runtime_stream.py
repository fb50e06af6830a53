from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace, TracebackType
from typing import Any

import pytest
import runtime_pixels
import runtime_stream

from edgetl_runtime.errors import DataError
from edgetl_runtime.manifest import Preprocess
from edgetl_runtime.preprocess import preprocess


class Fake:
    """A classifier whose labels are the paths."""

    shuffled = False

    def __enter__(self) -> Fake:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def predict(self, photo: str) -> Any:
        return SimpleNamespace(top=SimpleNamespace(name=photo))

    def stream(self, photos: Iterable[str]) -> Iterator[Any]:
        return map(self.predict, sorted(photos, reverse=True) if self.shuffled else photos)


def test_the_stream_is_held_against_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgetl_runtime.load", lambda *args, **options: Fake())
    rates = {"stream()": 250.0, "loop, d": 500.0, "loop, 1": 1000.0}

    def in_rounds(calls: dict[str, Any], rounds: int) -> dict[str, list[float]]:
        return {name: [next(ms for start, ms in rates.items() if name.startswith(start))] * rounds for name in calls}

    monkeypatch.setattr(runtime_stream, "in_rounds", in_rounds)
    bundle: Any = None
    lines = runtime_stream.stream_lines(bundle, "onnx.int8", [Path("a"), Path("b")], rounds=3)
    assert [line.ratio for line in lines] == [2, 4, 2, 4]
    assert [line.met for line in lines] == [True, True, None, None]
    assert lines[0].edgetl == pytest.approx(100 / 0.25)


def test_a_stream_in_another_order_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgetl_runtime.load", lambda *args, **options: Fake())
    monkeypatch.setattr(Fake, "shuffled", True)
    bundle: Any = None
    with pytest.raises(DataError, match="in another order"):
        runtime_stream.stream_lines(bundle, "onnx.int8", [Path("a"), Path("b")], rounds=3)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_one_grey_level_too_many_is_found(interpolation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torchvision")
    images, spec = list(runtime_pixels.odd_images(6)), Preprocess(40, (32, 32), interpolation)
    assert runtime_pixels.largest_difference(images, spec) == 0

    def broken(image: Any, spec: Preprocess) -> Any:
        found = preprocess(image, spec).copy()
        found[7, 5, 1] ^= 1
        return found

    monkeypatch.setattr(runtime_pixels, "preprocess", broken)
    assert runtime_pixels.largest_difference(images, spec) == 1


def test_odd_sizes_are_the_same_each_time_and_of_all_kinds() -> None:
    sizes = [image.size for image in runtime_pixels.odd_images(200)]
    assert sizes == [image.size for image in runtime_pixels.odd_images(200)]
    assert any(width > 3 * height for width, height in sizes)
    assert any(height > 3 * width for width, height in sizes)
    assert min(min(size) for size in sizes) < 32
    assert max(max(size) for size in sizes) > 600
