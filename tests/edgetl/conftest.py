"""Small photos on disk, so that tests read what users have."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

MakePhotos = Callable[[Path, Mapping[str, int]], Path]


@pytest.fixture(scope="session")
def edgetl_data() -> Path:
    """The folder with real photos and weights; tests that need it are skipped without it."""
    folder = Path(os.environ.get("EDGETL_DATA", Path(__file__).parents[3] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no data at {folder}; set EDGETL_DATA")
    return folder


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
