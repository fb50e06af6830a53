"""Fuzz names: labels, files and variants called anything, through every report and both consoles.

    python tests/fuzz/fuzz_names.py [--n 5000] [--seed 0] [--only KIND]

Everything runs in this process. Found is: any exception but an `EdgetlError` where a kind may refuse, text that UTF-8
cannot hold, a control character or a change of direction that is not written out, and Markdown in which something of
a name would be interpreted. The exit code is 1 when anything was found.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import re
import sys
import tempfile
import tomllib
import traceback
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).parent))

from canary import PLACES, beside_canary

from edgetl.cli.progress import say
from edgetl.data.dataset import load_photos
from edgetl.data.image_files import walk
from edgetl.recipe import Recipe
from edgetl.reports.html import render_html
from edgetl.reports.junit import render_junit
from edgetl.reports.markdown import render_markdown
from edgetl.reports.markdown_text import code, escape, summary
from edgetl.reports.terminal import render_terminal
from edgetl.tasks.classification.results import (
    Accuracy,
    ChangedPrediction,
    ChangedPredictions,
    ClassAccuracy,
    LabelChanges,
)
from edgetl.verify.report import BaselineComparison, Change, Check, Data, Finding, Report, VariantReport, Verdict
from edgetl_export.labels_file import check_label_names
from edgetl_runtime.cli import main as run_on_device
from edgetl_runtime.commands import run_command
from edgetl_runtime.console import note, out, show
from edgetl_runtime.errors import DataError, EdgetlError
from edgetl_runtime.manifest import Label, Manifest, Normalize, Preprocess, TensorSpec

__all__ = ["KINDS", "fuzz", "main"]

Make = Callable[[random.Random], str]

_PARTS: tuple[Make, ...] = (
    lambda r: os.fsdecode(bytes(r.randrange(128, 256) for _ in range(r.randrange(1, 6)))),
    lambda r: chr(r.choice([*range(1, 32), *range(127, 160), 0x2028, 0x2029, 0x202A, 0x202E, 0x2066, 0x2069])),
    lambda r: r.choice(["\x1b[31m", "\x1b]52;c;YQ==\x07", "\nedgetl: error: x", "\r\x1b[K", "\x9b2J", "\u202egpj.exe"]),
    lambda r: r.choice(
        ["@all", "&commat;all", "#1", "GH-1", "!7", "%3", "~bug", ":smile:", "https://a.b/c", "www.a.b"]
    ),
    lambda r: r.choice(
        ["`", "``", "|", "\\|", "\\", "**x**", "_x_", "~~x~~", "$x$", "$`x`$", "[a](b)", "![a](b)", "- ", "1. "]
    ),
    lambda r: r.choice(
        ["<b>", "<script>x()</script>", "&lt;", "&#64;all", "<!--", "-->", "]]>", '"', "'", "</summary>"]
    ),
    lambda r: r.choice(["{{ x }}", "{% x %}", "%s", "{0}", "%(x)s", "${x}", "$(x)", "{+ x +}", "\ud83d", "\udfff"]),
    lambda r: r.choice(["crème", "花", "👩‍🔬", "عربي", "e\u0301", "a b", "x" * 3000, "--force", "="]),
    lambda r: chr(r.randrange(1, 0x110000)),
    lambda r: r.choice(PLACES),
)
_FORBIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_ANYWHERE = r"@\w|#\d|gh-\d|:\w+:|:/|www\.|&(?!amp;|lt;|gt;)|[!%^]\w|<(?!/?span>)"
_IN_HTML = re.compile(_ANYWHERE, re.I)
_IN_MARKDOWN = re.compile(_ANYWHERE.replace("<", r"(?<!\\)<") + r"|(?<!\\)[*_`|~\[\]$]|^(\d+[.)]|[-+])( |$)", re.I)


def a_name(r: random.Random) -> str:
    """Anything: parts that mean something to a terminal, Markdown, HTML, a file system, or nobody."""
    return "".join(r.choice(_PARTS)(r) for _ in range(r.randrange(1, 5)))


def a_report(r: random.Random) -> Report:
    """A small report in which every text of others is `a_name`."""
    labels = {a_name(r): a_name(r) for _ in range(3)}
    ids = list(labels)
    flips = tuple(
        ChangedPrediction(a_name(r), r.choice(ids), r.choice(ids), r.choice(ids), 0.5, None) for _ in range(3)
    )
    scores = {label: ClassAccuracy(9, 0.5) for label in ids}
    accuracy = Accuracy(n=9, top1=0.5, top5=1.0, delta=None, ci95=(0.3, 0.7), per_class=scores)
    damage = ChangedPredictions(flips, 3, 2, 1, {label: LabelChanges(9, 0.9, 0.1, 0.001) for label in ids})
    variant = VariantReport(a_name(r), a_name(r), "int8", error=a_name(r), accuracy=accuracy, damage=damage)
    variant = VariantReport(**{**vars(variant), "findings": (Finding(a_name(r), a_name(r), a_name(r)),)})
    checks = (
        Check(variant.id, "works", None, None, False, note=a_name(r)),
        Check(variant.id, "top1", 0.9, 0.5, False, ">=", a_name(r)),
        Check(variant.id, "p50_ms", 9.0, 9.1, True, "<=", a_name(r), True, (8.7, 9.4)),
    )
    change = Change(variant.id, a_name(r), a_name(r), a_name(r), True, True, a_name(r))
    return Report(
        bundle=a_name(r),
        created="2026-01-02T03:04:05+00:00",
        machine={"processor": a_name(r), "cores": 2, "libraries": {a_name(r): a_name(r)}},
        data=Data(9, "f" * 64),
        reference=accuracy,
        seconds={"verify": 1.0},
        variants=(variant,),
        verdict=Verdict(False, checks),
        labels=labels,
        provenance={a_name(r): a_name(r)},
        baseline=BaselineComparison(a_name(r), a_name(r), (change,)),
        disturbances=(a_name(r),),
    )


def _markdown(r: random.Random) -> str:
    return render_markdown(a_report(r))


def _markdown_text(r: random.Random) -> str:
    name = a_name(r)
    for text, pattern in ((escape(name), _IN_MARKDOWN), (summary(name).replace("<span>$</span>", ""), _IN_HTML)):
        found = pattern.search(text)
        assert found is None, (name[:80], text[:200], found)
    span = re.fullmatch(r"(`+)(.*[^`]|.*[^`].* )\1", code(name), re.DOTALL)
    assert span is not None or code(name) == escape(name), (name, code(name))
    return escape(name) + summary(name) + code(name)


def _html(r: random.Random) -> str:
    page = render_html(a_report(r))
    assert "<script" not in page.lower()
    return page


def _junit(r: random.Random) -> str:
    text = render_junit(a_report(r))
    ElementTree.fromstring(text.encode())
    return text


def _json(r: random.Random) -> str:
    text = a_report(r).to_json()
    json.loads(text.encode(), parse_constant=lambda value: 1 / 0)
    return _FORBIDDEN.sub("", text) if not re.search("[\ud800-\udfff]", text) else text


def _console(r: random.Random) -> str:
    """Both consoles, in an encoding that lacks most characters, and a JSON file."""
    encoding = r.choice(["ascii", "cp1252", "utf-8", "cp437"])
    streams = [io.TextIOWrapper(io.BytesIO(), encoding, "backslashreplace") for _ in range(2)]
    with tempfile.TemporaryDirectory() as folder, patch("sys.stdout", streams[0]), patch("sys.stderr", streams[1]):
        note(a_name(r))
        out(a_name(r))
        say(a_name(r))
        file = Path(folder, "out.json")
        show([a_name(r)], {a_name(r): [a_name(r)]}, r.choice([None, "-", str(file)]))
        assert run_command("prog", lambda: _raise(DataError(a_name(r), fix=a_name(r)))) == 2
        assert run_command("prog", lambda: _raise(ValueError(a_name(r)))) == 70
        with contextlib.suppress(SystemExit):
            assert run_on_device([a_name(r).replace("\0", ""), a_name(r)]) in (0, 2)
        if file.exists():
            json.loads(file.read_bytes())
    for stream in streams:
        stream.flush()
    said = [stream.buffer.getvalue().decode(encoding) for stream in streams]  # type: ignore[attr-defined]
    assert not [line for line in said[1].splitlines() if line.startswith("edgetl: error: x")]
    return "".join(said).replace("\r\n", "\n")


def _raise(error: Exception) -> int:
    raise error


def _terminal(r: random.Random) -> str:
    return render_terminal(a_report(r))


def _files(r: random.Random) -> str:
    """Photos and folders on disk: what a name becomes, and whether a label is refused before anything is read."""
    with tempfile.TemporaryDirectory() as folder:
        made = []
        for _ in range(3):
            label = re.sub("[\ud800-\udc7f\udd00-\udfff/\0]", "_", a_name(r)[:40])
            where = Path(folder, label)
            if where.name in (".", ".."):
                continue
            where.mkdir(exist_ok=True)
            made.append(where.name)
            (where / "a.png").write_bytes(b"")
        try:
            check_label_names(made, folder)
            for name in made:
                name.encode()
        except DataError as error:
            str(error).encode()
        if not walk(Path(folder)).images:
            return ""
        return "\n".join(sample.name for sample in load_photos(Path(folder)))


def _manifest(r: random.Random) -> str:
    """What is written is read again; labels that cannot be are refused by `check_label_names`."""
    image, logits = TensorSpec("image", "uint8", (1, 8, 8, 3)), TensorSpec("logits", "float32", (1, 2))
    names = [a_name(r), a_name(r)]
    with contextlib.suppress(DataError):
        check_label_names(names, "x")
        labels = tuple(Label(name, name) for name in names)
        sizes, scale = Preprocess(8, (8, 8)), Normalize((0.5,), (1.0,))
        about = {a_name(r): [a_name(r)]}
        manifest = Manifest(a_name(r), "classification", labels, image, sizes, scale, logits, (), provenance=about)
        raw = json.loads(manifest.to_json().encode())
        assert [label["id"] for label in raw["labels"]] == names
    return ""


def _recipe(r: random.Random) -> str:
    recipe = Recipe().updated({"data": {"path": a_name(r).replace("\0", "")}, "model": {"weights": a_name(r)}})
    tomllib.loads(recipe.to_toml().encode().decode())
    return ""


KINDS: dict[str, tuple[Callable[[random.Random], str], int]] = {
    "console": (_console, 4),
    "files": (_files, 2),
    "html": (_html, 1),
    "json": (_json, 4),
    "junit": (_junit, 4),
    "manifest": (_manifest, 4),
    "markdown": (_markdown, 4),
    "markdown_text": (_markdown_text, 8),
    "recipe": (_recipe, 4),
    "terminal": (_terminal, 4),
}
"""By name what is tried, and how often of 39 times."""


def fuzz(n: int, *, seed: int, only: str | None = None) -> tuple[Counter[str], list[str]]:
    """How many inputs of each kind were tried, and what was found."""
    turns = [kind for kind, (_, often) in KINDS.items() for _ in range(often) if only in (None, kind)]
    tried: Counter[str] = Counter()
    found = []
    with beside_canary() as (_, canary):
        for number in range(n):
            kind = turns[number % len(turns)]
            tried[kind] += 1
            wrong = _wrong(kind, random.Random(f"{seed} {kind} {number}"))
            found += [f"{kind}:{number} {what}" for what in (wrong, canary.touched()) if what is not None]
    return tried, found


def _wrong(kind: str, r: random.Random) -> str | None:
    """What is wrong with what becomes of an input."""
    try:
        text = KINDS[kind][0](r)
        text.encode()
        bad = _FORBIDDEN.search(text)
        assert bad is None, f"raw {bad[0]!r} in {text[max(0, bad.start() - 40) : bad.end() + 40]!r}"
    except EdgetlError as error:
        return f"refused: {error}"
    except Exception:  # noqa: BLE001 - that is what is looked for
        return traceback.format_exc(limit=-3).encode("ascii", "backslashreplace").decode()
    return None


def main(words: list[str] | None = None) -> int:
    """Run the fuzzer; see the module."""
    parser = argparse.ArgumentParser(allow_abbrev=False, description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--n", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=KINDS)
    given = parser.parse_args(words)
    tried, found = fuzz(given.n, seed=given.seed, only=given.only)
    for kind, count in sorted(tried.items()):
        print(f"{kind:15} {count:6}  {sum(text.startswith(f'{kind}:') for text in found):4} found")
    for text in found[:20]:
        print(text)
    print(f"{sum(tried.values())} inputs, seed {given.seed}: {len(found) or 'nothing'} found")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
