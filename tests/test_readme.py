"""The pages run: their Python, their commands, the map of the tree, the test command; and their links lead somewhere.

A Python block starts in a fresh interpreter, in a folder with ``flowers.edgetl`` and ``photo.jpg``. A comment before
the block says otherwise: ``<!-- test: photos, random weights -->`` starts with a folder ``photos/``, no bundle, and
weights that were never trained in the place of the published ones; ``<!-- test: video -->`` has a film ``door.avi``
too, and ``<!-- test: features -->`` a bundle with features and a folder ``few/``; ``<!-- test: save FILE -->`` is not
run but a file beside the other blocks of its page; ``<!-- test: skip REASON -->`` only compiles it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlparse

import numpy as np
import pytest
from PIL import Image

from edgetl.cli import main as workbench_cli
from edgetl_runtime import cli as device_cli
from edgetl_runtime import open_bundle

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
_FOLDERS = ("edgetl", "export", "runtime", "tests")
TEXTS = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in sorted([*ROOT.glob("*.md"), *(page for folder in _FOLDERS for page in (ROOT / folder).rglob("*.md"))])
}
"""By path in the repository: every page."""
PROGRAMS = {"edgetl": workbench_cli, "edgetl-run": device_cli}
PHOTOS = "photos, random weights"
VIDEO = "video"
FEATURES = "features"
SAVE = "save "


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, the number of its first line, what a comment before it asks for, and
    its page."""

    language: str
    text: str
    line: int
    wish: str = ""
    page: str = ""


def blocks(markdown: str, page: str = "") -> list[Block]:
    """The fenced blocks of a page, in their order."""
    pattern = r"(?:<!-- test: (?P<wish>.*?) -->\n\s*)?^```(?P<language>\w*)\n(?P<text>.*?)^```$"
    return [
        Block(
            found["language"],
            found["text"],
            markdown.count("\n", 0, found.start("text")) + 1,
            found["wish"] or "",
            page,
        )
        for found in re.finditer(pattern, markdown, re.MULTILINE | re.DOTALL)
    ]


def without_blocks(markdown: str) -> str:
    """The page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", markdown, flags=re.MULTILINE | re.DOTALL)


def headings(markdown: str, level: str = "#{1,6}") -> list[str]:
    return re.findall(rf"^{level} (.+)$", without_blocks(markdown), re.MULTILINE)


def anchor(heading: str) -> str:
    """The anchor of a heading, as GitHub makes it."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
    return re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")


def links(markdown: str) -> list[str]:
    """Where the links and the pictures of a page lead."""
    text = re.sub(r"`[^`]*`", "", without_blocks(markdown))
    return [*re.findall(r"\]\(([^)\s]+)\)", text), *re.findall(r"<(?:img|a) [^>]*(?:src|href)=\"([^\"]+)\"", text)]


def sentences(markdown: str) -> list[str]:
    """The sentences of a page, without blocks, tables and headings."""
    lines = [line for line in without_blocks(markdown).splitlines() if not line.lstrip().startswith(("|", "#"))]
    paragraphs = re.split(r"\n\s*\n|\n(?=\s*(?:[-*] |\d+\. ))", "\n".join(lines))
    return [part for text in paragraphs for part in re.split(r"(?<=[.?!])\s+(?=[A-Z`\[(])", " ".join(text.split()))]


def commands(text: str) -> list[list[str]]:
    """The words of every command in a block of shell, without comments."""
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="&|;")
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if not set(word) <= set("&|;"):
                words.append(word)
                continue
            if words:
                found.append(words)
            words = []
    return found


BLOCKS = [block for page, text in TEXTS.items() for block in blocks(text, page)]
PYTHON = [block for block in BLOCKS if block.language == "python"]
SHELL = [command for block in BLOCKS if block.language == "bash" for command in commands(block.text)]
# Commands in the running text count too; most only name a command, and are asked for its help.
INLINE = [
    commands(found)[0]
    for text in TEXTS.values()
    for found in re.findall(r"(?<!`)`(edgetl(?:-run)?\s[^`]+)`(?!`)", re.sub(r"\s+", " ", without_blocks(text)))
]
SHELL += [[*words, "-h"] if len(words) == 2 or "..." in words else words for words in INLINE]
OURS = [command for command in SHELL if command[0] in PROGRAMS]


class RefusedError(Exception):
    """The parser does not take a command."""


@pytest.fixture
def parse(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[str]], None]:
    """Give the words of a command to the program's own parser, and do not run it. Raises `RefusedError`."""

    def refuse(self: argparse.ArgumentParser, message: str) -> None:
        raise RefusedError(message)

    def check(command: list[str]) -> None:
        program, *words = command
        with contextlib.suppress(SystemExit):  # -h
            PROGRAMS[program]._parser().parse_args(words)

    monkeypatch.setattr(argparse.ArgumentParser, "error", refuse)
    return check


@pytest.mark.parametrize("command", OURS, ids=" ".join)
def test_every_command_of_the_readme_parses(command: list[str], parse: Callable[[list[str]], None]) -> None:
    parse(command)


@pytest.mark.parametrize("line", ["edgetl run --date photos --out x", "edgetl fly", "edgetl-run predict bundle"])
def test_a_wrong_command_is_found(line: str, parse: Callable[[list[str]], None]) -> None:
    (command,) = commands(line)
    with pytest.raises(RefusedError):
        parse(command)


def test_blocks_and_commands_are_found() -> None:
    shell = "a && edgetl demo --out 'b c' # d\n\ne \\\n  f\n"
    page = f"<!-- test: skip why -->\n```python\nx = 1\n```\n\n```bash\n{shell}```\n"
    assert blocks(page) == [Block("python", "x = 1\n", 3, "skip why"), Block("bash", shell, 7)]
    assert commands(blocks(page)[1].text) == [["a"], ["edgetl", "demo", "--out", "b c"], ["e", "f"]]
    assert PYTHON
    assert len(OURS) > 5


@pytest.fixture
def folder(tmp_path: Path, pristine_bundle: Path, red_photo: bytes) -> Path:
    """What a block of Python finds beside it."""
    shutil.copytree(pristine_bundle, tmp_path / "flowers.edgetl")
    parity, accuracy = {"n": 4, "top1_agreement": 1.0}, {"top1": 1.0, "delta": 0.0}
    ids = [variant.id for variant in open_bundle(pristine_bundle).manifest.variants]
    verified = [{"id": id_, "parity": parity, "accuracy": accuracy} for id_ in ids]
    report = {"schema": 1, "variants": verified, "verdict": {"passed": True, "checks": []}}
    (tmp_path / "flowers.edgetl/report.json").write_text(json.dumps(report))
    (tmp_path / "photo.jpg").write_bytes(red_photo)
    return tmp_path


def write_photos(folder: Path) -> None:
    """Noisy photos of two colours, enough to train on."""
    rng = np.random.default_rng(0)
    for label, colour in {"daisy": (220, 220, 200), "roses": (190, 30, 60)}.items():
        (folder / label).mkdir(parents=True)
        for index in range(8):
            noise = rng.normal(colour, 30, (96, 128, 3)).clip(0, 255)
            Image.fromarray(noise.astype(np.uint8)).save(folder / label / f"{index}.jpg")


def write_random_weights(cache: Path, backbone: str) -> None:
    """What torchvision would download for `backbone`, but never trained; a copy beside the cache."""
    import torch
    import torchvision

    url = torchvision.models.get_model_weights(backbone).DEFAULT.url
    path = cache / "hub" / "checkpoints" / Path(urlparse(url).path).name
    path.parent.mkdir(parents=True)
    torch.manual_seed(0)
    torch.save(torchvision.models.get_model(backbone).state_dict(), path)
    shutil.copyfile(path, cache.parent / f"{backbone}.pth")


def write_video(path: Path) -> None:
    """A short film of red frames."""
    import cv2

    film = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    for _ in range(5):
        film.write(np.full((48, 64, 3), (30, 40, 220), np.uint8))
    film.release()


@pytest.mark.parametrize("block", PYTHON, ids=lambda block: f"{block.page} line {block.line}")
def test_python_of_the_readme_runs(block: Block, folder: Path, colours_bundle: Callable[[], Path]) -> None:
    compile(block.text, f"{block.page}:{block.line}", "exec")
    if block.wish.startswith(SAVE):
        return
    if block.wish.startswith("skip "):
        pytest.skip(block.wish.removeprefix("skip "))
    assert block.wish in ("", PHOTOS, VIDEO, FEATURES), block.wish
    for other in PYTHON:
        if other.page == block.page and other.wish.startswith(SAVE):
            (folder / other.wish.removeprefix(SAVE)).write_text(other.text)
    if block.wish == VIDEO:
        write_video(folder / "door.avi")
    if block.wish == FEATURES:
        shutil.rmtree(folder / "flowers.edgetl")
        colours_bundle().rename(folder / "flowers.edgetl")
        write_photos(folder / "few")
    variables = dict(os.environ)
    if block.wish == PHOTOS:
        shutil.rmtree(folder / "flowers.edgetl")
        write_photos(folder / "photos")
        write_random_weights(folder / "torch", "mobilenet_v2")
        variables["TORCH_HOME"] = str(folder / "torch")
    done = subprocess.run(
        [sys.executable, "-c", block.text],
        cwd=folder, env=variables, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() or "print" not in block.text


def test_the_map_of_the_tree_is_true() -> None:
    """Every folder of the map is there, and every module that the map names in it; the other paths of pages too."""
    (tree,) = [block.text for block in BLOCKS if "runtime/edgetl_runtime/ " in block.text]
    rows = [line.split(maxsplit=1) for line in tree.splitlines()]
    assert {row[0] for row in rows} >= {"runtime/edgetl_runtime/", "export/edgetl_export/", "edgetl/", "tests/"}
    for where, about in rows:
        assert (ROOT / where).is_dir(), where
        named = re.findall(r"[\w./]+", about.rpartition(":")[2]) if ":" in about else re.findall(r"\w+\.py", about)
        for name in named:
            assert any((ROOT / where / end).exists() for end in (name, f"{name}.py")), f"{where}{name}"


@pytest.mark.parametrize("page", TEXTS)
def test_paths_that_a_page_names_are_there(page: str) -> None:
    for path in re.findall(r"`((?:runtime|export|edgetl|tests)/[\w./]+)`", TEXTS[page]):
        assert (ROOT / path).exists(), path


def test_the_readme_is_short() -> None:
    assert len(TEXTS["README.md"].splitlines()) <= 150


@pytest.mark.parametrize("page", TEXTS)
def test_links_lead_somewhere(page: str) -> None:
    for link in links(TEXTS[page]):
        if urlparse(link).scheme:
            assert link.startswith("https://"), link
            continue
        path, _, fragment = link.partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), link
        if fragment:
            assert fragment in map(anchor, headings(target.read_text(encoding="utf-8"))), link


@pytest.mark.parametrize("page", [page for page in TEXTS if page not in ("README.md", "CHANGELOG.md")])
def test_a_long_page_begins_with_its_contents(page: str) -> None:
    sections = headings(TEXTS[page], "##")
    if len(sections) > 3:
        top = TEXTS[page].partition("\n## ")[0]
        assert re.findall(r"^- \[([^\]]+)\]\((#[^)]+)\)$", top, re.MULTILINE) == [
            (section, f"#{anchor(section)}") for section in sections
        ]


MEASURED = r"\d(?: to [\d.,]+)? ?(?:%|dB|ms|us|s|MB|GB|kB|minutes?|seconds?|hours?|points?|times)(?![\w])"


@pytest.mark.parametrize("page", TEXTS)
def test_numbers_with_a_date_stand_in_tables(page: str) -> None:
    """A sentence that has a result, its machine, its date and a reservation at once is read by nobody."""
    dated = [text for text in sentences(TEXTS[page]) if re.search(r"\b20\d\d-\d\d-\d\d\b", text)]
    assert not (found := [text for text in dated if re.search(MEASURED, text)]), "\n".join(found)


def test_what_is_wrong_with_a_page_is_found() -> None:
    page = "# A page\n\n[x](no.md) [y](#a-page) `[z](w.md)`\n\nIt took 7 s here, 2026-01-02.\n\n| 7 s | 2026-01-02 |\n"
    assert links(page) == ["no.md", "#a-page"]
    assert headings(page) == ["A page"]
    assert anchor("What `edgetl run` does, and why") == "what-edgetl-run-does-and-why"
    assert [bool(re.search(MEASURED, text)) for text in sentences(page) if "2026" in text] == [True]


def test_ci_runs_the_command_that_the_readme_gives() -> None:
    own = [block for block in BLOCKS if block.page == "README.md"]
    block = next(block for block in own if block.language == "bash" and "pytest" in block.text)
    set_up, command = block.text.strip().splitlines()
    script = [line.strip() for line in (ROOT / ".ci/run").read_text(encoding="utf-8").splitlines()]
    assert [line for line in script if "pytest" in line] == [command]
    install = [words for words in commands(set_up) if words[:2] == ["pip", "install"]]
    assert install == [words for line in script for words in commands(line) if words[:2] == ["pip", "install"]]
    assert os.access(ROOT / ".ci/run", os.X_OK)
