"""Small photos on disk, so that tests read what users have."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.edgetl.made_up_reports import (
    bundle_path,
    fake_bundle,
    fake_manifest,
    full_report,
    linear,
    report,
    samples,
)
from tests.zoo import TinyNet, as_backbone

__all__ = ["bundle_path", "fake_bundle", "fake_manifest", "full_report", "linear", "report", "samples"]

VOID = {"meta", "link", "br", "img", "input", "hr"}
MakePhotos = Callable[[Path, Mapping[str, int]], Path]


@pytest.fixture(scope="session")
def edgetl_data() -> Path:
    """The folder with real photos and weights; tests that need it are skipped without it."""
    folder = Path(os.environ.get("EDGETL_DATA", Path(__file__).parents[3] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no data at {folder}; set EDGETL_DATA")
    return folder


class _Elements(HTMLParser):
    """Fails where an end tag closes something else than what was opened last."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """It closes itself."""

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes nothing"


@pytest.fixture(scope="session")
def check_page() -> Callable[[str], None]:
    """``check_page(text)``: every element is closed in its order, nothing is fetched, nothing runs."""

    def check(text: str) -> None:
        elements = _Elements()
        elements.feed(text)
        assert elements.open == []
        assert not re.search(r"https?:|//\w|@import|<script|<iframe", text)

    return check


@pytest.fixture
def make_photos() -> MakePhotos:
    """``make_photos(folder, {"roses": 6})`` writes noisy JPEGs, each label with its own colour; returns the folder."""

    def make(folder: Path, counts: Mapping[str, int]) -> Path:
        rng = np.random.default_rng(0)
        for i, (label, n) in enumerate(sorted(counts.items())):
            where = folder / label
            where.mkdir(parents=True, exist_ok=True)
            colour = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0]][i % 4])
            for k in range(n):
                noise = rng.integers(0, 80, (40, 48, 3))
                Image.fromarray(np.clip(colour + noise - 40, 0, 255).astype(np.uint8)).save(where / f"{k:03d}.jpg")
        return folder

    return make


@pytest.fixture
def tiny() -> Iterator[str]:
    """A backbone among torchvision's, for the length of a test."""
    with as_backbone("tinynet", TinyNet) as name:
        yield name
