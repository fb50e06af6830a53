"""An option declared at its field: what follows from it, its checks, and the names that edgetl_export knows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from edgetl.models.options import DEVICES
from edgetl.option import Check, OneOf, Section, matching, option, options_of, within
from edgetl.recipe import declared_options
from edgetl_export.device import DEVICES as EXPORT_DEVICES
from edgetl_export.int8 import WAYS
from edgetl_export.quantize.calibrate import METHODS
from edgetl_export.surgery import ACTIVATIONS
from edgetl_export.targets import ALL_PRECISIONS, BORDERS, TARGETS
from edgetl_runtime.errors import UsageError


@dataclass(frozen=True)
class Small(Section):
    size: int = option(3, "how large", check=within(1, 9))
    name: str | None = option(None, "what it is called", usual="no name", check=OneOf(("a", "b")))
    file: Path | None = option(None, "where", flag="--place", metavar="FILE")
    mode: str = option("x", "how", key="small_mode", former="way")
    parts: tuple[str, ...] = option(("p", "q"), "of it")
    side: int | tuple[int, int] | None = option(None, "one or two")
    exact: bool = option(False, "to the bit")
    inner: float = option(0.5, "in a recipe only", flag=None)
    plain: int = 4


def test_what_follows_from_a_field() -> None:
    found = {one.name: one for one in options_of(Small)}
    assert "plain" not in found
    assert [one.flag for one in found.values()] == [
        *("--size", "--name", "--place", "--small-mode", "--parts", "--side", "--exact", "")
    ]
    assert [one.kind for one in found.values()] == [int, str, Path, str, tuple, str, bool, float]
    assert [one.dest for one in found.values()][:4] == ["size", "name", "place", "small_mode"]
    assert found["mode"].key == "small_mode"
    assert found["name"].metavar == "a|b"
    assert found["size"].help == "how large (default: 3)"
    assert found["name"].help == "what it is called (default: no name)"
    assert found["parts"].help == "of it (default: p,q)"
    assert found["exact"].help == "to the bit"


def test_values_are_held_against_their_checks() -> None:
    assert Small(size=9, name="a") == Small(9, "a")
    with pytest.raises(UsageError, match="size = 10 makes no sense") as caught:
        Small(size=10)
    assert caught.value.fix == "from 1 to 9"
    with pytest.raises(UsageError, match="name = 'c' makes no sense"):
        Small(name="c")
    with pytest.raises(UsageError, match="name = '' makes no sense"):
        Small(name="")


@pytest.mark.parametrize(
    ("check", "good", "bad", "fix"),
    [
        (within(1, 5), [1, 5], [0, 6, float("nan")], "from 1 to 5"),
        (within(0, 1000.0, but=(0,)), [0.1, 1000.0], [0, -1, float("inf")], "above 0, at most 1000"),
        (within(0, 1, but=(1,)), [0, 0.99], [1, -0.1, 1.0], "from 0, below 1"),
        (within(0, 1, but=(0, 1), more=", such as 0.2"), [0.5], [0.0, 1.0], "above 0, below 1, such as 0.2"),
        (OneOf(("head", "tail"), more="!"), ["head"], ["haed", ""], None),
        (OneOf(("a",), fix="only a"), ["a"], ["b"], "only a"),
        (matching(r"last:\d", "last:N"), ["last:3"], ["last:33", "a last:3", ""], "last:N"),
    ],
)
def test_checks(check: Check, good: list[Any], bad: list[Any], fix: str | None) -> None:
    for value in good:
        check("x", value)
    for value in bad:
        with pytest.raises(UsageError, match=r"x = .* makes no sense") as caught:
            check("x", value)
        assert fix is None or caught.value.fix == fix


def test_the_choices_are_those_of_the_export() -> None:
    choices = {one.key: one.choices for one in declared_options()["export"]}
    assert choices["targets"] == tuple(TARGETS)
    assert choices["precisions"] == ALL_PRECISIONS
    assert choices["quantize"] == WAYS
    assert choices["ranges"] == METHODS
    assert choices["io"] == BORDERS
    assert choices["activation"] == tuple(ACTIVATIONS)
    assert choices["device"] == DEVICES == EXPORT_DEVICES


def test_every_option_says_what_it_is() -> None:
    for options in declared_options().values():
        for one in options:
            assert one.about
            assert "default" not in one.about
            assert not one.about.endswith(".")
            assert one.help.endswith(")") or one.kind is bool or one.default in (None, ())
