"""Only regular files of a bounded size are read: a pipe waits for ever, a device never ends."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

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
    kind = "OSError" if function is read_regular else "ImageError"
    assert len([line for line in said if line.startswith(kind) and "but a pipe or a device" in line]) == 3


def test_a_file_larger_than_any_image_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "large.png").open("wb") as file:
        file.truncate(2**31 + 1)
    for function in (read_image, file_content):
        with pytest.raises(ImageError, match="more than the"):
            function(str(tmp_path / "large.png"))


@pytest.mark.parametrize("what", ["Folder(sys.argv[1]).read('x')", "read_file(sys.argv[1] + '/x')"])
@pytest.mark.parametrize("kind", ["pipe", "zero"])
def test_a_file_of_a_bundle_that_is_exchanged_after_the_look(what: str, kind: str, tmp_path: Path) -> None:
    """What counts is what was opened, not what was at the path before."""
    if kind == "pipe":
        os.mkfifo(tmp_path / "x")
    else:
        (tmp_path / "x").symlink_to("/dev/zero")
    code = f"""
import sys
from edgetl_runtime import files
from edgetl_runtime.errors import BundleError
from edgetl_runtime.files import Folder, read_file
files.is_file = lambda path: True
try:
    {what}
except BundleError as error:
    print(error)
"""
    assert "but a pipe or a device" in in_time(code, str(tmp_path))
