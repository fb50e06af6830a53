"""The README and the other pages run: their Python, their commands, the map of the tree, and the test command.

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

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = ("README.md", "runtime/README.md", "edgetl/training/README.md")
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


BLOCKS = [block for page in PAGES for block in blocks((ROOT / page).read_text(encoding="utf-8"), page)]
PYTHON = [block for block in BLOCKS if block.language == "python"]
SHELL = [command for block in BLOCKS if block.language == "bash" for command in commands(block.text)]
# Commands in the running text count too; most only name a command, and are asked for its help.
INLINE = [commands(text)[0] for text in re.findall(r"`(edgetl(?:-run)? [^`]+)`", README)]
SHELL += [[*words, "-h"] if len(words) == 2 else words for words in INLINE]
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
    """Every folder of the map is there, and every module that the map names in it; the README's other paths too."""
    (tree,) = [block.text for block in BLOCKS if block.page == "README.md" and "runtime/edgetl_runtime/" in block.text]
    rows = [line.split(maxsplit=1) for line in tree.splitlines()]
    assert {row[0] for row in rows} >= {"runtime/edgetl_runtime/", "export/edgetl_export/", "edgetl/", "tests/"}
    for where, about in rows:
        assert (ROOT / where).is_dir(), where
        named = re.findall(r"[\w./]+", about.rpartition(":")[2]) if ":" in about else re.findall(r"\w+\.py", about)
        for name in named:
            assert any((ROOT / where / end).exists() for end in (name, f"{name}.py")), f"{where}{name}"
    for path in re.findall(r"`((?:runtime|export|edgetl|tests)/[\w./]+)`", README):
        assert (ROOT / path).exists(), path


def test_ci_runs_the_command_that_the_readme_gives() -> None:
    block = next(block for block in BLOCKS if block.language == "bash" and "pytest" in block.text)
    set_up, command = block.text.strip().splitlines()
    script = [line.strip() for line in (ROOT / ".ci/run").read_text(encoding="utf-8").splitlines()]
    assert [line for line in script if "pytest" in line] == [command]
    install = [words for words in commands(set_up) if words[:2] == ["pip", "install"]]
    assert install == [words for line in script for words in commands(line) if words[:2] == ["pip", "install"]]
    assert os.access(ROOT / ".ci/run", os.X_OK)
