"""Recipes and gates may be anybody's: what is no file, never ends, or is made to take for ever gets a sentence."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from edgetl.checkpoint import load_labels
from edgetl.recipe import Recipe, read_recipe
from edgetl.verify.gate import Gate, read_gate
from edgetl.verify.regression import Baseline
from edgetl_runtime.errors import EdgetlError, UsageError

READERS: list[Callable[[Path], object]] = [read_recipe, read_gate]
SENSELESS = {
    "a key of many parts": "a" + ".a" * 100_000 + " = 1\n",
    "a header of many parts": "[a" + ".a" * 20_000 + "]\n",
    "a long file": "# a comment\n" * 10_000,
    "many brackets": "a = " + "[" * 4000 + "]" * 50,
    "a long number": "a = " + "9" * 4050 + "\nb = " + "1" * 4000,
    "other bytes": "\udcff\udcfe",
}


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("text", SENSELESS.values(), ids=SENSELESS)
def test_senseless_files_are_refused_at_once(read: Callable[[Path], object], text: str, tmp_path: Path) -> None:
    file = tmp_path / "x.toml"
    file.write_bytes(text.encode(errors="surrogateescape"))
    start = time.monotonic()
    with pytest.raises(UsageError, match=r"x\.toml"):
        read(file)
    assert time.monotonic() - start < 10


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes with a name")
@pytest.mark.parametrize("read", [*READERS, Baseline.read, load_labels])
def test_pipes_and_devices_are_refused(read: Callable[[Path], object], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path):
        with pytest.raises(EdgetlError, match=r"pipe or a device|Is a directory"):
            read(path)


def test_a_byte_order_mark_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_text("\ufeffschema = 1\n[train]\nepochs = 3\n", encoding="utf-8")
    assert read_recipe(tmp_path / "x.toml") == Recipe().updated({"train": {"epochs": 3}})
    (tmp_path / "x.toml").write_text("\ufeff[default]\ntop1_agreement = 0.9\n", encoding="utf-8")
    assert read_gate(tmp_path / "x.toml") != Gate()
