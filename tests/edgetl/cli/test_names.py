"""Names that are no UTF-8, command a terminal or mean something in Markdown: nothing is lost, nothing happens."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgetl.data.dataset import load_dataset, load_photos
from edgetl.models.checkpoint import load_labels
from edgetl.recipe import Recipe, read_recipe
from edgetl.reports.markdown_text import code, escape, summary
from edgetl.verify.gate.limits import read_gate
from edgetl_runtime.errors import CheckpointError, DataError, UsageError

sys.path.insert(0, str(Path(__file__).parents[2] / "fuzz"))

import fuzz_names

LATIN = os.fsdecode(b"caf\xe9")
EUC = os.fsdecode("花".encode("euc-jp"))


def photos(folder: Path, *names: str, labels: tuple[str, ...] = ("a", "b"), n: int = 6) -> Path:
    """`n` photos of each label, and one by each of `names` for the first."""
    pixels = np.random.default_rng(0)
    for label in labels:
        (folder / label).mkdir(parents=True)
        for name in [*map(str, range(n)), *(names if label == labels[0] else ())]:
            image = Image.fromarray(pixels.integers(0, 256, (8, 9, 3), np.uint8))
            with (folder / label / f"{name}.png").open("wb") as file:
                image.save(file, "PNG")
    return folder


@pytest.mark.parametrize("name", [LATIN, EUC, "a\x1b[31m", "a\nb", "\u202egnp"])
def test_a_file_may_be_called_anything(tmp_path: Path, name: str) -> None:
    data = load_dataset(photos(tmp_path / "data", name))
    names = [sample.name for sample in (*data.train, *data.val, *load_photos(tmp_path / "data"))]
    assert len(names) == 13 * 2
    for text in names:
        text.encode()
        assert text.isprintable()
    assert data.fingerprint


@pytest.mark.parametrize("name", [LATIN, EUC])
def test_a_data_set_may_lie_anywhere(tmp_path: Path, name: str) -> None:
    data = load_dataset(photos(tmp_path / name))
    data.name.encode()
    recipe = Recipe().updated({"data": {"path": tmp_path / name}, "model": {"weights": name}})
    recipe.save(tmp_path / "recipe.toml")  # it is written at the end of a training
    read_recipe(tmp_path / "recipe.toml")


@pytest.mark.parametrize("label", [LATIN, EUC, os.fsdecode(b"\xff")])
def test_a_label_that_cannot_be_written_is_refused(tmp_path: Path, label: str) -> None:
    with pytest.raises(DataError, match="cannot be written, their names are no UTF-8") as caught:
        load_dataset(photos(tmp_path, labels=("a", label), n=1))
    str(caught.value).encode()


def test_labels_of_json_that_cannot_be_written_are_refused(tmp_path: Path) -> None:
    (tmp_path / "labels.json").write_text('["a", "\\ud83d"]')
    with pytest.raises(CheckpointError, match="surrogates not allowed"):
        load_labels(tmp_path / "labels.json")


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_a_byte_order_mark_is_read(tmp_path: Path, ends: str) -> None:
    recipe, gate = tmp_path / "r.toml", tmp_path / "g.toml"
    recipe.write_bytes(b"\xef\xbb\xbf" + f"[train]{ends}epochs = 3{ends}".encode())
    gate.write_bytes(b"\xef\xbb\xbf" + f"[default]{ends}top1_agreement = 0.9{ends}".encode())
    assert read_recipe(recipe).train.epochs == 3
    read_gate(gate)


def test_the_former_key_of_the_training_precision_works_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "old.toml").write_text('[train]\nprecision = "bf16"\n')
    with pytest.warns(FutureWarning, match="precision is called train_precision now"):
        old = read_recipe(tmp_path / "old.toml")
    (tmp_path / "new.toml").write_text('[train]\ntrain_precision = "bf16"\n')
    assert read_recipe(tmp_path / "new.toml").train == old.train
    assert 'train_precision = "bf16"' in old.to_toml()
    (tmp_path / "both.toml").write_text('[train]\ntrain_precision = "bf16"\nprecision = "fp32"\n')
    with pytest.raises(UsageError, match="has both"):
        read_recipe(tmp_path / "both.toml")


def test_int8_is_no_training_precision_and_the_right_option_is_named() -> None:
    with pytest.raises(UsageError, match="train_precision = 'int8'") as caught:
        Recipe().updated({"train": {"train_precision": "int8"}})
    assert "--precisions int8" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "apart"),
    [
        ("@all", "@\u200ball"),
        ("&commat;all", "&amp;\u200bcommat;all"),
        ("GH-1 #2 !3 %4", "GH\u200b-1 #\u200b2 !\u200b3 %\u200b4"),
        (":smile: 12:30", ":\u200bsmile: 12:\u200b30"),
        ("https://a.b www.a.b", "https:\u200b//a.b www\u200b.a.b"),
        ("$x$", r"<span>\$</span>x<span>\$</span>"),
        ("~~a~~", r"\~\~" + "\u200b" + r"a\~\~"),
        ("1. a", r"1\. a"),
        ("- a", r"\- a"),
        ("-0.5 and 0.98", "-0.5 and 0.98"),
        ("95 %, 2026-01-02", "95 %, 2026-01-02"),
        ("<b>a_b</b>\x1b", r"\<b\>a\_b\</b\>\\x1b"),
    ],
)
def test_markdown_interprets_nothing(text: str, apart: str) -> None:
    assert escape(text) == apart


@pytest.mark.parametrize(
    ("name", "span"),
    [
        ("a_b", "`a_b`"),
        ("a`b", "``a`b``"),
        ("`a``", "``` `a`` ```"),
        ("@all", "`@all`"),
        ("a|b`", "a\\|b\\`"),
        ("", ""),
    ],
)
def test_names_as_code(name: str, span: str) -> None:
    assert code(name) == span


def test_a_summary_is_html() -> None:
    assert summary("<b> @all $x$ a_b") == "&lt;b&gt; @\u200ball <span>$</span>x<span>$</span> a_b"


def test_a_slice_of_the_fuzzer() -> None:
    pytest.importorskip("matplotlib")
    pytest.importorskip("jinja2")
    tried, found = fuzz_names.fuzz(117, seed=7)
    assert not found, found[0]
    assert set(tried) == set(fuzz_names.KINDS)


@pytest.mark.parametrize(
    ("broken", "kind"),
    [
        ("edgetl.reports.terminal.printable", "terminal"),
        ("edgetl.reports.junit.printable", "junit"),
        ("edgetl_runtime.console.printable", "console"),
        ("edgetl.data.dataset.printable", "files"),
        ("edgetl.recipe.encodable", "recipe"),
        ("edgetl.verify.report.json_value", "json"),
        ("edgetl_runtime.manifest.json_value", "manifest"),
        ("edgetl.reports.markdown_text.printable", "markdown"),
    ],
)
def test_the_fuzzer_notices(broken: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broken, lambda text, **_: text)
    assert fuzz_names.fuzz(60, seed=7, only=kind)[1]
