"""The size of an input as people write it: on the command line, in recipes, in Python."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgetl.models.image_size import ImageSize, height_and_width, image_size_of, size_text
from edgetl.recipe import ModelOptions, Recipe, read_recipe
from edgetl_runtime import UsageError

GOOD: list[tuple[Any, ImageSize]] = [
    (224, 224),
    ("224", 224),
    ("192x320", (192, 320)),
    ("192X320", (192, 320)),
    ("192\u00d7320", (192, 320)),
    (" 192 x 320 ", (192, 320)),
    ([192, 320], (192, 320)),
    ((320, 192), (320, 192)),
    ("224x224", 224),
    ([224, 224], 224),
    ([224], 224),
]
BAD = ["192x", "x320", "192,320", "192*320", "192x320x3", "big", "", "-192x320", "1.5x3", 192.5, True, None, [], {}]
BAD += [[192, 320.0], [192, True], [192, 320, 3], ["192", "320"]]


@pytest.mark.parametrize(("given", "size"), GOOD)
def test_what_people_write(given: Any, size: ImageSize) -> None:
    assert image_size_of(given) == size
    assert ModelOptions(image_size=given).image_size == size
    assert image_size_of(size_text(size)) == size
    assert height_and_width(size) == (size if isinstance(size, tuple) else (size, size))


@pytest.mark.parametrize("given", BAD)
def test_what_is_no_size_is_refused_with_the_way_to_write_it(given: Any) -> None:
    with pytest.raises(UsageError, match="the place must be one whole number or HEIGHTxWIDTH, not") as caught:
        image_size_of(given, where="the place")
    assert caught.value.fix is not None
    assert "192x320" in caught.value.fix


def test_two_numbers_get_their_own_fix() -> None:
    for given in ("96,160", "96*160", "96 by 160", "96/160"):
        with pytest.raises(UsageError) as caught:
            image_size_of(given)
        assert caught.value.fix == '"96x160" for 96 rows of 160 pixels'


@pytest.mark.parametrize("given", ["0x3", [3, 0], "70000x64", [-1, 64], 0, 10**9])
def test_sides_that_no_image_has_are_refused(given: Any) -> None:
    with pytest.raises(UsageError, match=r"\[model\] image_size = .* makes no sense"):
        Recipe().updated({"model": {"image_size": given}})


@pytest.mark.parametrize("line", ["224", '"224"', '"192x320"', "[192, 320]", '"320X192"'])
def test_a_recipe_is_read_and_written_back(line: str, tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(f"[model]\nimage_size = {line}\n")
    recipe = read_recipe(tmp_path / "a.toml")
    recipe.save(tmp_path / "b.toml")
    assert read_recipe(tmp_path / "b.toml") == recipe
    size = recipe.model.image_size
    assert (
        f"image_size = {size}"
        if isinstance(size, int)
        else f'image_size = "{size_text(size or 0)}"' in (tmp_path / "b.toml").read_text()
    )
