"""Recipes and gates are TOML of bounded size, depth and numbers, in regular files."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgetl.models.checkpoint import load_labels
from edgetl.recipe import read_recipe
from edgetl.toml_file import read_toml
from edgetl.verify.gate.limits import read_gate
from edgetl.verify.gate.regression import Baseline
from edgetl_runtime.errors import EdgetlError, UsageError

Read = Callable[[Path], Any]


def deep(parts: int) -> str:
    return ".".join(["a"] * parts)


@pytest.mark.parametrize("read", [read_recipe, read_gate])
@pytest.mark.parametrize(
    "text",
    [
        f"{deep(100_000)} = 1",
        f"[{deep(100_000)}]",
        f"{deep(1500)} = 1",
        "train = " + "[" * 5000,
        "train = " + "[" * 50 + "]" * 50,
        "train = " + "{a=" * 2000,
        "epochs = " + "9" * 4500,
        "epochs = 0x" + "f" * 3000,
        "epochs = 9223372036854775808",
        "# " + "x" * 70_000,
        'a = "' + "x" * 5000 + '"',
        "[train",
        "train = \x00",
    ],
    ids=lambda text: text[:12],
)
def test_what_is_too_much_is_refused_at_once(tmp_path: Path, read: Read, text: str) -> None:
    path = tmp_path / "options.toml"
    path.write_text(text)
    start = time.monotonic()
    with pytest.raises(UsageError) as caught:
        read(path)
    assert time.monotonic() - start < 5
    assert str(path) in caught.value.what
    assert caught.value.fix


def test_no_table_within_the_bounds_takes_long(tmp_path: Path) -> None:
    path = tmp_path / "gate.toml"
    path.write_text("\n".join(f"{deep(1900)}.b{i} = 1" for i in range(16)))
    start = time.monotonic()
    with pytest.raises(UsageError, match="too deep"):
        read_toml(path, "gate")
    assert time.monotonic() - start < 10


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes with a name")
@pytest.mark.parametrize("read", [read_recipe, read_gate, Baseline.read, load_labels])
def test_what_is_no_regular_file(tmp_path: Path, read: Read) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path):
        with pytest.raises(EdgetlError, match=r"pipe or a device|Is a directory"):
            read(path)


def test_what_is_no_utf8(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_bytes(b'a = "\xff"')
    with pytest.raises(UsageError, match="not TOML"):
        read_toml(tmp_path / "r.toml", "recipe")


def test_a_byte_order_mark_and_windows_line_ends(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_bytes(b"\xef\xbb\xbf[train]\r\nepochs = 1\r\n")
    assert read_recipe(tmp_path / "r.toml").train.epochs == 1
    (tmp_path / "g.toml").write_bytes(b"\xef\xbb\xbf[default]\r\nsqnr_db = 20\r\n")
    assert read_gate(tmp_path / "g.toml").default == {"sqnr_db": 20}


def test_the_largest_integer(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text("a = 9223372036854775807\nb = -9223372036854775807\n")
    assert read_toml(tmp_path / "r.toml", "recipe") == {"a": 2**63 - 1, "b": -(2**63 - 1)}
