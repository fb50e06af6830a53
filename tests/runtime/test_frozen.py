"""The quick frozen dataclass is one: whatever the standard library's does, it does."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
import subprocess
import sys
from typing import Any

import pytest

from edgetl_runtime import frozen


@frozen.dataclass(frozen=True)
class Quick:
    """Some fields."""

    name: str
    size: tuple[int, int] = (1, 2)
    more: dict[str, Any] = frozen.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Slow:
    """Some fields."""

    name: str
    size: tuple[int, int] = (1, 2)
    more: dict[str, Any] = dataclasses.field(default_factory=dict)


@frozen.dataclass(frozen=True)
class Own:
    """Defines what it does not want made."""

    name: str

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("it has no name")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Own)

    def __hash__(self) -> int:
        return 1

    def __repr__(self) -> str:
        return f"<{self.name}>"


GIVEN: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
    (("a",), {}),
    (("a", (3, 4)), {}),
    (("a", (3, 4), {"b": 1}), {}),
    ((), {"size": (5, 6), "name": "a"}),
    (("a",), {"more": {"c": 2}}),
]


@pytest.mark.parametrize(("args", "named"), GIVEN)
def test_values_are_those_of_the_standard_library(args: tuple[Any, ...], named: dict[str, Any]) -> None:
    quick, slow = Quick(*args, **named), Slow(*args, **named)
    assert dataclasses.asdict(quick) == dataclasses.asdict(slow)
    assert repr(quick) == repr(slow).replace("Slow", "Quick")
    assert quick == Quick(*args, **named)
    assert quick != slow
    assert dataclasses.replace(quick, name="z") == Quick("z", quick.size, quick.more)
    assert pickle.loads(pickle.dumps(quick)) == quick == copy.deepcopy(quick)
    assert vars(quick) == vars(slow)


@pytest.mark.parametrize(
    ("args", "named"), [((), {}), (("a", 1, {}, 4), {}), (("a",), {"name": "b"}), (("a",), {"odd": 1})]
)
def test_wrong_arguments_are_type_errors(args: tuple[Any, ...], named: dict[str, Any]) -> None:
    for kind in (Quick, Slow):
        with pytest.raises(TypeError):
            kind(*args, **named)


def test_defaults_made_by_a_factory_are_not_shared() -> None:
    assert Quick("a").more is not Quick("a").more


def test_nothing_can_be_changed() -> None:
    quick = Quick("a")
    for change in (lambda: setattr(quick, "name", "b"), lambda: delattr(quick, "name"), lambda: setattr(quick, "x", 1)):
        with pytest.raises(dataclasses.FrozenInstanceError):
            change()
    assert vars(Quick)["__dataclass_params__"].frozen


def test_equal_ones_have_equal_hashes() -> None:
    @frozen.dataclass(frozen=True)
    class Pair:
        a: int
        b: int

    assert hash(Pair(1, 2)) == hash(Pair(1, 2))
    assert len({Pair(1, 2), Pair(1, 2), Pair(2, 1)}) == 2


def test_a_class_keeps_what_it_defines() -> None:
    assert repr(Own("a")) == "<a>"
    assert Own("a") == Own("b")
    with pytest.raises(ValueError, match="no name"):
        Own("")
    with pytest.raises(dataclasses.FrozenInstanceError):
        Own("a").name = "b"  # type: ignore[misc] # that is what is tested


def test_help_and_matching_know_the_fields() -> None:
    mine, theirs = inspect.signature(Quick), inspect.signature(Slow)
    assert [(item.name, item.kind, item.annotation) for item in mine.parameters.values()] == [
        (item.name, item.kind, item.annotation) for item in theirs.parameters.values()
    ]
    assert mine.parameters["size"].default == (1, 2)
    assert mine.parameters["name"].default is inspect.Parameter.empty
    match Quick("a", (3, 4)):
        case Quick(name, (width, _)):
            assert (name, width) == ("a", 3)


def test_no_class_on_the_way_to_a_label_compiles_methods() -> None:
    """Counted in a fresh process: the standard library compiles six methods for each of its frozen dataclasses."""
    code = (
        "import builtins, dataclasses, sys\n"
        "import numpy, PIL.Image\n"
        "made = []\n"
        "dataclasses._create_fn = lambda name, *rest, **named: made.append(name)\n"
        "import edgetl_runtime\n"
        "sys.exit(len(made))\n"
    )
    if not hasattr(dataclasses, "_create_fn"):
        pytest.skip("this Python makes them another way")
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
