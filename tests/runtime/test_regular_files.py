"""Only regular files of a bounded size are read: a pipe waits for ever, a device never ends."""

from __future__ import annotations

import builtins
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgetl_runtime.console import read_image
from edgetl_runtime.errors import ImageError
from edgetl_runtime.files import read_regular
from edgetl_runtime.preprocess import file_content, load_image

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes with a name")


def in_time(code: str, *words: str) -> str:
    """What a process prints that must not wait for ever."""
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=60, check=True)
    return done.stdout


def test_a_regular_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert read_regular(tmp_path / "a") == read_regular(str(tmp_path / "link"), limit=3) == b"abc"
    with pytest.raises(OSError, match="3 bytes, more than the 2"):
        read_regular(tmp_path / "a", limit=2)


@pytest.mark.parametrize("function", [read_regular, read_image, load_image, file_content])
def test_no_pipe_and_no_device_is_read(function: object, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    module, name = function.__module__, function.__name__  # type: ignore[attr-defined]
    code = f"""
import sys
from {module} import {name}
for path in sys.argv[1:]:
    try:
        {name}(path)
    except Exception as error:
        print(type(error).__name__, error)
"""
    said = in_time(code, str(tmp_path / "pipe.png"), "/dev/zero", str(tmp_path / "zero.png")).splitlines()
    kind = "NotRegularError" if function is read_regular else "ImageError"
    assert len([line for line in said if line.startswith(kind) and "but a pipe or a device" in line]) == 3


def test_a_file_larger_than_any_image_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "large.png").open("wb") as file:
        file.truncate(2**31 + 1)
    for function in (read_image, file_content):
        with pytest.raises(ImageError, match="more than the"):
            function(str(tmp_path / "large.png"))


EXCHANGED = """
import os, sys

real = os.stat

def lying(path, *words, **more):
    name = os.path.basename(str(path))
    return real(sys.executable if name.startswith(("pipe", "zero")) else path, *words, **more)

os.stat = lying
from edgetl_runtime.errors import EdgetlError
"""
"""A program that reads what is in the folder ``sys.argv[1]``: it is exchanged between a look at it and its opening."""

READS = """
{imports}
try:
    {what}
except (EdgetlError, OSError) as error:
    print(error)
print("END")
"""


def exchanged(folder: Path, *parts: tuple[str, str]) -> list[str]:
    """What a program says at each of its parts, which are imports and what is done; "pipe" and "zero" in the name of a
    file are a pipe and a device."""
    for suffix in ("", ".png", ".npy", ".onnx", ".edgetl", ".tar", ".pth", ".safetensors", ".jpg"):
        os.mkfifo(folder / f"pipe{suffix}")
        (folder / f"zero{suffix}").symlink_to("/dev/zero")
    program = EXCHANGED + "".join(READS.format(imports=imports, what=what) for imports, what in parts)
    return in_time(program, str(folder)).split("END\n")[:-1]


FILES = "from edgetl_runtime.files import Folder, read_file, read_regular"
IMAGES = "from edgetl_runtime.preprocess import file_content, load_image"


@pytest.mark.parametrize("kind", ["pipe", "zero"])
@pytest.mark.parametrize(
    ("imports", "what"),
    [
        (FILES, "Folder(sys.argv[1]).read('{}')"),
        (FILES, "read_file(sys.argv[1] + '/{}')"),
        (FILES, "read_regular(sys.argv[1] + '/{}')"),
        (IMAGES, "load_image(sys.argv[1] + '/{}.png')"),
        (IMAGES, "load_image(sys.argv[1] + '/{}.npy')"),
        (IMAGES, "file_content(sys.argv[1] + '/{}.png')"),
        ("from edgetl_runtime import open_bundle", "open_bundle(sys.argv[1] + '/{}.onnx')"),
        ("from edgetl_runtime import open_bundle", "open_bundle(sys.argv[1] + '/{}.edgetl')"),
        ("from edgetl_runtime.zipped import Zip", "Zip.open(sys.argv[1] + '/{}', marker='x')"),
    ],
)
def test_a_file_that_is_exchanged_after_the_look(imports: str, what: str, kind: str, tmp_path: Path) -> None:
    """What counts is what was opened, not what was at the path before."""
    (said,) = exchanged(tmp_path, (imports, what.format(kind)))
    assert "but a pipe or a device" in said


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs Linux")
def test_a_photo_is_opened_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow opens a path once more to map pixels that are not compressed: what was looked at is what is read."""
    for suffix in ("bmp", "png", "tiff", "gif", "webp", "npy"):
        path = tmp_path / f"a.{suffix}"
        image = Image.new("P", (40, 30), 1)
        if suffix == "npy":
            np.save(path, np.zeros((30, 40, 3), np.uint8))
        else:
            image.save(path)
        opened: list[object] = []
        keep = builtins.open

        def noted(file: object, *words: Any, keep: Any = keep, opened: list[object] = opened, **more: Any) -> Any:
            opened.append(file)
            return keep(file, *words, **more)

        with monkeypatch.context() as patched:
            patched.setattr(builtins, "open", noted)
            load_image(path)
        assert [str(file) for file in opened if not isinstance(file, int)] == [str(path)], suffix
